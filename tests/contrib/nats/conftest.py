"""Fixtures of the NATS tests: the instrumentation, the job logs it fills, clients, names of the test's own."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
import pytest_asyncio
from nats.js.api import StorageType

from joblog_router import Entry, JobContextFilter, JobLogHandler, flush
from joblog_router.contrib.nats import instrument, instrumentation, uninstrument
from joblog_router.contrib.nats.client.state import State
from joblog_router.sinks.memory import MemorySink
from tests.servers import NatsServer

# For streams that are created again at once after their deletion: with files the server refuses that now and then
# (10049, "error creating store for stream": 8 of 4,000 on 2.15.1).
MEMORY = StorageType.MEMORY


def state() -> State:
    """What the integration knows."""
    assert instrumentation._installed.now is not None
    return instrumentation._installed.now.state


async def answered() -> None:
    """Until the questions that the integration asks beside the application have had their answers."""
    while asked := list(state().questions.asked):
        await asyncio.wait(asked, timeout=10)


def server_version(client: Any) -> tuple[int, ...]:
    """Major and minor of the server that the client is connected to."""
    return tuple(int(part) for part in client._server_info["version"].split(".")[:2])


class Stdout(logging.Handler):
    """Keeps every record, as a stream handler on stdout would print it, with the job the filter put on it."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(JobContextFilter())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Called with what the filter let pass."""
        self.records.append(record)

    def events(self) -> list[str]:
        """The event names, in order."""
        return [event for record in self.records if (event := getattr(record, "event", None))]


class JobLogs:
    """The logs of all jobs, and what stdout shows, from one logging configuration as an application has it."""

    def __init__(self) -> None:
        self.sink = MemorySink()
        self.handler = JobLogHandler(sink=self.sink, fold=False)
        self.stdout = Stdout()
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        root.handlers[:] = [self.stdout, self.handler]
        logging.getLogger("nats").setLevel(logging.NOTSET)

    def entries(self, job: object) -> list[Entry]:
        """What is in the job's log."""
        assert flush(10)
        return self.sink.entries(job)

    def messages(self, job: object, logger: str | None = None) -> list[str]:
        """The texts in the job's log, of one logger if it is given."""
        return [entry.message for entry in self.entries(job) if logger is None or entry.logger == logger]

    def events(self, job: object) -> list[str]:
        """The event names in the job's log, in order."""
        return [entry.fields["event"] for entry in self.entries(job) if "event" in entry.fields]

    def event(self, job: object, name: str) -> Entry:
        """The one event of that name in the job's log."""
        found = [entry for entry in self.entries(job) if entry.fields.get("event") == name]
        assert len(found) == 1, (name, self.events(job))
        return found[0]

    def clear(self) -> None:
        """Forget what was logged so far."""
        assert flush(10)
        self.sink.clear()
        self.stdout.records.clear()

    def jobs(self) -> set[str]:
        """Every job that has a log."""
        assert flush(10)
        return {entry.job_id for entry in self.sink.entries()}


@pytest.fixture
def logs() -> Iterator[JobLogs]:
    """A fresh configuration, torn down by the suite's own fixture."""
    logs = JobLogs()
    yield logs
    logs.handler.close()


@pytest.fixture
def instrumented() -> Iterator[None]:
    """nats-py with the integration switched on, with its defaults."""
    instrument()
    yield
    uninstrument()


@pytest.fixture
def permitted(tmp_path: Path) -> Iterator[Callable[..., NatsServer]]:
    """Start a server with the users `all`, and `some` who may not publish to the given subjects."""
    with ExitStack() as stack:

        def started(*denied: str) -> NatsServer:
            some = {"user": "some", "password": "some", "permissions": {"publish": {"deny": list(denied)}}}
            users = [{"user": "all", "password": "all"}, some]
            path = tmp_path / "server.conf"
            path.write_text("authorization: " + json.dumps({"users": users}))
            return stack.enter_context(NatsServer("-c", str(path)))

        yield started


@pytest.fixture
def own() -> str:
    """A word that no other test uses in its names; letters and digits only."""
    return uuid4().hex[:10]


Connect = Callable[..., Awaitable[Any]]


@pytest_asyncio.fixture
async def connect(nats_server: NatsServer) -> AsyncIterator[Connect]:
    """Open clients that are closed when the test ends; the shared server unless a URL is given."""
    async with AsyncExitStack() as stack:

        async def opened(url: str | None = None, **options: Any) -> Any:
            client = await nats.connect(url or nats_server.url, **options)

            async def close() -> None:
                # A test may have killed the server; on Python 3.12 nats-py then passes on its reader's cancellation.
                with suppress(OSError, TimeoutError, asyncio.CancelledError):
                    await asyncio.wait_for(client.close(), 5)

            stack.push_async_callback(close)
            return client

        yield opened


class Call:
    """A callback that logs, and says when it was called."""

    def __init__(self, what: str, times: int = 1) -> None:
        self.logger = logging.getLogger("worker")
        self.what = what
        self.done = asyncio.Event()
        self.left = times

    async def message(self, message: Any) -> None:
        """A subscription's callback."""
        self._log(message.subject)

    async def error(self, error: Exception) -> None:
        """An error callback."""
        self._log(type(error).__name__)

    async def nothing(self) -> None:
        """Any other callback."""
        self._log("")

    def _log(self, about: str) -> None:
        self.logger.info("%s %s", self.what, about)
        self.left -= 1
        if self.left <= 0:
            self.done.set()

    async def wait(self) -> None:
        """Until it was called often enough."""
        await asyncio.wait_for(self.done.wait(), 15)
