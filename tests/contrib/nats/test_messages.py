from __future__ import annotations

import asyncio
import functools
import logging
from typing import Any

import nats.micro
import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from joblog_router import current_job, job_context, stats
from joblog_router.contrib.nats import instrument, uninstrument
from tests.contrib.nats.conftest import Call, Connect, JobLogs
from tests.contrib.nats.test_guards import in_job

pytestmark = pytest.mark.usefixtures("instrumented")


def line(subject: str) -> list[str]:
    """What a job's log holds when one message was received for it."""
    return [f"message {subject}"]


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    "names",
    [("job.{job}.work", None), ("work.job_{job}", None), ("x.job-{job}-y", None), ("work", "{job}")],
)
async def test_a_message_belongs_to_the_job_it_names(
    logs: JobLogs, connect: Connect, own: str, is_open: bool, names: tuple[str, str | None]
) -> None:
    """Job B's message, received by a subscription that A made, is B's by subject or header."""
    message = Call("message")
    first, second = f"{own}A", f"{own}B"
    subject, header = names
    subject = f"{subject.format(job=second)}.{own}"
    headers = {"Joblog-Job-Id": header.format(job=second)} if header else None
    scope = job_context(first)
    with scope:
        client = await connect()
        await client.subscribe(subject, cb=message.message)
        if is_open:
            await in_job(second, client.publish, subject, b"", headers=headers)
            await message.wait()
    if not is_open:
        await in_job(second, client.publish, subject, b"", headers=headers)
        await message.wait()
    assert logs.messages(second) == line(subject)
    assert logs.jobs() == {second}


async def test_a_message_that_names_nobody_is_nobodys(logs: JobLogs, connect: Connect, own: str) -> None:
    """The subscriber's scope never counts, nor does that of the one who publishes."""
    message = Call("message")
    with job_context("A"):
        client = await connect()
        await client.subscribe(own, cb=message.message)
        await in_job("B", client.publish, own, b"")
        await message.wait()
    assert logs.jobs() == set()


async def test_a_subscription_outside_jobs_on_a_jobs_connection_is_nobodys(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """What belongs to nobody stays nobody's on a connection that job A opened."""
    message = Call("message")
    with job_context("A"):
        client = await connect()
    await client.subscribe(own, cb=message.message)
    await client.publish(own, b"")
    await message.wait()
    assert logs.jobs() == set()


@pytest.mark.parametrize("kind", ["core", "push", "queue"])
async def test_every_kind_of_callback_is_bound(logs: JobLogs, connect: Connect, own: str, kind: str) -> None:
    """Core and push subscriptions, plain and in groups, made in job A, log job B's messages into B's log."""
    message = Call("message")
    client = await connect()
    js = client.jetstream()
    subject = f"job.{own}B.work"
    await js.add_stream(name=own, subjects=[subject])
    with job_context(f"{own}A"):
        if kind == "core":
            await client.subscribe(subject, "", message.message)
        elif kind == "push":
            await js.subscribe(subject, stream=own, cb=message.message)
        else:
            await js.subscribe(subject, "workers", stream=own, cb=message.message)
        await in_job(f"{own}B", client.publish, subject, b"")
        await message.wait()
    assert logs.messages(f"{own}B", "worker") == line(subject)
    assert logs.messages(f"{own}A", "worker") == []


async def test_a_push_consumers_message_belongs_to_its_streams_job(logs: JobLogs, connect: Connect, own: str) -> None:
    """A stream named for job B makes its messages B's, whatever their subjects and whoever subscribes."""
    message = Call("message")
    second = f"{own}B"
    client = await connect()
    js = client.jetstream()
    with job_context(f"{own}A"):
        await js.add_stream(name=f"job_{second}", subjects=[own])
        await js.subscribe(own, stream=f"job_{second}", cb=message.message)
    await js.publish(own, b"")
    await message.wait()
    assert logs.messages(second, "worker") == line(own)
    assert logs.messages(f"{own}A") == []


async def test_an_advisory_belongs_to_the_stream_it_is_about(logs: JobLogs, connect: Connect, own: str) -> None:
    """MAX_DELIVERIES of job B's stream, heard by a listener that A made, is in B's log."""
    message = Call("message")
    second = f"{own}B"
    with job_context(f"{own}A"):
        client = await connect()
        advisories = f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.job_{second}.>"
        await client.subscribe(advisories, cb=message.message)

    async def exhaust() -> None:
        js = client.jetstream()
        await js.add_stream(name=f"job_{second}", subjects=[own])
        await js.publish(own, b"")
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_deliver=2, ack_wait=30)
        subscription = await js.pull_subscribe(own, durable="c", stream=f"job_{second}", config=config)
        for _ in range(2):
            await (await subscription.fetch(1))[0].nak()
        with pytest.raises(asyncio.TimeoutError):
            await subscription.fetch(1, timeout=0.3)

    await in_job(second, exhaust)
    await message.wait()
    assert logs.messages(second, "worker") == line(f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.job_{second}.c")
    assert logs.messages(f"{own}A") == []


async def test_an_advisory_from_a_stream_of_advisories_belongs_to_the_stream_it_is_about(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """Advisories kept in a stream that A created, pushed by A's consumer: each is of the stream it names."""
    message = Call("message")
    first, second = f"{own}A", f"{own}B"
    client = await connect()
    js = client.jetstream()
    with job_context(first):
        subject = f"$JS.EVENT.ADVISORY.STREAM.CREATED.job_{second}"
        await js.add_stream(name=f"advisories-{own}", subjects=[subject])
        await js.subscribe(subject, durable=f"job-{first}-dlq", stream=f"advisories-{own}", cb=message.message)
        await in_job(second, js.add_stream, name=f"job_{second}", subjects=[own])
        await message.wait()
    assert logs.messages(second, "worker") == line(subject)
    assert logs.messages(first, "worker") == []


async def test_an_advisory_about_nobodys_stream_belongs_to_the_consumer_that_brings_it(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """Where the stream in an advisory names nobody, the name of the delivering consumer counts."""
    message = Call("message")
    js = (await connect()).jetstream()
    subject = f"$JS.EVENT.ADVISORY.STREAM.CREATED.{own}-plain"
    await js.add_stream(name=f"advisories-{own}", subjects=[subject])
    await js.subscribe(subject, durable="job-B-dlq", stream=f"advisories-{own}", cb=message.message)
    await js.add_stream(name=f"{own}-plain", subjects=[own])
    await message.wait()
    assert logs.messages("B", "worker") == line(subject)


async def test_nats_pys_own_callbacks_are_left_alone(connect: Connect, own: str) -> None:
    """The subscriptions that only resolve futures of requests are not wrapped: every reply passes them."""
    client = await connect()
    js = client.jetstream()
    await js.add_stream(name=own, subjects=[own])
    await (await js.publish_async(own, b""))
    callbacks = [subscription._cb for subscription in client._subs.values()]
    assert len(callbacks) == 2
    assert not [callback for callback in callbacks if callback.__code__.co_name == "in_job_of_message"]


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")  # in nats.micro
async def test_a_responder_serves_the_requests_job(logs: JobLogs, connect: Connect, own: str) -> None:
    """A responder and a micro endpoint made in A: a request that names B is B's, one that names nobody nobody's."""
    client = await connect()
    served = logging.getLogger("worker")

    async def respond(message: Any) -> None:
        served.info("served %s", message.subject)
        await message.respond(b"")

    with job_context("A"):
        await client.subscribe(f"{own}.plain", cb=respond)
        service = await nats.micro.add_service(client, name="echo", version="1.0.0")
        await service.add_endpoint(name="echo", subject=f"{own}.micro", handler=respond)
    for subject in (f"{own}.plain", f"{own}.micro"):
        await in_job("B", client.request, subject, b"")
        assert logs.jobs() == set()
        await in_job("B", client.request, subject, b"", headers={"Joblog-Job-Id": "B"})
        assert logs.messages("B") == [f"served {subject}"]
        logs.clear()
    await service.stop()


async def test_what_a_callback_raises_is_reported_for_the_messages_job(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """The error callback that a failing callback leads to runs in the job of the message; the next one does not."""
    error = Call("error", times=2)

    async def fail(message: Any) -> None:
        raise RuntimeError(message.subject)

    with job_context("A"):
        client = await connect(error_cb=error.error)
    with job_context("C"):
        await client.subscribe(f"{own}.>", cb=fail)
    await client.publish(f"{own}.job_B", b"")
    await client.publish(f"{own}.nobody", b"")
    await error.wait()
    assert logs.messages("B") == ["error RuntimeError"]
    assert logs.jobs() == {"B"}
    assert len(logs.stdout.records) == 2


async def test_a_private_inbox_belongs_to_its_maker_while_that_is_open(logs: JobLogs, connect: Connect) -> None:
    """Replies to an inbox of its own are the asking job's; after its end, and behind a wildcard, nobody's."""
    replies = Call("message", times=1)
    client = await connect()
    inbox, wide = client.new_inbox(), client.new_inbox()
    with job_context("A"):
        await client.subscribe(inbox, cb=replies.message)
        await client.publish(inbox, b"")
        await replies.wait()
        assert logs.messages("A") == line(inbox)
        logs.clear()
        await client.subscribe(f"{wide}.*", cb=(shared := Call("message")).message)
        await client.publish(f"{wide}.1", b"")
        await shared.wait()
    replies.done.clear()
    await client.publish(inbox, b"")
    await replies.wait()
    assert len(logs.stdout.records) == 2
    assert logs.jobs() == set()


async def test_a_push_consumers_inbox_is_not_private(logs: JobLogs, connect: Connect, own: str) -> None:
    """A shared stream's messages pushed into an inbox that open job A made are not A's for that."""
    message = Call("message")
    client = await connect()
    js = client.jetstream()
    await js.add_stream(name=own, subjects=[own])
    with job_context("A"):
        await js.subscribe(own, stream=own, cb=message.message)
        await in_job("B", js.publish, own, b"")
        await message.wait()
    assert logs.messages("A", "worker") == []


@pytest.mark.parametrize("way", ["header and subject", "consumer and subject"])
async def test_contradicting_names_are_nobodys_and_counted(
    logs: JobLogs, connect: Connect, own: str, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message whose names contradict each other goes to no job's log; it is counted as a conflict."""
    message = Call("message")
    client = await connect()
    before = stats()["conflicts"]
    subject = f"{own}.job_B"
    if way == "header and subject":
        await client.subscribe(subject, cb=message.message)
        await client.publish(subject, b"", headers={"Joblog-Job-Id": "C"})
    else:
        js = client.jetstream()
        await js.add_stream(name=own, subjects=[subject])
        await js.subscribe(subject, durable="job-C-x", stream=own, cb=message.message)
        await client.publish(subject, b"")
    await message.wait()
    assert logs.messages("B", "worker") == []
    assert logs.messages("C", "worker") == []
    assert stats()["conflicts"] > before


async def test_a_header_that_agrees_is_no_conflict(logs: JobLogs, connect: Connect, own: str) -> None:
    """Header and subject that name the same job."""
    message = Call("message")
    client = await connect()
    before = stats()["conflicts"]
    await client.subscribe(f"{own}.job_B", cb=message.message)
    await client.publish(f"{own}.job_B", b"", headers={"Joblog-Job-Id": "B"})
    await message.wait()
    assert logs.jobs() == {"B"}
    assert stats()["conflicts"] == before


async def test_patterns_and_header_can_be_chosen(logs: JobLogs, connect: Connect, own: str) -> None:
    """With other patterns and another header the default ones name nobody, and the chosen ones do."""
    instrument(patterns=["import/{job_id}"], header="X-Import")
    client = await connect()
    message = Call("message", times=4)
    await client.subscribe(f"{own}.>", cb=message.message)
    await client.publish(f"{own}.job_1", b"")
    await client.publish(f"{own}.import/2", b"")
    await client.publish(f"{own}.x", b"", headers={"Joblog-Job-Id": "3"})
    await client.publish(f"{own}.x", b"", headers={"X-Import": "4"})
    await message.wait()
    assert logs.jobs() == {"2", "4"}


async def test_pulled_messages_run_in_the_callers_job(logs: JobLogs, connect: Connect, own: str) -> None:
    """`fetch`, `next_msg` and `async for` leave the caller's context alone, whatever the message names."""
    client = await connect()
    js = client.jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.>"])
    with job_context("A") as scope:
        pull = await js.pull_subscribe(f"{own}.>", durable="c", stream=own)
        plain = await client.subscribe(f"{own}.>")
        await js.publish(f"{own}.job_B", b"")
        await pull.fetch(1)
        assert current_job() is scope
        await plain.next_msg()
        assert current_job() is scope
        await js.publish(f"{own}.job_B", b"")
        async for _ in plain.messages:
            assert current_job() is scope
            break
        assert current_job() is scope


async def test_callbacks_keep_their_shape(connect: Connect, own: str) -> None:
    """Methods, partials and closures are taken as before; what nats-py refuses, it refuses as before."""
    client = await connect()
    seen: list[str] = []
    done = asyncio.Event()

    async def with_word(word: str, message: Any) -> None:
        seen.append(word)
        done.set()

    def plain(message: Any) -> None:
        """No coroutine function."""

    class WithCall:
        async def __call__(self, message: Any) -> None:
            """A coroutine function's call, which nats-py does not take."""

    await client.subscribe(own, cb=functools.partial(with_word, "partial"))
    await client.publish(own, b"")
    await asyncio.wait_for(done.wait(), 5)
    assert seen == ["partial"]
    for wrong in (plain, WithCall()):
        with pytest.raises(nats.errors.Error, match="must use coroutine"):
            await client.subscribe(own, cb=wrong)
    with pytest.raises(TypeError):
        await client.subscribe(own, callback=with_word)


async def test_a_cancelled_callback_ends_its_subscription_as_before(connect: Connect, own: str) -> None:
    """Cancellation inside a callback passes through the binding."""
    client = await connect()
    called = asyncio.Event()

    async def cancelled(message: Any) -> None:
        called.set()
        raise asyncio.CancelledError

    subscription = await client.subscribe(own, cb=cancelled)
    await client.publish(own, b"")
    await asyncio.wait_for(called.wait(), 5)
    await asyncio.wait_for(asyncio.wait([subscription._wait_for_msgs_task]), 5)
    assert subscription._wait_for_msgs_task.done()
    assert subscription._wait_for_msgs_task.exception() is None


async def test_after_uninstrument_old_callbacks_are_inert(logs: JobLogs, connect: Connect, own: str) -> None:
    """A subscription that was bound goes on without binding, and still in nobody's job."""
    client = await connect()
    message = Call("message")
    with job_context("A"):
        await client.subscribe(f"{own}.>", cb=message.message)
        uninstrument()
        await client.publish(f"{own}.job_B", b"")
        await message.wait()
    assert logs.jobs() == set()


async def test_a_broken_message_does_not_reach_the_application(
    logs: JobLogs, connect: Connect, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails in our own work: the callback is called, in no job, and nobody is told but stderr."""
    from joblog_router.contrib.nats.client import messages

    def broken(*args: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(messages, "_owner", broken)
    client = await connect()
    message, error = Call("message"), Call("error")
    client._error_cb = error.error
    with job_context("A"):
        await client.subscribe(f"{own}.job_B", cb=message.message)
    await client.publish(f"{own}.job_B", b"")
    await message.wait()
    assert logs.jobs() == set()
    assert not error.done.is_set()
