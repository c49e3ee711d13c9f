"""The handler: takes records that are about a job and leaves everything else alone.

`handle` runs on the logging thread for every record of the process: no lock, no I/O, no exception out. Configuration
(`__init__`) is the one place that raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ._pipeline.channel import Channel
from ._pipeline.exceptions import CapturedException, capture_exception
from ._pipeline.naming import LoggerNames
from ._pipeline.primitives import freeze
from ._pipeline.report import report_once
from ._pipeline.resolve import STAMP, Captured, extras_of, resolve, use_evidence
from ._pipeline.router import router
from ._pipeline.sinks import make_sink
from ._pipeline.text import MAX_MESSAGE, clip
from .context import JobScope
from .exceptions import ConfigurationError
from .sinks.base import Sink

__all__ = ["JobLogHandler"]

_DEFAULT_CAPACITY = 50_000
# What an untouched record carries last (see resolve): such a record has no extra to look for.
_LAST = next(reversed(logging.LogRecord("", 0, "", 0, "", (), None).__dict__))


class JobLogHandler(logging.Handler):
    """Put every record that is about a job into that job's log.

    Configured by `dictConfig`: `{"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {...}}`.

    - `sink`: `"memory"`, `"jsonl"`, `"callable"`, `"django"`, the dotted path of a class with `write` and `close`
      (see `joblog_router.sinks.Sink`), or such an object; `options` go to its constructor.
    - `level`: as for every handler. `loggers`, `exclude`: only, or all but, the loggers named and those below them
      (whole dotted segments: `"shop"` is not `"shopping"`).
    - `capacity`: how many entries may wait in memory while the sink is slow or away; more are dropped and counted.
    - `evidence`: keys of `extra` that name a record's owner, `("job_id",)` by default; process-wide.

    Raises ConfigurationError for what the configuration alone shows to be wrong. Afterwards nothing here raises,
    blocks or logs. A formatter is not used: entries keep message, traceback and fields apart. Several handlers with
    the same sink store a record once.
    """

    def __init__(
        self,
        level: int | str = logging.NOTSET,
        *,
        sink: str | Sink | None = None,
        options: Mapping[str, Any] | None = None,
        loggers: list[str] | None = None,
        exclude: list[str] | None = None,
        capacity: int = _DEFAULT_CAPACITY,
        evidence: list[str] | tuple[str, ...] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            known = "level, sink, options, loggers, exclude, capacity, evidence, filters, formatter"
            raise ConfigurationError(f"JobLogHandler has no setting {sorted(unknown)[0]!r}; it knows: {known}")
        try:
            super().__init__(level)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"JobLogHandler: level {level!r} is not a level: {error}") from None
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ConfigurationError(f"JobLogHandler: capacity must be a positive whole number, not {capacity!r}")
        self._names = LoggerNames.of(loggers, exclude)
        if evidence is not None:
            use_evidence(_keys(evidence))
        key, made = make_sink(sink, options)
        self._channel: Channel = router.open_channel(key, made, capacity)
        self._is_open = True

    @property
    def sink(self) -> Sink:
        """The sink entries go to, for example to read a memory sink."""
        return self._channel.sink

    def handle(self, record: logging.LogRecord) -> bool:
        """Capture `record` if it is about a job; whether it was captured. Called by logging for every record."""
        scope = resolve(record)
        if scope is None:
            return False
        if self.filters:
            kept = self.filter(record)
            if not kept:
                return False
            if isinstance(kept, logging.LogRecord):
                record = kept
        if self._names is not None and not self._names.wants(record.name):
            return False
        channel = self._channel
        added = record.__dict__
        stamp = added.get(STAMP)
        if type(stamp) is Captured and channel.key in stamp.channels:
            return False
        size = len(channel.buffer)
        if size >= channel.capacity:
            channel.dropped.add()
            return False
        message = record.msg
        try:
            if type(message) is not str:
                message = str(message)
            if type(record) is not logging.LogRecord:
                message = record.getMessage()  # a record factory may format in its own way
            elif record.args:
                message = message % record.args
            if len(message) > MAX_MESSAGE:
                message = clip(message, MAX_MESSAGE)
            exception = None
            if record.exc_info or record.exc_text or record.stack_info:
                exception = capture_exception(record)
            extra = None if next(reversed(added)) == _LAST else extras_of(added)
        except Exception:
            message, extra, exception = _fallback(record)
        number = scope._n
        channel.buffer.append(
            (
                scope,
                channel.next_seq(),
                0 if number is None else number(),
                record.created,
                record.levelno,
                record.name,
                message,
                record.pathname,
                record.lineno,
                extra,
                exception,
            )
        )
        if not channel.awake:
            channel.wake()
        captured = scope._captured
        if captured is None or captured.channels is not channel.alone or stamp is not None:  # type: ignore[attr-defined]
            captured = _captured(scope, channel, stamp)
        added[STAMP] = captured
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """The same as `handle`, for callers that bypass it."""
        self.handle(record)

    def flush(self) -> None:
        """Have the writer start at once. Waits (at most 3 s) only when the process ends: use `joblog_router.flush()`."""
        router.handler_flush()

    def close(self) -> None:
        """Leave what waits to the writer. A closed handler that is still on a logger goes on capturing."""
        if self._is_open:
            self._is_open = False
            router.close_channel(self._channel)
        super().close()


def _captured(scope: JobScope, channel: Channel, stamp: object) -> Captured:
    if type(stamp) is Captured:
        return Captured(scope, stamp.channels | channel.alone)
    captured = Captured(scope, channel.alone)
    scope._captured = captured
    return captured


def _fallback(record: logging.LogRecord) -> tuple[str, dict[str, Any] | None, CapturedException | None]:
    """A record whose message could not be made: its parts, without running the code that failed again."""
    report_once(
        ("format", record.pathname, record.lineno),
        f"the message of {record.name} at {record.pathname}:{record.lineno} could not be formatted; its parts are kept",
    )
    try:
        parts = freeze(record.args) if record.args else None
        message = record.msg if isinstance(record.msg, str) else str(freeze(record.msg))
        text = clip(message if parts is None else f"{message} {parts!r}", MAX_MESSAGE)
        return text, {"format_error": True}, None
    except Exception:
        return "<this line's message could not be formatted>", {"format_error": True}, None


def _keys(evidence: object) -> list[str]:
    if not isinstance(evidence, list | tuple) or not all(isinstance(key, str) and key for key in evidence):
        raise ConfigurationError(f"JobLogHandler: evidence must be a list of keys of extra, not {evidence!r}")
    return list(evidence)
