"""What the NATS integration adds to a JetStream publish: at most 2 % of the round trip, measured in one run.

    python benchmarks/nats_publish.py            exit status 0: kept; 1: over; 3: the control says nothing

Needs a nats-server. Wrapped and bare publishes alternate on one connection; the wrapper's own time is measured too,
with a publish that does nothing, since a round trip varies by more than the wrapper costs.
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
from joblog_router.contrib.nats.publishing import publishing
from joblog_router.contrib.nats.state import Settings, State
from tests.servers import NatsServer

LIMIT = 0.02
ROUNDS = 60
CALLS = 50
BATCH = 2_000


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
    state = State(Settings())
    wrapped = publishing(state, bare)
    acks = iter(range(1, sys.maxsize))

    async def nothing(self: Any, *args: Any, **kwargs: Any) -> PubAck:
        return PubAck(stream="job_7", seq=next(acks))

    wrapped_nothing = publishing(State(Settings()), nothing)
    trips, control, added, extra = [], [], [], []
    with job_context("7"):
        for way in (bare, wrapped):
            await timed(way, jetstream, "job.7.tasks", CALLS)
        for _ in range(ROUNDS):
            first = await timed(bare, jetstream, "job.7.tasks", CALLS)
            other = await timed(bare, jetstream, "job.7.tasks", CALLS)
            ours = await timed(wrapped, jetstream, "job.7.tasks", CALLS)
            last = await timed(bare, jetstream, "job.7.tasks", CALLS)
            mean = (other + last) / 2
            trips.append(mean)
            control.append(other / ((first + last) / 2))
            added.append(ours / mean)
            before = await timed(nothing, jetstream, "job.7.tasks", BATCH)
            with_us = await timed(wrapped_nothing, jetstream, "job.7.tasks", BATCH)
            after = await timed(nothing, jetstream, "job.7.tasks", BATCH)
            extra.append(with_us - (before + after) / 2)
    await client.close()
    trip, cost = statistics.median(trips), statistics.median(extra)
    print(f"JetStream publish, round trip       {trip * 1e6:8.1f} us")
    ratio, aa = statistics.median(added), statistics.median(control)
    print(f"wrapped / bare, round trips         {ratio:8.3f}   (control {aa:.3f})")
    print(f"the wrapper alone                   {cost * 1e6:8.2f} us")
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
