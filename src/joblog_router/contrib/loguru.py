"""Loguru: its records in the job of the code that logs, whatever thread or process its sinks run in.

`add_job_handler()` puts them into job logs, `job_patcher` writes the job on them for sinks of your own. Both run on the
logging thread, before loguru takes a lock or puts anything into a queue.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from typing import Any

from .._pipeline.attributes import BARE
from .._pipeline.report import report_once
from ..context import current_job
from ..exceptions import MissingExtraError
from ..handlers import JobLogHandler

__all__ = ["add_job_handler", "job_patcher"]


def add_job_handler(handler: JobLogHandler, logger: Any = None, level: int | str = 0) -> int:
    """Put loguru's records that are about a job into that job's log; gives the id for `logger.remove`.

    `add_job_handler(JobLogHandler(sink="django"))`. What was bound (`bind`, `contextualize`, keyword arguments) becomes
    the line's fields, and `bind(job_log_id=7)` addresses a job. Not to be had by `logger.add(handler)` with
    `enqueue=True`: what runs behind loguru's queue cannot know the job any more. `logger` is loguru's own unless given.
    Removing it closes the handler. Raises MissingExtraError without loguru.
    """
    target = _loguru() if logger is None else logger
    return int(target.add(_Nowhere(handler), level=level, filter=_capture(handler), format="{message}", catch=True))


def job_patcher(record: dict[str, Any]) -> None:
    """Write `extra["job_id"]` (None outside a job) and the scope's fields on a loguru record, where they are not there.

    `logger.configure(patcher=job_patcher)`, for all sinks: also those with `enqueue=True` and `serialize=True` then say
    the job of the code that logged. Never raises.
    """
    scope = current_job()
    extra = record["extra"]
    if scope is None:
        extra.setdefault("job_id", None)
        return
    extra.setdefault("job_id", scope.job_id)
    for name, value in scope.fields.items():
        extra.setdefault(name, value)


class _Nowhere:
    """The sink that loguru wants: everything was done by the filter, on the logging thread and without a lock."""

    def __init__(self, handler: JobLogHandler) -> None:
        self._handler = handler

    def write(self, message: str) -> None:
        """Nothing comes here."""

    def stop(self) -> None:
        """Called by loguru when the sink is removed."""
        self._handler.close()


def _capture(handler: JobLogHandler) -> Callable[[Any], bool]:
    def capture(record: Any) -> bool:
        try:
            if record["level"].no >= handler.level:
                handler.handle(_as_stdlib(record))
        except Exception as error:
            report_once(("loguru", repr(error)), f"a record of loguru could not be taken over: {error!r}")
        return False  # neither formatted nor written

    return capture


def _as_stdlib(record: Any) -> logging.LogRecord:
    exception = record["exception"]
    made = logging.LogRecord(
        record["name"] or "root",
        record["level"].no,
        record["file"].path,
        record["line"],
        record["message"],
        (),
        (exception.type, exception.value, exception.traceback) if exception else None,
        record["function"],
    )
    made.levelname = record["level"].name
    made.created = record["time"].timestamp()
    for name, value in record["extra"].items():
        if name not in BARE:
            setattr(made, name, value)
    return made


def _loguru() -> Any:
    try:
        return importlib.import_module("loguru").logger
    except ImportError as error:
        raise MissingExtraError("loguru", "loguru") from error
