"""Lines on their way to one sink, once logging threads are done with them: what waits, what is stored, when to retry.

Touched by the writer alone, by who forks while the writer does not run, and by `make_room`, which whoever configures
may call beside it; what is read on any thread says so. `Delivery` is what the writer knows; `ChannelDelivery` brings a
channel's lines, `recovery.RecoveryDelivery` those of a dead process. Imports what the writer's way is made of, of
channels and the writer nothing.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..sinks.base import HoldingSink, IdleSink, Sink
from .folding import Folder
from .missing import Missing
from .scopes import JobScope
from .stats import Tally
from .tally import TallyRow

if TYPE_CHECKING:
    from pathlib import Path

    from ..entry import Entry
    from .channel import Channel, Item
    from .naming import LoggerNames
    from .overflow import Overflow
    from .rules import Rules, SeveralRules
    from .spool import Spool

# A number is taken a moment before its item is appended. Items behind a missing number wait this long for it;
# then it was lost to an exception out of a signal handler between the two.
_MAX_HOLD = 0.2

_NO_SCOPE = JobScope("")


class Delivery(ABC):
    """Lines of one origin, in order, for one sink. `key` is for what is said once about it."""

    def __init__(
        self, *, key: str, name: str, sink: Sink, origin: str, buffer: deque[Item], overflow: Overflow
    ) -> None:
        self.key = key
        self.name = name
        self.sink = sink
        self.idling = sink if isinstance(sink, IdleSink) else None
        self._holding = sink if isinstance(sink, HoldingSink) else None
        self.origin = origin
        # As they were captured, and as the sink gets them.
        self.buffer = buffer
        self.ready: deque[Entry] = deque()
        self.is_converting = False
        self.overflow = overflow
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
        # Its sink was closed, and nothing was written since.
        self.is_closed = False

    @property
    @abstractmethod
    def rules(self) -> Rules | SeveralRules:
        """What is asked of every entry."""

    @property
    @abstractmethod
    def fold(self) -> bool | None:
        """Whether similar lines become a tally; None: as the settings say."""

    @property
    @abstractmethod
    def unfolded(self) -> LoggerNames | None:
        """Loggers whose lines are never folded."""

    @property
    @abstractmethod
    def quarantine_directory(self) -> Path | None:
        """Where lines go that the sink refuses."""

    @abstractmethod
    def take(self, limit: int) -> list[Item]:
        """Up to `limit` items in the order of their numbers."""

    @abstractmethod
    def add_tallies(self, everything: bool = False) -> None:
        """Add the tally rows that are due."""

    @abstractmethod
    def add_markers(self, everything: bool) -> int:
        """Add the rows that tell of lines which are not in the log; the last one's number, 0 for none."""

    @abstractmethod
    def acknowledge(self) -> None:
        """Tell the spool what it need not keep any longer: lines that are stored, or folded and told of."""

    @abstractmethod
    def is_over(self) -> bool:
        """Whether nothing is left to do here, nor will be."""

    @abstractmethod
    def where_kept(self) -> str:
        """Where lines are while the sink is away."""

    @abstractmethod
    def make_room(self) -> None:
        """Some lines went: let others come."""

    @abstractmethod
    def shed(self) -> None:
        """Where the store is away or slow: let lines go that more important ones will need the room of."""

    def not_stored(self, batch: list[Entry]) -> Sequence[Entry]:
        """Those of `batch` that the sink does not have yet; this process's own lines need no question."""
        return batch

    def done(self) -> int:
        """The number up to which nothing more is to be done: stored, folded or given up. On any thread."""
        return self.ready[0].seq - 1 if self.ready else self.taken

    def _needless(self) -> int:
        """The number up to which no line is needed to count others, or for itself."""
        done = self.done()
        owed = self.folder.owed_from(done)
        return done if owed is None else min(done, owed - 1)

    def held_by_sink(self) -> int | None:
        """The lowest number of a line that the sink has taken and not stored yet, for sinks that do so; or None."""
        return None if self._holding is None else self._holding.held_from(self.origin)

    def waits_for_sink(self) -> bool:
        """Whether a spool keeps lines until the sink has stored what it holds."""
        return self.held_by_sink() is not None

    def has_lines(self) -> bool:
        """Whether lines wait to be stored. On any thread."""
        return bool(self.is_converting or self.buffer or self.ready)

    def is_empty(self) -> bool:
        """Whether nothing is left to do: no line waits, and no tally is owed. On any thread."""
        return not (self.has_lines() or self.folder.owes())

    def due(self) -> list[float]:
        """When there is something to do though no line comes, on the monotonic clock."""
        due = self.folder.next_due()
        return [] if due is None else [due]

    def waiting(self) -> int:
        """How many entries are captured and neither stored nor given up. On any thread."""
        return len(self.buffer) + len(self.ready) + self.folder.held_back()


class ChannelDelivery(Delivery):
    """What waits in a channel, on its way to the channel's sink: one for each origin the channel has."""

    def __init__(self, channel: Channel) -> None:
        super().__init__(
            key=channel.key,
            name=channel.name,
            sink=channel.sink,
            origin=channel.origin,
            buffer=channel.buffer,
            overflow=channel.overflow,
        )
        self.channel = channel
        self.is_closed = True
        self._held: list[Item] = []
        self._expected = 1
        self._held_since = 0.0
        # Segments of earlier settings, and the last number that may be in each.
        self._old_spools: list[tuple[Spool, int]] = []
        self._unspooled_before = 0

    @property
    def rules(self) -> Rules | SeveralRules:
        """See `Delivery`."""
        return self.channel.rules

    @property
    def fold(self) -> bool | None:
        """See `Delivery`."""
        return self.channel.fold

    @property
    def unfolded(self) -> LoggerNames | None:
        """See `Delivery`."""
        return self.channel.unfolded

    @property
    def quarantine_directory(self) -> Path | None:
        """Beside the spool."""
        return self.channel.spool_directory

    def take(self, limit: int) -> list[Item]:
        """Up to `limit` items in the order of their numbers, none missing between: nothing overtakes anything."""
        self.channel.awake = False  # before looking: an append after this line wakes again
        held = self._held
        pop = self.buffer.popleft
        try:
            while len(held) < limit:
                held.append(pop())
        except IndexError:
            pass
        if not held:
            return held
        self._held = held = sorted(held, key=_seq)  # not in place: a list is empty while it is sorted
        if held[-1][2] - self._expected + 1 != len(held):
            return self._take_before_gap(held)
        self._expected = held[-1][2] + 1  # first: `use_spool` asks on other threads what is in hand
        self._held = []
        self._held_since = 0.0
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
        self._expected += count
        taken, self._held = held[:count], held[count:]
        if count:
            self._held_since = now if self._held else 0.0
        return taken

    def add_tallies(self, everything: bool = False) -> None:
        """Put tally rows that are due behind what waits, each with a number of its own."""
        spool = self.channel.spool
        if not everything and spool is not None:
            everything = spool.is_filling(self.taken)
        seq = 0
        for row in self.folder.due(everything):
            seq = next(self.channel.numbers)
            self.buffer.append((row, _NO_SCOPE, seq, row.n, "", None, "", 0))
        if seq:
            self.folder.number_rows(seq)

    def add_markers(self, everything: bool) -> int:
        """Put them behind what waits, unless the sink is away."""
        seq = 0
        if not self.failing:
            for row in self._marker_rows(everything):
                seq = next(self.channel.numbers)
                self.buffer.append((row, _NO_SCOPE, seq, 0, "", None, "", 0))
        return seq

    def _marker_rows(self, everything: bool) -> Iterator[TallyRow]:
        for row in self.overflow.rows(self.origin, everything, self.folder.jobs):
            self.missing.note((row.namespace, row.job_id))
            yield row
        yield from self.missing.rows(self.origin, everything, self.folder.jobs, self.completeness)

    def due(self) -> list[float]:
        """See `Delivery`."""
        times = super().due()
        if not self.failing:
            times += [due for due in (self.overflow.next_due(), self.missing.next_due()) if due is not None]
        return times

    def make_room(self) -> None:
        """Let logging threads append as many as fit beside what is waiting for the sink: this many of any level."""
        lines = self.channel.bounds.lines
        waiting = len(self.ready) + len(self._held)
        self.channel.room = 0 if self.overflow.is_heavy() else lines - lines // 5 - waiting

    def shed(self) -> None:
        """See `Delivery`."""
        bounds = self.channel.bounds
        most = bounds.lines * 4 // 5
        if most < len(self.ready) and not bounds.block:
            self.ready = self.overflow.shed(self.ready, most)

    def is_over(self) -> bool:
        """Whether no handler is open and nothing waits. A handler left on its logger may bring lines all the same."""
        return not (self.channel.uses or self.is_closed) and self.is_empty()

    def where_kept(self) -> str:
        """See `Delivery`."""
        place = "in the spool" if self.is_spooled() else "in memory"
        return f"are kept {place} (at most {self.channel.bounds.lines})"

    def is_spooled(self) -> bool:
        """Whether lines outlive the process: there is a spool, and it could be used."""
        return self.channel.spool is not None and not self.channel.spool.cannot

    def forget_counts(self) -> None:
        """Count from zero: somebody has added what was counted so far to a sum."""
        self.stored = self.quarantined = self.folder.folded = self.told_dropped = 0
        self.overflow.dropped = Tally()

    # --- the spool ---

    def use_spool(self, before: Spool | None, last: int, spool: Spool | None) -> None:
        """Lines after `last` are in `spool`; `before` keeps what waits until that is stored."""
        if before is not None:
            # What the writer is converting is in no buffer, and not done.
            self._old_spools.append((before, max(last, self._expected - 1)))
        self.folder.mark = None if spool is None else spool.mark

    def acknowledge(self) -> None:
        """See `Delivery`."""
        spool = self.channel.spool
        if spool is None and not self._old_spools:
            return
        upto = self._needless()
        # Where so much waits that lines would find no room in the spool, those that the sink holds give way.
        if (held := self.held_by_sink()) is not None and not (spool and spool.is_filling(self.taken)):
            upto = min(upto, held - 1)
        if spool is not None:
            spool.acknowledge(upto)
        for old in list(self._old_spools):
            if upto >= old[1]:
                self._old_spools.remove(old)
                self._close_old(old[0], is_done=True)

    def waits_for_sink(self) -> bool:
        """See `Delivery`."""
        return self.channel.spool is not None and self.held_by_sink() is not None

    def close_spools(self, is_done: bool) -> None:
        """Let go of the segments; their files go if nothing in them is needed any more."""
        self.acknowledge()
        is_done = is_done and self.held_by_sink() is None
        for spool, _ in self._old_spools:
            self._close_old(spool, is_done)
        self._old_spools = []
        if self.channel.spool is not None:
            self.channel.spool.close(is_done)

    def _close_old(self, spool: Spool, is_done: bool) -> None:
        spool.close(is_done)
        self._unspooled_before += spool.missed.value()

    def let_go(self) -> None:
        """In the child of a fork: the segments are the parent's."""
        for spool in self._spools():
            spool.let_go()

    def unspooled(self) -> int:
        """How many lines are in no segment though there is a spool. On any thread."""
        return self._unspooled_before + sum(spool.missed.value() for spool in self._spools())

    def _spools(self) -> list[Spool]:
        spool = self.channel.spool
        return [*([] if spool is None else [spool]), *(old for old, _ in self._old_spools)]

    # --- read on any thread ---

    def has_lines(self) -> bool:
        """See `Delivery`."""
        return bool(self._held) or super().has_lines()

    def is_empty(self) -> bool:
        """See `Delivery`."""
        return super().is_empty() and not (self.overflow.owes() or self.missing.owes())

    def waiting(self) -> int:
        """See `Delivery`."""
        return len(self._held) + super().waiting()

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
        """The highest number that waits now, or of what was done last. For `flush`; on any thread."""
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
