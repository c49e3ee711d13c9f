"""One sink with what waits for it: a bounded buffer that logging threads append to and the writer empties.

`wake`, `hurry`, `weigh` and `takes` run on logging threads and use only atomic calls of C code; everything else runs
on the writer.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from .folding import Folder
from .lasting import former
from .missing import Missing
from .naming import LoggerNames
from .overflow import Bounds, Overflow
from .rules import Rules, SeveralRules, strictest
from .scopes import JobScope
from .spool import Spool
from .tally import TallyRow

if TYPE_CHECKING:
    from logging import LogRecord
    from pathlib import Path

    from ..entry import Entry
    from .exceptions import CapturedException
    from .sinks import NamedSink
    from .spool_recovery import DeadSegment

# record, scope, seq, n, message, extra and exception. The record is kept for what nobody changes (time, level, logger,
# place) and only until the writer has looked, a few hundredths of a second later.
# An entry stands in the place of the record where the writer itself adds one: a tally row, or a line held back.
Item: TypeAlias = (
    "tuple[LogRecord | Entry, JobScope, int, int, str, tuple[dict[str, Any] | None, CapturedException | None] | None]"
)


class Use(NamedTuple):
    """What one handler asks of a channel; several may have the same sink."""

    bounds: Bounds
    fold: bool | None = None
    unfolded: LoggerNames | None = None
    rules: Rules = Rules()


class Wake(Protocol):
    """What tells the writer that a channel has lines."""

    def __call__(self, channel: Channel, *, hurry: bool = False) -> None:
        """Safe on any thread, in signal handlers and `__del__`."""


# A number is taken a moment before its item is appended. Items behind a missing number wait this long for it;
# then it was lost to an exception out of a signal handler between the two.
_MAX_HOLD = 0.2


_NO_SCOPE = JobScope("")


class Channel:
    """A sink, its buffer and the writer's notes about it. `key` tells channels apart over a reconfiguration."""

    is_recovery = False

    def __init__(
        self,
        named: NamedSink,
        origin: str,
        bounds: Bounds,
        wake: Wake,
    ) -> None:
        self.key = named.key
        # The same for the next process's channel to the same place.
        self.spool_key = named.lasting
        self._former_key = named.former
        self.spool_directory: Path | None = None
        self.uses_default_spool = False
        self.spool: Spool | DeadSegment | None = None
        # Segments of earlier settings, and the last number that may be in each.
        self._old_spools: list[tuple[Spool | DeadSegment, int]] = []
        self._unspooled_before = 0
        self.name = named.name
        self.is_shared = named.is_shared
        self.alone = frozenset((self.key,))
        self.sink = named.sink
        self.bounds = bounds
        self.is_closed = True
        self.fold: bool | None = None
        self.unfolded: LoggerNames | None = None
        self.rules: Rules | SeveralRules = Rules()
        # Of the open handlers.
        self.uses: list[Use] = []
        self._wake = wake
        self.begin(origin)

    @property
    def users(self) -> int:
        """How many open handlers there are."""
        return len(self.uses)

    def settle(self) -> None:
        """Go by what all open handlers ask, whichever came first: the strictest rules, the most that may be kept.

        Without one nothing changes: a closed handler may still be on its logger.
        """
        uses = self.uses
        if not uses:
            return
        folds = {use.fold for use in uses}
        self.fold = False if False in folds else None if None in folds else True
        self.unfolded = LoggerNames.joined(use.unfolded for use in uses)
        self.rules = strictest(use.rules for use in uses)
        self.bounds = self.overflow.bounds = Bounds(*map(max, zip(*(use.bounds for use in uses), strict=True)))
        self.make_room()

    def begin(self, origin: str) -> None:
        """Start with an empty buffer and a count of its own: a new channel, or one in the child of a fork."""
        self.origin = origin
        # The process's first channel takes its `n` from the scope itself, others from a table of the scope.
        self.is_first = "." not in origin.rpartition("-")[2]
        self.buffer: deque[Item] = deque()
        self.numbers = itertools.count(1)
        self.overflow = Overflow(self.bounds)
        self.awake = False
        # Below: the writer's own.
        self.ready: deque[Entry] = deque()
        self.is_converting = False
        self.folder = Folder()
        self.missing = Missing()
        self.taken = 0
        self.stored = 0
        self.quarantined = 0
        self.failures = 0
        self.failing = False
        self.retry_at = 0.0
        self.last_error = ""
        self.told_dropped = 0
        self.room = 0
        self._held: list[Item] = []
        self._expected = 1
        self._held_since = 0.0
        self.make_room()
        for spool in (self.spool, *(spool for spool, _ in self._old_spools)):
            if spool is not None:
                spool.let_go()
        self.spool = None
        self._old_spools = []
        self._unspooled_before = 0
        if self.spool_directory is not None:
            self.use_spool(self.spool_directory)

    def use_spool(self, directory: Path | None) -> bool:
        """Have lines from now on in a segment of `directory`, or in none; whether that is a change for handlers."""
        if self.spool is None and directory is None:
            return False
        if self.spool is not None:
            if directory == self.spool_directory:
                return False
            # It keeps what waits until that is stored.
            self._old_spools.append((self.spool, self.last_seq()))
        self.spool_directory = directory
        self.alone = frozenset((self.key,))  # another object: what scopes have cached lacks the spool's part
        self.spool = None if directory is None else Spool(directory, self.spool_key, self.origin, self.bounds.lines)
        self.folder.mark = None if self.spool is None else self.spool.mark
        return True

    def is_for(self, key: str) -> bool:
        """Whether the lines of a segment with this key are for this channel's sink; earlier versions' keys too."""
        return key == self.spool_key or (bool(self._former_key) and self._former_key in (key, former(key)))

    def acknowledge(self) -> None:
        """Tell the spool what it need not keep any longer: lines that are stored, or folded and told of."""
        if self.spool is None and not self._old_spools:
            return
        done = self.done()
        owed = self.folder.owed_from(done)
        upto = done if owed is None else min(done, owed - 1)
        # Where so much waits that lines would find no room in the spool, those that the sink holds give way.
        if (held := self.held_by_sink()) is not None and not (self.spool and self.spool.is_filling(self.taken)):
            upto = min(upto, held - 1)
        if self.spool is not None:
            self.spool.acknowledge(upto)
        for old in list(self._old_spools):
            if upto >= old[1]:
                self._old_spools.remove(old)
                self._close_spool(old[0], is_done=True)

    def held_by_sink(self) -> int | None:
        """The lowest number of a line that the sink has taken and not stored yet, for sinks that do so; or None."""
        held_from: Callable[[str], int | None] | None = getattr(self.sink, "held_from", None)
        return None if held_from is None else held_from(self.origin)

    def close_spools(self, is_done: bool) -> None:
        """Let go of the segments; their files go if nothing in them is needed any more."""
        self.acknowledge()
        is_done = is_done and self.held_by_sink() is None
        for spool, _ in self._old_spools:
            self._close_spool(spool, is_done)
        self._old_spools = []
        if self.spool is not None:
            self._close_spool(self.spool, is_done)

    def _close_spool(self, spool: Spool | DeadSegment, is_done: bool) -> None:
        spool.close(is_done)
        if isinstance(spool, Spool) and spool is not self.spool:
            self._unspooled_before += spool.missed.value()

    def unspooled(self) -> int:
        """How many lines are in no segment though there is a spool."""
        spools = [self.spool, *(spool for spool, _ in self._old_spools)]
        return self._unspooled_before + sum(spool.missed.value() for spool in spools if isinstance(spool, Spool))

    def hurry(self) -> None:
        """Have the writer begin at once, without waiting for more lines. As safe as `wake`."""
        self._wake(self, hurry=True)

    def wake(self) -> None:
        """Tell the writer that this buffer is no longer empty. Safe on any thread, in signal handlers and `__del__`."""
        self.awake = True
        self._wake(self)

    def take(self, limit: int) -> list[Item]:
        """Up to `limit` items in the order of their numbers, none missing between: nothing overtakes anything."""
        held = self._held
        pop = self.buffer.popleft
        try:
            while len(held) < limit:
                held.append(pop())
        except IndexError:
            pass
        if not held:
            return held
        held.sort(key=_seq)
        if held[-1][2] - self._expected + 1 != len(held):
            return self._take_before_gap(held)
        self._held = []
        self._held_since = 0.0
        self._expected = held[-1][2] + 1
        return held

    def _take_before_gap(self, held: list[Item]) -> list[Item]:
        now = time.monotonic()
        if not self._held_since:
            self._held_since = now
        if now - self._held_since > _MAX_HOLD:
            self._expected = held[0][2]
            self._held_since = now
        count = 0
        while count < len(held) and held[count][2] == self._expected + count:
            count += 1
        taken, self._held = held[:count], held[count:]
        self._expected += count
        if count:
            self._held_since = now if self._held else 0.0
        return taken

    def done(self) -> int:
        """The number up to which nothing more is to be done: stored, folded or given up."""
        return self.ready[0].seq - 1 if self.ready else self.taken

    def add_tallies(self, everything: bool = False) -> None:
        """Put tally rows that are due behind what waits, each with a number of its own."""
        if not everything and self.spool is not None:
            everything = self.spool.is_filling(self.taken)
        seq = 0
        for row in self.folder.due(everything):
            seq = next(self.numbers)
            self.buffer.append((row, _NO_SCOPE, seq, row.n, "", None))
        if seq:
            self.folder.number_rows(seq)

    def not_stored(self, batch: list[Entry]) -> list[Entry]:
        """Those of `batch` that the sink does not have yet; a channel of this process's own lines need not ask."""
        return batch

    def make_room(self) -> None:
        """Let logging threads append as many as fit beside what is waiting for the sink: this many of any level."""
        lines = self.bounds.lines
        self.room = 0 if self.overflow.is_heavy() else lines - lines // 5 - len(self.ready) - len(self._held)

    def weigh(self, message: str) -> str:
        """A long message, cut to what is allowed and counted in bytes. On logging threads."""
        message = self.overflow.weigh(message)
        if self.overflow.is_heavy():
            self.room = 0
        return message

    def takes(self, record: LogRecord, scope: JobScope, message: str) -> bool:
        """Whether there is room for a line though there is little; one that is not taken is counted. Never raises."""
        overflow = self.overflow
        try:
            level = int(record.levelno)
            # What the writer has taken off is in `room` already, which it may make smaller meanwhile.
            if overflow.takes(level, len(self.buffer), self.room) or (
                overflow.may_wait() and overflow.wait(lambda: overflow.takes(level, len(self.buffer), self.room))
            ):
                return True
            overflow.drop(scope.namespace, scope.job_id, level, float(record.created), message)
        except Exception:
            overflow.dropped.add()
        return False

    def add_markers(self, everything: bool) -> int:
        """Put the rows that tell of dropped lines behind what waits, unless the sink is away; the last one's number."""
        seq = 0
        if not self.failing:
            for row in self._marker_rows(everything):
                seq = next(self.numbers)
                self.buffer.append((row, _NO_SCOPE, seq, 0, "", None))
        return seq

    def _marker_rows(self, everything: bool) -> Iterator[TallyRow]:
        for row in self.overflow.rows(self.origin, everything, self.folder.jobs):
            self.missing.note((row.namespace, row.job_id))
            yield row
        yield from self.missing.rows(self.origin, everything, self.folder.jobs, self.completeness)

    def has_lines(self) -> bool:
        """Whether lines wait to be stored."""
        return bool(self.is_converting or self.buffer or self._held or self.ready)

    def is_empty(self) -> bool:
        """Whether nothing is left to do: no line waits, and no tally is owed."""
        return not (self.has_lines() or self.folder.owes() or self.overflow.owes() or self.missing.owes())

    def waiting(self) -> int:
        """How many entries are captured and neither stored nor given up."""
        return len(self.buffer) + len(self._held) + len(self.ready) + self.folder.held_back()

    def completeness(self, namespace: str, job_id: str) -> dict[str, int]:
        """What became of the lines of one job. Exact when nothing is being captured; on any thread."""
        waiting = 0
        held = self.folder.held_of(namespace, job_id)
        for _ in range(5):
            try:
                waiting = sum(_is_line(item, namespace, job_id) for item in [*self.buffer, *self._held])
                waiting += sum(
                    entry.job_id == job_id and entry.namespace == namespace and not isinstance(entry, TallyRow)
                    for entry in list(self.ready)
                )
                break
            except RuntimeError:  # changed while it was looked at
                continue
        known = self.folder.jobs.get((namespace, job_id))
        counts = {
            "stored": known.stored if known else 0,
            "folded": known.folded if known else 0,
            "dropped": (known.dropped if known else 0) + self.overflow.untold(namespace, job_id),
            "quarantined": known.quarantined if known else 0,
            "waiting": waiting + held,
        }
        return {"emitted": sum(counts.values()), **counts}

    def last_seq(self) -> int:
        """The highest number that waits now, or of what was done last. For `flush`."""
        last = self.taken
        if self._held:
            last = max(last, self._held[-1][2])
        for _ in range(5):
            try:
                # Appends of several threads may stand in another order at the very end.
                return max((item[2] for item in itertools.islice(reversed(self.buffer), 64)), default=last)
            except RuntimeError:  # appended to while it was looked at
                continue
        try:
            return max(last, self.buffer[-1][2])
        except IndexError:
            return last


def _is_line(item: Item, namespace: str, job_id: str) -> bool:
    scope = item[1]
    return scope.job_id == job_id and scope.namespace == namespace


def _seq(item: Item) -> int:
    return item[2]
