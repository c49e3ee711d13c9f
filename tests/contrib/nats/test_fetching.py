"""What a worker takes from a consumer, as the job's log tells it: first batch, repeats, given up, nothing there."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import nats
import pytest
from nats.js.api import ConsumerConfig
from nats.js.errors import ServiceUnavailableError

from joblog_router import job_context
from joblog_router.contrib.nats import instrument
from joblog_router.contrib.nats.client import consumption, fetching
from joblog_router.contrib.nats.client.consumption import Consumption
from joblog_router.contrib.nats.client.ownership import StreamKey
from joblog_router.contrib.nats.client.shortage import explain
from joblog_router.contrib.nats.naming import Job
from joblog_router.contrib.nats.pacing import is_milestone
from joblog_router.contrib.nats.task_ids import task_of
from tests.contrib.nats.conftest import Connect, JobLogs, answered, server_version, state
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("instrumented")


async def queue(js: Any, own: str, count: int, **config: Any) -> Any:
    """A job's stream with `count` tasks, its consumer, and a subscription."""
    await js.add_stream(name=f"job_{own}", subjects=[f"job.{own}.tasks"])
    await js.add_consumer(f"job_{own}", ConsumerConfig(durable_name="c", ack_policy="explicit", **config))
    for number in range(1, count + 1):
        await js.publish(f"job.{own}.tasks", json.dumps({"image_id": f"IMG-{number}.jpg"}).encode())
    return await js.pull_subscribe_bind(consumer="c", stream=f"job_{own}")


async def later(seconds: float) -> None:
    """Until the server's clock has gone on: nothing tells of it."""
    await asyncio.sleep(seconds)


async def fetched(subscription: Any, timeout: float) -> list[Any]:
    """A batch; empty also where nats-py says so by an exception."""
    try:
        return await subscription.fetch(5, timeout=timeout)
    except TimeoutError:
        return []


async def test_a_worker_without_a_scope_is_told_in_the_jobs_log(logs: JobLogs, connect: Connect, own: str) -> None:
    """The first batch names the worker; fetches after it make a line at the tenth, the hundredth, and at the end."""
    client = await connect(name="worker-7")
    subscription = await queue(client.jetstream(), own, 60)
    logs.clear()
    for size in [8, *[2] * 20]:
        for message in await subscription.fetch(size):
            await message.ack()
    await client.close()
    assert logs.events(own) == ["nats.fetch.first", "nats.fetch.progress", "nats.fetch.summary"]
    first = logs.event(own, "nats.fetch.first")
    assert first.message == (
        f"Worker worker-7 fetched its first batch from job_{own}: 8 of 8 messages asked for (consumer_seq 1-8)"
    )
    fields = first.fields
    assert (fields["worker"], fields["batch"], fields["messages"]) == ("worker-7", 8, 8)
    assert (fields["consumer_seq"], fields["last_consumer_seq"], fields["stream"]) == (1, 8, f"job_{own}")
    tenth = logs.event(own, "nats.fetch.progress")
    assert (tenth.fields["fetches"], tenth.fields["messages"], tenth.fields["acknowledged"]) == (10, 26, 24)
    summary = logs.event(own, "nats.fetch.summary")
    assert (summary.fields["fetches"], summary.fields["messages"], summary.fields["acknowledged"]) == (21, 48, 48)
    assert summary.message == f"Worker worker-7 has taken 48 messages in 21 fetches, 48 acknowledged from job_{own}"


async def test_a_worker_without_a_name_is_its_inbox(logs: JobLogs, connect: Connect, own: str) -> None:
    """Without a client name the inbox of the subscription says who it is."""
    subscription = await queue((await connect()).jetstream(), own, 1)
    await subscription.fetch(1)
    assert logs.event(own, "nats.fetch.first").fields["worker"] == subscription._deliver.rpartition(".")[2]


async def test_a_client_for_each_fetch_makes_no_line_each(logs: JobLogs, connect: Connect, own: str) -> None:
    """An application that connects for each batch has one first fetch, and no summary for each connection."""
    await queue((await connect()).jetstream(), own, 12)
    logs.clear()
    for _ in range(6):
        client = await connect()
        subscription = await client.jetstream().pull_subscribe_bind(consumer="c", stream=f"job_{own}")
        await subscription.fetch(2)
        await client.close()
    assert logs.events(own) == ["nats.fetch.first"]


async def test_redeliveries_of_a_fetch_are_one_line(logs: JobLogs, connect: Connect, own: str) -> None:
    """What comes again is told once a fetch with its worst attempt, also where the limits are learned on the way."""
    client = await connect(name="w")
    subscription = await queue(client.jetstream(), own, 6, ack_wait=0.3, max_deliver=5)
    instrument(events=False)
    messages = await subscription.fetch(6)
    await messages[0].nak()
    await later(0.05)
    assert len(await subscription.fetch(1)) == 1
    await later(0.4)
    instrument(events=True)
    await subscription.fetch(6)
    redelivery = logs.event(own, "nats.redelivery")
    assert redelivery.message == (
        f"Redelivery of 6 messages on job_{own} (sent back, or not acknowledged within 300 ms, as when a worker dies): "
        "seq 1 (attempt 3 of 5), seq 2 (attempt 2 of 5), seq 3 (attempt 2 of 5), … 3 more"
    )
    fields = redelivery.fields
    assert (fields["count"], fields["attempt"], fields["max_deliver"], fields["stream_seq"]) == (6, 3, 5, 1)
    assert fields["stream_seqs"] == "1, 2, 3, 4, 5, 6"
    assert redelivery.level == logging.WARNING


async def test_one_by_one_redeliveries_are_paced(logs: JobLogs, connect: Connect, own: str) -> None:
    """A crash loop that fetches single messages makes few lines, and none of its redeliveries is lost."""
    subscription = await queue((await connect(name="w")).jetstream(), own, 40, max_deliver=3)
    with job_context(own):
        for attempt in range(2):
            for message in await subscription.fetch(40):
                await message.nak()
            if not attempt:
                await later(0.5)
        for _ in range(40):
            await subscription.fetch(1)
    told = [e.fields["count"] for e in logs.entries(own) if e.fields.get("event") == "nats.redelivery"]
    assert sum(told) == 80
    assert len(told) <= 4
    naks = [e.fields["count"] for e in logs.entries(own) if e.fields.get("event") == "nats.nak"]
    assert naks == [1, 10]


async def test_given_up_messages_are_inferred(logs: JobLogs, connect: Connect, own: str) -> None:
    """Nobody subscribes to advisories: the last attempts without an acknowledgement are told with their tasks."""
    client = await connect(name="w")
    js = client.jetstream()
    subscription = await queue(js, own, 5, ack_wait=0.2, max_deliver=2)
    for _ in range(2):
        messages = await subscription.fetch(5)
        for message in messages[:1]:
            if _:
                await message.ack()
        await later(0.3)
    with pytest.raises(TimeoutError):
        await subscription.fetch(5, timeout=0.3)
    await answered()
    given_up = logs.event(own, "nats.exhausted")
    assert given_up.message == (
        f"Gave up 4 messages of job_{own} after 2 attempts: seq 2 (task IMG-2.jpg), seq 3 (task IMG-3.jpg), "
        "seq 4 (task IMG-4.jpg), … 1 more"
    )
    assert given_up.level == logging.ERROR
    fields = given_up.fields
    assert (fields["count"], fields["stream_seqs"]) == (4, "2, 3, 4, 5")
    assert fields["task_ids"] == "IMG-2.jpg, IMG-3.jpg, IMG-4.jpg, IMG-5.jpg"
    info = await js.consumer_info(f"job_{own}", "c")
    assert (info.num_redelivered, info.num_ack_pending) == (4, 0)
    await js.delete_consumer(f"job_{own}", "c")
    final = logs.event(own, "nats.consumer.final")
    assert final.fields["given_up"] == 4
    assert final.message.endswith(", 4 given up after 2 attempts")


async def test_what_another_process_acknowledged_is_not_given_up(logs: JobLogs, connect: Connect, own: str) -> None:
    """Where acknowledgements come from elsewhere the server's own numbers decide."""
    subscription = await queue((await connect(name="w")).jetstream(), own, 3, ack_wait=0.2, max_deliver=2)
    await subscription.fetch(3)
    await later(0.3)
    messages = await subscription.fetch(3)
    instrument(events=False)
    for message in messages:
        await message.ack_sync()
    instrument(events=True)
    await later(0.3)
    with pytest.raises(TimeoutError):
        await subscription.fetch(3, timeout=0.2)
    await answered()
    assert "nats.exhausted" not in logs.events(own)
    assert logs.event(own, "nats.fetch.empty").fields["reason"] == "nothing left"


async def test_why_nothing_came(logs: JobLogs, connect: Connect, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reason once, with the server's numbers: nothing published, unacknowledged, held back, nothing left, gone."""
    monkeypatch.setattr(fetching, "_SOON", 0.0)
    monkeypatch.setattr(fetching, "_FIRST_INTERVAL", 0.0)
    monkeypatch.setattr(fetching, "_LONGEST_INTERVAL", 0.0)
    js = (await connect(name="w")).jetstream()
    subscription = await queue(js, own, 0, max_ack_pending=2)

    async def nothing() -> None:
        assert not await fetched(subscription, 0.05)
        await answered()

    await nothing()
    await nothing()
    await js.publish(f"job.{own}.tasks", b"1")
    (first,) = await subscription.fetch(5, timeout=0.5)
    await nothing()
    await nothing()
    for payload in (b"2", b"3", b"4"):
        await js.publish(f"job.{own}.tasks", payload)
    (second,) = await subscription.fetch(1, timeout=0.5)
    await nothing()
    await first.ack_sync()
    await second.ack_sync()
    for message in await subscription.fetch(5, timeout=0.5):
        await message.ack_sync()
    await nothing()
    waiting = asyncio.create_task(fetched(subscription, 0.5))
    await later(0.1)
    await js.delete_stream(f"job_{own}")
    assert await waiting == []
    await answered()
    with pytest.raises((ServiceUnavailableError, TimeoutError)) as raised:  # by version of nats-py
        await subscription.fetch(5, timeout=0.05)
    if raised.type is ServiceUnavailableError:
        assert logs.event(own, "nats.fetch.failed").message == (
            f"Fetching from job_{own} failed: "
            "ServiceUnavailableError (nobody answers, the consumer or its stream is gone)"
        )
    empty = [e for e in logs.entries(own) if e.fields.get("event") == "nats.fetch.empty"]
    assert [entry.fields["reason"] for entry in empty] == [
        "nothing published",
        "no acks",
        "max_ack_pending",
        "nothing left",
        "gone",
    ]
    assert empty[1].message == (
        f"Worker w found nothing to fetch on job_{own}: all messages are delivered, 1 waits for an acknowledgement; "
        "no worker has acknowledged any so far"
    )
    held = empty[2].fields
    assert (held["num_pending"], held["num_ack_pending"], held["max_ack_pending"]) == (2, 2, 2)
    assert (held["delivered"], held["ack_floor"], held["num_redelivered"]) == (2, 0, 0)
    assert held["waiting"] in {0, 1}  # the pull of this very fetch may not have run out yet at the server


async def test_a_paused_consumer(logs: JobLogs, connect: Connect, own: str) -> None:
    """Paused until tomorrow: a fetch finds nothing, and the line says why."""
    client = await connect(name="w")
    js = client.jetstream()
    subscription = await queue(js, own, 1)
    request = client.request(
        f"$JS.API.CONSUMER.PAUSE.job_{own}.c", json.dumps({"pause_until": "2100-01-01T00:00:00Z"}).encode()
    )
    if server_version(client) < (2, 11):  # nothing can be paused there
        with pytest.raises(TimeoutError):
            await request
        return
    assert json.loads((await request).data)["paused"]
    assert not await fetched(subscription, 0.05)
    await answered()
    empty = logs.event(own, "nats.fetch.empty")
    assert (empty.fields["reason"], empty.fields["num_pending"]) == ("paused", 1)
    assert empty.message == f"Worker w found nothing to fetch on job_{own}: the consumer is paused"
    assert empty.level == logging.WARNING


async def test_messages_that_wait_for_delivery(logs: JobLogs, connect: Connect, own: str) -> None:
    """A consumer that replays at the pace of publishing keeps a message back while a fetch runs out."""
    js = (await connect(name="w")).jetstream()
    await js.add_stream(name=f"job_{own}", subjects=[f"job.{own}.tasks"])
    for pause in (0.8, 0, 0):  # of the one it keeps back the server says that it is delivered
        await js.publish(f"job.{own}.tasks", b"")
        await later(pause)
    subscription = await queue(js, own, 0, replay_policy="original")
    for message in await subscription.fetch(1):
        await message.ack_sync()
    assert not await fetched(subscription, 0.1)
    await answered()
    empty = logs.event(own, "nats.fetch.empty")
    assert (empty.fields["reason"], empty.fields["num_pending"], empty.fields["num_ack_pending"]) == ("pending", 1, 0)
    assert empty.message.endswith(": 1 messages wait for delivery, but none came in time")


async def test_an_answer_that_is_overdue(logs: JobLogs, connect: Connect, own: str) -> None:
    """A message that nobody answered for longer than `ack_wait`, and that does not come again either."""
    client = await connect(name="w")
    js = client.jetstream()
    subscription = await queue(js, own, 1, ack_wait=0.2)
    (message,) = await subscription.fetch(1)
    await message.nak(delay=60)
    await later(0.4)
    assert not await fetched(subscription, 0.05)
    await answered()
    empty = logs.event(own, "nats.fetch.empty")
    info = json.loads((await client.request(f"$JS.API.CONSUMER.INFO.job_{own}.c")).data)
    assert empty.fields["num_ack_pending"] == info["num_ack_pending"] == 1
    if "ts" not in info:  # before 2.10 the server does not tell its time
        assert empty.fields["reason"] == "no acks"
        return
    assert empty.fields["reason"] == "overdue"
    assert re.search(r"1 waits for an acknowledgement for \d+ ms \(ack_wait 200 ms\)", empty.message)


async def test_no_fetch_waits_for_a_question(
    logs: JobLogs, own: str, permitted: Callable[..., NatsServer], connect: Connect
) -> None:
    """A worker that may not ask goes on at once, hears of it once, and leaves nothing behind when it closes."""
    server = permitted("$JS.API.CONSUMER.INFO.>")
    owner = await connect(server.url, user="all", password="all")
    await queue(owner.jetstream(), own, 0)
    refused: list[str] = []

    async def error_cb(error: Exception) -> None:
        refused.append(str(error))

    worker = await connect(server.url, user="some", password="some", name="w", error_cb=error_cb)
    subscription = await worker.jetstream().pull_subscribe_bind(consumer="c", stream=f"job_{own}")
    questions = state().questions
    assert not await fetched(subscription, 0.02)
    assert len(questions.asked) == 1
    await answered()
    assert len(refused) == 1
    for taken in state().consumptions.values():
        taken.asked = float("-inf")
    assert not await fetched(subscription, 0.02)
    await answered()
    assert len(refused) == 1
    assert "nats.fetch.empty" not in logs.events(own)


async def test_closing_a_client_ends_its_questions(
    connect: Connect, own: str, own_nats_server: NatsServer, logs: JobLogs
) -> None:
    """A question that nobody answers does not outlive the client it was asked on."""
    client = await connect(own_nats_server.url)
    subscription = await queue(client.jetstream(), own, 0)
    own_nats_server.pause()
    try:
        assert not await fetched(subscription, 0.05)
        (question,) = state().questions.asked
        await asyncio.wait_for(client.close(), 5)
        await asyncio.wait({question}, timeout=5)
        assert question.done()
        assert not state().questions.asked
    finally:
        own_nats_server.resume()


async def test_an_idle_worker_asks_seldom(logs: JobLogs, connect: Connect, own: str, nats_server: NatsServer) -> None:
    """Twenty empty fetches in a row cost one request of ours and one line."""
    subscription = await queue((await connect(name="w")).jetstream(), own, 0)
    observer = await nats.connect(nats_server.url)
    asked = await observer.subscribe(f"$JS.API.CONSUMER.INFO.job_{own}.c")
    await observer.flush()
    for _ in range(20):
        assert not await fetched(subscription, 0.02)
    await answered()
    await observer.flush()
    assert asked.pending_msgs == 1
    await observer.close()
    assert logs.events(own).count("nats.fetch.empty") == 1


async def test_terminated_and_failed_answers_are_told(logs: JobLogs, connect: Connect, own: str) -> None:
    """A reason that is given stands in the line; an answer that could not be sent or confirmed is a line, too."""
    client = await connect(name="w")
    subscription = await queue(client.jetstream(), own, 4, max_deliver=4)
    first, second, third, _ = await subscription.fetch(4)
    await client.publish(first.reply, b"+TERM no such\x1b[31m camera")
    await second.term()
    terminated = logs.event(own, "nats.terminated")
    assert terminated.message == (
        f"Message seq 1 of job_{own} is terminated (attempt 1 of 4), it will not come again: no such [31m camera"
    )
    assert terminated.fields["reason"] == "no such [31m camera"
    await client.close()
    with pytest.raises(nats.errors.ConnectionClosedError):
        await third.ack()
    failed = logs.event(own, "nats.ack.failed")
    assert failed.message == (
        f"Answering for message seq 3 of job_{own} (attempt 1 of 4) failed: "
        "ConnectionClosedError (nats: connection closed)"
    )
    assert failed.exception is not None


async def test_an_unconfirmed_acknowledgement_is_of_unknown_outcome(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: NatsServer
) -> None:
    """`ack_sync` without an answer in time says so, and raises what nats-py raises."""
    subscription = await queue((await connect(own_nats_server.url)).jetstream(), own, 1)
    (message,) = await subscription.fetch(1)
    own_nats_server.pause()
    with pytest.raises(TimeoutError):
        await message.ack_sync(timeout=0.1)
    own_nats_server.resume()
    assert "no confirmation in time, outcome unknown" in logs.event(own, "nats.ack.failed").message


async def test_a_fetch_that_fails_is_told(logs: JobLogs, connect: Connect, own: str) -> None:
    """On a closed connection the reason stands in the job's log, at the first time and the tenth."""
    client = await connect(name="w")
    subscription = await queue(client.jetstream(), own, 0)
    await client.close()
    for _ in range(12):
        with pytest.raises(nats.errors.ConnectionClosedError):
            await subscription.fetch(1)
    failed = [e for e in logs.entries(own) if e.fields.get("event") == "nats.fetch.failed"]
    assert [entry.fields["count"] for entry in failed] == [1, 10]
    assert failed[0].exception is not None


async def test_a_shared_streams_messages_stay_apart(logs: JobLogs, connect: Connect, own: str) -> None:
    """From a stream of all jobs each message's line goes to the job it names, not to whoever fetches."""
    js = (await connect(name="w")).jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.job.*.go"])
    subscription = await js.pull_subscribe(f"{own}.job.*.go", durable="all", config=ConsumerConfig(max_deliver=9))
    for job in ("A1", "B2"):
        await js.publish(f"{own}.job.{job}.go", b"")
    with job_context("C3"):
        for _ in range(2):
            for message in await subscription.fetch(2):
                await message.nak()
            await later(0.05)
    for job, seq in (("A1", 1), ("B2", 2)):
        assert logs.event(job, "nats.redelivery").fields["stream_seqs"] == str(seq)
    assert "nats.redelivery" not in logs.events("C3")


@pytest.mark.parametrize(
    ("payload", "task"),
    [
        (b'{"id": 7}', "7"),
        (b'{"image_id": "a/b-1.jpg", "secret": "x"}', "a/b-1.jpg"),
        (b'{"id": "two\\nlines"}', None),
        (b'{"id": {"nested": 1}}', None),
        (b'{"id": "%s"}' % (b"x" * 101), None),
        (b'{"secret": "x"}', None),
        (b"[1]", None),
        (b"\xff", None),
        (b"[" * 60_000, None),
    ],
)
def test_only_a_short_plain_task_id_is_taken_from_a_payload(payload: bytes, task: str | None) -> None:
    """What is not the text or number of a configured key is never shown."""
    assert task_of(payload, ("id", "task_id", "image_id")) == task
    assert task_of(payload, ()) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of redeliveries is counted in full and kept in part."""
    from joblog_router.contrib.nats.naming import Delivery

    monkeypatch.setattr(consumption, "_MAX_KEPT", 3)
    taken = Consumption(Job("", "7"), StreamKey("", "job_7"), "c")
    for seq in range(10):
        taken.add(Delivery("job_7", "c", 2, seq, seq))
    assert (taken.redelivered, len(taken.redeliveries)) == (10, 3)
    assert [count for count in range(2000) if is_milestone(count)] == [1, 10, 100, 1000]


async def test_bookkeeping_that_fails_leaves_fetching_alone(
    connect: Connect, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every step of ours broken, messages, answers and exceptions are nats-py's own."""

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    client = await connect()
    subscription = await queue(client.jetstream(), own, 2)
    for name in ("_by_job", "_taken", "_client_ends", "_failed"):
        monkeypatch.setattr(fetching, name, broken)
    monkeypatch.setattr("joblog_router.contrib.nats.client.acks._answered", broken)
    monkeypatch.setattr("joblog_router.contrib.nats.client.acks._failed", broken)
    messages = await subscription.fetch(2)
    assert [message.metadata.sequence.stream for message in messages] == [1, 2]
    await messages[0].ack()
    with pytest.raises(TimeoutError):
        await subscription.fetch(1, timeout=0.02)
    await client.close()
    with pytest.raises(nats.errors.ConnectionClosedError):
        await messages[1].ack()
    with pytest.raises(nats.errors.ConnectionClosedError):
        await subscription.fetch(1)


@pytest.mark.parametrize(("count", "words"), [(1, "1 message was given up"), (2, "2 messages were given up")])
def test_what_was_given_up_is_said_in_numbers(count: int, words: str) -> None:
    """Where nothing is left because the server gave up."""
    info = {"config": {"max_deliver": 3}, "num_redelivered": count, "delivered": {"consumer_seq": 9, "stream_seq": 9}}
    assert explain(info).words == f"nothing is left; {words}"
