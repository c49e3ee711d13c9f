"""Lines on their way to one sink, once logging threads are done with them: what waits, what is stored, when to retry.

Touched by the writer alone, by who forks while the writer does not run, and by `make_room`, which whoever configures
may call beside it; what is read on any thread says so. `Delivery` is what the writer knows;
`channel_delivery.ChannelDelivery` brings a channel's lines, `recovery.RecoveryDelivery` those of a dead process.
Imports what lines meet on the way to a sink; of channels only what an item is, of the writer nothing.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..exceptions import SinkUnavailableError
from ..sinks.base import HoldingSink, IdleSink, Sink
from . import quarantine
from .completeness import key_of
from .conversion import convert
from .folding import Folder
from .missing import Missing
from .report import report, report_once
from .tally import TallyRow

if TYPE_CHECKING:
    from pathlib import Path

    from ..entry import Entry
    from .channel import Item
    from .overflow import Overflow
    from .rules import Asked

_CONVERT = 2000
_FIRST_BACKOFF = 0.25
_LAST_BACKOFF = 30.0
FLUSH_RETRY = 0.1


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
    def asked(self) -> Asked:
        """What is asked of every line."""

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

    # --- on the writer ---

    def make_entries(self, everything: bool = False) -> None:
        """Turn records into entries at once, also while the sink is away: a record may hold on to large arguments."""
        self.is_converting = True  # what is taken is in no list for a moment: nobody may think it done
        items = self.take(max(_CONVERT, len(self.buffer)) if everything else _CONVERT)
        if items:
            entries = convert(items, self.origin, self.asked, self.folder, self.missing, failed=self._could_not_be_made)
            self.ready.extend(entries)
            self.taken = items[-1][2]
            self.overflow.converted(items, entries)
            self.shed()
        self.is_converting = False
        self.make_room()

    def _could_not_be_made(self, job_id: str, error: Exception) -> None:
        self.quarantined += 1
        report_once(("entry", repr(error)), f"a line of job {job_id!r} could not be stored: {error!r}")

    def may_write(self) -> bool:
        """Whether there are entries and it is time to offer them."""
        return bool(self.ready) and self.retry_at <= time.monotonic()

    def next_entries(self, most: int) -> list[Entry]:
        """The first that wait, at most so many."""
        return list(itertools.islice(self.ready, most))

    def offer(self, batch: list[Entry]) -> None:
        """Hand the sink what it does not have of `batch`. Raises what the sink does."""
        self.is_closed = False
        self.sink.write(self.not_stored(batch))

    def mark_done(self, count: int, lines: int) -> None:
        """The first `count` entries need no more work; `lines` lines among them are in the store."""
        popleft = self.ready.popleft
        done = [popleft() for _ in range(count)]
        self.overflow.gone(done)
        self.folder.jobs.stored(entry for entry in done if not isinstance(entry, TallyRow))
        self.stored += lines
        self.make_room()
        if self.failing:
            self.failing = False
            self.failures = 0
            self.retry_at = 0.0
            report(f"sink {self.name!r} takes entries again; {self.waiting()} are waiting")
        dropped = self.overflow.dropped.value()
        if dropped > self.told_dropped:
            report(f"sink {self.name!r}: {dropped - self.told_dropped} lines dropped, the buffer was full")
            self.told_dropped = dropped

    def set_aside(self, entry: Entry, reason: Exception | None) -> None:
        """The sink refuses `entry`, which `mark_done` is told of as well: count it, and keep it beside the spool."""
        if not isinstance(entry, TallyRow):
            self.quarantined += 1
            counts = self.folder.jobs.of(entry)
            counts.quarantined += 1
            counts.stored -= 1  # mark_done() will count it among those
            self.missing.note(key_of(entry))
        kept_in = quarantine.keep(self.quarantine_directory, entry, self.name, reason)
        report_once(
            ("refused", self.key, type(reason).__name__),
            f"sink {self.name!r} refused a line of job {entry.job_id!r} (origin {entry.origin}, seq {entry.seq}): "
            f"{reason!r}. Such lines are counted as quarantined" + (f" and kept in {kept_in!r}" if kept_in else ""),
        )

    def do_not_tell(self, entry: Entry) -> None:
        """Nothing of the job of `entry` is taken, nor would a word about what is missing of it be."""
        self.missing.forget(entry)

    def back_off(self, error: Exception, is_awaited: bool) -> None:
        """The sink is away: offer the rest again after a while, soon where somebody waits for it."""
        pause = min(_FIRST_BACKOFF * 2**self.failures, _LAST_BACKOFF)
        self.failures = min(self.failures + 1, 10)
        self.retry_at = time.monotonic() + (FLUSH_RETRY if is_awaited else pause)
        text = str(error) if isinstance(error, SinkUnavailableError) else f"sink {self.name!r} failed: {error!r}"
        if not self.failing or text != self.last_error:
            self.failing = True
            self.last_error = text
            advice = error.advice if isinstance(error, SinkUnavailableError) else ""
            report(
                f"{text}. {advice + '. ' if advice else ''}Job log lines {self.where_kept()} and are tried again; "
                "the application is not affected"
            )

    def retry_at_once(self) -> None:
        """Somebody waits: offer what waits without a pause."""
        self.retry_at = 0.0

    # --- how far it is ---

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
