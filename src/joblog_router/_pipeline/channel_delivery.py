"""A channel's lines on their way to its sink: in the order of their numbers, and in the spool until they are stored.

Handed to channels by the router and made by them, one for each origin a channel has. Touched by whom `delivery` says,
and by the router where it gives a channel a spool or takes it away. Imports `delivery`, of channels types.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .delivery import Delivery
from .scopes import JobScope
from .stats import Counter
from .tally import TallyRow

if TYPE_CHECKING:
    from pathlib import Path

    from .channel import Channel, Item
    from .rules import Asked
    from .spool import Spool

# A number is taken a moment before its item is appended. Items behind a missing number wait this long for it;
# then it was lost to an exception out of a signal handler between the two.
_MAX_HOLD = 0.2

_NO_SCOPE = JobScope("")


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
    def asked(self) -> Asked:
        """See `Delivery`."""
        return self.channel.asked

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
        self.overflow.dropped = Counter()

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
