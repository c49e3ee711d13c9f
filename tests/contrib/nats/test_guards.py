from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from typing import Any

import nats
import nats.aio.client
import pytest

from joblog_router import current_job, job_context
from joblog_router.contrib.nats import instrument, uninstrument
from tests.contrib.nats.conftest import Call, Connect, JobLogs
from tests.servers import NatsServer

# In each test job A opens what is shared, and something happens on it that A did not cause.

# Not for ever: nats-py can lose the cancellation of a reconnection, and `close()` waits for it.
QUICK = {"reconnect_time_wait": 0.05, "max_reconnect_attempts": 100}


async def in_job(job: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`function` awaited in a task of its own with its job open, as a worker does it."""

    async def run() -> Any:
        with job_context(job):
            return await function(*args, **kwargs)

    return await asyncio.create_task(run())


def free_port() -> int:
    """A port nobody listens on, below those the system hands out, so that no server takes it by chance meanwhile."""
    while True:
        port = random.randint(20_000, 29_999)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@pytest.mark.usefixtures("instrumented")
async def test_no_callback_of_a_connection_has_a_job_after_the_server_was_lost(
    logs: JobLogs, connect: Connect, own_nats_server: NatsServer
) -> None:
    """Errors, disconnection and reconnection of a connection that job A opened are nobody's, A open or not."""
    error, disconnected, reconnected = Call("error"), Call("disconnected"), Call("reconnected")
    options = {
        "error_cb": error.error,
        "disconnected_cb": disconnected.nothing,
        "reconnected_cb": reconnected.nothing,
    }
    with job_context("A"):
        client = await connect(own_nats_server.url, **options, **QUICK)
        own_nats_server.kill()
        for call in (error, disconnected):
            await call.wait()
        own_nats_server.restart()
        await reconnected.wait()
        await client.flush()
    seen = [record.getMessage().partition(" ")[0] for record in logs.stdout.records]
    assert {"error", "disconnected", "reconnected"} <= set(seen)
    assert logs.jobs() == set()

    # The loops that the reconnection started carry no job either.
    again = Call("again")
    client._disconnected_cb = again.nothing
    own_nats_server.kill()
    await again.wait()
    assert logs.jobs() == set()


@pytest.mark.usefixtures("instrumented")
async def test_what_a_callback_of_the_connection_starts_has_no_job(
    logs: JobLogs, connect: Connect, own_nats_server: NatsServer
) -> None:
    """A task that a disconnected callback creates is nobody's as well."""
    child = Call("child")

    async def disconnected() -> None:
        asyncio.get_running_loop().create_task(child.nothing())

    with job_context("A"):
        await connect(own_nats_server.url, disconnected_cb=disconnected, **QUICK)
        own_nats_server.kill()
        await child.wait()
    assert logs.jobs() == set()


@pytest.mark.usefixtures("instrumented")
async def test_the_default_error_callback_logs_outside_jobs(
    logs: JobLogs, connect: Connect, own_nats_server: NatsServer
) -> None:
    """nats-py's own error records of a shared connection stay on stdout."""
    disconnected = Call("disconnected")
    with job_context("A"):
        await connect(own_nats_server.url, disconnected_cb=disconnected.nothing, **QUICK)
        own_nats_server.kill()
        await disconnected.wait()
        own_nats_server.restart()
    assert "nats.aio.client" in {record.name for record in logs.stdout.records}
    assert logs.jobs() == set()


@pytest.mark.usefixtures("instrumented")
async def test_a_stale_connection_is_nobodys(logs: JobLogs, connect: Connect, own_nats_server: NatsServer) -> None:
    """A connection that answers no ping is given up outside jobs."""
    disconnected = Call("disconnected")
    with job_context("A"):
        await connect(
            own_nats_server.url,
            disconnected_cb=disconnected.nothing,
            ping_interval=0.05,
            max_outstanding_pings=1,
            **QUICK,
        )
        own_nats_server.pause()
        await disconnected.wait()
        own_nats_server.resume()
    assert logs.jobs() == set()


@pytest.mark.usefixtures("instrumented")
async def test_an_error_of_the_server_is_nobodys(logs: JobLogs, connect: Connect) -> None:
    """-ERR, here for a broken line that job B sends on A's connection, closes it outside jobs."""
    closed = Call("closed")
    with job_context("A"):
        client = await connect(closed_cb=closed.nothing, allow_reconnect=False)

    async def break_protocol() -> None:
        client._transport.write(b"NONSENSE\r\n")
        await closed.wait()

    await in_job("B", break_protocol)
    assert logs.jobs() == set()


@pytest.mark.usefixtures("instrumented")
async def test_a_slow_consumer_is_nobodys(logs: JobLogs, connect: Connect, own: str) -> None:
    """Messages that a full subscription loses are reported by the connection's reader, outside jobs."""
    error = Call("error")
    with job_context("A"):
        client = await connect(error_cb=error.error)

    async def overflow() -> None:
        await client.subscribe(own, pending_msgs_limit=1)
        for _ in range(3):
            await client.publish(own, b"")
        await error.wait()

    await in_job("B", overflow)
    assert "error SlowConsumerError" in [record.getMessage() for record in logs.stdout.records]
    assert logs.jobs() == set()


@pytest.mark.usefixtures("instrumented")
async def test_a_cluster_that_grows_is_nobodys(logs: JobLogs, connect: Connect) -> None:
    """A server that a connection of job A discovers is told outside jobs."""
    ports = [free_port(), free_port()]
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    discovered = Call("discovered")

    def member(number: int) -> NatsServer:
        listen = f"nats://127.0.0.1:{ports[number]}"
        return NatsServer("-n", str(number), "--cluster_name", "c", "--cluster", listen, "--routes", routes)

    with member(0) as first, job_context("A"):
        client = await connect(first.url, discovered_server_cb=discovered.nothing)
        with member(1):
            await discovered.wait()
        await client.close()
    assert logs.jobs() == set()


@pytest.mark.usefixtures("instrumented")
@pytest.mark.skipif(not hasattr(nats.NATS, "force_reconnect"), reason="nats-py before 2.15 cannot")
async def test_a_forced_reconnection_moves_the_connection_to_no_job(logs: JobLogs, connect: Connect) -> None:
    """`force_reconnect()` in job B starts the loops anew: they are nobody's, and B goes on afterwards."""
    reconnected = Call("reconnected")
    with job_context("A"):
        client = await connect(reconnected_cb=reconnected.nothing, **QUICK)

    async def force() -> None:
        await client.force_reconnect()
        await reconnected.wait()
        logging.getLogger("worker").info("went on")

    await in_job("B", force)
    assert logs.messages("B") == ["went on"]
    assert logs.jobs() == {"B"}


@pytest.mark.usefixtures("instrumented")
async def test_an_ordered_consumer_that_is_reset_calls_back_outside_jobs(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """The heartbeat watch of an ordered consumer, made in job A, reports a vanished stream to nobody's log."""
    error = Call("error")
    client = await connect(error_cb=error.error)
    js = client.jetstream()
    await js.add_stream(name=own, subjects=[own])

    async def nothing(message: Any) -> None:
        """Take no message."""

    with job_context("A"):
        await js.subscribe(own, stream=own, ordered_consumer=True, idle_heartbeat=0.2, cb=nothing)
        await in_job("B", js.delete_stream, own)
        await error.wait()
    # (What A and B did themselves is told in their logs.)
    assert logs.messages("A", "worker") == []
    assert logs.messages("B", "worker") == []


@pytest.mark.usefixtures("instrumented")
async def test_closing_a_connection_is_the_closers(logs: JobLogs, connect: Connect) -> None:
    """`close()` awaits its callbacks itself: they run in the job that closes."""
    closed = Call("closed")
    with job_context("A"):
        client = await connect(closed_cb=closed.nothing)
    await in_job("B", client.close)
    assert logs.messages("B") == ["closed "]
    assert logs.jobs() == {"B"}


@pytest.mark.usefixtures("instrumented")
async def test_connecting_keeps_the_callers_scope_and_other_variables(connect: Connect) -> None:
    """Behind `connect` and `subscribe` the scope is open again, also when they fail."""
    with job_context("A") as scope:
        client = await connect()
        await client.subscribe("somewhere")
        assert current_job() is scope
        with pytest.raises(TypeError):
            await client.subscribe("somewhere", nonsense=1)
        assert current_job() is scope
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(nats.connect("nats://127.0.0.1:1", error_cb=Call("x").error), 0.05)
        assert current_job() is scope


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_client_from_before_is_guarded_too(
    logs: JobLogs, connect: Connect, own_nats_server: NatsServer, is_open: bool
) -> None:
    """Callbacks of a client and a subscription that job A made before `instrument()` run in no job."""
    message, error, disconnected = Call("message"), Call("error"), Call("disconnected")
    scope = job_context("A")
    scope.__enter__()
    client = await connect(own_nats_server.url, error_cb=error.error, disconnected_cb=disconnected.nothing, **QUICK)
    await client.subscribe("shared", cb=message.message)
    instrument()
    try:
        if not is_open:
            scope.__exit__(None, None, None)
        await in_job("B", client.publish, "shared", b"")
        await message.wait()
        own_nats_server.kill()
        await error.wait()
        await disconnected.wait()
    finally:
        scope.__exit__(None, None, None)
        uninstrument()
    assert len(logs.stdout.records) >= 3
    assert logs.jobs() == set()


async def test_without_the_guards_the_opener_gets_it_all(
    logs: JobLogs, connect: Connect, own_nats_server: NatsServer
) -> None:
    """What these tests are about: bare nats-py calls back in the job that opened the connection."""
    message, disconnected = Call("message"), Call("disconnected")
    with job_context("A"):
        client = await connect(own_nats_server.url, disconnected_cb=disconnected.nothing, **QUICK)
        await client.subscribe("shared", cb=message.message)
        await in_job("B", client.publish, "shared", b"")
        await message.wait()
        own_nats_server.kill()
        await disconnected.wait()
    assert logs.messages("A", "worker") == ["message shared", "disconnected "]
