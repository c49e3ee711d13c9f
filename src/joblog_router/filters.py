"""The filters: one writes on each record which job it is about, one keeps away what is in a job's log anyway.

Made by `dictConfig`, called by `logging` on the thread that logs: no lock, no I/O, no exception out. Imports what
`resolve` needs, and handlers to ask whether they take a record.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from ._pipeline import resolve as resolving
from ._pipeline.attributes import STAMP, is_bare, put_on
from ._pipeline.generators import ALWAYS, ASK, GUARDS
from ._pipeline.naming import LoggerNames
from ._pipeline.resolve import DEFAULT_EVIDENCE, NO_JOB, Captured, note_unaddressed, resolve
from ._pipeline.services import is_service
from .exceptions import ConfigurationError
from .handlers import is_taken

__all__ = ["JobContextFilter", "JobOnlyFilter"]


_get_running_loop = asyncio._get_running_loop


class JobContextFilter(logging.Filter):
    """Set `record.job_id` (None outside a job) and the scope's fields on every record; let every record pass.

    For handlers (a filter on a logger does not see its children's records): console, JSON, and above all a
    QueueHandler or MemoryHandler, behind which the job could not be known any more. Attributes a record has already,
    from `extra`, stay as they are. Also leaves the answer on the record for a JobLogHandler further down, as
    `_joblog`. Runs on the logging thread and never raises.
    """

    # Read from the class by the handler's capture, which then need not ask whether anything else was changed.
    only_stamps = True

    def filter(self, record: logging.LogRecord) -> bool:
        """Stamp `record`; always True."""
        try:
            scope = resolving.get_scope()
            # The beginning of resolve() for most records. Not by __dict__, which would have to be made first.
            if not (
                hasattr(record, "_joblog")
                or hasattr(record, "job_id")
                or hasattr(record, "job_log_id")
                or resolving.evidence is not DEFAULT_EVIDENCE
            ):
                if scope is None:
                    if not ASK:
                        record.job_id = None
                        record._joblog = NO_JOB
                        return True
                elif not (
                    hasattr(record, "job_log")
                    or scope.closed
                    or (GUARDS and (ALWAYS or ((loop := _get_running_loop()) is not None and is_service(loop, scope))))
                    or record.name == "asyncio"
                ):
                    record.job_id = scope.job_id
                    record._joblog = scope
                    fields = scope.fields
                    if fields:
                        attributes = record.__dict__
                        for name in fields:
                            if name not in attributes:
                                attributes[name] = fields[name]
                    return True
        except Exception:
            pass  # a record of a class of its own; what follows asks and sets in other ways
        try:
            scope = resolve(record)
        except Exception:
            scope = None  # an object in extra can make anything fail; the call goes on
        attributes = record.__dict__
        if scope is None:
            if not is_bare(attributes):
                _note(record, attributes)
            attributes.setdefault("job_id", None)
            attributes.setdefault(STAMP, NO_JOB)
            return True
        put_on(attributes, scope)
        return True


def _note(record: logging.LogRecord, attributes: dict[str, Any]) -> None:
    try:
        note_unaddressed(record, attributes)
    except Exception:
        pass  # as above


class JobOnlyFilter(logging.Filter):
    """Keep away from a handler what goes into a job's log anyway: DEBUG and INFO of the chosen loggers.

    For the console: `{"()": "joblog_router.JobOnlyFilter", "loggers": ["shop.import"]}` in `filters`, its name in the
    handler's `filters`. Lines from `level` on (WARNING), of other loggers, of no job, and those that no JobLogHandler
    takes (none is open or on a logger that the line reaches, its level, its loggers or a filter of its own leave them
    out) pass. `loggers` are all where none are named, without
    those of `exclude`. Raises ConfigurationError for what is wrong in its settings; runs on the logging thread and
    never raises there.
    """

    def __init__(
        self,
        loggers: list[str] | None = None,
        exclude: list[str] | None = None,
        level: int | str = logging.WARNING,
    ) -> None:
        super().__init__()
        self._names = LoggerNames.of(loggers, exclude, where="JobOnlyFilter: ")
        number = logging.getLevelNamesMapping().get(level) if isinstance(level, str) else level
        if isinstance(number, bool) or not isinstance(number, int):
            raise ConfigurationError(f"JobOnlyFilter: level {level!r} is not a level, such as 'WARNING'")
        self._level = number

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is for this handler, too."""
        try:
            if record.levelno >= self._level or (self._names is not None and not self._names.wants(record.name)):
                return True
            if resolve(record) is None:
                return True
            return not (type(record.__dict__.get(STAMP)) is Captured or is_taken(record))
        except Exception:
            return True  # an object in extra can make anything fail; rather twice than not at all
