"""What this process took from one consumer for one job: the tally behind the lines about fetches and acks.

Kept by `fetching`, `pushing`, `acks` and `exhaustion` on the event loop. Lines that could come often are paced here.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any, Final, NamedTuple

from .. import told
from ..bounded import shrink
from ..events import Limits
from ..naming import Delivery, Job
from ..pacing import Pace
from ..told import Told, attempt_of, duration, listed, shown, tell
from .ownership import StreamKey

_MAX_KEPT: Final = 10_000


class LastAttempt(NamedTuple):
    """A message that was delivered as often as it may be, and when (monotonic; sent back: an `ack_wait` ago)."""

    task: str | None
    received: float


@dataclasses.dataclass(slots=True, eq=False)
class Consumption:
    """The tally of one consumer's messages of one job in this process. `worker` is who fetched last."""

    job: Job
    key: StreamKey
    consumer: str
    worker: str = ""
    # The client that fetched last, by `id`, and how often it did.
    client: int = 0
    fetches_of_client: int = 0
    fetches: int = 0
    pushed: int = 0
    # What the last tally told: fetches and pushes.
    told_steps: int = 0
    messages: int = 0
    acked: int = 0
    naked: int = 0
    terminated: int = 0
    failed_acks: int = 0
    redelivered: int = 0
    # What is not told yet: sequence to attempt; sequence to deliveries and task.
    redeliveries: dict[int, int] = dataclasses.field(default_factory=dict)
    to_give_up: dict[int, tuple[int, str | None]] = dataclasses.field(default_factory=dict)
    redelivery_pace: Pace = dataclasses.field(default_factory=Pace)
    given_up_pace: Pace = dataclasses.field(default_factory=Pace)
    limits: Limits | None = None
    last_attempts: dict[int, LastAttempt] = dataclasses.field(default_factory=dict)
    given_up: dict[int, None] = dataclasses.field(default_factory=dict)
    ended: dict[int, None] = dataclasses.field(default_factory=dict)
    failures: Counter[str] = dataclasses.field(default_factory=Counter)
    # When the server was asked about it last (monotonic), when it may be again, and what was told of that.
    asked: float = float("-inf")
    ask_after: float = 0.0
    shortage: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that say which consumer it is."""
        return {"stream": self.key.stream, "consumer": self.consumer, "worker": self.worker or None}

    def of_max(self, attempt: int) -> str:
        """An attempt in words."""
        return attempt_of(attempt, self.limits.max_deliver if self.limits is not None else 0)

    def taken_by(self, client: Any, inbox: Any) -> None:
        """Who takes messages: told by the client's name, else by the inbox of its subscription."""
        name = client.options.get("name")
        self.worker = str(name) if name else str(inbox).rpartition(".")[2]
        if self.client != id(client):
            self.client, self.fetches_of_client = id(client), 0

    def add(self, delivery: Delivery) -> None:
        """A message came, for the first time or again."""
        self.messages += 1
        if delivery.attempt > 1:
            self.redelivered += 1
            if len(self.redeliveries) < _MAX_KEPT:
                self.redeliveries[delivery.stream_seq] = delivery.attempt

    def end(self, seq: int) -> None:
        """A message was terminated, which is told once."""
        self.ended[seq] = None
        shrink(self.ended, _MAX_KEPT)

    def tell_first_fetch(self, batch: int, deliveries: list[Delivery]) -> None:
        """The first messages that this worker took for the job."""
        first, last = deliveries[0].consumer_seq, deliveries[-1].consumer_seq
        tell(
            self.job,
            told.FETCHED_FIRST,
            self.worker,
            self.key.stream,
            len(deliveries),
            batch,
            f"{first}-{last}" if last > first else first,
            **self.fields,
            batch=batch,
            messages=len(deliveries),
            consumer_seq=first,
            last_consumer_seq=last,
            stream_seq=deliveries[0].stream_seq,
        )

    def tell_tally(self, sentence: Told = told.FETCHING) -> None:
        """What was fetched so far, unless the last line has said it."""
        steps = self.fetches + self.pushed
        if steps < 2 or steps == self.told_steps:
            return
        self.told_steps = steps
        how = f" in {self.fetches:,} fetches" if self.fetches else ""
        parts = [f"{self.messages:,} messages{how}", f"{self.acked:,} acknowledged"]
        parts += [
            f"{count:,} {what}"
            for count, what in (
                (self.redelivered, "of them delivered again"),
                (self.naked, "sent back"),
                (self.terminated, "terminated"),
                (self.failed_acks, "acknowledgements failed"),
            )
            if count
        ]
        tell(
            self.job,
            sentence,
            self.worker,
            ", ".join(parts),
            self.key.stream,
            **self.fields,
            fetches=self.fetches or None,
            messages=self.messages,
            acknowledged=self.acked,
            redelivered=self.redelivered,
            naked=self.naked,
            terminated=self.terminated,
            failed=self.failed_acks or None,
        )

    def tell_redeliveries(self) -> None:
        """The messages that came again since the last such line, the worst of them first."""
        if not self.redeliveries:
            return
        found = sorted(self.redeliveries.items(), key=lambda item: (-item[1], item[0]))
        self.redeliveries = {}
        self.redelivery_pace.told()
        seq, attempt = found[0]
        tell(
            self.job,
            told.REDELIVERED,
            f"{len(found):,}",
            "s" if len(found) > 1 else "",
            self.key.stream,
            f"within {duration(self.limits.ack_wait)}" if self.limits and self.limits.ack_wait else "in time",
            shown([f"seq {seq} ({self.of_max(attempt)})" for seq, attempt in found]),
            **self.fields,
            count=len(found),
            stream_seq=seq,
            attempt=attempt,
            max_deliver=self.limits.max_deliver or None if self.limits is not None else None,
            stream_seqs=listed(sorted(seq for seq, _ in found)),
        )
