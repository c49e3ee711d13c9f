from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError, BadRequestError, NotFoundError

from joblog_router import job_context
from joblog_router.contrib.nats import instrument, uninstrument
from tests.contrib.nats.conftest import MEMORY, Call, Connect, JobLogs
from tests.contrib.nats.test_guards import QUICK, in_job
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("instrumented")


def explicit() -> ConsumerConfig:
    """A consumer's configuration; nats-py writes into the one it is given."""
    return ConsumerConfig(durable_name="c", ack_policy=AckPolicy.EXPLICIT, ack_wait=1.5, max_deliver=3)


async def test_created_and_reused_are_told_apart(logs: JobLogs, connect: Connect, own: str) -> None:
    """The first creation is one; creating again what is there is a reuse, said once per scope."""
    client = await connect()
    js = client.jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        for _ in range(5):
            await js.add_stream(name=f"job_{own}", subjects=[own])
        await js.add_consumer(f"job_{own}", explicit())
        for _ in range(5):
            await js.add_consumer(f"job_{own}", explicit())
    assert logs.events(own) == ["nats.stream.created", "nats.consumer.created"]
    logs.clear()
    with job_context(own):
        for _ in range(5):
            await js.add_stream(name=f"job_{own}", subjects=[own])
            await js.add_consumer(f"job_{own}", explicit())
            with job_context(own):
                await js.stream_info(f"job_{own}")
    assert logs.events(own) == ["nats.stream.reused", "nats.consumer.reused"]
    fields = logs.event(own, "nats.consumer.reused").fields
    assert (fields["max_deliver"], fields["ack_wait"], fields["ack_policy"]) == (3, 1.5, "explicit")
    assert (fields["delivered"], fields["num_pending"], fields["num_ack_pending"]) == (0, 0, 0)


async def test_another_client_sees_the_reuse_as_well(logs: JobLogs, connect: Connect, own: str) -> None:
    """Without having seen the creation, the times in the reply tell a stream that was there from a new one."""
    plain = await connect()
    request: Any = type(plain).request.__wrapped__  # unnoticed, as from another process
    stream = {"name": f"job_{own}", "subjects": [own]}
    await request(plain, f"$JS.API.STREAM.CREATE.job_{own}", json.dumps(stream).encode())
    config = {"stream_name": f"job_{own}", "config": {"durable_name": "c", "ack_policy": "explicit"}}
    await request(plain, f"$JS.API.CONSUMER.DURABLE.CREATE.job_{own}.c", json.dumps(config).encode())
    info = await plain.jetstream().stream_info(f"job_{own}")
    await plain.jetstream().publish(own, b"x")
    await asyncio.sleep(0.2)  # before 2.10 the server does not tell how old they are: clocks are compared
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(info.config)
        await js.add_consumer(f"job_{own}", durable_name="c", ack_policy="explicit")
    assert logs.events(own) == ["nats.stream.reused", "nats.consumer.reused"]
    fields = logs.event(own, "nats.stream.reused").fields
    assert (fields["last_seq"], fields["messages"]) == (1, 1)


async def test_a_stream_that_vanished_is_created_again(logs: JobLogs, connect: Connect, own: str) -> None:
    """Deleting and creating inside one scope is told each time."""
    js = (await connect()).jetstream()
    with job_context(own):
        for _ in range(2):
            await js.add_stream(name=f"job_{own}", subjects=[own], storage=MEMORY)
            await js.stream_info(f"job_{own}")
            await js.delete_stream(f"job_{own}")
    assert logs.events(own) == ["nats.stream.created", "nats.stream.deleted"] * 2


async def test_what_another_process_deletes_and_creates_is_met_anew(logs: JobLogs, connect: Connect, own: str) -> None:
    """A stream that vanished unnoticed is created again; one that came back unnoticed is found again."""
    client = await connect()
    js = client.jetstream()
    request: Any = type(client).request.__wrapped__
    config = json.dumps({"name": f"job_{own}", "subjects": [own], "storage": "memory"}).encode()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own], storage=MEMORY)
        await request(client, f"$JS.API.STREAM.DELETE.job_{own}", b"")
        await js.add_stream(name=f"job_{own}", subjects=[own], storage=MEMORY)
        await js.delete_stream(f"job_{own}")
        await request(client, f"$JS.API.STREAM.CREATE.job_{own}", config)
        await js.stream_info(f"job_{own}")
    assert logs.events(own) == [
        "nats.stream.created",
        "nats.stream.created",
        "nats.stream.deleted",
        "nats.stream.reused",
    ]


async def test_the_final_numbers_are_the_servers_own(logs: JobLogs, connect: Connect, own: str) -> None:
    """Before a consumer is deleted its numbers stand in the log, equal to what `consumer_info` says."""
    js = (await connect()).jetstream()
    stream = f"job_{own}"
    with job_context(own):
        await js.add_stream(name=stream, subjects=[own])
        for _ in range(10):
            await js.publish(own, b"")
        subscription = await js.pull_subscribe(own, durable="c", stream=stream, config=explicit())
        messages = await subscription.fetch(6)
        for message in messages[:3]:
            await message.ack_sync()
        await messages[5].nak()
        while (await js.consumer_info(stream, "c")).num_redelivered == 0:
            await subscription.fetch(1)
        info = await js.consumer_info(stream, "c")
        await js.delete_consumer(stream, "c")
    entry = logs.event(own, "nats.consumer.final")
    assert entry.level == logging.INFO
    for field in ("num_pending", "num_ack_pending", "num_redelivered"):
        assert entry.fields[field] == getattr(info, field)
    assert entry.fields["delivered"] == info.delivered.consumer_seq == 7
    assert entry.fields["delivered_stream_seq"] == info.delivered.stream_seq == 6
    assert entry.fields["ack_floor"] == info.ack_floor.stream_seq == 3
    assert entry.fields["ack_floor_consumer_seq"] == info.ack_floor.consumer_seq
    assert entry.message == (
        f"Deleting consumer c of NATS stream {stream}: 7 deliveries, finished up to stream_seq 3, "
        "3 not acknowledged, 1 delivered again and never acknowledged, 4 not delivered yet"
    )
    assert logs.events(own)[-4:] == [
        "nats.publish.summary",
        "nats.fetch.summary",
        "nats.consumer.final",
        "nats.consumer.deleted",
    ]


async def test_deleting_the_stream_alone_tells_all_its_consumers(logs: JobLogs, connect: Connect, own: str) -> None:
    """Each consumer that was met is asked for its numbers before the stream takes them along."""
    client = await connect()
    js = client.jetstream()
    api: list[str] = []

    async def audit(message: Any) -> None:
        subject = json.loads(message.data)["subject"]
        if own in subject:
            api.append(subject)

    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        for name in ("one", "two"):
            await js.add_consumer(f"job_{own}", durable_name=name, ack_policy="explicit")
        await client.subscribe("$JS.EVENT.ADVISORY.API", cb=audit)
        await js.delete_stream(f"job_{own}")
        await client.flush()
    finals = [entry for entry in logs.entries(own) if entry.fields.get("event") == "nats.consumer.final"]
    assert sorted(entry.fields["consumer"] for entry in finals) == ["one", "two"]
    assert logs.events(own)[-1] == "nats.stream.deleted"
    assert logs.event(own, "nats.stream.deleted").message == f"Deleted NATS stream job_{own}"
    while len(api) < 3:
        await asyncio.wait_for(client.flush(), 5)
    assert sorted(api) == [
        f"$JS.API.CONSUMER.INFO.job_{own}.one",
        f"$JS.API.CONSUMER.INFO.job_{own}.two",
        f"$JS.API.STREAM.DELETE.job_{own}",
    ]


async def test_consumers_that_others_made_are_listed(logs: JobLogs, connect: Connect, own: str) -> None:
    """Where this process met no consumer of a stream, one request lists them before the deletion."""
    js = (await connect()).jetstream()
    uninstrument()
    await js.add_stream(name=f"job_{own}", subjects=[own])
    await js.add_consumer(f"job_{own}", durable_name="theirs", ack_policy="explicit")
    instrument()
    await js.delete_stream(f"job_{own}")
    assert logs.event(own, "nats.consumer.final").fields["consumer"] == "theirs"


async def test_what_an_account_may_not_ask_is_asked_once(
    logs: JobLogs, connect: Connect, own: str, permitted: Callable[..., NatsServer]
) -> None:
    """The list of consumers is refused: one error for the application, no second; known ones need no list."""
    server = permitted("$JS.API.CONSUMER.LIST.>")
    refused: list[str] = []

    async def error_cb(error: Exception) -> None:
        refused.append(str(error))

    client = await connect(server.url, user="some", password="some", error_cb=error_cb)
    js = client.jetstream()
    await js.add_stream(name="job_1", subjects=["one"])
    await js.add_consumer("job_1", durable_name="c", ack_policy="explicit")
    await js.delete_stream("job_1")
    assert logs.event("1", "nats.consumer.final").fields["consumer"] == "c"
    assert not refused
    for number in ("2", "3"):
        await js.add_stream(name=f"job_{number}", subjects=["other"])
        await js.delete_stream(f"job_{number}")
        assert logs.events(number)[-1] == "nats.stream.deleted"
    assert len(refused) == 1
    assert "consumer.list" in refused[0].lower()


async def test_a_named_job_needs_no_scope_for_what_happens_to_its_stream(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """A health check outside any job: creation, final numbers and deletion are in the named job's log."""
    js = (await connect()).jetstream()
    await js.add_stream(name=f"job_{own}", subjects=[own])
    await js.add_stream(name=f"job_{own}", subjects=[own])
    await js.stream_info(f"job_{own}")
    await js.add_consumer(f"job_{own}", explicit())
    await js.delete_stream(f"job_{own}")
    assert logs.events(own) == [
        "nats.stream.created",
        "nats.consumer.created",
        "nats.consumer.final",
        "nats.stream.deleted",
    ]


async def test_what_is_about_no_job_is_not_told(logs: JobLogs, connect: Connect, own: str) -> None:
    """Streams that name nobody, worked on outside any job, make no line anywhere and no extra request."""
    client = await connect()
    js = client.jetstream()
    before = client.stats["out_msgs"]
    await js.add_stream(name=own, subjects=[own])
    await js.delete_stream(own)
    assert client.stats["out_msgs"] - before == 2
    assert logs.stdout.events() == []


async def test_the_name_beats_the_scope(logs: JobLogs, connect: Connect, own: str) -> None:
    """A job that drains another job's stream: what happens to it is told in the other's log."""
    js = (await connect()).jetstream()
    with job_context("A"):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        await js.stream_info(f"job_{own}")
        await js.delete_stream(f"job_{own}")
    assert logs.events(own) == ["nats.stream.created", "nats.stream.deleted"]
    assert logs.jobs() == {own}


@pytest.mark.parametrize("kind", ["stream", "consumer"])
async def test_a_refused_creation_is_told_once_with_its_code(
    logs: JobLogs, connect: Connect, own: str, kind: str
) -> None:
    """The server's own words and number stand in the log; the application gets the same exception as before."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        await js.add_consumer(f"job_{own}", durable_name="c")
        for _ in range(3):
            if kind == "stream":
                with pytest.raises(BadRequestError) as raised:
                    await js.add_stream(name=f"job_{own}", subjects=[own], max_msgs=5)
            else:
                with pytest.raises(APIError) as raised:
                    await js.add_consumer(f"job_{own}", durable_name="c", deliver_policy="new")
    failed = logs.event(own, f"nats.{kind}.failed")
    assert failed.level == logging.WARNING
    assert failed.fields["err_code"] == raised.value.err_code
    assert failed.fields["description"] == raised.value.description
    assert failed.message.startswith(f"Could not create {kind if kind == 'consumer' else 'NATS stream'} ")
    assert str(raised.value.description) in failed.message


async def test_a_missing_stream_or_consumer_is_no_failure(logs: JobLogs, connect: Connect, own: str) -> None:
    """Asking whether something exists makes no line; deleting what is not there makes a quiet one."""
    js = (await connect()).jetstream()
    with job_context(own):
        with pytest.raises(NotFoundError):
            await js.stream_info(f"job_{own}")
        assert logs.events(own) == []
        with pytest.raises(NotFoundError):
            await js.delete_stream(f"job_{own}")
    gone = logs.event(own, "nats.stream.delete_failed")
    assert (gone.level, gone.fields["err_code"]) == (logging.INFO, 10059)
    assert gone.message == f"NATS stream job_{own} was already gone"


async def test_a_server_that_does_not_answer_leaves_the_outcome_open(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: NatsServer
) -> None:
    """A creation and a deletion without an answer in time are told as such; our own question waits no longer."""
    client = await connect(own_nats_server.url)
    js = client.jetstream(timeout=0.3)
    with job_context(own):
        own_nats_server.pause()
        with pytest.raises(NatsTimeoutError):
            await js.add_stream(name=f"job_{own}", subjects=[own])
        started = asyncio.get_running_loop().time()
        with pytest.raises(NatsTimeoutError):
            await js.delete_stream(f"job_{own}")
        assert asyncio.get_running_loop().time() - started < 0.9
        own_nats_server.resume()
    assert logs.events(own) == ["nats.stream.failed", "nats.stream.delete_failed"]
    for name in ("nats.stream.failed", "nats.stream.delete_failed"):
        assert "no answer in time, outcome unknown" in logs.event(own, name).message
        assert logs.event(own, name).exception is not None


async def test_a_deletion_while_disconnected_asks_nothing_first(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: NatsServer
) -> None:
    """Without a connection no question of ours is queued before the application's own request."""
    gone, back = Call("gone"), Call("back")
    client = await connect(
        own_nats_server.url,
        disconnected_cb=gone.nothing,
        reconnected_cb=back.nothing,
        error_cb=Call("error").error,
        **QUICK,
    )
    js = client.jetstream(timeout=0.2)
    own_nats_server.kill()
    await gone.wait()
    before = client.stats["out_msgs"]
    with job_context(own), pytest.raises(NatsTimeoutError):
        await js.delete_stream(f"job_{own}")
    assert client.stats["out_msgs"] - before == 1
    own_nats_server.restart()
    await back.wait()  # asyncio cannot close a lost connection that has something left to send


async def test_raw_requests_with_a_domain_are_seen(logs: JobLogs, connect: Connect, own: str, tmp_path: Path) -> None:
    """`$JS.<domain>.API` is the same plane, by nats-py's `domain` and by hand."""
    with NatsServer("-c", "/dev/null") as plain:
        assert plain.running
    with domain_server(tmp_path) as server:
        client = await connect(server.url)
        js = client.jetstream(domain="hub")
        with job_context(own):
            await js.add_stream(name=f"job_{own}", subjects=[own])
            await js.add_consumer(f"job_{own}", explicit())
            await client.request(f"$JS.hub.API.STREAM.DELETE.job_{own}", b"")
        await client.close()
    assert logs.events(own) == [
        "nats.stream.created",
        "nats.consumer.created",
        "nats.consumer.final",
        "nats.stream.deleted",
    ]


async def test_results_and_exceptions_are_nats_pys_own(
    connect: Connect, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The very objects that nats-py returns and raises come through every wrapper, on the same request."""
    from nats.aio.client import Client

    client = await connect()
    request: Any = Client.request.__wrapped__  # type: ignore[attr-defined]
    with job_context(own):
        mine = await client.request(f"$JS.API.STREAM.INFO.job_{own}", b"")
        assert type(mine) is type(await request(client, f"$JS.API.STREAM.INFO.job_{own}", b""))
        error = RuntimeError("of nats-py")

        async def failing(*args: Any, **kwargs: Any) -> Any:
            raise error

        monkeypatch.setattr(client, "publish", failing)
        for subject in (own, f"$JS.API.STREAM.CREATE.job_{own}", f"$JS.API.STREAM.DELETE.job_{own}"):
            with pytest.raises(RuntimeError) as raised:
                await client.request(subject=subject, payload=b"", timeout=0.2)
            assert raised.value is error


@pytest.mark.parametrize("reply", [b"", b"no json", b"[]", b"{}", b'{"config":7,"created":1,"state":[]}'])
async def test_a_reply_that_is_not_understood_passes_through(
    logs: JobLogs, connect: Connect, own: str, monkeypatch: pytest.MonkeyPatch, reply: bytes
) -> None:
    """Whatever stands in a reply (here another program's, on a name of the API): nothing of ours raises."""
    client = await connect()
    answer = type("Reply", (), {"data": reply, "headers": None})()

    async def request_new_style(*args: Any, **kwargs: Any) -> Any:
        return answer

    monkeypatch.setattr(client, "_request_new_style", request_new_style)
    with job_context(own):
        for action in ("STREAM.CREATE", "STREAM.INFO", "STREAM.DELETE", "CONSUMER.CREATE", "CONSUMER.DELETE"):
            assert await client.request(f"$JS.API.{action}.job_{own}.c", b"") is answer


async def test_a_disabled_level_costs_no_request(logs: JobLogs, connect: Connect, own: str) -> None:
    """With the logger of the events above INFO nothing is asked before a deletion, and nothing is said."""
    logging.getLogger("joblog_router.nats").setLevel(logging.ERROR)
    client = await connect()
    js = client.jetstream()
    before = client.stats["out_msgs"]
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        await js.delete_stream(f"job_{own}")
    assert client.stats["out_msgs"] - before == 2
    assert logs.stdout.events() == []


async def test_a_job_is_told_of_two_streams_in_concurrent_tasks(logs: JobLogs, connect: Connect, own: str) -> None:
    """Concurrent creations of one stream make one creation; two jobs keep apart."""
    js = (await connect()).jetstream()
    with job_context(f"{own}A"):
        await asyncio.gather(*(js.add_stream(name=f"job_{own}A", subjects=[own]) for _ in range(20)))
    await asyncio.gather(
        *(in_job(f"{own}{n}", js.add_stream, name=f"job_{own}{n}", subjects=[f"{own}.{n}"]) for n in range(5))
    )
    assert logs.events(f"{own}A") == ["nats.stream.created"]
    for number in range(5):
        assert logs.events(f"{own}{number}") == ["nats.stream.created"]


def domain_server(tmp_path: Path) -> NatsServer:
    """A server whose JetStream has the domain `hub`; a domain can only be given in a file."""
    path = tmp_path / "nats.conf"
    path.write_text('jetstream { domain: "hub" }\n')
    return NatsServer("-c", str(path))
