"""What the NATS integration adds to a JetStream publish: at most 2 % of the round trip, measured in one run.

    python benchmarks/nats_publish.py            exit status 0: kept; 1: over; 3: the control says nothing

Needs a nats-server. Two figures, of all three wrappers that a publish passes (`JetStreamContext.publish`,
`Client.request`, `Client.publish`):

- whole round trips, on three connections in random order: two bare ones (their difference is the control) and one whose
  methods are wrapped. Between two publishes the server runs, and all else: what is measured is cold.
- the wrappers alone, around methods that do nothing, thousands in a row: hot, and free of the round trip's noise.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nats.aio.client import Client
from nats.js.api import PubAck
from nats.js.client import JetStreamContext

from joblog_router import job_context
from joblog_router.contrib.nats.client.acks import acknowledging
from joblog_router.contrib.nats.client.management import requesting
from joblog_router.contrib.nats.client.publishing import publishing
from joblog_router.contrib.nats.client.state import Settings, State
from tests.servers import NatsServer

LIMIT = 0.02
PUBLISHES = 8_000
WARM_UP = 200
ROUNDS = 40
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


def client_of(**methods: Any) -> Client:
    """A client of a class of its own: the interpreter treats classes that it meets less often worse."""
    client: Client = type("Client", (Client,), methods)()
    return client


async def round_trips(url: str) -> tuple[float, float, float]:
    """Median seconds of a bare publish, and the ratios to it: of the control, of a wrapped one."""
    state = State(Settings())
    bare = vars(JetStreamContext)["publish"]
    methods = {"publish": acknowledging(state, Client.publish), "request": requesting(state, Client.request)}
    clients = [client_of(), client_of(), client_of(**methods)]
    for client in clients:
        await client.connect(url)
    ways = list(zip([bare, bare, publishing(state, bare)], [each.jetstream() for each in clients], strict=True))
    await ways[0][1].add_stream(name="job_7", subjects=["job.7.tasks"], storage="memory")
    times: list[list[float]] = [[], [], []]
    order = [0, 1, 2]
    shuffle = random.Random(1).shuffle
    for number in range(PUBLISHES + WARM_UP):
        shuffle(order)
        for way in order:
            publish, jetstream = ways[way]
            started = time.perf_counter()
            await publish(jetstream, "job.7.tasks", b"x" * 100)
            if number >= WARM_UP:
                times[way].append(time.perf_counter() - started)
    for client in clients:
        await client.close()
    one, two, ours = map(statistics.median, times)
    return (one + two) / 2, one / two, ours / ((one + two) / 2)


async def timed(publish: Any, jetstream: Any) -> float:
    """Seconds for one call, of many in a row."""
    started = time.perf_counter()
    for _ in range(BATCH):
        await publish(jetstream, "job.7.tasks", b"x" * 100)
    return (time.perf_counter() - started) / BATCH


async def alone() -> float:
    """Seconds that the wrappers alone take for one publish."""
    bare, ours = Hollow(), wrapped(State(Settings()))()
    extra = []
    for _ in range(ROUNDS):
        before, with_us = await timed(Hollow.publish, bare), await timed(type(ours).publish, ours)
        extra.append(with_us - (before + await timed(Hollow.publish, bare)) / 2)
    return statistics.median(extra)


async def measure(url: str) -> int:
    """Print the figures; the exit status."""
    with job_context("7"):
        trip, control, ratio = await round_trips(url)
        cost = await alone()
    print(f"JetStream publish, round trip        {trip * 1e6:8.1f} us")
    print(f"wrapped / bare, whole round trips    {ratio:8.4f}   control {control:.4f}   limit {1 + LIMIT:.2f}")
    print(f"the wrappers alone, hot              {cost * 1e6:8.2f} us = {cost / trip:.2%} of the round trip")
    if abs(control - 1) > LIMIT / 4:
        print("inconclusive: two bare connections differ by more than a quarter of what is to be measured")
        return 3
    is_kept = ratio <= 1 + LIMIT and cost / trip <= LIMIT
    print("kept" if is_kept else "OVER")
    return 0 if is_kept else 1


if __name__ == "__main__":
    with NatsServer() as server:
        sys.exit(asyncio.run(measure(server.url)))
