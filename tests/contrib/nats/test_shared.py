"""Streams that several jobs share, watched from outside: no line goes to a wrong job. And who the workers are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.js.api import AckPolicy, ConsumerConfig

from joblog_router.contrib.nats.monitor import Monitor
from tests.contrib.nats.conftest import JobLogs
from tests.contrib.nats.test_monitor import INTERVAL, of, rounds, seqs
from tests.helpers import auntil
from tests.servers import NatsServer


class Shop:
    """A server, a monitor that writes, and a worker's client."""

    def __init__(self, server: NatsServer, stack: AsyncExitStack) -> None:
        self.server = server
        self.stack = stack
        self.monitor: Any = None

    async def open(self, **options: Any) -> Any:
        """Start the monitor; a worker's JetStream."""
        monitor = await self.stack.enter_async_context(Monitor(self.server.url, interval=INTERVAL, **options))
        await auntil(lambda: monitor.is_leading)
        self.monitor = monitor
        client = await nats.connect(self.server.url, name="detector-3")
        self.stack.push_async_callback(client.close)
        return client.jetstream()


@pytest_asyncio.fixture
async def shop(own_nats_server: NatsServer) -> AsyncIterator[Shop]:
    """A server nobody has used yet."""
    async with AsyncExitStack() as stack:
        yield Shop(own_nats_server, stack)


def consumer(name: str, **config: Any) -> ConsumerConfig:
    """A durable consumer."""
    return ConsumerConfig(durable_name=name, ack_policy=AckPolicy.EXPLICIT, **config)


async def test_jobs_in_the_subjects_of_one_stream(
    logs: JobLogs, own: str, shop: Shop, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a consumer for all, what goes wrong with a message; of one job's consumer, everything."""
    a, b = f"{own}a", f"{own}b"
    js = await shop.open()
    await js.add_stream(name="WORK", subjects=["job.*.tasks"])
    await js.add_consumer("WORK", consumer("all"))
    await js.add_consumer("WORK", consumer("some", filter_subject=f"job.{b}.tasks"))
    await js.add_consumer("WORK", consumer(f"job_{a}", filter_subject=f"job.{a}.tasks"))
    for job in (a, b, a, b):
        await js.publish(f"job.{job}.tasks", b'{"id": 1}')
    for name in ("all", "some", f"job_{a}"):
        sub = await js.pull_subscribe_bind(name, "WORK")
        for message in await sub.fetch(4 if name == "all" else 2):
            seq = message.metadata.sequence.stream
            if name != "all" or seq == 3:
                await message.ack()
            elif seq == 1:
                await message.nak(delay=60)
            elif seq == 2:
                await message.term()
    await auntil(lambda: logs.stdout.events().count("nats.drained") == 2)
    await auntil(lambda: {"nats.nak", "nats.terminated"} <= set(logs.stdout.events()))
    await rounds(shop.monitor)

    assert logs.jobs() == {a, b}
    assert seqs(of(logs, a, "nats.nak")) == [1]
    assert seqs(of(logs, b, "nats.terminated")) == [2]
    assert not of(logs, b, "nats.nak")
    assert not of(logs, a, "nats.terminated")
    for job, name in ((a, f"job_{a}"), (b, "some")):
        (drained,) = of(logs, job, "nats.drained")
        assert (drained.fields["consumer"], drained.fields["acknowledged"]) == (name, 2)
        assert all(e.fields["consumer"] == "all" for e in of(logs, job, "nats.nak") + of(logs, job, "nats.terminated"))
        (first,) = of(logs, job, "nats.fetch.first")
        assert first.fields["worker"] == "detector-3"
        assert first.message.endswith(": detector-3")
    assert capfd.readouterr().err.count("stream 'WORK' is shared by several jobs") == 1


async def test_jobs_in_the_headers_of_one_stream(logs: JobLogs, own: str, shop: Shop) -> None:
    """Messages that were given up, each in the log of the job that its header names; without one in nobody's."""
    a, b = f"{own}a", f"{own}b"
    js = await shop.open(shared=["TASKS"])
    await js.add_stream(name="TASKS", subjects=["tasks", "job.*.x"])
    await js.add_stream(name="OTHER", subjects=["other"])
    await js.add_consumer("TASKS", consumer("c", max_deliver=1, ack_wait=0.3))
    await js.add_consumer("OTHER", consumer("c", max_deliver=1, ack_wait=0.3))
    for number, job in enumerate((a, b, None, a), 1):
        headers = {"Joblog-Job-Id": job} if job else None
        await js.publish("tasks", b'{"id": "T%d"}' % number, headers=headers)
    await js.publish(f"job.{b}.x", b"", headers={"Joblog-Job-Id": a})  # a forged one
    await js.publish("other", b"", headers={"Joblog-Job-Id": a})
    for stream in ("TASKS", "OTHER"):
        sub = await js.pull_subscribe_bind("c", stream)
        await sub.fetch(6, 0.2)
    await auntil(lambda: logs.stdout.events().count("nats.exhausted") == 2)
    await rounds(shop.monitor)

    assert logs.jobs() == {a, b}
    (given_up,) = of(logs, a, "nats.exhausted")
    assert (given_up.fields["stream_seqs"], given_up.fields["task_ids"]) == ("1, 4", "T1, T4")
    (given_up,) = of(logs, b, "nats.exhausted")
    assert (given_up.fields["stream_seqs"], given_up.fields["task_ids"]) == ("2", "T2")
    assert {*logs.events(a), *logs.events(b)} == {"nats.exhausted"}


def test_shared_is_a_list() -> None:
    """One name would be read as letters."""
    with pytest.raises(Exception, match="must be a list"):
        Monitor("nats://127.0.0.1:1", shared="TASKS")
