"""The handler: takes records that are about a job and leaves everything else alone.

`handle` runs on the logging thread for every record of the process: no lock, no I/O, no exception out but that of a
filter put on the handler, as with every other handler. Configuration (`__init__`) is the one place that raises. Imports
the pipeline: capturing, the router and what settings are checked by.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from re import Pattern
from typing import Any

from ._pipeline import policy, switch
from ._pipeline.capture import make_capture
from ._pipeline.channel import Channel, Use
from ._pipeline.naming import LoggerNames
from ._pipeline.overflow import Bounds
from ._pipeline.report import report
from ._pipeline.router import router
from ._pipeline.rules import Rules
from ._pipeline.settings import UNSET, Unset
from ._pipeline.sinks import make_sink
from ._pipeline.spool_folder import absolute
from ._pipeline.unknown import did_you_mean
from .exceptions import ConfigurationError
from .sinks.base import Sink

__all__ = ["JobLogHandler"]

_DEFAULT_CAPACITY = 50_000
_DEFAULT_BYTES = 64 * 2**20
_LONGEST_BLOCK = 60.0


def _telling(init: Callable[..., None]) -> Callable[..., None]:
    """Say on stderr what `init` raises for: dictConfig puts an error of its own, without the reason, behind it."""

    @functools.wraps(init)
    def telling(self: JobLogHandler, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except ConfigurationError as error:
            report(str(error))
            raise

    return telling


class JobLogHandler(logging.Handler):
    """Put every record that is about a job into that job's log.

    Configured by `dictConfig`: `{"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {...}}`.

    - `sink`: `"memory"`, `"jsonl"`, `"callable"`, `"logger"`, `"django"`, `"model"`, the dotted path of a class with
      `write` and `close` (see `joblog_router.sinks.Sink`), or such an object; `options` go to its constructor.
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
    - `redact`: True masks credentials and registered secrets, a list of regular expressions also what they match
      (their group `secret`, if they have one), False nothing; the setting `REDACT` by default, which is True.
    - `spool_redact`: True masks them before a line stands in the spool, too, on the thread that logs, which costs it
      half a bare call more; False by default: the writer masks them before anything is stored.
    - `staff`: loggers whose lines, and those of the loggers below, only staff may see (`Entry.audience`).
    - `max_lines`: how many lines of one job this process stores, about: the first and the last half of them, with a
      marker between that counts the others; 0, the default, stores all.
    - `evidence`: keys of `extra` that name a record's owner, `("job_id",)` by default.
    - `late`: what becomes of records of closed scopes, by logger and those below it, `""` for all: `"drop"` (default)
      or `"mark"`: kept with the field `late` for `late_grace` seconds (60) after the scope closed.
    - `services`: functions, coroutine functions or whole modules, by dotted name, whose tasks and threads serve
      everybody: a job they inherited does not count. See also the decorator `serves_everybody`.
    - `generator_drivers`: modules, by dotted name, that step generators as contextlib does, only to set up and tear
      down: scopes opened in such a generator are its user's.
    - `report_tasks`: report by name the tasks that outlive the scope they were started in (Python 3.12+; for
      development: it looks at all tasks of the loop whenever a scope closes).
    - `resolvers`: functions, or their dotted names, that give the id of a job, or None, for a record where no scope is
      open: `resolver(record)`, on the logging thread, so without I/O.

    `evidence`, `late`, `late_grace`, `services`, `generator_drivers`, `report_tasks` and `resolvers` are process-wide:
    all that open handlers say. Where none says anything JOBLOG_ROUTER counts, for those of them that are also there
    (LATE, LATE_GRACE, SERVICES, GENERATOR_DRIVERS, REPORT_TASKS).

    Raises ConfigurationError for what the configuration alone shows to be wrong. Afterwards nothing here raises,
    blocks or logs. A formatter is not used: entries keep message, traceback and fields apart. Several handlers with
    the same sink store a record once, by what all that are open ask: what one masks or keeps for staff is masked or for
    staff, the lowest `max_lines` counts, what one keeps whole is not folded, the largest capacity and the longest
    `block` hold, and one spool serves all.
    """

    is_open: bool

    @_telling
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
        redact: bool | list[str | Pattern[str]] | None = None,
        spool_redact: bool | None = None,
        staff: list[str] | None = None,
        max_lines: int | None = None,
        late: Mapping[str, str] | None = None,
        late_grace: float | None = None,
        services: list[str] | tuple[str, ...] | None = None,
        generator_drivers: list[str] | tuple[str, ...] | None = None,
        report_tasks: bool | None = None,
        resolvers: list[Any] | tuple[Any, ...] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            name, known = min(unknown), _settings()
            hint = did_you_mean(name, known)
            raise ConfigurationError(f"JobLogHandler has no setting {name!r}.{hint} It knows: {', '.join(known)}")
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
        rules = Rules.of(redact, staff, max_lines, spool_redact)
        attribution = policy.Policy.of(
            "JobLogHandler: ",
            evidence=evidence,
            late=late,
            late_grace=late_grace,
            services=services,
            generator_drivers=generator_drivers,
            report_tasks=report_tasks,
            resolvers=resolvers,
        )
        made = make_sink(sink, options)
        # Last of all checks: logging remembers the handler from here on and would close a half-made one.
        try:
            super().__init__(level)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"JobLogHandler: level {level!r} is not a level: {error}") from None
        self._owner = object()
        policy.use(self._owner, attribution)
        self._use = Use(Bounds(capacity, capacity_bytes, block), fold, kept_whole, rules)
        self._channel: Channel = router.open_channel(made, self._use, directory)
        self._names = names
        self.renew()
        router.renew_after_fork(self)
        self.is_open = True
        _remember(self, None)
        # One that is dropped without being closed has no say any more, either.
        release = functools.partial(_release, self._owner, self._channel, self._use)
        self._dropped = weakref.finalize(self, router.abandon, release)
        self._dropped.atexit = False

    def renew(self) -> None:
        """Make the capturing function anew: in the child of a fork, and when the kill switch was turned."""
        if switch.is_on:
            self._capture = make_capture(self, self._names, self._channel)
        else:
            self._capture = switch.make_idle(router.wake_writer)
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

    def wants(self, record: logging.LogRecord) -> bool:
        """Whether this handler would take `record`, were it about a job: by its level and its logger's name."""
        return record.levelno >= self.level and (self._names is None or self._names.wants(record.name))

    def emit(self, record: logging.LogRecord) -> None:
        """The same as `handle`, for callers that bypass it."""
        self.handle(record)

    def flush(self) -> None:
        """Have the writer start at once. Waits only when the process ends: to wait use `joblog_router.flush()`."""
        router.handler_flush()

    def close(self) -> None:
        """Leave what waits to the writer. A closed handler that is still on a logger goes on capturing."""
        if self.is_open:
            self.is_open = False
            self._dropped.detach()
            _remember(None, self)
            _release(self._owner, self._channel, self._use)
        super().close()


def _settings() -> list[str]:
    """What a handler's configuration may name: the parameters, and what dictConfig keeps for itself."""
    *known, _ = list(inspect.signature(JobLogHandler.__init__).parameters)[1:]
    return [*known, "filters", "formatter"]


def _release(owner: object, channel: Channel, use: Use) -> None:
    """Take back what a handler asked for: its say in whose records are whose, and its use of a channel."""
    policy.use(owner, None)
    router.close_channel(channel, use)


def _directory(spool: object) -> Path | None:
    if spool is None:
        return None
    if not isinstance(spool, str | os.PathLike) or not os.fspath(spool):
        raise ConfigurationError(f"JobLogHandler: spool must be the path of a directory or None, not {spool!r}")
    return absolute(spool)


# Those that were made and not closed. Replaced as a whole: logging threads read it.
_open: tuple[weakref.ref[JobLogHandler], ...] = ()


def _remember(opened: JobLogHandler | None, closed: JobLogHandler | None) -> None:
    global _open
    kept = [reference for reference in _open if reference() not in (None, closed)]
    _open = (*kept, weakref.ref(opened)) if opened is not None else tuple(kept)


def is_wanted(record: logging.LogRecord) -> bool:
    """Whether an open JobLogHandler on the way of `record` would take it by level and name, were it about a job."""
    return bool(_wanting(record))


def is_taken(record: logging.LogRecord) -> bool:
    """Whether an open JobLogHandler takes `record`, which is about a job. For filters, on the logging thread.

    Where a handler has filters of its own it is given the record now: they may answer otherwise when asked again, and a
    record is captured once however often a handler sees it. Raises what such a filter raises.
    """
    return any(
        all("only_stamps" in type(each).__dict__ for each in handler.filters) or handler.handle(record)
        for handler in _wanting(record)
    )


def _wanting(record: logging.LogRecord) -> list[JobLogHandler]:
    if not switch.is_on:
        return []
    handlers = [handler for reference in _open if (handler := reference()) is not None and handler.wants(record)]
    return [handler for handler in handlers if _is_reached(handler, record.name)]


def _is_reached(handler: JobLogHandler, name: str) -> bool:
    """Whether records of the logger `name` come to `handler`, as far as loggers tell: behind a queue they do not."""
    known = logging.root.manager.loggerDict
    found: object = None
    while name and not isinstance(found, logging.Logger):
        found = known.get(name)  # or a placeholder
        name = name.rpartition(".")[0]
    at: logging.Logger | None = found if isinstance(found, logging.Logger) else logging.root
    while at is not None:
        for each in at.handlers:
            if each is handler or hasattr(each, "queue") or hasattr(each, "target"):
                return True
        at = at.parent if at.propagate else None
    return False
