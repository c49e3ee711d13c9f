"""What the NATS integration adds to a JetStream publish: at most 2 % of the round trip, measured in one run.

    python benchmarks/nats_publish.py            exit status 0: kept; 1: over; 3: the control says nothing

Needs a nats-server. Wrapped and bare publishes alternate on one connection. A round trip varies by more than the
wrappers cost: what counts is their own time, of all three that a publish passes (`JetStreamContext.publish`,
`Client.request`, `Client.publish`), around methods that do nothing.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nats
from harness import pin_to_one_cpu
from nats.js.api import PubAck
from nats.js.client import JetStreamContext

from joblog_router import job_context
from joblog_router.contrib.nats.acks import acknowledging
from joblog_router.contrib.nats.management import requesting
from joblog_router.contrib.nats.publishing import publishing
from joblog_router.contrib.nats.state import Settings, State
from tests.servers import NatsServer

LIMIT = 0.02
ROUNDS = 60
CALLS = 50
BATCH = 2_000


class Hollow:
    """A client whose methods call each other as nats-py's do, and do nothing else."""

    def __init__(self) -> None:
        self._nc = self
        self._acks = iter(range(1, sys.maxsize))

    async def core_publish(self, subject: str, payload: bytes = b"", reply: str = "", headers: Any = None) -> None:
        """As `Client.publish`."""

    async def request(
        self, subject: str, payload: bytes = b"", timeout: float = 0.5, old_style: bool = False, headers: Any = None
    ) -> None:
        """As `Client.request`."""
        await self.core_publish(subject, payload, reply="_INBOX.x", headers=headers)

    async def publish(self, subject: str, payload: bytes = b"", timeout: float = 5) -> PubAck:
        """As `JetStreamContext.publish`."""
        await self.request(subject, payload, timeout=timeout, headers=None)
        return PubAck(stream="job_7", seq=next(self._acks))


def wrapped(state: State) -> type[Hollow]:
    """The same with the integration's wrappers."""
    return type(
        "Wrapped",
        (Hollow,),
        {
            "core_publish": acknowledging(state, Hollow.core_publish),
            "request": requesting(state, Hollow.request),
            "publish": publishing(state, Hollow.publish),
        },
    )


async def timed(publish: Any, jetstream: Any, subject: str, calls: int) -> float:
    """Seconds for one call."""
    started = time.perf_counter()
    for _ in range(calls):
        await publish(jetstream, subject, b"x" * 100)
    return (time.perf_counter() - started) / calls


async def measure(url: str) -> int:
    """Print the figures; the exit status."""
    client = await nats.connect(url)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="job_7", subjects=["job.7.tasks"], storage="memory")
    bare = vars(JetStreamContext)["publish"]
    ours = publishing(State(Settings()), bare)
    hollow, hollow_ours = Hollow(), wrapped(State(Settings()))()
    trips, control, added, extra = [], [], [], []
    with job_context("7"):
        for _ in range(ROUNDS):
            for way in (bare, ours):  # warm up
                await timed(way, jetstream, "job.7.tasks", CALLS // 2)
            times = [await timed(way, jetstream, "job.7.tasks", CALLS) for way in (bare, ours, bare, ours, bare)]
            first, one, middle, two, last = times
            trips.append(middle)
            control.append(middle / ((first + last) / 2))
            added.append((one + two) / ((first + last) / 2 + middle))
            before = await timed(Hollow.publish, hollow, "job.7.tasks", BATCH)
            with_us = await timed(type(hollow_ours).publish, hollow_ours, "job.7.tasks", BATCH)
            after = await timed(Hollow.publish, hollow, "job.7.tasks", BATCH)
            extra.append(with_us - (before + after) / 2)
    await client.close()
    trip, cost = statistics.median(trips), statistics.median(extra)
    print(f"JetStream publish, round trip       {trip * 1e6:8.1f} us")
    ratio, aa = statistics.median(added), statistics.median(control)
    print(f"wrapped / bare, round trips         {ratio:8.3f}   (control {aa:.3f})")
    print(f"the wrappers alone                  {cost * 1e6:8.2f} us")
    share = cost / trip
    print(f"share of the round trip             {share:8.2%}   limit {LIMIT:.0%}: {'ok' if share <= LIMIT else 'OVER'}")
    if abs(aa - 1) > 0.05:
        print("inconclusive: two bare publishes differ by more than 5 %")
        return 3
    return 0 if share <= LIMIT else 1


if __name__ == "__main__":
    pin_to_one_cpu()
    with NatsServer() as server:
        sys.exit(asyncio.run(measure(server.url)))
