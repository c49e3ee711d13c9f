"""The monitor against workers that run none of this library, on a real server: their own record against the log."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.js.api import ConsumerConfig

from joblog_router import Entry
from joblog_router.contrib.nats.monitor import Monitor
from tests.contrib.nats.conftest import JobLogs
from tests.contrib.nats.workers import Outsider
from tests.servers import NatsServer

INTERVAL = 0.2


class Scene:
    """A job with a stream on a server of its own, those who watch it, and those who work for it."""

    def __init__(self, job: str, server: NatsServer, stack: AsyncExitStack) -> None:
        self.job = job
        self.stream = f"job_{job}"
        self.server = server
        self._stack = stack
        self.client: Any = None
        self.js: Any = None

    async def monitor(self, url: str | None = None, **options: Any) -> Monitor:
        """Start a monitor."""
        return await self._stack.enter_async_context(
            Monitor(url or self.server.url, **{"interval": INTERVAL, **options})
        )

    async def leading(self, **options: Any) -> Monitor:
        """Start a monitor, and wait until it writes."""
        monitor = await self.monitor(**options)
        await until(lambda: monitor.is_leading)
        return monitor

    async def queue(self, count: int, **config: Any) -> None:
        """The job's stream with tasks, and its consumer `c`."""
        if self.client is None:
            self.client = await nats.connect(self.server.url)
            self._stack.push_async_callback(self.client.close)
            self.js = self.client.jetstream()
        await self.js.add_stream(name=self.stream, subjects=[f"job.{self.job}.tasks"])
        await self.js.add_consumer(self.stream, ConsumerConfig(durable_name="c", ack_policy="explicit", **config))
        for number in range(1, count + 1):
            await self.js.publish(f"job.{self.job}.tasks", json.dumps({"id": f"T{number}"}).encode())

    async def worker(self, how: str = "nats") -> Outsider:
        """Start a worker on the consumer."""
        outsider = await Outsider.start(how, self.server.url, self.stream, "c")
        self._stack.push_async_callback(outsider.end)
        return outsider


@pytest_asyncio.fixture
async def scene(own: str, own_nats_server: NatsServer) -> AsyncIterator[Scene]:
    """A job nobody has worked for yet."""
    async with AsyncExitStack() as stack:
        yield Scene(own, own_nats_server, stack)


async def until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    """Until it is so."""
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.02)


def of(logs: JobLogs, job: str, event: str) -> list[Entry]:
    """The lines of one event in the job's log."""
    return [entry for entry in logs.entries(job) if entry.fields.get("event") == event]


def seqs(entries: list[Entry]) -> list[int]:
    """The messages that lines name."""
    return sorted(int(seq) for entry in entries for seq in entry.fields["stream_seqs"].split(", "))


@pytest.mark.parametrize("how", ["nats", "socket"])
@pytest.mark.parametrize("recorder", [True, False])
async def test_what_a_foreign_worker_does(how: str, recorder: bool, logs: JobLogs, scene: Scene) -> None:
    """Acknowledged, sent back, terminated, given more time, redelivered: each told, counted as the worker did."""
    own = scene.job
    await scene.leading(recorder=recorder)
    await scene.queue(10, max_deliver=5, ack_wait=30)
    outsider = await scene.worker(how)
    await outsider.fetch(6)
    for what, seq in (("ack", 1), ("ack", 2), ("nak", 3), ("term", 4), ("progress", 5), ("ack", 5), ("nak", 6)):
        await outsider.answer(what, seq, "no such camera" if what == "term" else "")
    again = await outsider.fetch(6)
    assert Counter(again.values()) == {1: 4, 2: 2}
    for seq in again:
        await outsider.answer("ack", seq)
    await until(lambda: "nats.drained" in logs.stdout.events())
    info = await scene.js.consumer_info(f"job_{own}", "c")

    (drained,) = of(logs, own, "nats.drained")
    assert drained.fields["acknowledged"] == outsider.count("ack") == 9
    assert drained.fields["naked"] == outsider.count("nak") == 2
    assert drained.fields["terminated"] == outsider.count("term") == 1
    assert drained.fields["redelivered"] == 2
    assert drained.fields["delivered"] == outsider.count("fetch") == info.delivered.consumer_seq == 12
    assert (drained.fields["num_pending"], drained.fields["num_ack_pending"]) == (0, 0)
    assert seqs(of(logs, own, "nats.nak")) == [3, 6]
    assert seqs(of(logs, own, "nats.redelivery")) == [3, 6]
    assert seqs(of(logs, own, "nats.in_progress")) == [5]
    (first,) = of(logs, own, "nats.fetch.first")
    assert (first.fields["batch"], first.fields["count"]) == (6, 1)
    (terminated,) = of(logs, own, "nats.terminated")
    assert terminated.message == (
        f"1 message of job_{own} is terminated, and will not come again: seq 4 (task T4) (attempt 1 of 5); "
        "no such camera"
    )
    assert (terminated.fields["task_ids"], terminated.fields["stream_seqs"]) == ("T4", "4")
    assert logs.jobs() == {own}
    assert {entry.fields["source"] for entry in logs.entries(own)} == {"monitor"}
