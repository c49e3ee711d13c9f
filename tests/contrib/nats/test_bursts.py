"""The monitor keeps jobs and attempts apart, however many answers come at once, and whatever is published by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.js.api import ConsumerConfig

from joblog_router.contrib.nats.monitor import Monitor
from tests.contrib.nats.conftest import JobLogs
from tests.contrib.nats.test_monitor import INTERVAL, of
from tests.helpers import auntil
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("monitor")


@pytest_asyncio.fixture
async def monitor(own_nats_server: NatsServer) -> AsyncIterator[Monitor]:
    """The one that writes; without what the server would have recorded before."""
    async with Monitor(own_nats_server.url, interval=INTERVAL, recorder=False) as monitor:
        await auntil(lambda: monitor.is_leading)
        yield monitor


@pytest_asyncio.fixture
async def client(own_nats_server: NatsServer) -> AsyncIterator[Any]:
    """A worker's connection."""
    async with AsyncExitStack() as stack:
        client = await nats.connect(own_nats_server.url)
        stack.push_async_callback(client.close)
        yield client


async def queue(client: Any, job: str, count: int) -> Any:
    """The stream of a job with so many tasks; a subscription that pulls them."""
    js = client.jetstream()
    await js.add_stream(name=f"job_{job}", subjects=[f"job.{job}.tasks"])
    config = ConsumerConfig(durable_name="c", ack_policy="explicit", max_deliver=5, ack_wait=30)
    await js.add_consumer(f"job_{job}", config)
    for number in range(1, count + 1):
        await js.publish(f"job.{job}.tasks", json.dumps({"id": f"T{number}"}).encode())
    return await js.pull_subscribe_bind("c", f"job_{job}")


async def taken(subscription: Any, count: int) -> list[Any]:
    """So many messages."""
    found: list[Any] = []
    while len(found) < count:
        found += await subscription.fetch(count - len(found))
    return found


async def test_answers_for_two_jobs_and_two_attempts_in_one_breath(logs: JobLogs, own: str, client: Any) -> None:
    """One worker serves both jobs and answers for all it has at once: each job's numbers are its own."""
    one, other = f"{own}a", f"{own}b"
    first, second = await queue(client, one, 4), await queue(client, other, 30)
    for message in await taken(first, 4):
        await message.nak()
    again, fresh = await taken(first, 4), await taken(second, 30)
    assert {message.metadata.num_delivered for message in again} == {2}
    for message in [*fresh[:10], *again, *fresh[10:]]:
        await client.publish(message.reply, b"+ACK")  # nothing is waited for in between
    await client.flush()
    await auntil(lambda: logs.stdout.events().count("nats.drained") == 2)
    (of_one,), (of_other,) = of(logs, one, "nats.drained"), of(logs, other, "nats.drained")
    assert (of_one.fields["acknowledged"], of_one.fields["naked"], of_one.fields["redelivered"]) == (4, 4, 4)
    assert of_other.fields["acknowledged"] == 30
    assert "redelivered" not in of_other.fields
    assert logs.jobs() == {one, other}


async def test_an_answer_that_asks_for_more_is_an_acknowledgement(logs: JobLogs, own: str, client: Any) -> None:
    """`+NXT`, alone, with a number and with JSON, as old clients send it."""
    subscription = await queue(client, own, 6)
    payloads = [b"+NXT", b"+NXT 1", b'+NXT {"batch": 1}', b"", b"+ACK", b"+NXT"]
    for message, payload in zip(await taken(subscription, 6), payloads, strict=True):
        await client.publish(message.reply, payload)
    await client.flush()
    await auntil(lambda: "nats.drained" in logs.stdout.events())
    (drained,) = of(logs, own, "nats.drained")
    assert drained.fields["acknowledged"] == 6


async def test_a_pull_may_ask_in_any_way(logs: JobLogs, own: str, client: Any) -> None:
    """Nothing, a number, JSON, and what is none of these: one that asks is counted as one."""
    await queue(client, own, 4)
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    for payload in (b"", b"2", b'{"batch": 1}'):
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.job_{own}.c", payload, reply=inbox)
    for _ in range(4):
        message = await answers.next_msg(5)
        await client.publish(message.reply, b"+ACK")
    for payload in (b'{"batch": "many"}', b"[7]", b"{", b"\xff"):
        await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.job_{own}.c", payload, reply=inbox)
    await auntil(lambda: "nats.drained" in logs.stdout.events())
    (drained,) = of(logs, own, "nats.drained")
    assert (drained.fields["delivered"], drained.fields["acknowledged"]) == (4, 4)


async def test_what_is_published_by_hand_harms_nothing(logs: JobLogs, own: str, client: Any) -> None:
    """Answers that are none, of any length, for no stream of that name: the next job is told as if they were not."""
    head = f"$JS.ACK.job_{own}.c"
    ends = ("1.1.1.0.0", "x.1.1.0.0", "1.x.1.0.0", "1", "1.1.1", "1.1.1.0.0.a.b.c.d")
    for subject in (*(f"{head}.{end}" for end in ends), f"$JS.ACK.domain.account.job_{own}.c.1.2.3.4.5.tail"):
        for payload in (b"", b"+ACK", b"-NAK", b"-NAK {", b"-NAK 5", b"+TERM \xff", b"+WPI", b"nonsense"):
            await client.publish(subject, payload)
    subscription = await queue(client, own, 3)
    for message in await taken(subscription, 3):
        await message.ack_sync()
    await auntil(lambda: "nats.drained" in logs.stdout.events())
    (drained,) = of(logs, own, "nats.drained")
    assert (drained.fields["num_pending"], drained.fields["num_ack_pending"]) == (0, 0)
    assert logs.jobs() == {own}
