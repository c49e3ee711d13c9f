"""The filter: writes on each record which job it is about, for every handler behind it."""

from __future__ import annotations

import logging
from typing import Any

from ._pipeline.resolve import BARE_LENGTH, NO_JOB, STAMP, note_unaddressed, resolve

__all__ = ["JobContextFilter"]


class JobContextFilter(logging.Filter):
    """Set `record.job_id` (None outside a job) and the scope's fields on every record; let every record pass.

    For handlers (a filter on a logger does not see its children's records): console, JSON, and above all a
    QueueHandler or MemoryHandler, behind which the job could not be known any more. Attributes a record has already,
    from `extra`, stay as they are. Also leaves the answer on the record for a JobLogHandler further down, as
    `_joblog`. Runs on the logging thread and never raises.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Stamp `record`; always True."""
        try:
            scope = resolve(record)
        except Exception:
            scope = None  # an object in extra can make anything fail; the call goes on
        attributes = record.__dict__
        if scope is None:
            if len(attributes) != BARE_LENGTH:
                _note(record, attributes)
            attributes.setdefault("job_id", None)
            attributes.setdefault(STAMP, NO_JOB)
            return True
        attributes.setdefault("job_id", scope.job_id)
        attributes.setdefault(STAMP, scope)
        for name, value in scope.fields.items():
            attributes.setdefault(name, value)
        return True


def _note(record: logging.LogRecord, attributes: dict[str, Any]) -> None:
    try:
        note_unaddressed(record, attributes)
    except Exception:
        pass  # as above
