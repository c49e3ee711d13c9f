"""Two tenants with a job of the same id on one connection: no line of one is in the other's log, or in nobody's."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from nats.errors import NoServersError
from nats.js.api import ConsumerConfig

from joblog_router import Entry, job_context, stats
from joblog_router.context import use_namespace
from joblog_router.contrib.nats import instrument
from joblog_router.contrib.nats.client.advisories import heard
from joblog_router.contrib.nats.monitoring.watching import Watch
from joblog_router.contrib.nats.naming import Job, NamePatterns
from tests.contrib.nats.conftest import MEMORY, Call, Connect, JobLogs, answered, state
from tests.helpers import auntil
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("instrumented")

ADVISORIES = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES"
# What it is outside of a tenant's own code: nats-py's tasks begin there.
tenant: ContextVar[str | None] = ContextVar("tenant", default="public")


@pytest.fixture(autouse=True)
def _tenants() -> Iterator[None]:
    use_namespace(tenant.get)
    yield
    use_namespace("")


def of(logs: JobLogs, namespace: str) -> list[Entry]:
    """A tenant's lines."""
    return [entry for entry in logs.entries("7") if entry.namespace == namespace]


def names(entries: list[Entry]) -> list[str]:
    """The events told."""
    return [entry.fields["event"] for entry in entries if "event" in entry.fields]


async def work(client: Any, name: str, stream: str) -> None:
    """All that a job does, in the context of its tenant: two messages are worked on, one of them never answered."""
    tenant.set(name)
    js = client.jetstream()
    with job_context("7"):
        await js.add_stream(name=stream, subjects=[stream], storage=MEMORY)
        for _ in range(2):
            await js.publish(stream, b"{}")
        config = ConsumerConfig(ack_wait=0.2, max_deliver=2)
        subscription = await js.pull_subscribe("", stream=stream, durable="c", config=config)
        (first, *_) = await subscription.fetch(2)
        await first.ack()
        (again,) = await subscription.fetch(1, timeout=5)
        assert again.metadata.num_delivered == 2
        tenant.set("public")  # whatever is in force where it ends
        await asyncio.sleep(0.3)


async def test_all_that_a_job_does_is_in_its_tenants_log(logs: JobLogs, connect: Connect, own: str) -> None:
    """Publishing, fetching, redelivery, exhaustion and deletion of both at once over one client."""
    client = await connect(name="w")
    told = Call("advisory", times=2)
    await client.subscribe(f"{ADVISORIES}.*.c", cb=told.message)
    streams = {"a": f"{own}a", "b": f"{own}b"}
    await asyncio.gather(*(asyncio.create_task(work(client, name, stream)) for name, stream in streams.items()))
    for stream in streams.values():
        # Nobody's code, in nobody's scope: has the server give the message up, and the stream deleted.
        with pytest.raises(TimeoutError):
            await (await client.jetstream().pull_subscribe_bind("c", stream)).fetch(1, timeout=0.3)
    await told.wait()
    await auntil(lambda: logs.stdout.events().count("nats.exhausted") == 2)
    await answered()
    for stream in streams.values():
        await client.jetstream().delete_stream(stream)
    for name, stream in streams.items():
        found = of(logs, name)
        events = names(found)
        for event in ("stream.created", "consumer.created", "publish.summary", "fetch.first", "redelivery"):
            assert f"nats.{event}" in events, (name, events)
        for event in ("exhausted", "consumer.final", "stream.deleted"):
            assert f"nats.{event}" in events, (name, events)
        assert {entry.fields["stream"] for entry in found if "stream" in entry.fields} == {stream}
        (summary,) = [entry for entry in found if entry.fields.get("event") == "nats.publish.summary"]
        assert summary.fields["accepted"] == 2
    assert of(logs, "public") == []


async def test_one_sum_for_each_tenant(logs: JobLogs, connect: Connect, own: str) -> None:
    """A stream that both publish into, one scope in the other: two sums, not one."""
    js = (await connect()).jetstream()
    await js.add_stream(name=own, subjects=[own], storage=MEMORY)
    tenant.set("a")
    with job_context("7"):
        tenant.set("b")
        with job_context("7"):
            for _ in range(3):
                await js.publish(own, b"")
        tenant.set("public")
        for _ in range(5):
            await js.publish(own, b"")
    sums = {
        entry.namespace: entry.fields["accepted"]
        for entry in logs.entries("7")
        if entry.fields.get("event") == "nats.publish.summary"
    }
    assert sums == {"a": 5, "b": 3}
    assert of(logs, "public") == []


async def test_a_lost_connection_is_told_to_the_tenant_that_uses_it(
    logs: JobLogs, connect: Connect, own_nats_server: NatsServer
) -> None:
    """The loop that notices was begun before there was a tenant; the other's job of that id is open, too."""
    used = await connect(own_nats_server.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
    again = asyncio.Event()

    async def reconnected() -> None:
        again.set()

    used._reconnected_cb = reconnected
    tenant.set("b")
    with job_context("7"):
        tenant.set("a")
        with job_context("7"):
            await used.jetstream().account_info()
            await used.jetstream().add_stream(name="x", subjects=["x"])
            tenant.set("public")
            own_nats_server.restart()
            await asyncio.wait_for(again.wait(), 20)
            await auntil(lambda: "nats.connection.restored" in logs.stdout.events())
    assert names(of(logs, "a"))[-2:] == ["nats.connection.lost", "nats.connection.restored"]
    assert of(logs, "b") == of(logs, "public") == []


async def test_a_failed_connection_is_told_to_the_tenant_that_asked(logs: JobLogs, connect: Connect) -> None:
    """Its job's, at the first refusal and when it is given up, whatever is in force then."""
    tenant.set("a")

    async def error_cb(_: Exception) -> None:
        tenant.set("public")

    with job_context("7"), pytest.raises(NoServersError):
        await connect("nats://127.0.0.1:9", max_reconnect_attempts=1, reconnect_time_wait=0.01, error_cb=error_cb)
    assert names(of(logs, "a")) == ["nats.connection.refused"] * 2
    assert of(logs, "public") == []


def nothing() -> str | None:
    """A setting without an answer outside of a tenant's code."""
    found = tenant.get()
    return None if found == "public" else found


@pytest.mark.parametrize(
    ("setting", "expected"), [("fixed", "fixed"), (tenant.get, "public"), (nothing, None)], ids=["text", "answer", "no"]
)
async def test_a_name_alone_names_a_job_of_the_receiver(
    logs: JobLogs, connect: Connect, own: str, setting: Any, expected: str | None
) -> None:
    """Where the subject is all there is: of the namespace in force at the receiver, and nobody's if there is none."""
    use_namespace(setting)
    client = await connect()
    call = Call("got")
    await client.subscribe(f"{own}.job.7.>", cb=call.message)
    instrument(patterns=[f"{own}.job.{{job_id}}."])
    await client.publish(f"{own}.job.7.x", b"")
    await call.wait()
    assert {entry.namespace for entry in logs.entries("7")} == ({expected} if expected else set())


async def test_a_stream_named_after_a_job_is_that_of_the_tenant_that_works_with_it(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """Until the other tenant's job of that id does so, too: then what only the name tells is nobody's."""
    use_namespace(nothing)
    client = await connect()
    js = client.jetstream()
    instrument(patterns=[f"{own}_{{job_id}}"])
    tenant.set("a")
    with job_context("7"):
        await js.add_stream(name=f"{own}_7", subjects=[own], storage=MEMORY)
    tenant.set("public")
    logs.clear()
    call = Call("got")
    await js.subscribe("", stream=f"{own}_7", cb=call.message)
    await js.publish(own, b"")
    await call.wait()
    assert {entry.namespace for entry in logs.entries("7")} == {"a"}
    assert "got" in " ".join(logs.messages("7", "worker"))
    tenant.set("b")
    with job_context("7"):
        await js.publish(own, b"")
    tenant.set("public")
    logs.clear()
    again = Call("again", times=1)
    await js.subscribe("", stream=f"{own}_7", cb=again.message)
    await again.wait()
    assert logs.messages("7", "worker") == []


async def test_the_header_names_the_tenant(logs: JobLogs, connect: Connect, own: str) -> None:
    """A receiver that serves everybody logs in the sender's job; the subject may name the id as well."""
    instrument(header_subjects=[f"{own}.>", "job.7.>"])
    client = await connect()
    js = client.jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.>", f"job.7.{own}"], storage=MEMORY)
    call = Call("got", times=4)
    await client.subscribe(f"{own}.>", cb=call.message)
    await client.subscribe(f"job.7.{own}", cb=call.message)
    for name in ("a", "b"):
        tenant.set(name)
        with job_context("7"):
            tenant.set("public")
            await js.publish(f"{own}.{name}", b"")
            await js.publish(f"job.7.{own}", b"")
    await call.wait()
    found = {name: [e.message for e in of(logs, name) if e.logger == "worker"] for name in ("a", "b", "public")}
    assert found == {name: [f"got {own}.{name}", f"got job.7.{own}"] for name in ("a", "b")} | {"public": []}


async def test_a_header_of_another_tenant_than_the_streams_is_a_conflict(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """Its callback is in no job, and it counts."""
    client = await connect()
    js = client.jetstream()
    tenant.set("a")
    with job_context("7"):
        await js.add_stream(name=own, subjects=[own], storage=MEMORY)
    tenant.set("public")
    logs.clear()
    call, before = Call("got"), stats()["conflicts"]
    await js.subscribe(own, stream=own, cb=call.message)
    await client.publish(own, b"", headers={"Joblog-Job-Id": "7", "Joblog-Job-Id-Namespace": "b"})
    await call.wait()
    assert logs.messages("7", "worker") == []
    assert of(logs, "b") == []
    assert stats()["conflicts"] > before


async def test_a_message_of_a_sender_before_this_has_the_receivers_tenant(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """Its header names an id and no namespace."""
    client = await connect()
    call = Call("got")
    tenant.set("a")
    await client.subscribe(own, cb=call.message)
    tenant.set("public")
    await client.publish(own, b"", headers={"Joblog-Job-Id": "7"})
    await call.wait()
    assert [(e.namespace, e.message) for e in logs.entries("7")] == [("a", f"got {own}")]


class Advisory:
    """What `heard` reads of a message; the server's come too late or too early to be in two lines for sure."""

    def __init__(self, stream: str, seq: int) -> None:
        self.subject = f"{ADVISORIES}.{stream}.c"
        self.data = json.dumps({"stream": stream, "consumer": "c", "stream_seq": seq, "deliveries": 2}).encode()


async def test_a_held_back_line_keeps_the_variables_of_others(logs: JobLogs) -> None:
    """It is told in the context in which the advisory was heard, without our scope only."""
    seen: list[str | None] = []

    class Watching(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(tenant.get())

    logger, handler = logging.getLogger("joblog_router.nats"), Watching()
    logger.addHandler(handler)
    tenant.set("a")
    try:
        for seq in (1, 2):
            heard(state(), "", [Advisory("job_7", seq)])
        assert len(seen) == 1
        await auntil(lambda: len(seen) > 1)  # the second is held back for a while
    finally:
        logger.removeHandler(handler)
    assert seen == ["a", "a"]
    assert names(of(logs, "a")) == ["nats.exhausted"] * 2
    assert of(logs, "public") == []


def test_a_monitor_writes_into_the_namespace_that_it_runs_in() -> None:
    """It knows names only; where its setting has no answer it follows nobody."""
    watch = Watch(NamePatterns())
    assert watch.job_of("job_7") == Job("public", "7")
    use_namespace("fixed")
    assert watch.job_of("job_7") == Job("fixed", "7")
    use_namespace(nothing)
    assert watch.job_of("job_7") is None
