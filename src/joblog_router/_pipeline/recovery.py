"""What dead processes left in the spool directories in use here, on its way into this process's sinks.

`step` runs on the writer thread, each round; `look` also where a handler opens a spool; `run` and `left_behind` are for
commands and block the calling thread. How a segment is read is `spool_recovery`'s; this decides which, and when, and
delivers its lines: a dead process's segment is one more delivery, with the dead one's origin and numbers and the sink
that is configured here. Folding, redaction, retries and the care for lines a sink refuses are the same, and the segment
is acknowledged step by step, so that recovery itself may be killed. A second copy of a line is refused by its
(origin, seq).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..entry import Entry
from ..sinks.base import KnowingSink
from . import project
from .channel import Channel, Item
from .delivery import Delivery
from .overflow import Bounds, Overflow
from .report import report, report_once
from .rules import Asked
from .spool_recovery import DeadSegment, Found, find, release, unusual
from .status_file import remove_of, sweep

# Seconds between two looks for segments whose process is gone.
RECOVER_EVERY = 30.0


class Recovery:
    """Of the one router, to whose `channels` recovered lines go."""

    def __init__(self, channels: dict[str, Channel], wake_writer: Callable[[], None]) -> None:
        self._channels = channels
        self._wake_writer = wake_writer
        self._running: list[RecoveryDelivery] = []
        # Segments that are locked, and the channels to whose sinks their lines go.
        self._found: deque[tuple[Found, Channel]] = deque()
        # When to look again, on the monotonic clock; None before the first time.
        self._look_at: float | None = None
        self.lines = 0

    def look(self, directory: Path, channel: Channel) -> bool:
        """Lock what dead processes left for `channel` in `directory`, for the writer; whether there was something."""
        count = 0
        # One by one: what is locked is kept, or two who look at once would each think the other has it.
        for found in find(directory, channel.spool_key):
            self._found.append((found, channel))
            count += 1
        if count:
            self._wake_writer()
        return bool(count)

    def step(self) -> None:
        """Take over what dead processes left for sinks that are open here. On the writer thread."""
        if project.is_awaited():
            return  # what is masked and who may read it is not known yet
        now = time.monotonic()
        if self._look_at is None or now >= self._look_at:
            self._look_at = now + RECOVER_EVERY
            for directory, channel in self._spooled():
                self.look(directory, channel)
            self._sweep()
        while self._found:
            found, channel = self._found[0]
            try:
                recovery = RecoveryDelivery(DeadSegment(found), channel)
            except (OSError, ValueError) as error:
                report_once(("recovery", found.name), f"spool segment {found.name!r} could not be read: {error!r}")
                release(found)
            else:
                self._running.append(recovery)
            self._found.popleft()  # not before: `run` must see it in one of the two places

    def run(self, timeout: float) -> bool:
        """Ship what dead processes left for the sinks that are open here; whether nothing is left of it.

        What another process recovers just now is that one's affair.
        """
        deadline = time.monotonic() + timeout
        is_over = False
        while not is_over and time.monotonic() < deadline:
            found = [self.look(directory, channel) for directory, channel in self._spooled()]
            is_over = not any(found) and not self._found and not self._running
            if not is_over:
                time.sleep(0.02)
        self._sweep()
        return is_over

    def _sweep(self) -> None:
        for directory in self.directories():
            sweep(directory)

    def settle_project(self) -> None:
        """The Django app has read its settings: recovery may begin."""
        project.settle()
        if self._found:
            self._wake_writer()

    def running(self) -> list[RecoveryDelivery]:
        """Those that are under way. On any thread."""
        return list(self._running)

    def end(self, delivery: RecoveryDelivery) -> None:
        """All of a segment's lines are stored: it goes."""
        lines = delivery.stored + delivery.folder.folded
        self.lines += lines
        try:
            delivery.finish()
            remove_of(delivery.segment.found.directory, delivery.origin)
        finally:
            self._running.remove(delivery)  # not before: a command that waits for it ends the process
        if lines:
            report(f"{lines} job log lines of a process that ended before storing them were recovered")

    def directories(self) -> set[Path]:
        """The directories of all spools that are in use here."""
        return {directory for directory, _ in self._spooled()}

    def left_behind(self) -> list[str]:
        """Paths of what no living process has a hold of in these directories and that is not recovered."""
        recovering = [delivery.segment.found for delivery in self.running()]
        left = [str(found.directory / found.name) for found in recovering]
        for directory in sorted(self.directories()):
            for found in find(directory, None):
                left.append(str(found.directory / found.name))
                release(found)
            left += [str(path) for path in unusual(directory)]
        return left

    def start_anew(self) -> None:
        """In the child of a fork: what the parent has locked is its own affair."""
        self.lines = 0
        self._look_at = None
        while self._found:
            release(self._found.popleft()[0])
        for delivery in self._running:
            delivery.segment.let_go()
        self._running = []

    def _spooled(self) -> Iterator[tuple[Path, Channel]]:
        for channel in list(self._channels.values()):
            if channel.spool_directory is not None:
                yield channel.spool_directory, channel


class RecoveryDelivery(Delivery):
    """Lines of a dead process's segment, on their way to the sink of `channel`. By its rules, too."""

    def __init__(self, segment: DeadSegment, channel: Channel) -> None:
        origin = segment.found.origin
        super().__init__(
            key=f"recovery of {origin}",
            name=channel.name,
            sink=channel.sink,
            origin=origin,
            buffer=deque(segment.items()),
            overflow=Overflow(Bounds(0)),
        )
        self.segment = segment
        self._channel = channel
        # Whether a line is folded its process has decided: one that was counted must not be stored as a line, too, and
        # one that was not may stand in the store already, where its number refuses a second copy.
        self.folder.mark = segment.mark
        self.folder.marks = segment.marks
        self.folder.only_marked = True

    @property
    def quarantine_directory(self) -> Path | None:
        """Beside the segment."""
        return self.segment.found.directory

    @property
    def asked(self) -> Asked:
        """As of the channel; what is folded here is what its process marked."""
        return Asked(self._channel.asked.rules, fold=True)

    def take(self, limit: int) -> list[Item]:
        """The next lines. Numbers are missing between them: tallies, and calls that never returned."""
        count = min(limit, len(self.buffer))
        return [self.buffer.popleft() for _ in range(count)]

    def add_tallies(self, everything: bool = False) -> None:
        """A tally has the number of the last line it covers: numbers of its own may be taken."""
        # Nothing comes behind the last line of a dead process, and a command may end before the tally is due.
        self.ready.extend(self.asked.rules.finish(list(self.folder.due(everything or not self.buffer))))
        self.folder.number_rows(self.taken)

    def add_markers(self, everything: bool) -> int:
        """None: nothing is dropped here, and whether their scopes are over nobody knows."""
        return 0

    def acknowledge(self) -> None:
        """See `Delivery`."""
        held = self.held_by_sink()
        self.segment.acknowledge(self._needless() if held is None else min(self._needless(), held - 1))

    def make_room(self) -> None:
        """All that comes is there."""

    def shed(self) -> None:
        """Nothing is let go: it is in the segment."""

    def not_stored(self, batch: list[Entry]) -> Sequence[Entry]:
        """Those of `batch` that the sink does not have yet, where the sink itself would not notice."""
        return self.sink.not_stored(batch) if isinstance(self.sink, KnowingSink) else batch

    def is_over(self) -> bool:
        """Whether nothing is left to do, for the sink either: until then the segment is needed."""
        return self.is_empty() and self.held_by_sink() is None

    def where_kept(self) -> str:
        """See `Delivery`."""
        return "stay in the spool"

    def finish(self) -> None:
        """All is stored: take the segment away. One with lines that could not be read is kept aside."""
        segment = self.segment
        if segment.unreadable:
            kept = segment.keep_aside()
            report_once(
                ("spool-unreadable", self.origin),
                f"{segment.unreadable} lines in a spool segment of {self.origin} could not be read; it is kept as "
                f"{str(kept)!r}",
            )
        segment.close(is_done=not segment.unreadable)
