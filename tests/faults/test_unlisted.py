"""Faults that the rules were not made for: a cause that is true, or "I don't know"; never a wrong one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import nats
import pytest
import redis
from nats.js.api import AckPolicy, ConsumerConfig, DiscardPolicy, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError

from tests.contrib.celery.valkey import ValkeyServer
from tests.faults.laboratory import Laboratory
from tests.faults.test_queue import is_cause, settle
from tests.faults.test_state import with_celery, with_redis
from tests.servers import NatsServer


async def test_the_stream_is_full(lab: Laboratory) -> None:
    """It refuses what is more than max_msgs; queueing failed, as the log tells."""
    await lab.row(total=20)
    subject = f"job.{lab.job_id}.tasks"
    config = StreamConfig(name=lab.stream, subjects=[subject], max_msgs=5, discard=DiscardPolicy.NEW)
    await lab.js.add_stream(config, storage=StorageType.MEMORY)
    await lab.js.add_consumer(lab.stream, ConsumerConfig(durable_name=lab.consumer, ack_policy=AckPolicy.EXPLICIT))
    for _ in range(5):
        await lab.js.publish(subject, b"{}")
    with pytest.raises(APIError) as caught:
        await lab.js.publish(subject, b"{}")
    lab.log("could not queue all tasks", age=2, level=40, exception=f"Traceback\n{caught.value}")
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "queue_full", certainly=False)
    assert "holds 5 of max_msgs=5" in verdict.diagnosis.sentence


@pytest.fixture
def small_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A server whose JetStream has room for next to nothing."""
    config = tmp_path / "small.conf"
    config.write_text("jetstream { max_file: 100KB, max_mem: 100KB }\n")
    with NatsServer("-c", str(config)) as server:
        yield server


async def test_the_store_is_full(jobs: None, small_nats: NatsServer, tmp_path: Path) -> None:
    """JetStream has no room for more: what it says to the publisher is in the log."""
    lab = Laboratory(small_nats.url, tmp_path / "logs")
    await lab.connect()
    await lab.row(total=200)
    await lab.queue(1)
    try:
        for _ in range(19):
            await lab.js.publish(lab.subject, b"x" * 5000)
        with pytest.raises(APIError) as caught:
            await asyncio.gather(*(lab.js.publish(lab.subject, b"x" * 5000) for _ in range(5)))
        lab.log("could not queue all tasks", age=2, level=40, exception=f"Traceback\n{caught.value}")
        await settle()
        is_cause(await lab.examine(), "queue_full", certainly=False)
    finally:
        await lab.close()


async def test_streams_of_an_account_are_used_up(jobs: None, tmp_path: Path) -> None:
    """The job's stream cannot be made: that is why nothing was queued."""
    config = tmp_path / "account.conf"
    config.write_text("accounts { A { jetstream { max_streams: 1 }, users: [ {user: a, password: a} ] } }\n")
    with NatsServer("-c", str(config)) as server:
        lab = Laboratory(server.url.replace("nats://", "nats://a:a@"), tmp_path / "logs")
        await lab.connect()
        await lab.row(total=20)
        await lab.js.add_stream(StreamConfig(name="other", subjects=["other"]))
        try:
            with pytest.raises(APIError) as caught:
                await lab.queue(3)
            lab.log("could not queue", age=2, level=40, exception=f"Traceback\n{caught.value}")
            await settle()
            is_cause(await lab.examine(), "queue_full", certainly=False)
        finally:
            await lab.close()


async def test_a_worker_whose_clock_is_ahead(lab: Laboratory) -> None:
    """Its lines are from the future: they are no sign of life now."""
    await lab.row(total=7)
    await lab.queue(7)
    lab.log("finished batch 3", age=-3600)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls")
    assert "clock_skew" in [one.cause for one in verdict.others]


async def test_a_row_whose_clock_is_ahead(lab: Laboratory) -> None:
    """The database's machine is an hour ahead: the job is not just beginning for that."""
    await lab.row(age=-3600, total=7)
    await lab.queue(7)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls")
    assert "clock_skew" in [one.cause for one in verdict.others]


async def test_the_publisher_uses_a_new_name(lab: Laboratory) -> None:
    """No stream takes the subject: whoever waits for an answer gets none, who does not loses tasks without a word."""
    await lab.row(total=7)
    await lab.queue(0)
    with pytest.raises(NoStreamResponseError):
        await lab.js.publish(f"tasks.{lab.job_id}", b"{}")
    await lab.client.publish(f"tasks.{lab.job_id}", b"{}")
    await settle()
    is_cause(await lab.examine(), "never_queued")


async def test_the_publisher_used_a_new_name_half_way(lab: Laboratory) -> None:
    """What was published first is done, the rest has another subject than the consumer takes. Nothing was lost."""
    await lab.row(total=8, done=4)
    await lab.queue(4)
    await lab.work(4)
    for _ in range(4):
        await lab.js.publish(f"job.{lab.job_id}.pictures", b"{}")
    lab.log("queued", age=5)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "filter_mismatch", certainly=False)
    assert f"4 messages are published to job.{lab.job_id}.pictures" in verdict.diagnosis.sentence


async def test_answers_in_the_same_stream_are_no_mismatch(lab: Laboratory) -> None:
    """Other messages than tasks: nobody needs to take them."""
    lab.configuration["PATIENCE"] = 5
    await lab.row(age=60, total=400)
    await lab.queue(400)
    await lab.js.publish(f"job.{lab.job_id}.results", b"{}")
    lab.log("working", age=0)
    lab.worker()
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert not verdict.others


async def test_queueing_stopped_half_way(lab: Laboratory) -> None:
    """Its process was killed: what was queued is done. It is not said that results were lost."""
    await lab.row(total=10, done=4)
    await lab.queue(4)
    await lab.work(4)
    lab.log("queued batch 1/2", age=5)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "partly_queued", certainly=False)
    assert "Only 4 of 10 tasks were ever queued" in verdict.diagnosis.sentence


async def test_tasks_that_were_purged(lab: Laboratory) -> None:
    """Somebody emptied the stream under the job."""
    await lab.row(total=10, done=2)
    await lab.queue(10)
    await lab.work(2)
    await lab.js.purge_stream(lab.stream)
    lab.log("two are done", age=5)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "tasks_removed", certainly=False)
    assert verdict.diagnosis.sentence.startswith("8 tasks left the stream")


async def test_tasks_that_grew_too_old(lab: Laboratory) -> None:
    """No worker came within the stream's max_age."""
    await lab.row(total=5)
    config = StreamConfig(name=lab.stream, subjects=[lab.subject], max_age=0.2, storage=StorageType.MEMORY)
    await lab.js.add_stream(config, duplicate_window=0.2)
    await lab.js.add_consumer(lab.stream, ConsumerConfig(durable_name=lab.consumer, ack_policy=AckPolicy.EXPLICIT))
    for _ in range(5):
        await lab.js.publish(lab.subject, b"{}")
    lab.log("queued", age=5)
    async with asyncio.timeout(5):
        while (await lab.js.stream_info(lab.stream)).state.messages:
            await asyncio.sleep(0.05)  # the server tells nobody
    await settle()
    is_cause(await lab.examine(), "tasks_removed", certainly=False)


async def test_a_second_consumer_that_nobody_polls(lab: Laboratory) -> None:
    """Left over from somebody who had a look: the job is well."""
    lab.configuration["PATIENCE"] = 1
    await lab.row(age=60, total=500)
    await lab.queue(500)
    await lab.js.add_consumer(lab.stream, ConsumerConfig(durable_name="a-look", ack_policy=AckPolicy.EXPLICIT))
    lab.worker()
    await asyncio.sleep(1.1)  # its patience
    lab.log("working", age=0)
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()


async def test_two_groups_of_workers_on_consumers_of_their_own(lab: Laboratory) -> None:
    """Each is given every task: the job gets on, and that all is done twice is told."""
    lab.configuration["PATIENCE"] = 5
    await lab.row(age=60, total=400)
    await lab.queue(400)
    other = ConsumerConfig(durable_name="second", ack_policy=AckPolicy.EXPLICIT, filter_subject=lab.subject)
    await lab.js.add_consumer(lab.stream, other)
    first, lab.consumer = lab.consumer, "second"
    lab.worker()
    await lab.until(num_waiting=0)
    await asyncio.sleep(0.1)
    lab.consumer = first
    lab.worker()
    lab.log("working", age=0)
    await asyncio.sleep(0.1)
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert "several_consumers" in [one.cause for one in verdict.others]


@pytest.fixture
def guarded_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A server with accounts: one for the job, one that may do next to nothing."""
    config = tmp_path / "guarded.conf"
    config.write_text(
        "authorization { users: [\n"
        "  {user: job, password: job}\n"
        '  {user: guest, password: guest, permissions: {publish: "guest.>", subscribe: ["_INBOX.>"]}}\n'
        "] }\n"
    )
    with NatsServer("-c", str(config)) as server:
        yield server


@pytest.mark.parametrize(
    ("user", "cause", "words"),
    [
        ("job:job", "nobody_polls", ""),
        ("job:wrong", "unknown", "NATS refuses the doctor's account"),
        ("guest:guest", "unknown", "may not ask JetStream"),
    ],
)
async def test_accounts(
    jobs: None,
    guarded_nats: NatsServer,
    tmp_path: Path,
    *,
    user: str,
    cause: str,
    words: str,
) -> None:
    """A worker with the wrong password is one that does not poll; a doctor with one knows nothing of NATS."""
    lab = Laboratory(guarded_nats.url.replace("nats://", "nats://job:job@"), tmp_path / "logs")
    await lab.connect()
    try:
        await lab.row(total=7)
        await lab.queue(7)
        lab.log("queued", age=5)
        lab.configuration["NATS"]["servers"] = guarded_nats.url.replace("nats://", f"nats://{user}@")
        await settle()
        verdict = await lab.examine()
        assert verdict.diagnosis.cause == cause, verdict.as_dict()
        assert words in verdict.failures.get("nats", "")
        assert "wrong" not in str(verdict.as_dict())
    finally:
        await lab.close()


async def test_a_server_without_jetstream(jobs: None, tmp_path: Path) -> None:
    """Somebody restarted it without -js: it is not said that a quorum was lost."""
    with _PlainNats() as server:
        lab = Laboratory(server.url, tmp_path / "logs")
        await lab.connect()
        await lab.row(total=7)
        verdict = await lab.examine()
        await lab.close()
    is_cause(verdict, "jetstream_off", certainly=False)


class _PlainNats(NatsServer):
    """Without JetStream."""

    def _command(self) -> list[str]:
        command = super()._command()
        at = command.index("-js")
        return [*command[:at], *command[at + 3 :]]


async def test_valkey_is_full(lab: Laboratory, own_valkey: ValkeyServer) -> None:
    """It answers, and refuses writes: nothing is counted any more."""
    with with_redis(lab, own_valkey) as client:
        await lab.row(total=9, done=3)
        await lab.queue(9)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        lab.log("saved", age=5)
        await settle()
        is_cause(await lab.examine(), "redis_refuses_writes", certainly=False)


async def test_the_broker_is_full(lab: Laboratory, own_valkey: ValkeyServer) -> None:
    """Celery's Valkey answers and takes no task: it is not said that nobody started the job."""
    app = with_celery(lab, f"redis://127.0.0.1:{own_valkey.port}/0")
    with redis.Redis(port=own_valkey.port) as client:
        client.config_set("maxmemory", "1")
    await lab.row(status="PENDING", started_at=None)
    verdict = await lab.examine()
    app.close()
    is_cause(verdict, "broker_refuses_writes", certainly=False)


async def test_valkey_refuses_the_doctor(lab: Laboratory, own_valkey: ValkeyServer) -> None:
    """A password was set that the doctor's settings lack: neither Redis nor the broker is said to be away."""
    with with_redis(lab, own_valkey) as client:
        app = with_celery(lab, f"redis://127.0.0.1:{own_valkey.port}/0")
        await lab.row(total=9, done=3)
        await lab.queue(9)
        lab.log("saved", age=5)
        client.config_set("requirepass", "new")
        await settle()
        verdict = await lab.examine()
        app.close()
    is_cause(verdict, "nobody_polls")
    assert "refuses the doctor's account" in verdict.failures["redis"]
    assert "refuses the doctor's account" in verdict.failures["celery"]


async def test_a_work_queue_that_is_nearly_done(lab: Laboratory) -> None:
    """What is acknowledged leaves the stream: few messages are no sign of many attempts, or of removed tasks."""
    lab.configuration["PATIENCE"] = 5
    await lab.row(age=60, total=100)
    await lab.js.add_stream(
        StreamConfig(
            name=lab.stream,
            subjects=[lab.subject],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.MEMORY,
        )
    )
    await lab.js.add_consumer(
        lab.stream, ConsumerConfig(durable_name=lab.consumer, ack_policy=AckPolicy.EXPLICIT, ack_wait=30)
    )
    for _ in range(100):
        await lab.client.publish(lab.subject, b"{}")
    await lab.work(95)
    await lab.fetch(3)
    lab.log("working", age=0)
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert not verdict.others, verdict.as_dict()


async def test_three_servers_of_which_two_are_lost(jobs: None, tmp_path: Path) -> None:
    """A real cluster with a replicated stream: one that is left has no quorum, and is not said to be down."""
    ports = _free_ports(3)
    routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports)
    with ExitStack() as stack:
        servers = [
            stack.enter_context(
                NatsServer(
                    *("-n", f"n{number}", "--cluster_name", "lab"),
                    *("--cluster", f"nats://127.0.0.1:{port}", "--routes", routes),
                )
            )
            for number, port in enumerate(ports)
        ]
        lab = Laboratory(servers[0].url, tmp_path / "logs")
        await lab.connect()
        await lab.row(total=7)
        await _replicated(lab)
        lab.log("queued", age=5)
        await settle()
        is_cause(await lab.examine(), "nobody_polls")
        for server in servers[1:]:
            server.kill()
        # The one that is left needs some seconds to notice; until then what it says is old, and not wrong.
        async with asyncio.timeout(20):
            while (verdict := await lab.examine()).diagnosis.cause == "nobody_polls":
                await asyncio.sleep(0.3)
        await lab.close()
    is_cause(verdict, "nats_no_quorum", certainly=False)


async def _replicated(lab: Laboratory) -> None:
    """The job's stream on three servers, once the cluster has found its leader."""
    config = StreamConfig(name=lab.stream, subjects=[lab.subject], num_replicas=3)
    async with asyncio.timeout(30):
        while True:
            try:
                await lab.js.add_stream(config)
                break
            except (APIError, TimeoutError, nats.errors.Error):
                await asyncio.sleep(0.1)  # no leader yet; nobody tells
        await lab.js.add_consumer(
            lab.stream, ConsumerConfig(durable_name=lab.consumer, ack_policy=AckPolicy.EXPLICIT, ack_wait=30)
        )
        for _ in range(7):
            await lab.js.publish(lab.subject, b"{}")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes: list[Any] = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
