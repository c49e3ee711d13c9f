"""The handler: takes records that are about a job and leaves everything else alone.

`handle` runs on the logging thread for every record of the process: no lock, no I/O, no exception out. Configuration
(`__init__`) is the one place that raises.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._pipeline.capture import make_capture
from ._pipeline.channel import Channel
from ._pipeline.naming import LoggerNames
from ._pipeline.overflow import Bounds
from ._pipeline.resolve import use_evidence
from ._pipeline.router import UNSET, Unset, router
from ._pipeline.sinks import make_sink
from .exceptions import ConfigurationError
from .sinks.base import Sink

__all__ = ["JobLogHandler"]

_DEFAULT_CAPACITY = 50_000
_DEFAULT_BYTES = 64 * 2**20
_LONGEST_BLOCK = 60.0
_SETTINGS = (
    "level, sink, options, loggers, exclude, capacity, capacity_bytes, block, evidence, fold, unfolded, spool, "
    "filters, formatter"
)


class JobLogHandler(logging.Handler):
    """Put every record that is about a job into that job's log.

    Configured by `dictConfig`: `{"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {...}}`.

    - `sink`: `"memory"`, `"jsonl"`, `"callable"`, `"logger"`, `"django"`, the dotted path of a class with `write` and
      `close` (see `joblog_router.sinks.Sink`), or such an object; `options` go to its constructor.
    - `level`: as for every handler. `loggers`, `exclude`: only, or all but, the loggers named and those below them
      (whole dotted segments: `"shop"` is not `"shopping"`).
    - `capacity`, `capacity_bytes`: how many entries, and bytes of text, may wait in memory while the sink is slow or
      away. When they are used up by four fifths DEBUG lines are dropped, then INFO, WARNING and above last; the job's
      log tells how many. `block`: seconds that a logging call may wait for room before its line is dropped; 0 by
      default, and never in an event loop.
    - `fold`: whether many similar DEBUG and INFO lines of a job become the first few and a tally (they are counted,
      not stored); on by default, off for the loggers of `unfolded` and below.
    - `spool`: a directory of this user's own (made if it is missing, mode 0700) in which every line stands before its
      logging call returns, until it is stored: what a killed process left there the next one stores. None for no
      spool, which is also the default outside Django.
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
        capacity_bytes: int = _DEFAULT_BYTES,
        block: float = 0.0,
        evidence: list[str] | tuple[str, ...] | None = None,
        fold: bool | None = None,
        unfolded: list[str] | None = None,
        spool: str | os.PathLike[str] | Unset | None = UNSET,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise ConfigurationError(f"JobLogHandler has no setting {min(unknown)!r}; it knows: {_SETTINGS}")
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ConfigurationError(f"JobLogHandler: capacity must be a positive whole number, not {capacity!r}")
        if isinstance(capacity_bytes, bool) or not isinstance(capacity_bytes, int) or capacity_bytes < 1:
            raise ConfigurationError(
                f"JobLogHandler: capacity_bytes must be a positive whole number, not {capacity_bytes!r}"
            )
        if isinstance(block, bool) or not isinstance(block, int | float) or not 0 <= block <= _LONGEST_BLOCK:
            raise ConfigurationError(f"JobLogHandler: block must be seconds, 0 to {_LONGEST_BLOCK:.0f}, not {block!r}")
        names = LoggerNames.of(loggers, exclude)
        if fold is not None and not isinstance(fold, bool):
            raise ConfigurationError(f"JobLogHandler: fold must be True or False, not {fold!r}")
        kept_whole = None if unfolded is None else LoggerNames.of(unfolded, None, "unfolded")
        directory = spool if isinstance(spool, Unset) else _directory(spool)
        keys = None if evidence is None else _keys(evidence)
        made = make_sink(sink, options)
        # Last of all checks: logging remembers the handler from here on and would close a half-made one.
        try:
            super().__init__(level)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"JobLogHandler: level {level!r} is not a level: {error}") from None
        if keys is not None:
            use_evidence(id(self), keys)
        self._channel: Channel = router.open_channel(
            made, Bounds(capacity, capacity_bytes, block), fold, kept_whole, directory
        )
        self._names = names
        self.renew()
        router.renew_after_fork(self)
        self._is_open = True

    def renew(self) -> None:
        """Make the capturing function anew; for the child of a fork."""
        self._capture = make_capture(self, self._names, self._channel)
        if type(self).handle is JobLogHandler.handle:
            # logging calls `handle` on the object: without the method in between a record costs one call less.
            self.handle = self._capture  # type: ignore[method-assign, assignment]

    @property
    def sink(self) -> Sink:
        """The sink entries go to, for example to read a memory sink."""
        return self._channel.sink

    def handle(self, record: logging.LogRecord) -> bool:
        """Capture `record` if it is about a job; whether it was captured. Called by logging for every record."""
        return self._capture(record)

    def emit(self, record: logging.LogRecord) -> None:
        """The same as `handle`, for callers that bypass it."""
        self.handle(record)

    def flush(self) -> None:
        """Have the writer start at once. Waits only when the process ends: to wait use `joblog_router.flush()`."""
        router.handler_flush()

    def close(self) -> None:
        """Leave what waits to the writer. A closed handler that is still on a logger goes on capturing."""
        if self._is_open:
            self._is_open = False
            use_evidence(id(self), None)
            router.close_channel(self._channel)
        super().close()


def _directory(spool: object) -> Path | None:
    if spool is None:
        return None
    if not isinstance(spool, str | os.PathLike) or not os.fspath(spool):
        raise ConfigurationError(f"JobLogHandler: spool must be the path of a directory or None, not {spool!r}")
    # Absolute now: the process may change its directory later. Links in the last part are not followed.
    path = Path(os.fspath(spool))
    return Path(os.path.realpath(path.parent)) / path.name


def _keys(evidence: object) -> list[str]:
    if not isinstance(evidence, list | tuple) or not all(isinstance(key, str) and key for key in evidence):
        raise ConfigurationError(f"JobLogHandler: evidence must be a list of keys of extra, not {evidence!r}")
    return list(evidence)
