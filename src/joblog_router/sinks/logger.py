"""Entries to a named logger, on the writer thread: for whatever handlers an application has there."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from .._pipeline.attributes import STAMP
from .._pipeline.resolve import NO_JOB
from ..entry import Entry
from ..exceptions import ConfigurationError

__all__ = ["LoggerSink"]


class LoggerSink:
    """Hands each entry to the logger `name` as a record with `job_id`, `audience`, the fields and `origin`, `seq`, `n`.

    For a file per service, a forwarder or another logging library. Called on the writer thread, so the handlers there
    may take their time; at least once for each entry. The record keeps the time, level and place of the original;
    its message is the original's text, with the rendered traceback as `exc_text`; the original logger's name is in
    `record.source`. It is about no job any more: a JobLogHandler on that logger leaves it alone.
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"sink 'logger': name must be a logger's name, not {name!r}")
        self._name = name

    def write(self, entries: Sequence[Entry]) -> None:
        """Log the entries."""
        logger = logging.getLogger(self._name)
        for entry in entries:
            if logger.isEnabledFor(entry.level):
                logger.handle(_record_of(entry, self._name))

    def close(self) -> None:
        """Nothing to let go of."""


def _record_of(entry: Entry, name: str) -> logging.LogRecord:
    record = logging.LogRecord(name, entry.level, entry.path, entry.line, entry.message, (), None)
    record.created = entry.created
    record.msecs = (entry.created - int(entry.created)) * 1000
    record.exc_text = entry.exception
    attributes = record.__dict__
    for key, value in entry.fields.items():
        attributes.setdefault(key, value)
    attributes.update(job_id=entry.job_id, source=entry.logger, origin=entry.origin, seq=entry.seq, n=entry.n)
    attributes["audience"] = entry.audience
    attributes[STAMP] = NO_JOB
    return record
