"""For tests of projects: what would stand in the job logs.

Called by a project's tests, on their thread. Needs neither a database nor a configuration of logging. The fixtures of
`joblog_router.pytest_plugin` are made of it.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ._pipeline.public import flush
from .entry import Entry
from .handlers import JobLogHandler
from .sinks import MemorySink

__all__ = ["JobLogs", "capture_job_logs"]


class JobLogs:
    """The job log lines of a `capture_job_logs()` block, or of a test with the fixture `joblog`."""

    def __init__(self, read: Callable[[object], list[Entry]]) -> None:
        self._read = read

    def entries(self, job_id: object = None) -> list[Entry]:
        """The lines so far, oldest first; only one job's if `job_id` is given."""
        flush()
        return self._read(job_id)

    def messages(self, job_id: object = None) -> list[str]:
        """The texts of `entries(job_id)`."""
        return [entry.message for entry in self.entries(job_id)]

    def assert_logged(self, job_id: object, text: str | re.Pattern[str], *, level: int | str | None = None) -> Entry:
        """Assert that a line of this job has `text` in its message, or matches the pattern; gives the first such line.

        `level`, a number or a name, is the level it must have. The error shows the job's lines, and where else the text
        is.
        """
        __tracebackhide__ = True
        wanted = _level(level)
        found = [entry for entry in self.entries() if _has(entry, text) and wanted in (None, entry.level)]
        for entry in found:
            if entry.job_id == str(job_id):
                return entry
        what = f"{text.pattern if isinstance(text, re.Pattern) else text!r}"
        if wanted is not None:
            what += f" at level {logging.getLevelName(wanted)}"
        elsewhere = sorted({entry.job_id for entry in found})
        raise AssertionError(
            f"job {str(job_id)!r} logged no {what}; its lines: {_shown(self.entries(job_id))}"
            + (f"\nbut it is in the log of job {', '.join(map(repr, elsewhere))}" if elsewhere else "")
        )

    def assert_no_foreign_lines(self, *job_ids: object) -> None:
        """Assert that every line so far is in the log of one of these jobs."""
        __tracebackhide__ = True
        own = {str(job_id) for job_id in job_ids}
        foreign = [entry for entry in self.entries() if entry.job_id not in own]
        if foreign:
            raise AssertionError(f"lines in the logs of other jobs than {sorted(own)}: {_shown(foreign)}")


@contextmanager
def capture_job_logs(logger: str = "", *, fold: bool | None = None) -> Iterator[JobLogs]:
    """Collect in memory what goes into job logs while the block runs; other handlers go on as they are.

    `logger` names the logger to listen to, the root logger by default. Levels are left alone: what a logger's level
    holds back is not captured. `assert logs.messages(job.pk) == [...]` also shows that no line of another job is there.
    `fold=False` keeps every one of many similar lines.
    """
    sink = MemorySink()
    with attached(JobLogHandler(sink=sink, fold=fold), logger):
        yield JobLogs(sink.entries)


@contextmanager
def attached(handler: JobLogHandler, logger: str = "") -> Iterator[None]:
    target = logging.getLogger(logger)
    target.addHandler(handler)
    try:
        yield
    finally:
        target.removeHandler(handler)
        handler.close()


def _level(level: int | str | None) -> int | None:
    if isinstance(level, str):
        number = logging.getLevelName(level)
        if not isinstance(number, int):
            raise ValueError(f"{level!r} is not the name of a level")  # noqa: TRY004 - a wrong name, not a wrong type
        return number
    return level


def _has(entry: Entry, text: str | re.Pattern[str]) -> bool:
    return bool(text.search(entry.message)) if isinstance(text, re.Pattern) else text in entry.message


def _shown(entries: list[Entry]) -> str:
    if not entries:
        return "none"
    return "".join(f"\n  {entry.job_id} {logging.getLevelName(entry.level)} {entry.message}" for entry in entries[:50])
