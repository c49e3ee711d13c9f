"""How far publishing is, and what came of it: the lines, their numbers, their order, and how few they are."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError

from joblog_router import job_context
from joblog_router.contrib.nats.client.sums import milestone_after
from tests.contrib.nats.conftest import MEMORY, Connect, JobLogs
from tests.contrib.nats.foreign_app import TaskQueueManager
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("instrumented")


def progress(logs: JobLogs, job: str) -> list[Any]:
    """The progress entries of a job."""
    return [entry for entry in logs.entries(job) if entry.fields.get("event") == "nats.publish.progress"]


def milestones(count: int, expected: int = 0) -> list[int]:
    """Every milestone up to `count` messages."""
    found = [milestone_after(0, expected)]
    while found[-1] <= count:
        found.append(milestone_after(found[-1], expected))
    return found[:-1]


def test_milestones_are_few() -> None:
    """1, 2, 5 times powers of ten; with a total its tenths, the last of them left to the summary."""
    assert milestones(10_000) == [100, 200, 500, 1000, 2000, 5000, 10_000]
    assert milestones(1200, 1200) == [120 * step for step in range(1, 10)]
    assert milestones(25, 25) == [10, 20]
    assert milestones(2500, 1000) == [100 * step for step in range(1, 10)] + [2000]
    assert milestones(5, 5) == []


async def test_a_foreign_modules_publishing_takes_few_lines(logs: JobLogs, own: str, nats_server: NatsServer) -> None:
    """500 messages of an unmodified module make four lines of ours for publishing, told before the cleanup."""
    async with TaskQueueManager(nats_server.url) as queue:
        with job_context(own):
            for number in range(500):
                assert await queue.publish_task(own, {"image": number})
            await queue.cleanup(own)
    assert logs.events(own) == [
        "nats.stream.created",
        "nats.consumer.created",
        "nats.publish.progress",
        "nats.publish.progress",
        "nats.publish.progress",
        "nats.publish.summary",
        "nats.consumer.final",
        "nats.consumer.deleted",
        "nats.stream.deleted",
    ]
    told = progress(logs, own)
    assert [(e.fields["accepted"], e.fields["first_seq"], e.fields["last_seq"]) for e in told] == [
        (100, 1, 100),
        (200, 101, 200),
        (500, 201, 500),
    ]
    assert re.fullmatch(
        rf"Queued 500 messages to job_{own} so far \(the last as stream_seq 201-500\), [\d,]+/s",
        told[2].message,
    )
    assert told[2].fields["rate"] > 0


async def test_with_a_total_every_tenth_is_told(logs: JobLogs, connect: Connect, own: str) -> None:
    """`expected=1200` gives "of 1,200" and nine lines; the last expected message makes the summary at once."""
    js = (await connect()).jetstream()
    with job_context(own, expected=1200):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        for _ in range(10):
            await asyncio.gather(*(js.publish(own, b"") for _ in range(120)))
        assert logs.events(own)[-1] == "nats.publish.summary"
        await js.publish(own, b"")
    told = progress(logs, own)
    assert [entry.fields["accepted"] for entry in told] == list(range(120, 1200, 120))
    assert {entry.fields["expected"] for entry in told} == {1200}
    text = rf"Queued 360 of 1,200 messages to job_{own} so far \(the last as stream_seq 241-360\), [\d,]+/s"
    assert re.fullmatch(text, told[2].message)
    summaries = [e for e in logs.entries(own) if e.fields.get("event") == "nats.publish.summary"]
    assert [entry.fields["accepted"] for entry in summaries] == [1200, 1]
    assert summaries[0].message.startswith(f"Published 1,200 messages to NATS stream job_{own} (stream_seq 1-1200) in ")


async def test_failures_count_towards_the_total(logs: JobLogs, connect: Connect, own: str) -> None:
    """With 3 of 30 refused the summary still comes with the thirtieth, before the scope ends."""
    js = (await connect()).jetstream()
    with job_context(own, expected=30):
        await js.add_stream(name=f"job_{own}", subjects=[own], max_msgs=27, discard="new")
        await asyncio.gather(*(js.publish(own, b"") for _ in range(30)), return_exceptions=True)
        summary = logs.event(own, "nats.publish.summary")
    assert (summary.fields["accepted"], summary.fields["failed"]) == (27, 3)


async def test_turning_to_another_stream_sums_up_the_first(logs: JobLogs, connect: Connect, own: str) -> None:
    """The sum of the first stream comes while the scope works with the second; going back and forth adds no lines."""
    js = (await connect()).jetstream()
    for name in ("one", "two"):
        await js.add_stream(name=f"{own}-{name}", subjects=[f"{own}.{name}"], storage=MEMORY)
    with job_context(own):
        for _ in range(20):
            await js.publish(f"{own}.one", b"")
        for _ in range(20):
            await js.publish(f"{own}.two", b"")
        assert logs.event(own, "nats.publish.summary").fields["stream"] == f"{own}-one"
        for _ in range(10):
            for name in ("one", "two"):
                for _ in range(12):
                    await js.publish(f"{own}.{name}", b"")
    summaries = [e.fields for e in logs.entries(own) if e.fields.get("event") == "nats.publish.summary"]
    assert sorted((fields["stream"], fields["accepted"]) for fields in summaries) == [
        (f"{own}-one", 20),
        (f"{own}-one", 120),
        (f"{own}-two", 20),
        (f"{own}-two", 120),
    ]


async def test_asynchronous_publishes_are_counted(logs: JobLogs, connect: Connect, own: str) -> None:
    """Accepted, refused and cancelled ones are told by number; the first refusal with its exception."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own], max_msgs=250, discard="new")
        futures = [await js.publish_async(own, b"") for _ in range(300)]
        with pytest.raises(ServiceUnavailableError):
            await js.publish(own, b"")  # the stream answers in order
        given_up = await js.publish_async(own, b"")
        given_up.cancel()
        await asyncio.sleep(0)
    assert sum(future.done() for future in futures) == 250  # nats-py never resolves what was refused
    assert [entry.fields["accepted"] for entry in progress(logs, own)] == [100, 200]
    failed = logs.event(own, "nats.publish.failed")
    assert failed.fields["err_code"] == 10077
    summary = logs.event(own, "nats.publish.summary")
    assert (summary.fields["accepted"], summary.fields["failed"], summary.fields["unknown"]) == (250, 51, 1)


async def test_futures_that_never_resolve_are_told(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: NatsServer
) -> None:
    """What nats-py leaves pending for ever stands in the summary as an unknown outcome."""
    js = (await connect(own_nats_server.url)).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        await asyncio.gather(*[await js.publish_async(own, b"") for _ in range(10)])
        own_nats_server.pause()
        futures = [await js.publish_async(own, b"") for _ in range(7)]
    assert not any(future.done() for future in futures)
    own_nats_server.resume()
    await asyncio.gather(*futures)
    summary = logs.event(own, "nats.publish.summary")
    assert (summary.fields["accepted"], summary.fields["unknown"]) == (10, 7)
    assert "; 7 without an acknowledgement so far, outcome unknown" in summary.message


async def test_an_asynchronous_publish_that_cannot_be_sent_is_a_failure(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """On a closed connection the call itself raises; the job's log has the reason."""
    client = await connect()
    js = client.jetstream()
    await js.publish_async(f"{own}.nowhere", b"")  # its inbox is made
    await client.close()
    with job_context(own), pytest.raises(Exception, match="closed"):
        await js.publish_async(own, b"")
    assert logs.event(own, "nats.publish.failed").fields["error_type"] == "ConnectionClosedError"


async def test_no_payload_is_told(logs: JobLogs, connect: Connect, own: str) -> None:
    """What is in the messages stands in no line and no field of publishing."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        for _ in range(120):
            await js.publish(own, json.dumps({"secret": "hunter2"}).encode())
        with pytest.raises(NoStreamResponseError):
            await js.publish(f"{own}.nowhere", b"hunter2")
    assert not [e for e in logs.entries(own) if "hunter2" in f"{e.message}{e.exception}{dict(e.fields)}"]
