"""What libraries start for everybody and happens to start in a job: listeners, pools, refreshers.

Right is: another job's lines are never in the log of the one that was open at the start. As far as a library can know
that by itself it is shown without a declaration; inside `with detached():` it holds at any time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import redis
import redis.asyncio

from joblog_router import detached, job_context, stats
from joblog_router.contrib.threads import instrument_threads, uninstrument_threads
from tests.contrib.celery.valkey import ValkeyServer
from tests.helpers import configure, messages

log = logging.getLogger("library")


@pytest.fixture(scope="module")
def server() -> Iterator[ValkeyServer]:
    """A real Valkey."""
    with ValkeyServer(tcp=True) as server:
        yield server


@pytest.fixture
async def client(server: ValkeyServer) -> AsyncIterator[redis.asyncio.Redis]:
    """An asyncio client, which connects when it is first used."""
    client = redis.asyncio.Redis(host="127.0.0.1", port=server.port)
    yield client
    await client.aclose()


@pytest.mark.parametrize("declared", [True, False])
async def test_a_pubsub_listener_in_a_task(client: redis.asyncio.Redis, declared: bool) -> None:
    """Started in job 1, which ends; messages are published in job 2, and one names job 3."""
    configure(level="INFO")
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    pubsub = client.pubsub()

    async def listen() -> None:
        async for message in pubsub.listen():
            log.info("heard %s", message["type"])
            if message["type"] == "message":
                if message["data"] == b"names 3":
                    with job_context(3):
                        log.info("for three")
                heard.put_nowait(message["data"])

    late = stats()["late"]
    with job_context(1):
        await pubsub.subscribe("news")
        with detached() if declared else nullcontext():
            task = asyncio.create_task(listen())
        while await client.publish("news", "in one") != 1:
            await asyncio.sleep(0.01)  # subscribing is another connection's business; up to the test's timeout
        assert await heard.get() == b"in one"
    with job_context(2):
        log.info("publishing")
        await client.publish("news", "in two")
        await client.publish("news", "names 3")
        assert await heard.get() == b"in two"
        assert await heard.get() == b"names 3"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await pubsub.aclose()  # type: ignore[no-untyped-call]
    assert messages(2) == ["publishing"]
    assert messages(3) == ["for three"]
    # Not declared, it counts as job 1's while that is open: nothing tells it from work for that job.
    assert messages(1) == ([] if declared else ["heard subscribe", "heard message"])
    assert stats()["late"] - late == (0 if declared else 2)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("instrumented", [True, False])
def test_a_pubsub_listener_in_a_thread(server: ValkeyServer, instrumented: bool, declared: bool) -> None:
    """`run_in_thread` of redis-py: no job by itself; with instrumented threads the starter's, while that is open."""
    configure(level="INFO")
    heard = threading.Semaphore(0)

    def handle(message: Any) -> None:
        log.info("heard")
        heard.release()

    if instrumented:
        instrument_threads()
    try:
        with redis.Redis(host="127.0.0.1", port=server.port) as client, client.pubsub() as pubsub:
            pubsub.subscribe(threads=handle)
            with job_context(1):
                declaration: AbstractContextManager[None] = detached() if declared else nullcontext()
                with declaration:
                    thread = pubsub.run_in_thread(sleep_time=0.05)
                client.publish("threads", "in one")
                assert heard.acquire(timeout=10)
            with job_context(2):
                client.publish("threads", "in two")
                assert heard.acquire(timeout=10)
            thread.stop()
            thread.join(10)
    finally:
        uninstrument_threads()
    assert messages(1) == (["heard"] if instrumented and not declared else [])
    assert messages(2) == []


async def test_connections_of_a_pool_that_a_job_filled_serve_others(client: redis.asyncio.Redis) -> None:
    """What a connection logs, made in job 1 and used in job 2, is about the job that uses it."""
    configure(level="INFO")

    class Talks(redis.asyncio.Connection):
        async def send_packed_command(self, *args: Any, **kwargs: Any) -> None:
            log.info("sending")
            await super().send_packed_command(*args, **kwargs)

    client.connection_pool.connection_class = Talks
    with job_context(1):
        await asyncio.gather(*(client.set("key", number) for number in range(3)))
    filled = len(messages(1))
    assert filled >= 3
    with job_context(2):
        await asyncio.gather(*(client.get("key") for _ in range(3)))
    await client.get("key")
    assert messages(2) == ["sending"] * 3
    assert len(messages(1)) == filled


@pytest.mark.parametrize("declared", [True, False])
async def test_a_pool_of_tasks_that_a_job_filled_serves_others(declared: bool) -> None:
    """Worker tasks behind a queue: each item in the scope it brings, and none of job 2 in job 1, which has ended."""
    configure(level="INFO")
    items: asyncio.Queue[Callable[[], None]] = asyncio.Queue()

    async def worker() -> None:
        while True:
            item = await items.get()
            log.info("the pool's own line")
            item()
            items.task_done()

    with job_context(1):
        with detached() if declared else nullcontext():
            tasks = [asyncio.create_task(worker()) for _ in range(2)]
        await asyncio.sleep(0)  # they start here

    def work(job: int) -> None:
        with job_context(job):
            log.info("item of %d", job)

    with job_context(2):
        for job in (2, 3, 2):
            items.put_nowait(lambda job=job: work(job))
        await items.join()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert [messages(job) for job in (1, 2, 3)] == [[], ["item of 2"] * 2, ["item of 3"]]


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("instrumented", [True, False])
def test_a_refresher_of_a_client_by_timers(instrumented: bool, declared: bool) -> None:
    """A client that renews its token by a timer that starts the next, as cloud SDKs do; such a client is stood in for.

    First used in job 1, it goes on in job 2: never in either's log once job 1 has ended.
    """
    configure(level="INFO")

    class Client:
        def __init__(self) -> None:
            self.renewed = threading.Semaphore(0)
            self.closed = False
            self.timer: threading.Timer | None = None

        def renew(self) -> None:
            log.info("token renewed")
            self.renewed.release()
            if not self.closed:
                self.timer = threading.Timer(0.01, self.renew)
                self.timer.start()

        def close(self) -> None:
            self.closed = True
            while self.timer is not None and self.timer.is_alive():
                self.timer.join(10)

    if instrumented:
        instrument_threads()
    client = Client()
    try:
        with job_context(1), detached() if declared else nullcontext():
            client.renew()
        in_one = len(messages(1))
        with job_context(2):
            for _ in range(5):
                assert client.renewed.acquire(timeout=10)
        client.close()
    finally:
        uninstrument_threads()
    assert messages(2) == []
    # Its first line is logged by the call itself; the timers' own may fall into the time job 1 is open.
    assert in_one == len(messages(1))
    assert in_one == 0 if declared else in_one >= 1


async def test_a_refresher_of_a_client_by_the_loops_timers() -> None:
    """The same by `call_later`, which keeps the context of whoever scheduled first."""
    configure(level="INFO")
    renewed: asyncio.Queue[None] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    handle: asyncio.TimerHandle | None = None

    def renew() -> None:
        nonlocal handle
        log.info("token renewed")
        renewed.put_nowait(None)
        handle = loop.call_later(0.001, renew)

    with job_context(1):
        renew()
    with job_context(2):
        for _ in range(5):
            await renewed.get()
    assert handle is not None
    handle.cancel()
    assert (messages(1), messages(2)) == (["token renewed"], [])
