"""A real nats-server and nats-py on both event loops. `tests/contrib/nats` has every place where nats-py calls back."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from uuid import uuid4

import nats
import pytest

from joblog_router import carry, current_job, detached, job_context
from joblog_router.contrib.nats import instrument, uninstrument
from tests.servers import NatsServer

from .conftest import Run
from .lines import lines, log


@pytest.fixture(autouse=True)
def _instrumented() -> Iterator[None]:
    instrument(events=False)
    yield
    uninstrument()


class Heard:
    """A callback that logs, and an event for it."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    async def message(self, message: Any) -> None:
        """Of a subscription."""
        log.info("message %s", message.data.decode())
        self.event.set()

    async def nothing(self) -> None:
        """Of a connection."""
        log.info("called back")
        self.event.set()

    async def error(self, error: Exception) -> None:
        """Of its errors."""
        log.info("error")
        self.event.set()

    async def wait(self) -> None:
        """Until it was called."""
        await asyncio.wait_for(self.event.wait(), 10)
        self.event.clear()


async def in_job(job: str, function: Callable[..., Awaitable[Any]], *arguments: Any) -> None:
    """Awaited in a task of its own with its job open."""

    async def run() -> None:
        with job_context(job):
            await function(*arguments)

    await asyncio.create_task(run())


def ours() -> list[tuple[str, str]]:
    """Lines of these tests' callbacks."""
    return [line for line in lines() if line[1].partition(" ")[0] in ("message", "called", "error", "of", "read")]


def test_a_subscriptions_messages_are_the_jobs_they_name(run: Run, nats_server: NatsServer) -> None:
    """Subscribed in A, named for B by subject: B's; named for nobody: nobody's, whoever publishes."""
    own = uuid4().hex[:8]

    async def main() -> None:
        heard = Heard()
        with job_context("A"):
            client = await nats.connect(nats_server.url)
            await client.subscribe(f"{own}.>", cb=heard.message)
            for subject, text in ((f"{own}.job_B", "for B"), (f"{own}.any", "for nobody")):
                await in_job("C", client.publish, subject, text.encode())
                await heard.wait()
            log.info("of A")
        await client.close()

    run(main())
    assert ours() == [("B", "message for B"), ("A", "of A")]


def test_iterating_and_fetching_are_the_callers(run: Run, nats_server: NatsServer) -> None:
    """`next_msg` and `async for` run no callback: the caller's job, and a header changes nothing about that."""
    own = uuid4().hex[:8]

    async def main() -> None:
        client = await nats.connect(nats_server.url)
        subscription = await client.subscribe(own)
        with job_context("B"):
            await client.publish(own, b"1")
            await client.publish(own, b"2")
            log.info("of B: %s", (await subscription.next_msg(5)).data.decode())
            async for message in subscription.messages:
                log.info("of B: %s", message.data.decode())
                break
        assert current_job() is None
        await client.close()

    run(main())
    assert ours() == [("B", "of B: 1"), ("B", "of B: 2")]


def test_callbacks_of_a_connection_are_nobodys(run: Run, own_nats_server: NatsServer) -> None:
    """Opened in A, lost and restored while A is open: what the callbacks log is in no job's log."""

    async def main() -> None:
        lost, restored = Heard(), Heard()
        with job_context("A"):
            client = await nats.connect(
                own_nats_server.url,
                disconnected_cb=lost.nothing,
                reconnected_cb=restored.nothing,
                error_cb=lost.error,
                reconnect_time_wait=0.05,
            )
            own_nats_server.kill()
            await lost.wait()
            own_nats_server.restart()
            await restored.wait()
            log.info("of A")
        await client.close()

    run(main())
    assert ours() == [("A", "of A")]


def test_a_client_that_was_opened_lazily_in_a_job(run: Run, nats_server: NatsServer) -> None:
    """A shared client that A's first use opens, used by B: requests and replies are the caller's job."""
    own = uuid4().hex[:8]

    async def main() -> None:
        async def answer(message: Any) -> None:
            await message.respond(message.data)

        with job_context("A"):
            client = await nats.connect(nats_server.url)
            await client.subscribe(own, cb=answer)
            await client.request(own, b"1", timeout=5)
        with job_context("B"):
            reply = await client.request(own, b"2", timeout=5)
            log.info("of B: %s", reply.data.decode())
        await client.close()

    run(main())
    assert ours() == [("B", "of B: 2")]


def test_a_file_of_the_object_store_is_lost_without_carry(run: Run, nats_server: NatsServer) -> None:
    """nats-py reads the caller's file in an executor, which takes no context along."""
    own = uuid4().hex[:8]

    class Logging(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            log.info("read")
            return super().readinto(buffer)

    async def main() -> None:
        client = await nats.connect(nats_server.url)
        store = await client.jetstream().create_object_store(own)
        with job_context("B"):
            await store.put("plain", Logging(b"x" * 10))
            carried = Logging(b"x" * 10)
            carried.readinto = carry(carried.readinto)  # type: ignore[method-assign]
            await store.put("carried", carried)
        await client.jetstream().delete_object_store(own)
        await client.close()

    run(main())
    assert set(ours()) == {("B", "read")}


def test_a_declared_worker_of_a_queue_group(run: Run, nats_server: NatsServer) -> None:
    """A pulling worker started inside A in `detached` opens each message's job: B's lines are B's, its own nobody's."""
    own = uuid4().hex[:8]

    async def main() -> None:
        client = await nats.connect(nats_server.url)
        subscription = await client.subscribe(f"{own}.*")

        async def work() -> None:
            message = await subscription.next_msg(5)
            log.info("message for nobody yet")
            with job_context(message.subject.rpartition(".")[2]):
                log.info("of %s", message.subject.rpartition(".")[2])

        with job_context("A"):
            with detached():
                task = asyncio.create_task(work())
            await client.publish(f"{own}.B", b"")
            await task
        await client.close()

    run(main())
    assert ours() == [("B", "of B")]
