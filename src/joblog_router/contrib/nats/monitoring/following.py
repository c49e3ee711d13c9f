"""What is known of one consumer that is watched from outside: who asks, what was answered, what the server says.

Fed on the monitor's event loop: by `watching` with each request and answer that passes the server (hot: some
microseconds), by `inventory` with the server's own description now and then. No I/O; tells nothing itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final, NamedTuple

from ..answers import ACK, NAK, TERM
from ..bounded import shrink
from ..events import consumer_counters, limits_of, timestamp
from ..naming import Job
from ..told import attempt_of
from .answered import Answered

_MAX_WORKERS: Final = 200
_MAX_FRESH: Final = 10_000
_MAX_REMEMBERED: Final = 10_000


@dataclasses.dataclass(slots=True, eq=False)
class Worker:
    """One subscription of a worker, by the inbox that it asks with."""

    reply: str
    # What its client calls itself, once that was asked.
    name: str = ""
    pulls: int = 0
    batch: int = 0
    is_told: bool = False


class Twice(NamedTuple):
    """A message that was worked on twice: the attempts that were answered."""

    first: int
    second: int


class Described(NamedTuple):
    """What a description of the consumer says, and when it was made (the server's clock, or ours before 2.10)."""

    counters: dict[str, Any]
    waiting: int
    paused: bool
    now: float
    last_delivery: float | None

    @property
    def pending(self) -> int:
        """Messages that were never delivered."""
        return self.counters.get("num_pending") or 0

    @property
    def open(self) -> int:
        """Messages that are delivered and not acknowledged."""
        return self.counters.get("num_ack_pending") or 0

    @property
    def delivered(self) -> int:
        """Deliveries, repeated ones too."""
        return self.counters.get("delivered") or 0

    @property
    def is_drained(self) -> bool:
        """Whether everything is delivered and nothing waits for an answer."""
        return not self.pending and not self.open and self.delivered > 0


@dataclasses.dataclass(slots=True, eq=False)
class Followed:
    """One consumer of a job's stream, or (`job` false) of one that several jobs share."""

    job: Job
    stream: str
    consumer: str
    # Of a shared one what is told to each job, and the other way round.
    shares: dict[Job, Followed] = dataclasses.field(default_factory=dict)
    parent: Followed | None = None
    # When the consumer was created, in seconds since the epoch; 0 where that is not known.
    born: float = 0.0
    # Whether no answer since then was missed.
    is_seen_whole: bool = False
    workers: dict[str, Worker] = dataclasses.field(default_factory=dict)
    pulls: int = 0
    acked: int = 0
    sent_back: int = 0
    terminated: int = 0
    in_progress: int = 0
    redelivered: int = 0
    # What is not told yet: sequence to attempt.
    naks: dict[int, int] = dataclasses.field(default_factory=dict)
    terms: dict[int, tuple[int, str]] = dataclasses.field(default_factory=dict)
    progress: dict[int, int] = dataclasses.field(default_factory=dict)
    redeliveries: dict[int, int] = dataclasses.field(default_factory=dict)
    doubles: dict[int, Twice] = dataclasses.field(default_factory=dict)
    to_give_up: dict[int, int] = dataclasses.field(default_factory=dict)
    given_up: dict[int, None] = dataclasses.field(default_factory=dict)
    # How many were given up; of how many the server has noticed that; how many could not be named.
    given_up_count: int = 0
    dropped: int = 0
    unnamed: int = 0
    answered: Answered = dataclasses.field(default_factory=Answered)
    # How many attempts the messages with a final answer took.
    attempts_answered: int = 0
    max_deliver: int = 0
    ack_wait: float = 0.0
    described: Described | None = None
    is_changed: bool = True
    # When to ask the server about it (monotonic), and how long to wait then.
    poll_at: float = 0.0
    poll_pause: float = 0.0
    # What was told, kept by `reporting`.
    telling: Any = None
    _attempts: dict[int, int] = dataclasses.field(default_factory=dict)
    _acked: dict[int, int] = dataclasses.field(default_factory=dict)
    _acked_before: dict[int, int] = dataclasses.field(default_factory=dict)

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that say which consumer it is, and that it was watched from outside."""
        return {"stream": self.stream, "consumer": self.consumer, "source": "monitor"}

    @property
    def has_news(self) -> bool:
        """Whether something waits to be told."""
        return bool(self.redeliveries or self.naks or self.terms or self.progress or self.doubles or self.to_give_up)

    def of_max(self, attempt: int) -> str:
        """An attempt in words."""
        return attempt_of(attempt, self.max_deliver)

    def pull(self) -> None:
        """Some worker asks for messages."""
        self.pulls += 1
        self.is_changed = True
        self.dropped = self.given_up_count

    def seen(self, inbox: str, batch: int, reply: str = "") -> None:
        """Which worker that was. `inbox`: one name for each subscription; `reply`: where it wants the messages."""
        worker = self.workers.get(inbox)
        if worker is None:
            worker = self.workers[inbox] = Worker(reply)
            shrink(self.workers, _MAX_WORKERS)
        worker.pulls += 1
        worker.batch = batch

    def answer(self, kind: str, seq: int, attempt: int, reason: str = "") -> None:
        """A worker answers for a message."""
        self.is_changed = True
        if attempt > 1:
            self._again(seq, attempt)
        if kind == ACK:
            self.acked += 1
            if self.answered.add(seq):
                self._final(seq, attempt)
            else:
                self._once_more(seq, attempt)
        elif kind == NAK:
            self.sent_back += 1
            _keep(self.naks, seq, attempt)
        elif kind == TERM:
            self.terminated += 1
            if self.answered.add(seq):
                self.attempts_answered += attempt
            _keep(self.terms, seq, (attempt, reason))
        else:
            self.in_progress += 1
            _keep(self.progress, seq, attempt)

    def acknowledged(self, seqs: list[int]) -> None:
        """Many answers at once, all of them acknowledgements of first attempts."""
        self.is_changed = True
        self.acked += len(seqs)
        again = self.answered.add_all(seqs)
        self.attempts_answered += len(seqs) - len(again)
        for seq in again:
            self._once_more(seq, 1)
        if self._attempts:
            for seq in seqs:
                if seq in self._attempts and seq not in again:
                    self._twice(seq, 1, self._attempts[seq])

    def _final(self, seq: int, attempt: int) -> None:
        self.attempts_answered += attempt
        if attempt > 1:
            self._acked[seq] = attempt
            if len(self._acked) > _MAX_REMEMBERED:
                self._acked_before, self._acked = self._acked, {}
        if self._attempts.get(seq, 0) > attempt:
            self._twice(seq, attempt, self._attempts[seq])

    def _once_more(self, seq: int, attempt: int) -> None:
        """A message that had its final answer before: of its first attempt, unless it is remembered otherwise."""
        before = self._acked.get(seq) or self._acked_before.get(seq) or 1
        if before != attempt:
            self._twice(seq, before, attempt)

    def _again(self, seq: int, attempt: int) -> None:
        if self._attempts.get(seq, 1) < attempt:
            self.redelivered += 1
            _keep(self.redeliveries, seq, attempt)
            self._attempts[seq] = attempt
            shrink(self._attempts, _MAX_REMEMBERED)

    def _twice(self, seq: int, first: int, second: int) -> None:
        if seq not in self.doubles:
            _keep(self.doubles, seq, Twice(min(first, second), max(first, second)))

    def give_up(self, seq: int, deliveries: int, *, is_dropped: bool = False) -> None:
        """A message was given up; `is_dropped`: the server has noticed. A second time is none."""
        if seq in self.given_up or seq in self.answered:
            return
        self.given_up[seq] = None
        self.given_up_count += 1
        self.dropped += is_dropped
        self.to_give_up[seq] = deliveries
        shrink(self.given_up, _MAX_REMEMBERED)

    def configure(self, config: dict[str, Any]) -> None:
        """What the consumer's configuration says."""
        self.max_deliver, self.ack_wait, _ = limits_of(config)

    def describe(self, info: dict[str, Any], asked: float) -> None:
        """The server's description. `asked`: when we asked for it, in seconds since the epoch."""
        self.configure(info.get("config") or {})
        now = timestamp(info.get("ts"))
        self.described = Described(
            consumer_counters(info),
            info.get("num_waiting") or 0,
            bool(info.get("paused")),
            asked if now is None else now,
            timestamp((info.get("delivered") or {}).get("last_active")),
        )
        self.answered.raise_to(self.described.counters.get("ack_floor") or 0)

    def infer(self, grace: float) -> None:
        """Work out which messages were given up, or will be at the next pull.

        The server tells only at the next pull, and only to who listens. With `max_deliver` attempts for every
        open message behind us and the last `ack_wait` over, there is nothing else that can become of them.
        """
        known = self.described
        if known is None or self.max_deliver < 1:
            return
        if not known.open:
            self.dropped = self.given_up_count
            if (known.counters.get("ack_floor_consumer_seq") or 0) < known.delivered:
                # Nothing is open and not everything is acknowledged. With one attempt no redelivery is counted.
                self._book(known, (known.counters.get("num_redelivered") or 0) if self.max_deliver > 1 else None)
            return
        waited = known.now - known.last_delivery if known.last_delivery is not None else 0.0
        if self.ack_wait and waited > self.ack_wait + grace and self._is_at_last_attempt(known):
            self._book(known, known.open)

    def _is_at_last_attempt(self, known: Described) -> bool:
        if self.max_deliver == 1:
            return True
        if self.max_deliver == 2 and (known.counters.get("num_redelivered") or 0) >= known.open + self.dropped:
            return True
        left = known.delivered - self.attempts_answered - self.max_deliver * self.dropped
        return self.is_seen_whole and left >= known.open * self.max_deliver

    def _book(self, known: Described, number: int | None) -> None:
        """Book the messages without a final answer, `number` in all; None where the server does not count them."""
        last = known.counters.get("delivered_stream_seq") or 0
        found = self.answered.missing((known.counters.get("ack_floor") or 0) + 1, last)
        fresh = [seq for seq in found or () if seq not in self.given_up]
        if found is not None and (self.is_seen_whole if number is None else number in {len(found), len(fresh)}):
            for seq in fresh:
                self.give_up(seq, self.max_deliver)
        elif number is not None:
            # Answers were missed, or the consumer takes only some of the stream: they cannot be named.
            self.unnamed = max(self.unnamed, number - self.given_up_count)


def _keep(kept: dict[int, Any], seq: int, what: Any) -> None:
    if seq in kept or len(kept) < _MAX_FRESH:
        kept[seq] = what
