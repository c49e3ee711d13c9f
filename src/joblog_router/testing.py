"""For tests of projects: what would stand in the job logs.

Called by a project's tests, on their thread. Needs neither a database nor a configuration of logging.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ._pipeline.router import flush
from .entry import Entry
from .handlers import JobLogHandler
from .sinks import MemorySink

__all__ = ["JobLogs", "capture_job_logs"]


class JobLogs:
    """The job log lines of a `capture_job_logs()` block."""

    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink

    def entries(self, job_id: object = None) -> list[Entry]:
        """The lines so far, oldest first; only one job's if `job_id` is given."""
        flush()
        return self._sink.entries(job_id)

    def messages(self, job_id: object = None) -> list[str]:
        """The texts of `entries(job_id)`."""
        return [entry.message for entry in self.entries(job_id)]


@contextmanager
def capture_job_logs(logger: str = "") -> Iterator[JobLogs]:
    """Collect in memory what goes into job logs while the block runs; other handlers go on as they are.

    `logger` names the logger to listen to, the root logger by default. Levels are left alone: what a logger's level
    holds back is not captured. `assert logs.messages(job.pk) == [...]` also shows that no line of another job is there.
    """
    sink = MemorySink()
    handler = JobLogHandler(sink=sink)
    target = logging.getLogger(logger)
    target.addHandler(handler)
    try:
        yield JobLogs(sink)
    finally:
        target.removeHandler(handler)
        handler.close()
