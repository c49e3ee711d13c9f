"""`job.logger` for projects that have one: it logs into the job's log, without a logger per job for ever.

    class Job(models.Model):
        logger = JobLogger("app.jobs")          # job.logger.info(...) is a record of "app.jobs.7", about job 7

Used on any thread; what a call costs more than one of a module logger is a small object and a detached scope.
"""

from __future__ import annotations

import logging
from typing import Any, overload

from ._pipeline.attributes import ADDRESS, STAMP
from ._pipeline.resolve import NO_JOB, resolve
from .context import detached

__all__ = ["JobLogger"]


class JobLogger:
    """A descriptor: on an instance a logger named `<name>.<id>`, on the class itself.

    The id is the instance's `attribute`; before there is one, records are about the open scope's job as all others.
    Handlers, level and propagation are those of the logger `name`, unless somebody made a logger of the full name
    (`assertLogs("app.jobs.7")` does): then that one's. Nothing is registered in `logging`, nothing refers to the
    instance.
    Whatever handlers log themselves while they handle a line (an old handler's echo) is about no job.
    """

    def __init__(self, name: str, attribute: str = "pk") -> None:
        self._name = name
        self._attribute = attribute

    @overload
    def __get__(self, instance: None, owner: type) -> JobLogger: ...
    @overload
    def __get__(self, instance: object, owner: type | None = None) -> logging.Logger: ...
    def __get__(self, instance: object, owner: type | None = None) -> JobLogger | logging.Logger:
        if instance is None:
            return self
        job_id = getattr(instance, self._attribute, None)
        return _Logger(self._name, None if job_id is None or job_id == "" else str(job_id))


class _Logger(logging.Logger):
    """One job's logger, made where it is used."""

    def __init__(self, base: str, job_id: str | None) -> None:
        super().__init__(base if job_id is None else f"{base}.{job_id}")
        self.parent = logging.getLogger(base)
        self.manager = self.parent.manager
        self._job_id = job_id

    def _real(self) -> logging.Logger:
        """The logger whose settings count. Looked up each time: `assertLogs` may come after this object was made."""
        found = self.manager.loggerDict.get(self.name)
        return found if isinstance(found, logging.Logger) else self.parent  # type: ignore[return-value]

    def getEffectiveLevel(self) -> int:
        """The level of this object if it was set, else that of the logger that counts."""
        return self.level or self._real().getEffectiveLevel()

    def isEnabledFor(self, level: int) -> bool:
        """Asked anew each time: nobody would tell this object that a level was changed."""
        if self.level:
            return not self.disabled and self.manager.disable < level and level >= self.level
        return self._real().isEnabledFor(level)

    def hasHandlers(self) -> bool:
        """Whether a record would reach a handler."""
        return bool(self.handlers) or self._real().hasHandlers()

    def makeRecord(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """A record that is addressed to the job."""
        record = super().makeRecord(*args, **kwargs)
        if self._job_id is not None:
            record.__dict__.setdefault(ADDRESS, self._job_id)
        return record

    def callHandlers(self, record: logging.LogRecord) -> None:
        """Decide whose record it is, then handle it with no job open."""
        scope = resolve(record)
        record.__dict__.setdefault(STAMP, NO_JOB if scope is None else scope)
        with detached():
            for handler in self.handlers:
                if record.levelno >= handler.level:
                    handler.handle(record)
            self._real().callHandlers(record)
