"""What goes wrong around a job's messages: streams that vanish, configurations that are ignored, connections lost."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from typing import Any

import nats
import pytest
from nats.errors import NoServersError
from nats.js.api import ConsumerConfig
from nats.js.errors import NoStreamResponseError, NotFoundError

from joblog_router import detached, job_context
from joblog_router.contrib.nats import instrument
from tests.contrib.nats.conftest import MEMORY, Connect, JobLogs
from tests.contrib.nats.foreign_app import TaskQueueManager
from tests.helpers import auntil
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("instrumented")


async def test_a_stream_that_a_module_creates_again_took_messages_with_it(
    logs: JobLogs, own: str, nats_server: NatsServer
) -> None:
    """The module finds no stream and makes a new one, silently; the job's log says how many messages are gone."""
    async with TaskQueueManager(nats_server.url) as queue:
        with job_context(own):
            for number in range(20):
                if number == 12:
                    await other_program(nats_server.url, f"job_{own}")
                assert await queue.publish_task(own, {"image": number})
    vanished = logs.event(own, "nats.stream.vanished")
    assert vanished.message == (
        f"NATS stream job_{own} is gone: the 12 messages that this job had published into it are gone, "
        "unless delivered before"
    )
    assert vanished.level == logging.ERROR
    assert (vanished.fields["messages"], vanished.fields["first_seq"], vanished.fields["last_seq"]) == (12, 1, 12)
    assert logs.events(own).count("nats.stream.created") == 2
    sums = [e.fields["accepted"] for e in logs.entries(own) if e.fields.get("event") == "nats.publish.summary"]
    assert sums == [12, 8]


def raw_delete(url: str, stream: str, subject: str = "") -> list[str]:
    """The command of a program of its own that deletes a stream, and creates it again with a subject."""
    code = (
        "import asyncio, nats, sys\n"
        "async def main():\n"
        "    client = await nats.connect(sys.argv[1])\n"
        "    js = client.jetstream()\n"
        "    await js.delete_stream(sys.argv[2])\n"
        "    if sys.argv[3]:\n"
        "        await js.add_stream(name=sys.argv[2], subjects=[sys.argv[3]], storage='memory')\n"
        "    await client.close()\n"
        "asyncio.run(main())\n"
    )
    return [sys.executable, "-c", code, url, stream, subject]


async def other_program(url: str, stream: str, subject: str = "") -> None:
    """Run it."""
    process = await asyncio.create_subprocess_exec(*raw_delete(url, stream, subject))
    assert await process.wait() == 0


async def test_numbers_that_start_over_show_a_new_stream(
    logs: JobLogs, connect: Connect, own: str, nats_server: NatsServer
) -> None:
    """Somebody else created the stream again: the next acknowledgement gives it away."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own], storage=MEMORY)
        await asyncio.gather(*(js.publish(own, b"") for _ in range(30)))
        await other_program(nats_server.url, f"job_{own}", own)
        for _ in range(5):
            await js.publish(own, b"")
    assert logs.event(own, "nats.stream.vanished").fields["messages"] == 30
    assert "was created again" in logs.event(own, "nats.stream.vanished").message
    sums = [e.fields["accepted"] for e in logs.entries(own) if e.fields.get("event") == "nats.publish.summary"]
    assert sums == [30, 5]


async def test_publishing_into_nothing_finds_out_once(
    logs: JobLogs, connect: Connect, own: str, nats_server: NatsServer
) -> None:
    """No stream answers any more: one question of ours tells that it is gone, and with what."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own], storage=MEMORY)
        for _ in range(4):
            await js.publish(own, b"")
        await other_program(nats_server.url, f"job_{own}")
        for _ in range(3):
            with pytest.raises(NoStreamResponseError):
                await js.publish(own, b"")
    assert logs.event(own, "nats.stream.vanished").fields["messages"] == 4
    assert logs.event(own, "nats.publish.failed").fields["error_type"] == "NoStreamResponseError"
    sums = [e.fields for e in logs.entries(own) if e.fields.get("event") == "nats.publish.summary"]
    assert [(fields["accepted"], fields["failed"]) for fields in sums] == [(4, 1), (0, 2)]


async def test_a_stream_that_no_longer_takes_a_subject_is_not_gone(logs: JobLogs, connect: Connect, own: str) -> None:
    """Nobody takes a message, yet the stream is there with all that it had."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own], storage=MEMORY)
        await js.publish(own, b"")
        with detached():
            await js.update_stream(name=f"job_{own}", subjects=[f"{own}.elsewhere"], storage=MEMORY)
        with pytest.raises(NoStreamResponseError):
            await js.publish(own, b"")
    assert logs.event(own, "nats.publish.failed").fields["error_type"] == "NoStreamResponseError"
    assert "nats.stream.vanished" not in logs.events(own)


async def test_deleting_ones_own_stream_is_no_loss(logs: JobLogs, connect: Connect, own: str) -> None:
    """What the job deletes itself, and creates again, has not vanished."""
    js = (await connect()).jetstream()
    with job_context(own):
        for _ in range(2):
            await js.add_stream(name=f"job_{own}", subjects=[own], storage=MEMORY)
            await js.publish(own, b"")
            await js.delete_stream(f"job_{own}")
        with pytest.raises(NotFoundError):
            await js.stream_info(f"job_{own}")
    assert "nats.stream.vanished" not in logs.events(own)


async def test_an_ignored_configuration_is_told(logs: JobLogs, connect: Connect, own: str) -> None:
    """`pull_subscribe` and `subscribe` keep what a durable consumer has: the differences are told, once."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        first = ConsumerConfig(max_deliver=3, ack_wait=10, backoff=None)
        await js.pull_subscribe(own, durable="c", config=first)
        assert "nats.consumer.drift" not in logs.events(own)
        await js.pull_subscribe(own, durable="c", config=ConsumerConfig(max_deliver=3, ack_wait=10))
        assert "nats.consumer.drift" not in logs.events(own)
        for _ in range(2):
            await js.pull_subscribe(own, "c", config=ConsumerConfig(max_deliver=7, ack_wait=60, max_ack_pending=5))
        await js.pull_subscribe(own, durable="c")
    drift = logs.event(own, "nats.consumer.drift")
    assert drift.message == (
        f"Consumer c of NATS stream job_{own} was there and keeps its configuration; what was passed is ignored: "
        "ack_wait stays 10 s, not 60 s; max_deliver stays 3, not 7; max_ack_pending stays 1000, not 5"
    )
    assert drift.fields["differences"] == "ack_wait, max_deliver, max_ack_pending"
    assert drift.level == logging.WARNING


@pytest.mark.parametrize(("by_callback", "is_inferred"), [(True, True), (False, False), (False, True)])
async def test_an_application_that_listens_to_advisories(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: NatsServer, *, by_callback: bool, is_inferred: bool
) -> None:
    """What the server says about given-up messages is one line in the job's log, with the tasks seen here."""
    client = await connect(own_nats_server.url, name="w")
    js = client.jetstream()
    await js.add_stream(name=f"job_{own}", subjects=[own])
    await js.add_stream(name=f"adv-{own}", subjects=[f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.job_{own}.>"])
    heard = asyncio.Event()

    def given_up() -> list[dict[str, Any]]:
        return [e.fields for e in logs.entries(own) if e.fields.get("event") == "nats.exhausted"]

    async def listen(message: Any) -> None:
        if message.metadata.sequence.stream == 3:
            heard.set()

    if by_callback:
        await js.subscribe(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.job_{own}.>", cb=listen)
    await js.add_consumer(f"job_{own}", ConsumerConfig(durable_name="c", ack_policy="explicit", max_deliver=2))
    for number in range(3):
        await js.publish(own, b'{"id": "T%d"}' % number)
    subscription = await js.pull_subscribe_bind(consumer="c", stream=f"job_{own}")
    for _ in range(2):
        for message in await subscription.fetch(3):
            await message.nak()
        await asyncio.sleep(0.05)
    instrument(events=is_inferred)  # else the fetch that has the server give up is somebody else's
    with pytest.raises(TimeoutError):
        await subscription.fetch(3, timeout=0.2)
    instrument(events=True)
    if by_callback:
        await asyncio.wait_for(heard.wait(), 5)
        await auntil(lambda: sum(told["count"] for told in given_up()) == 3)
        await client.close()
    else:
        listener = await js.pull_subscribe("", stream=f"adv-{own}", durable=f"job-{own}-dlq")
        assert len(await listener.fetch(3)) == 3
        await asyncio.sleep(0.6)  # what is held back is told by then
    told = given_up()
    assert sum(fields["count"] for fields in told) == 3
    assert len(told) <= 2
    if not by_callback:
        assert len(told) == 1  # what was inferred is not told again
        assert (told[0]["task_ids"], told[0]["source"]) == ("T0, T1, T2", "inferred" if is_inferred else "advisory")
        assert told[0]["stream_seqs"] == "1, 2, 3"


async def test_connection_events_go_to_the_jobs_that_use_it(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: NatsServer
) -> None:
    """Lost and restored: a line for the job with work on it, none for a job elsewhere or one that has ended."""
    used = await connect(own_nats_server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    other = await connect()
    again = asyncio.Event()

    async def reconnected() -> None:
        again.set()

    used._reconnected_cb = reconnected
    with job_context("ended"):
        await used.jetstream().account_info()
        await used.jetstream().add_stream(name="x", subjects=["x"])
    with job_context("elsewhere"):
        await other.jetstream().add_stream(name=own, subjects=[own])
        with job_context(own):
            await used.jetstream().publish("x", b"")
            own_nats_server.restart()
            await asyncio.wait_for(again.wait(), 20)
            await auntil(lambda: "nats.connection.restored" in logs.stdout.events())
    events = [event for event in logs.events(own) if "connection" in event]
    assert events == ["nats.connection.lost", "nats.connection.restored"]
    lost = logs.event(own, "nats.connection.lost")
    assert lost.message == "The connection to NATS is lost (UnexpectedEOF); trying to connect again"
    restored = logs.event(own, "nats.connection.restored")
    assert restored.message.startswith("The connection to NATS is restored after ")
    assert restored.fields["duration"] > 0
    assert not [e for job in ("ended", "elsewhere") for e in logs.events(job) if "connection" in e]


async def test_a_connection_that_is_given_up_is_told(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: NatsServer
) -> None:
    """The server stays away and the client gives up: lost, then closed with how long it tried."""
    gone = asyncio.Event()

    async def closed_cb() -> None:
        gone.set()

    client = await connect(own_nats_server.url, reconnect_time_wait=0.05, max_reconnect_attempts=2, closed_cb=closed_cb)
    with job_context(own):
        await client.jetstream().add_stream(name=f"job_{own}", subjects=[own])
        own_nats_server.kill()
        await asyncio.wait_for(gone.wait(), 20)
        await auntil(lambda: "nats.connection.closed" in logs.stdout.events())
    assert [event for event in logs.events(own) if "connection" in event] == [
        "nats.connection.lost",
        "nats.connection.closed",
    ]
    closed = logs.event(own, "nats.connection.closed")
    assert closed.message.startswith("The connection to NATS could not be restored, given up after ")
    assert closed.level == logging.ERROR
    assert closed.fields["duration"] > 0


async def test_a_storm_of_refused_connections_is_two_lines(logs: JobLogs, own: str) -> None:
    """Every attempt of a first connect fails: the first is told at once, the last with their number and cause."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{closed.getsockname()[1]}"
        url = f"nats://user:hidden@{place}"
        heard: list[Exception] = []

        async def error_cb(error: Exception) -> None:
            heard.append(error)
            told_so_far.append(len(logs.stdout.events()))

        told_so_far: list[int] = []
        with job_context(own):
            with pytest.raises(NoServersError):
                await nats.connect(url, reconnect_time_wait=0.02, max_reconnect_attempts=4, error_cb=error_cb)
            with pytest.raises(NoServersError):
                await nats.connect(url, reconnect_time_wait=0.02, max_reconnect_attempts=4)
    told = [e for e in logs.entries(own) if e.fields.get("event") == "nats.connection.refused"]
    assert len(told) == len(logs.entries(own)) == 4
    assert [entry.fields["count"] for entry in told] == [1, len(heard)] * 2
    assert told_so_far == [1] * len(heard)  # the first line was there before anybody else heard of the first refusal
    assert told[0].message == f"No connection to NATS at {place} so far: ConnectionRefusedError"
    assert told[0].level == logging.WARNING
    last = f"Could not connect to NATS at {place}: {len(heard)} failed attempts, given up after "
    assert told[1].message.startswith(last)
    assert told[1].message.endswith(": ConnectionRefusedError")
    assert "ConnectionRefusedError" in (told[1].exception or "")
    assert not any("hidden" in f"{entry.message} {entry.exception} {entry.fields}" for entry in told)
