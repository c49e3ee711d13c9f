from __future__ import annotations

import asyncio

import pytest
from nats.js.api import StreamSource

from joblog_router import job_context
from joblog_router.contrib.nats.client import ownership
from joblog_router.contrib.nats.client.ownership import Owners, StreamKey
from joblog_router.contrib.nats.naming import Job
from tests.contrib.nats.conftest import MEMORY, Call, Connect, JobLogs
from tests.contrib.nats.test_guards import in_job

# A stream whose name names nobody is the job's that created it, until another job works with it.

instrumented = pytest.mark.usefixtures("instrumented")


@instrumented
async def test_a_stream_that_a_job_creates_is_its_own(logs: JobLogs, connect: Connect, own: str) -> None:
    """Messages and advisories of the stream are its creator's, heard by whomever, also once the job has ended."""
    message = Call("message", times=2)
    client = await connect()
    js = client.jetstream()
    await in_job("A", js.add_stream, name=own, subjects=[f"{own}.*"])
    await js.subscribe(f"{own}.*", stream=own, cb=message.message)
    advisory = f"$JS.EVENT.ADVISORY.STREAM.DELETED.{own}"
    await client.subscribe(f"$JS.EVENT.ADVISORY.*.*.{own}", cb=message.message)
    await js.publish(f"{own}.x", b"")
    await js.update_stream(name=own, subjects=[f"{own}.*"], max_msgs=9)
    await message.wait()
    assert logs.messages("A", "worker") == [
        f"message {own}.x",
        f"message {advisory}".replace("DELETED", "UPDATED"),
    ]


@instrumented
@pytest.mark.parametrize("use", ["create", "consumer", "publish", "publish_async", "info", "named consumer"])
async def test_the_first_use_by_another_job_makes_a_stream_shared_for_ever(
    logs: JobLogs, connect: Connect, own: str, use: str
) -> None:
    """Job B creates it again, adds a consumer, publishes or looks at it: then its messages are nobody's."""
    message = Call("message")
    client = await connect()
    js = client.jetstream()
    await in_job("A", js.add_stream, name=own, subjects=[f"{own}.*"])
    if use == "create":
        await in_job("B", js.add_stream, name=own, subjects=[f"{own}.*"])
    elif use == "consumer":
        await in_job("B", js.pull_subscribe, f"{own}.*", durable="d", stream=own)
    elif use == "publish":
        await in_job("B", js.publish, f"{own}.x", b"")
    elif use == "publish_async":

        async def publish() -> None:
            await (await js.publish_async(f"{own}.x", b""))

        await in_job("B", publish)
    elif use == "info":
        await in_job("B", js.stream_info, own)
    else:
        await js.pull_subscribe(f"{own}.*", durable="job-B-consumer", stream=own)
    await in_job("A", js.add_stream, name=own, subjects=[f"{own}.*"])
    await js.purge_stream(own)
    logs.clear()
    await js.subscribe(f"{own}.*", stream=own, cb=message.message)
    await client.publish(f"{own}.y", b"")
    await message.wait()
    assert logs.jobs() == set()
    assert len(logs.stdout.records) == 1


@instrumented
async def test_another_jobs_use_of_a_shared_stream_is_told_in_that_jobs_log(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """A shared stream that A happened to create does not draw B's lines into A's log."""
    client = await connect()
    js = client.jetstream()
    await in_job("A", js.add_stream, name=own, subjects=[f"{own}.*"])
    logs.clear()

    async def work() -> None:
        await js.stream_info(own)
        await js.add_consumer(own, durable_name="d", ack_policy="explicit")
        await js.publish(f"{own}.x", b"")

    await in_job("B", work)
    assert logs.events("B") == ["nats.stream.reused", "nats.consumer.created", "nats.publish.summary"]
    assert logs.jobs() == {"B"}


@instrumented
@pytest.mark.parametrize(
    ("suffix", "subjects"),
    [
        ("", ["$JS.EVENT.ADVISORY.STREAM.CREATED.never-{own}"]),
        ("", ["job.{own}B.>"]),
        ("", ["{own}.job.*.>"]),
        ("", ["{own}.job.>"]),
    ],
)
async def test_streams_that_serve_others_are_never_owned(
    logs: JobLogs, connect: Connect, own: str, suffix: str, subjects: list[str]
) -> None:
    """No advisory stream, none over another job's subjects, none with a wildcard where the id would stand."""
    message = Call("message")
    client = await connect()
    js = client.jetstream()
    subjects = [subject.format(own=own) for subject in subjects]
    await in_job("A", js.add_stream, name=own, subjects=subjects)
    await client.subscribe(f"$JS.EVENT.ADVISORY.STREAM.DELETED.{own}", cb=message.message)
    await js.delete_stream(own)
    await message.wait()
    assert logs.messages("A", "worker") == []


@instrumented
@pytest.mark.parametrize("way", ["mirror", "sources"])
async def test_a_copy_of_other_streams_is_not_owned(logs: JobLogs, connect: Connect, own: str, way: str) -> None:
    """A stream that A creates to copy another one holds the messages of others."""
    message = Call("message")
    client = await connect()
    js = client.jetstream()
    await js.add_stream(name=f"{own}-origin", subjects=[own])
    origin = StreamSource(name=f"{own}-origin")
    copied = {"mirror": origin} if way == "mirror" else {"sources": [origin]}
    await in_job("A", js.add_stream, name=own, **copied)
    await client.subscribe(f"$JS.EVENT.ADVISORY.STREAM.DELETED.{own}", cb=message.message)
    await js.delete_stream(own)
    await message.wait()
    assert logs.messages("A", "worker") == []


@instrumented
async def test_a_subject_that_names_another_job_beats_the_creator(logs: JobLogs, connect: Connect, own: str) -> None:
    """On a stream that A created, a message whose subject names B is B's; a header names nobody else there."""
    message = Call("message", times=3)
    client = await connect()
    js = client.jetstream()
    await in_job("A", js.add_stream, name=own, subjects=[f"{own}.>"])
    await js.subscribe(f"{own}.>", stream=own, cb=message.message)
    await client.publish(f"{own}.job_B", b"")
    await client.publish(f"{own}.c", b"", headers={"Joblog-Job-Id": "C"})
    await client.publish(f"{own}.x", b"")
    await message.wait()
    assert logs.messages("B", "worker") == [f"message {own}.job_B"]
    assert logs.messages("A", "worker") == [f"message {own}.x"]
    assert logs.jobs() == {"A", "B"}


@instrumented
async def test_a_deleted_stream_belongs_to_whoever_creates_the_next(logs: JobLogs, connect: Connect, own: str) -> None:
    """Deletion ends the ownership; B's stream of the same name is B's."""
    message = Call("message")
    client = await connect()
    js = client.jetstream()

    async def create_and_delete() -> None:
        await js.add_stream(name=own, subjects=[own], storage=MEMORY)
        await js.delete_stream(own)

    await in_job("A", create_and_delete)
    await in_job("B", js.add_stream, name=own, subjects=[own], storage=MEMORY)
    await js.subscribe(own, stream=own, cb=message.message)
    await js.publish(own, b"")
    await message.wait()
    assert logs.messages("B", "worker") == [f"message {own}"]
    assert logs.messages("A", "worker") == []


@instrumented
async def test_a_stream_that_was_there_already_is_not_owned(logs: JobLogs, connect: Connect, own: str) -> None:
    """Creating again what another process created does not make it the job's."""
    message = Call("message")
    client = await connect()
    js = client.jetstream()
    await js.add_stream(name=own, subjects=[own])
    await in_job("A", js.add_stream, name=own, subjects=[own])
    await js.subscribe(own, stream=own, cb=message.message)
    await js.publish(own, b"")
    await message.wait()
    assert logs.messages("A", "worker") == []


@instrumented
async def test_equal_names_on_two_servers_are_two_streams(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: object
) -> None:
    """What A created on one server says nothing about a stream of that name on another."""
    message = Call("message")
    here, there = await connect(), await connect(own_nats_server.url)  # type: ignore[attr-defined]
    await in_job("A", here.jetstream().add_stream, name=own, subjects=[own])
    js = there.jetstream()
    await js.add_stream(name=own, subjects=[own])
    await js.subscribe(own, stream=own, cb=message.message)
    await js.publish(own, b"")
    await message.wait()
    assert logs.messages("A", "worker") == []


A, B, C = (Job("", name) for name in "ABC")


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The streams used longest ago are forgotten first, owned and shared ones alike."""
    monkeypatch.setattr(ownership, "_MAX_STREAMS", 4)
    owners = Owners()
    keys = [StreamKey("", str(number)) for number in range(6)]
    for key in keys[:4]:
        owners.learn(key, A)
    owners.used(keys[0], A)
    for key in keys[4:]:
        owners.learn(key, A)
    assert [owners.of(key) for key in keys] == [A, None, None, A, A, A]
    for number in range(10):
        owners.learn(StreamKey("shared", str(number)), A)
        owners.used(StreamKey("shared", str(number)), B)
    assert len(owners._shared) == 4


def test_sharing_outlives_deletion() -> None:
    """A name that two jobs used once is never owned again."""
    owners, key = Owners(), StreamKey("", "s")
    owners.learn(key, A)
    owners.used(key, B)
    owners.forget(key)
    owners.learn(key, C)
    assert owners.of(key) is None


@instrumented
async def test_a_scope_that_closed_meanwhile_owns_nothing(logs: JobLogs, connect: Connect, own: str) -> None:
    """A stream that is created by a task which outlives its job's scope is nobody's."""
    message = Call("message")
    client = await connect()
    js = client.jetstream()
    with job_context("A"):
        task = asyncio.create_task(js.add_stream(name=own, subjects=[own]))
        await asyncio.sleep(0)
    await task
    await js.subscribe(own, stream=own, cb=message.message)
    await js.publish(own, b"")
    await message.wait()
    assert logs.messages("A") == []
