"""What one scope published into one stream: its progress now and then, and its sum when that is over.

Called by `publishing` on the event loop, once per message; logs at 100, 200, 500, 1,000, … messages, or at every
tenth of the total where the scope says `expected`.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections import Counter
from time import monotonic
from typing import Any, Final, NamedTuple

from .. import told
from ..naming import Job
from ..told import duration, tell

_FIRST_PROGRESS: Final = 100
# With a total: not oftener than this many messages.
_MIN_STEP: Final = 10


class Failure(NamedTuple):
    """One message that was not acknowledged."""

    error: BaseException
    subject: str

    @property
    def is_unknown(self) -> bool:
        """Whether the message may be stored all the same: it was sent, and nobody heard what became of it."""
        return isinstance(self.error, TimeoutError | asyncio.CancelledError)


class Progress(NamedTuple):
    """What was stored since the last such line."""

    accepted: int
    first_seq: int
    last_seq: int
    seconds: float
    duplicates: int
    since: int


class Run:
    """Messages of one client that are each stored after all before, as most are: counted with next to no work.

    Between two publishes the server and everything else runs, and whatever is touched here costs anew: one function
    that calls nothing of ours, one object, no lock. Only the client's own event loop calls `add`.
    """

    __slots__ = ("booked", "last_seq", "left", "since", "stopped", "stream", "taken", "taken_over")

    booked: Sum
    stream: str | None
    left: int
    last_seq: Any
    since: float
    stopped: float
    taken: int
    taken_over: int

    def __init__(self, booked: Sum, left: int) -> None:
        self.booked = booked
        self.stream = booked.stream
        # How many it may take.
        self.left = left
        self.last_seq = booked.last_seq
        self.since = booked.since_started
        self.stopped = booked.stopped
        self.taken = self.taken_over = 0

    def add(self, ack: Any, started: float) -> bool:
        """Count a message; False, and not counted, where there is more to it. Never raises."""
        try:
            seq = ack.seq
            if (
                seq <= self.last_seq
                or self.taken >= self.left
                or ack.duplicate
                or ack.stream != self.stream
                or started < self.since
            ):
                return False
            self.last_seq = seq
            self.stopped = monotonic()
            self.taken += 1
        except Exception:
            return False
        if not self.left:  # another thread has ended it in this very moment
            self.booked.take_over(self)
        return True


@dataclasses.dataclass(slots=True, eq=False)
class Sum:
    """What one scope published into one stream for one job. `expected`: how many messages it will be, 0 if unknown."""

    job: Job
    stream: str | None
    expected: int = 0
    accepted: int = 0
    duplicates: int = 0
    unknown: int = 0
    # Asynchronous publishes without an answer so far.
    pending: int = 0
    first_seq: int = 0
    last_seq: Any = 0
    started: float = 0.0
    stopped: float = 0.0
    last_stored: float = 0.0
    errors: Counter[str] = dataclasses.field(default_factory=Counter)
    is_told: bool = False
    # Since the last line about progress.
    since_first_seq: int = 0
    since_last_seq: int = 0
    since_started: float = 0.0
    _told_duplicates: int = 0
    _told_accepted: int = 0
    _next: int = 0
    _plain_below: int = 0
    _run: Run | None = None
    # A scope may be carried into a thread with a loop of its own.
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._next = milestone_after(0, self.expected)

    @property
    def failed(self) -> int:
        """How many messages were not acknowledged, for whatever reason."""
        return sum(self.errors.values())

    @property
    def is_complete(self) -> bool:
        """Whether every expected message has had its answer."""
        return bool(self.expected) and self.accepted + self.failed >= self.expected

    def add(self, started: float) -> None:
        """Count the time of one message."""
        self.started = min(self.started, started) if self.started else started
        self.since_started = min(self.since_started, started) if self.since_started else started
        self.stopped = monotonic()

    def begin_run(self) -> Run | None:
        """Where the next messages are counted, as long as there is nothing to look at; None if there is now."""
        self.end_run()
        left = self._plain_below - self.accepted - 1
        if left <= 0 or self.is_told:
            return None
        self._run = Run(self, left)
        return self._run

    def end_run(self) -> None:
        """Take over what was counted there; no more is."""
        run, self._run = self._run, None
        if run is not None:
            run.left = 0
            self.take_over(run)

    def take_over(self, run: Run) -> None:
        """Count what a run counted and that is not counted here yet."""
        with self._lock:
            fresh, run.taken_over = run.taken - run.taken_over, run.taken
            if fresh:
                self.accepted += fresh
                self.last_seq = self.since_last_seq = run.last_seq
                self.stopped = self.last_stored = run.stopped

    def add_accepted(self, ack: Any, started: float) -> Progress | None:
        """Count a message that the stream acknowledged. What to tell, if it is time for that."""
        with self._lock:
            self.add(started)
            self.accepted += 1
            if ack.duplicate:
                self.duplicates += 1
            else:
                seq = ack.seq
                self.first_seq = min(self.first_seq, seq) if self.first_seq else seq
                self.since_first_seq = min(self.since_first_seq, seq) if self.since_first_seq else seq
                self.since_last_seq = max(self.since_last_seq, seq)
                if seq > self.last_seq:
                    self.last_seq = seq
                    self.last_stored = self.stopped
            self._plain_below = self._next_to_look_at() if self.since_first_seq else 0
            if self.accepted < self._next:
                return None
            self._next = milestone_after(self.accepted, self.expected)
            progress = Progress(
                self.accepted,
                self.since_first_seq,
                self.since_last_seq,
                self.stopped - self.since_started,
                self.duplicates - self._told_duplicates,
                self.accepted - self._told_accepted,
            )
            self.since_first_seq = self.since_last_seq = self._plain_below = 0
            self.since_started = 0.0
            self._told_accepted = self.accepted
            self._told_duplicates = self.duplicates
            return progress

    def _next_to_look_at(self) -> int:
        """The number of messages at which there is something to tell or to finish."""
        return min(self._next, self.expected - self.failed) if self.expected else self._next

    def add_failure(self, failure: Failure, started: float) -> int:
        """Count a message that was not acknowledged; how many of its error there are now."""
        with self._lock:
            self.add(started)
            self.unknown += failure.is_unknown
            self.errors[type(failure.error).__name__] += 1
            self._plain_below = 0
            return self.errors[type(failure.error).__name__]

    def tell_progress(self, progress: Progress) -> None:
        """The line that tells how far it is."""
        counted = f"{progress.accepted:,}"
        of = f" of {self.expected:,}" if self.expected else ""
        rate = round(progress.since / progress.seconds) if progress.seconds > 0 else None
        tell(
            self.job,
            told.PUBLISHING,
            counted,
            of,
            self.stream,
            _range(progress.first_seq, progress.last_seq, progress.since - progress.duplicates, "the last as "),
            f", {rate:,}/s" if rate is not None else "",
            stream=self.stream,
            accepted=progress.accepted,
            expected=self.expected or None,
            first_seq=progress.first_seq or None,
            last_seq=progress.last_seq or None,
            rate=rate,
            failed=self.failed or None,
        )

    def tell(self) -> None:
        """The summary line; nothing where nothing was published, and never a second one."""
        self.end_run()
        with self._lock:
            if self.is_told or not (self.accepted or self.errors or self.pending):
                return
            self.is_told = True
        failed, total = self.failed, self.accepted + self.failed + self.pending
        is_whole = not (failed or self.pending)
        of = "" if is_whole else f"{self.accepted:,} of "
        seconds = self.stopped - self.started if self.started else None
        counts = [
            (failed - self.unknown, "failed"),
            (self.unknown, "without an acknowledgement in time, outcome unknown"),
            (self.pending, "without an acknowledgement so far, outcome unknown"),
        ]
        rest = f", {self.duplicates:,} of them stored before" if self.duplicates else ""
        rest += "".join(f"; {count:,} {what}" for count, what in counts if count)
        errors = ", ".join(f"{name} {count}" for name, count in self.errors.most_common())
        tell(
            self.job,
            told.PUBLISHED if is_whole else told.PUBLISHED_SOME,
            f"{of}{total:,} message" + ("s" if total != 1 or of else ""),
            f" to NATS stream {self.stream}" if self.stream is not None else "",
            _range(self.first_seq, self.last_seq, self.accepted - self.duplicates),
            "" if seconds is None else f" in {duration(seconds)}",
            rest + (f" ({errors})" if errors else ""),
            stream=self.stream,
            accepted=self.accepted,
            expected=self.expected or None,
            failed=failed - self.unknown,
            unknown=self.unknown + self.pending,
            duplicates=self.duplicates,
            first_seq=self.first_seq or None,
            last_seq=self.last_seq or None,
            duration=None if seconds is None else round(seconds, 3),
            errors=errors or None,
        )


def milestone_after(count: int, expected: int) -> int:
    """The next number of messages after `count` that is worth a line.

    The last of the expected ones is not: the summary tells it.
    """
    if expected and count < expected:
        step = max(-(-expected // 10), _MIN_STEP)
        following = (count // step + 1) * step
        if following < expected:
            return following
        count = expected
    scale = _FIRST_PROGRESS
    while True:
        for factor in (1, 2, 5):
            if scale * factor > count:
                return scale * factor
        scale *= 10


def expected_of(fields: Any) -> int:
    """The total that `job_context(..., expected=1200)` promises; 0 where it says none."""
    value = fields.get("expected")
    return value if type(value) is int and value > 0 else 0


def _range(first: int, last: int, count: int, which: str = "") -> str:
    if not first:
        return ""
    # Others publish into the stream as well: then the numbers are not all ours.
    if last - first + 1 == count:
        return f" ({which}stream_seq {first}-{last})" if last > first else f" ({which}stream_seq {first})"
    return f" ({which and 'the last '}between stream_seq {first} and {last})"
