"""The monitor on a real cluster of three: leaders that move, a majority that is lost and comes back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import nats
import pytest
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig

from joblog_router.contrib.nats.monitor import Monitor
from tests.contrib.nats.cluster import Cluster, server_of
from tests.contrib.nats.conftest import JobLogs
from tests.contrib.nats.test_monitor import INTERVAL, of
from tests.helpers import auntil


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Three servers."""
    with Cluster() as cluster:
        yield cluster


async def at_last(action: Callable[[], Awaitable[Any]]) -> Any:
    """What `action` gives as soon as the cluster has leaders for it."""
    async with asyncio.timeout(40):
        while True:
            try:
                return await action()
            except (Error, TimeoutError):
                await asyncio.sleep(0.1)


async def queued(client: Any, job: str) -> None:
    """The job's stream on all three servers, with its consumer."""
    js = client.jetstream(timeout=1)
    await at_last(lambda: js.add_stream(name=f"job_{job}", subjects=[f"job.{job}.tasks"], num_replicas=3))
    consumer = ConsumerConfig(durable_name="c", ack_policy=AckPolicy.EXPLICIT)
    await at_last(lambda: js.add_consumer(f"job_{job}", consumer))


async def leader_of(client: Any, job: str) -> str:
    """The server that leads the job's stream."""
    reply = await client.request(f"$JS.API.STREAM.INFO.job_{job}", b"", timeout=5)
    return str(json.loads(reply.data)["cluster"]["leader"])


async def test_leader_and_majority(logs: JobLogs, own: str, cluster: Cluster) -> None:
    """A leader moves; two of three servers are killed, the monitor's among them; they return: each told once."""
    client = await nats.connect(cluster.urls, max_reconnect_attempts=-1, reconnect_time_wait=0.1)
    monitor = Monitor(cluster.urls, interval=INTERVAL, reconnect_time_wait=0.1)
    await asyncio.gather(queued(client, own), monitor.start())
    try:
        await auntil(lambda: monitor.is_leading)
        before = await leader_of(client, own)
        await client.request(f"$JS.API.STREAM.LEADER.STEPDOWN.job_{own}", b"", timeout=5)
        await auntil(lambda: bool(of(logs, own, "nats.leader.elected")))
        (moved,) = of(logs, own, "nats.leader.elected")
        assert moved.fields["leader"] == await leader_of(client, own) != before
        assert moved.message == f"NATS stream job_{own} has a new leader in its cluster: {moved.fields['leader']}"

        mine = server_of(monitor._client)
        dead = [mine, next(name for name in cluster.servers if name != mine)]
        for name in dead:
            cluster.servers[name].kill()
        await auntil(lambda: bool(of(logs, own, "nats.quorum.lost")), 40)
        (lost,) = of(logs, own, "nats.quorum.lost")
        assert lost.message.startswith(f"NATS stream job_{own} has no leader, too few servers of its cluster answer")
        for name in dead:
            cluster.servers[name].restart()
        await auntil(lambda: bool(of(logs, own, "nats.quorum.restored")), 40)
        (restored,) = of(logs, own, "nats.quorum.restored")
        assert restored.message.startswith(f"NATS stream job_{own} has a leader again")
        await auntil(lambda: monitor.is_leading, 40)
        js = client.jetstream(timeout=1)
        await at_last(lambda: js.publish(f"job.{own}.tasks", b"1", headers={"Nats-Msg-Id": "1"}))
        sub = await at_last(lambda: js.pull_subscribe_bind("c", f"job_{own}"))
        for message in await at_last(lambda: sub.fetch(1, 2)):
            await at_last(partial(message.ack_sync, 1))
        await auntil(lambda: "nats.drained" in logs.stdout.events())
        assert len(of(logs, own, "nats.quorum.lost")) == len(of(logs, own, "nats.quorum.restored")) == 1
        assert logs.jobs() == {own}
    finally:
        await monitor.stop()
        await client.close()


async def test_it_can_be_stopped_while_the_cluster_has_no_leader() -> None:
    """One server of three: nothing of JetStream answers, and the monitor does not wait for it."""
    with Cluster(started=1) as cluster:
        monitor = Monitor(cluster.urls, interval=INTERVAL)
        await monitor.start()
        await asyncio.sleep(INTERVAL)  # it has begun to ask
        assert not monitor.is_leading
        async with asyncio.timeout(4):
            await monitor.stop()
