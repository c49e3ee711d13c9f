"""A program of a user's, for type checkers: .ci/run has mypy and pyright read it beside the installed package."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import assert_type

from joblog_router import (
    Entry,
    JobLogHandler,
    JobScope,
    LeakReport,
    SinkUnavailableError,
    aflush,
    carry,
    current_job,
    detached,
    flush,
    job_context,
    leak_report,
    register_secret,
    serves_everybody,
    wrap_stream,
)
from joblog_router.contrib.remote.send import RemoteJobLogHandler, job
from joblog_router.contrib.threads import JobThreadPoolExecutor
from joblog_router.job_logger import JobLogger
from joblog_router.processes import run_logged
from joblog_router.sinks import Page, Selection, Sink, Store, open_store
from joblog_router.testing import capture_job_logs


class Kept:
    """A sink of a project's own."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def write(self, entries: Sequence[Entry]) -> None:
        """Keep them, or say that the store is away."""
        if len(self.entries) > 1_000:
            raise SinkUnavailableError("full", "delete some")
        self.entries += entries

    def close(self) -> None:
        """Nothing is open."""


class Survey:
    """A job."""

    pk = 7
    logger = JobLogger("app.surveys")


@job_context.of("job_id")
def add(job_id: int, value: int) -> int:
    """Bound by the name of the parameter: keeps its own type."""
    return value


@job_context.of("job_id")
async def add_later(job_id: int, value: int) -> str:
    """The same for a coroutine function."""
    await aflush()
    return str(value)


@serves_everybody
async def poll() -> None:
    """For everybody."""


def numbers() -> Iterator[int]:
    """What is worked on."""
    yield from range(3)


def main() -> None:
    """Everything once."""
    sink: Sink = Kept()
    JobLogHandler(sink=sink, max_lines=1_000)
    with job_context(Survey.pk, camera="north") as scope:
        assert_type(scope, JobScope)
        assert_type(current_job(), JobScope | None)
        assert_type(add(7, 1), int)
        with detached():
            asyncio.run(poll())
        with ThreadPoolExecutor(1) as pool, JobThreadPoolExecutor(1) as own:
            assert_type(pool.submit(carry(add), 7, 2).result(), int)
            assert_type(own.submit(add, 7, 3).result(), int)
        Survey().logger.info("started")
        run_logged(["true"], check=True)
    assert_type(asyncio.run(add_later(7, 1)), str)
    for number in wrap_stream(7, numbers()):
        assert_type(number, int)
    assert_type(flush(1.0), bool)
    assert_type(register_secret("hunter22"), bool)
    assert_type(leak_report(), LeakReport)
    store: Store = open_store("jsonl:logs")
    page = store.newest("7", Selection(level=30), limit=10)
    assert_type(page, Page)
    for entry in page.entries:
        assert_type(entry, Entry)
        assert_type(entry.message, str)
    with capture_job_logs() as logs:
        assert_type(logs.messages(7), list[str])
    handler = RemoteJobLogHandler("https://example.org/receive/")
    with job("token"):
        assert_type(handler.flush(1.0), bool)
