"""What is not kept where more waits than may: which lines go first, exact counts by job and level, and the marker row.

DEBUG goes first, then INFO; WARNING and above longest. `takes` runs on logging threads, only when there is little room;
the rest is the writer's.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import repeat
from typing import Any, Final, NamedTuple

from ..entry import Entry
from .completeness import JobCounts
from .stats import Counter
from .tally import TallyRow
from .text import MAX_MESSAGE, clip

# Texts from this length on are weighed one by one; shorter ones are bounded by their number.
LONG = 1024
_UNIT = 1024
WRITER_NAME: Final = "joblog-writer"
_POLL = 0.002
_MOST_JOBS = 10_000
_TELL_EVERY = 1.0
_LOGGER = "joblog_router.overflow"


class Bounds(NamedTuple):
    """How many lines, and bytes of text, may wait; and for how many seconds a logging thread may be held up."""

    lines: int
    size: int = 64 * 2**20
    block: float = 0.0


class _Drop:
    __slots__ = ("add", "counter", "first", "last", "told")

    def __init__(self, first: float) -> None:
        self.counter = Counter()
        self.add = self.counter.add
        self.first = self.last = first
        self.told = 0


_Key = tuple[str, str, int]


class Overflow:
    """The bounds of one channel, and what was dropped for them."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        # One item for each unit of long text that waits in the buffer.
        self._heavy: deque[None] = deque()
        self.ready_bytes = 0
        self._drops: dict[_Key, _Drop] = {}
        self._owes = False
        self._told_at = 0.0
        self.dropped = Counter()

    # --- on logging threads ---

    def weigh(self, message: str) -> str:
        """A long message, cut to what is allowed and counted in bytes."""
        if len(message) > MAX_MESSAGE:
            message = clip(message, MAX_MESSAGE)
        self._heavy.extend(repeat(None, len(message) // _UNIT))
        return message

    def is_heavy(self, more: int = 0) -> bool:
        """Whether the texts that wait are longer in all than they may be, and `more` bytes."""
        return len(self._heavy) * _UNIT + self.ready_bytes > self.bounds.size + more

    def takes(self, level: int, waiting: int, room: int) -> bool:
        """Whether a line of `level` is kept beside `waiting` others, where those of any level have `room`."""
        allowed = room
        if self.is_heavy() and (level < logging.WARNING or self.is_heavy(self.bounds.size // 4)):
            return False
        if level >= logging.WARNING:
            allowed += self.bounds.lines // 5
        elif level >= logging.INFO:
            allowed += self.bounds.lines // 10
        return waiting < allowed

    def may_wait(self) -> bool:
        """Whether the logging thread may be held up: as configured, never an event loop's or the writer's."""
        return (
            self.bounds.block > 0
            and asyncio._get_running_loop() is None
            and threading.current_thread().name != WRITER_NAME
        )

    def wait(self, has_room: Callable[[], bool]) -> bool:
        """Wait for room, as long as the option `block` allows; whether there is."""
        until = time.monotonic() + self.bounds.block
        while time.monotonic() < until:
            time.sleep(_POLL)
            if has_room():
                return True
        return False

    def drop(self, namespace: str, job_id: str, level: int, created: float, message: str = "") -> None:
        """Count a line that is not kept."""
        self.dropped.add()
        key = (namespace, job_id, level)
        drop = self._drops.get(key)
        if drop is None:
            if len(self._drops) >= _MOST_JOBS:
                return  # counted in all, if not by job
            drop = self._drops.setdefault(key, _Drop(created))
        drop.add()
        # Lines that give way to others were logged before some that were dropped at once.
        if created > drop.last:
            drop.last = created
        elif created < drop.first:
            drop.first = created
        self._owes = True
        if len(message) >= LONG:
            self._lighten(len(message))

    # --- on the writer thread ---

    def converted(self, items: Iterable[tuple[Any, ...]], entries: Collection[Entry]) -> None:
        """The items are not in the buffer any more; entries wait in their place."""
        for length in [length for item in items if (length := len(item[4])) >= LONG]:
            self._lighten(length)
        self.ready_bytes += _weight(entries)

    def gone(self, entries: Collection[Entry]) -> None:
        """These do not wait any more."""
        self.ready_bytes -= _weight(entries)

    def _lighten(self, length: int) -> None:
        try:
            for _ in range(length // _UNIT):
                self._heavy.pop()
        except IndexError:
            pass

    def owes(self) -> bool:
        """Whether lines were dropped that no marker tells of yet."""
        return self._owes

    def next_due(self) -> float | None:
        """When to tell, on the monotonic clock; None if there is nothing to tell."""
        return self._told_at + _TELL_EVERY if self._owes else None

    def untold(self, namespace: str, job_id: str) -> int:
        """How many lines of a job were dropped that no marker tells of yet. On any thread."""
        drops = [drop for key, drop in list(self._drops.items()) if key[:2] == (namespace, job_id)]
        return sum(drop.counter.value() - drop.told for drop in drops)

    def rows(self, origin: str, everything: bool, jobs: JobCounts) -> Iterator[TallyRow]:
        """A marker for each job of which lines were dropped since the last. Its `seq` is for the caller to set."""
        if not self._owes or not (everything or time.monotonic() - self._told_at >= _TELL_EVERY):
            return
        self._told_at = time.monotonic()
        self._owes = False
        by_job: dict[tuple[str, str], list[tuple[int, int, _Drop]]] = {}
        for (namespace, job_id, level), drop in list(self._drops.items()):
            count = drop.counter.value()
            if count > drop.told:
                by_job.setdefault((namespace, job_id), []).append((level, count - drop.told, drop))
                drop.told = count
            else:
                del self._drops[namespace, job_id, level]
                if (count := drop.counter.value()) > drop.told:  # one came in between
                    self._drops[namespace, job_id, level] = drop
        for (namespace, job_id), drops in by_job.items():
            jobs.at((namespace, job_id)).dropped += sum(count for _, count, _ in drops)
            yield _marker(origin, namespace, job_id, sorted(drops, key=lambda told: told[0]))

    def shed(self, ready: Iterable[Entry], most: int) -> deque[Entry]:
        """`ready` without lines that more important ones need the room of: DEBUG, then INFO, oldest last."""
        kept = deque(ready)
        for level in (logging.DEBUG, logging.INFO):
            excess = len(kept) - most
            if excess <= 0:
                break
            left: deque[Entry] = deque()
            for entry in reversed(kept):
                if excess > 0 and entry.level <= level and not isinstance(entry, TallyRow):
                    excess -= 1
                    self.drop(entry.namespace, entry.job_id, entry.level, entry.created)
                    self.gone([entry])
                else:
                    left.appendleft(entry)
            kept = left
        return kept


def _weight(entries: Collection[Entry]) -> int:
    """About how many bytes the texts of `entries` take."""
    texts = sum([len(entry.message) + (len(entry.exception) if entry.exception else 0) for entry in entries])
    return texts + 200 * len(entries)


def _marker(origin: str, namespace: str, job_id: str, drops: list[tuple[int, int, _Drop]]) -> TallyRow:
    total = sum(count for _, count, _ in drops)
    first = min(drop.first for _, _, drop in drops)
    last = max(drop.last for _, _, drop in drops)
    counts = {logging.getLevelName(level): count for level, count, _ in drops}
    named = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    for _, _, drop in drops:
        drop.first = last
    lines = "1 line" if total == 1 else f"{total:,} lines"
    message = f"{lines} dropped between {_clock(first)} and {_clock(last)}: {named}"
    return TallyRow(
        job_id,
        last,
        logging.WARNING,
        _LOGGER,
        message,
        None,
        {"dropped": total, "dropped_by_level": counts, "first": first, "last": last},
        "",
        0,
        origin,
        0,
        0,
        namespace,
    )


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1000):03d} UTC"
