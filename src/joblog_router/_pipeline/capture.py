"""From a record to an item in a channel's buffer. The hot path: what stands here is paid on every logging call.

Runs on the logging thread: no lock shared between threads, no I/O, no import, no exception out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from logging import LogRecord
from typing import Any

from .. import context
from ..context import JobScope
from .channel import Channel
from .exceptions import CapturedException, capture_exception
from .generators import ALWAYS, ASK, GUARDS
from .naming import LoggerNames
from .primitives import freeze
from .report import report_once
from .resolve import BARE_LENGTH, STAMP, Captured, extras_of, resolve
from .text import MAX_MESSAGE, clip

_get_running_loop = asyncio._get_running_loop


def make_capture(handler: logging.Handler, names: LoggerNames | None, channel: Channel) -> Callable[[LogRecord], bool]:
    """The function that captures a record for `handler` into `channel`; it tells whether it did.

    A closure, because its variables are found several times faster than attributes.
    """
    get_scope = context._current.get
    key = channel.key
    alone = channel.alone
    buffer = channel.buffer
    append = buffer.append
    next_seq = channel.next_seq
    is_first = channel.is_first

    def capture(record: LogRecord) -> bool:
        scope = get_scope()
        # These lines are the beginning of resolve(), without the call: most records end here or are plain.
        if scope is None:
            if not (ASK or hasattr(record, "_joblog") or hasattr(record, "job_log_id")):
                return False
            message, args, raised = record.msg, record.args, record.exc_info or record.stack_info
            added = record.__dict__
            is_plain = False
        else:
            # Before __dict__ is asked for: attributes of a record without a dictionary are found faster.
            message, args, raised, name = record.msg, record.args, record.exc_info or record.stack_info, record.name
            added = record.__dict__
            is_plain = (
                len(added) == BARE_LENGTH
                and not scope.closed
                and not (GUARDS and (ALWAYS or _get_running_loop() is not None))
                and name != "asyncio"
            )
        stamp = more = None
        if not is_plain:
            try:
                scope = resolve(record)
            except Exception:
                return False  # an object in extra can make anything fail; the call goes on
            if scope is None:
                return False
            stamp = added.get(STAMP)
            if type(stamp) is Captured and key in stamp.channels:
                return False
        if names is not None and not names.wants(record.name):
            return False
        if handler.filters:
            kept = handler.filter(record)
            if not kept:
                return False
            if isinstance(kept, LogRecord):
                record = kept
            # A filter may have changed anything.
            added = record.__dict__
            message, args, raised = record.msg, record.args, record.exc_info or record.stack_info
            is_plain = False
        try:
            if type(message) is not str or type(record) is not LogRecord:
                message = record.getMessage()  # a record factory may format in its own way
            elif args:
                message = message % args
            if len(message) > MAX_MESSAGE:
                message = clip(message, MAX_MESSAGE)
            if not is_plain:
                raised = raised or record.exc_text
                exception = capture_exception(record) if raised else None
                more = (extras_of(added, scope.fields), exception)  # type: ignore[union-attr]
            elif raised:
                more = (None, capture_exception(record))
        except Exception:
            message, more = _fallback(record)
        # Taken last, so that a number without a line is a lost line; also for a line there is no room for.
        n = scope._n() if is_first else scope._number_for(key)  # type: ignore[union-attr]
        if len(buffer) >= channel.room:
            channel.dropped.add()
        else:
            append((record, scope, next_seq(), n, message, more))  # type: ignore[arg-type]
        if not channel.awake:
            channel.wake()
        captured = scope._captured  # type: ignore[union-attr]
        if stamp is not None or captured is None or captured.channels is not alone:
            captured = _captured(scope, channel, stamp)  # type: ignore[arg-type]
        added["_joblog"] = captured
        return True

    return capture


def _captured(scope: JobScope, channel: Channel, stamp: object) -> Captured:
    if type(stamp) is Captured:
        return Captured(scope, stamp.channels | channel.alone)
    captured = Captured(scope, channel.alone)
    scope._captured = captured
    return captured


def _fallback(record: LogRecord) -> tuple[str, tuple[dict[str, Any] | None, CapturedException | None]]:
    """A record whose message could not be made: its parts, without running the code that failed again."""
    report_once(
        ("format", record.pathname, record.lineno),
        f"the message of {record.name} at {record.pathname}:{record.lineno} could not be formatted; its parts are kept",
    )
    try:
        parts = freeze(record.args) if record.args else None
        message = record.msg if isinstance(record.msg, str) else str(freeze(record.msg))
        text = clip(message if parts is None else f"{message} {parts!r}", MAX_MESSAGE)
        return text, ({"format_error": True}, capture_exception(record))
    except Exception:
        return "<this line's message could not be formatted>", ({"format_error": True}, None)
