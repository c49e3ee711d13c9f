"""From a record to an item in a channel's buffer. The hot path: what stands here is paid on every logging call.

Made by `JobLogHandler` for itself, called by `logging` on the thread that logs: no lock shared between threads, no I/O,
no import, no exception out but that of a filter on the handler, as with every other handler. May import what a record
meets on its way (`resolve`, `channel`, `spool`), nothing of the writer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from logging import LogRecord
from marshal import dumps
from typing import Any, TypeAlias

from . import scopes
from .attributes import (
    BARE_LAST,
    BARE_LENGTH,
    DOUBTS,
    STAMP,
    completed,
    ends_bare,
    extras_of,
    is_bare,
    lacks_something,
    put_on,
)
from .channel import Channel
from .exceptions import CapturedException, capture_exception
from .generators import ALWAYS, ASK, GUARDS
from .naming import LoggerNames
from .overflow import LONG
from .primitives import freeze
from .report import report_once
from .resolve import Captured, resolve
from .scopes import JobScope
from .services import is_service
from .spool import BODY, FORMAT, NEAR_MASK, RING, ROOM, SLOT, pack_scope
from .text import MAX_MESSAGE, clip

_get_running_loop = asyncio._get_running_loop
_More: TypeAlias = tuple[dict[str, Any] | None, CapturedException | None]
_Looked: TypeAlias = tuple[LogRecord, JobScope, str, _More | None, Captured]
URGENT = logging.ERROR  # from here on lines are stored without waiting for more


def make_capture(handler: logging.Handler, names: LoggerNames | None, channel: Channel) -> Callable[[LogRecord], bool]:
    """The function that captures a record for `handler` into `channel`; it tells whether it did.

    A closure, because its variables are found several times faster than attributes.
    """
    get_scope = scopes.variable.get
    key = channel.key
    alone = channel.alone
    buffer = channel.buffer
    append = buffer.append
    numbers = channel.numbers
    is_first = channel.is_first
    weigh = channel.weigh
    spool = channel.spool
    if spool is not None:
        spool.redact_with(channel.asked.rules.redactor if channel.asked.rules.redacts_spool() else None)
    site_of = None if spool is None else spool.sites.get

    def capture(record: LogRecord) -> bool:
        more: _More | None
        scope = get_scope()
        # These lines are the beginning of resolve(), without the call: most records end here or are plain.
        try:
            if scope is None:
                if not (ASK or hasattr(record, "_joblog") or hasattr(record, "job_log_id")):
                    return False
                level = record.levelno
                added = record.__dict__
                is_plain = False
            else:
                # Before __dict__ is asked for: attributes of a record without a dictionary are found faster. One by
                # one: a tuple of four would be made and taken apart.
                message = record.msg
                args = record.args
                raised = record.exc_info or record.stack_info
                name = record.name
                level = record.levelno
                if spool is not None:
                    path = record.pathname
                    line = record.lineno
                    created = record.created
                added = record.__dict__
                is_plain = (
                    len(added) == BARE_LENGTH
                    and BARE_LAST in added
                    and (not DOUBTS or ends_bare(added))
                    and not scope.closed
                    and type(record) is LogRecord
                    and not (
                        GUARDS and (ALWAYS or ((loop := _get_running_loop()) is not None and is_service(loop, scope)))
                    )
                    and name != "asyncio"
                    and not handler.filters
                )
        except AttributeError:
            return capture_completed(record)
        if is_plain:
            if names is not None and not names.wants(name):
                return False
            try:
                if type(message) is not str:
                    message = record.getMessage()
                elif args:
                    message = message % args
                if len(message) >= LONG:
                    message = weigh(message)
                more = (None, capture_exception(record)) if raised else None
            except Exception:
                message, more = _fallback(record)
            captured = scope._captured  # type: ignore[union-attr]
            if captured is None or captured.channels is not alone:
                captured = _captured(scope, channel, None)  # type: ignore[arg-type]
        else:
            looked = look(record, scope)
            if looked is None:
                return False
            record, scope, message, more, captured = looked
            added = record.__dict__
            name = record.name
            level = record.levelno
            if spool is not None and more is None:
                path = record.pathname
                line = record.lineno
                created = record.created
        # Taken last, so that a number without a line is a lost line; also for a line there is no room for.
        n = next(scope._n) if is_first else scope._number_for(key)  # type: ignore[union-attr]
        if len(buffer) >= channel.room and not channel.takes(record, scope, message):  # type: ignore[arg-type]
            pass  # counted
        else:
            seq = next(numbers)
            if spool is not None:
                try:
                    if more is None and seq <= spool.near:
                        site = site_of((path, line, level, name))  # type: ignore[misc]
                        if site is None:
                            site = spool.site(record)
                        data = dumps((site, captured.packed, created, n, message, None), FORMAT)
                        size = len(data)
                        if size <= ROOM:
                            start = RING + (seq & NEAR_MASK) * SLOT
                            spool.map[start + BODY : start + BODY + size] = data
                            spool.words[start >> 3] = seq
                        else:
                            spool.put(seq, captured.packed, record, n, message, None)
                    else:
                        spool.put(seq, captured.packed, record, n, message, more)
                except Exception:
                    spool.put_anything(seq, captured.packed, record, n, message, more)
            # After the spool: what the writer has seen it may wipe there.
            append((record, scope, seq, n, message, more, name, level))  # type: ignore[arg-type]
        if not channel.awake:
            channel.wake()
        try:
            if level >= URGENT:
                channel.hurry()
        except TypeError:
            pass  # the level of a record that was made by hand
        added["_joblog"] = captured
        return True

    def capture_completed(record: LogRecord) -> bool:
        """A record that lacks what every record has: somebody took attributes off."""
        if not lacks_something(record):
            return False  # it is something else that failed, and would again
        whole = completed(record)
        is_captured = capture(whole)
        if (stamp := whole.__dict__.get(STAMP)) is not None:
            record.__dict__[STAMP] = stamp
        return is_captured

    def look(record: LogRecord, scope: JobScope | None) -> _Looked | None:
        """What is to be captured of a record that is not plain: stamped, with extra, filtered, in a guarded task."""
        stamp = getattr(record, "_joblog", None)
        if stamp is None or stamp is not scope:
            try:
                scope = resolve(record)
            except Exception:
                return None  # an object in extra can make anything fail; the call goes on
            if scope is None:
                return None
            stamp = getattr(record, "_joblog", None)
            if type(stamp) is Captured and key in stamp.channels:
                return None
        if names is not None and not names.wants(record.name):
            return None
        added = record.__dict__
        bare = is_bare(added)
        filters = handler.filters
        if filters:
            if len(filters) == 1 and "only_stamps" in type(filters[0]).__dict__:
                put_on(added, scope)
            else:
                kept = handler.filter(record)
                if not kept:
                    return None
                if isinstance(kept, LogRecord):
                    record = kept
                added = record.__dict__
                bare = is_bare(added)
        more: _More | None = None
        try:
            message = record.msg
            if type(message) is not str or type(record) is not LogRecord:
                message = record.getMessage()  # a record factory may format in its own way
            elif record.args:
                message = message % record.args
            if len(message) >= LONG:
                message = weigh(message)
            raised = record.exc_info or record.stack_info or added.get("exc_text")
            exception = capture_exception(record) if raised else None
            extras = None if bare else extras_of(added, scope.fields)
            if extras is not None or exception is not None:
                more = (extras, exception)
        except Exception:
            message, more = _fallback(record)
        captured = scope._captured
        if captured is None or captured.channels is not alone or type(stamp) is Captured:
            captured = _captured(scope, channel, stamp)
        return record, scope, message, more, captured

    # Code of its own: the interpreter specialises it for the records and settings of this handler alone.
    capture.__code__ = capture.__code__.replace()
    look.__code__ = look.__code__.replace()
    return capture


def _captured(scope: JobScope, channel: Channel, stamp: object) -> Captured:
    if type(stamp) is Captured:
        packed = b"" if channel.spool is None else stamp.packed or pack_scope(scope)
        return Captured(scope, stamp.channels | channel.alone, packed)
    packed = b"" if channel.spool is None else pack_scope(scope)
    captured = Captured(scope, channel.alone, packed)
    scope._captured = captured
    return captured


def _fallback(record: LogRecord) -> tuple[str, _More]:
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
