"""What a consumer pushes into callbacks and `next_msg`, as the job's log tells it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from nats.js.api import ConsumerConfig

from joblog_router import job_context
from tests.contrib.nats.conftest import Connect, JobLogs

pytestmark = pytest.mark.usefixtures("instrumented")


async def published(js: Any, own: str, count: int) -> None:
    """A job's stream with `count` tasks."""
    await js.add_stream(name=f"job_{own}", subjects=[f"job.{own}.tasks"])
    for number in range(1, count + 1):
        await js.publish(f"job.{own}.tasks", json.dumps({"id": f"T{number}"}).encode())


async def test_a_callback_makes_a_first_line_and_a_tally(logs: JobLogs, connect: Connect, own: str) -> None:
    """150 messages pushed into a callback: the first, the hundredth, and the end of the client; nothing for each."""
    client = await connect(name="w")
    js = client.jetstream()
    await published(js, own, 150)
    logs.clear()
    done, seen = asyncio.Event(), 0

    async def callback(message: Any) -> None:
        nonlocal seen
        await message.ack()
        seen += 1
        if seen == 150:
            done.set()

    await js.subscribe(f"job.{own}.tasks", cb=callback, manual_ack=True)
    await asyncio.wait_for(done.wait(), 20)
    await client.close()
    told = [e for e in logs.entries(own) if e.fields["event"].startswith("nats.fetch")]
    assert [e.fields["event"] for e in told] == ["nats.fetch.first", "nats.fetch.progress", "nats.fetch.summary"]
    assert told[0].message == f"Worker w received its first message from job_{own} (consumer_seq 1)"
    assert told[-1].message == f"Worker w has taken 150 messages, 150 acknowledged from job_{own}"
    assert (told[-1].fields["messages"], told[-1].fields["acknowledged"]) == (150, 150)


async def test_next_msg_is_counted_for_the_scope(logs: JobLogs, connect: Connect, own: str) -> None:
    """What comes by `next_msg` is summed at the end of the scope, with what came again."""
    js = (await connect(name="w")).jetstream()
    await published(js, own, 3)
    logs.clear()
    with job_context(own):
        subscription = await js.subscribe(
            f"job.{own}.tasks", durable="c", manual_ack=True, config=ConsumerConfig(max_deliver=3)
        )
        for answer in ("nak", "ack", "ack", "ack"):
            message = await subscription.next_msg(5)
            await getattr(message, answer)()
    assert [event for event in logs.events(own) if "consumer" not in event] == [
        "nats.fetch.first",
        "nats.nak",
        "nats.redelivery",
        "nats.fetch.summary",
    ]
    summary = logs.event(own, "nats.fetch.summary").fields
    assert (summary["messages"], summary["acknowledged"], summary["naked"], summary["redelivered"]) == (4, 3, 1, 1)


async def test_a_stream_that_names_no_job_is_not_the_scopes(logs: JobLogs, connect: Connect, own: str) -> None:
    """A shared stream's messages, read within a scope, are not told as this job's."""
    js = (await connect(name="w")).jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.shared"])
    await js.publish(f"{own}.shared", b"")
    with job_context(own):
        subscription = await js.subscribe(f"{own}.shared")
        await subscription.next_msg(5)
    assert not [event for event in logs.events(own) if "fetch" in event]
