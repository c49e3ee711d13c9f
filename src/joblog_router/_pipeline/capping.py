"""At most so many lines of one job: the first and the last of them are kept, a marker says what is left out.

Runs on the writer thread, behind folding, without reading the store: it counts what this process logs for a job. The
first half of `max_lines` is stored as it comes, and so are that many warnings and worse on top of it. What comes
then is held back: the last half of `max_lines`, the oldest giving way. It is stored when the job is silent, its scope
has closed, somebody flushes or the process ends; where that happens again and again, fewer and fewer of the last lines
are stored each time, so that in all their number grows with the logarithm of what was logged.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Final, TypeAlias

from ..entry import Entry, Folded
from .completeness import JobCounts
from .scopes import JobScope
from .tally import TallyRow

FEWEST: Final = 10
SILENT = 1.0  # seconds without a line after which the end of a job whose scope is closed is stored
WAITING = 5.0  # the same while the scope is open: somebody may watch a job that hangs
_FORGET: Final = 3600.0
_MAX_JOBS: Final = 10_000
_MAX_HELD: Final = 100_000

_Key: TypeAlias = "tuple[str, str]"


class _Job:
    __slots__ = (
        "changed_at", "fold", "gone", "held", "left_out", "levels", "limit", "newest", "next_tell", "oldest", "room",
        "scope", "seen", "told", "untold_from", "urgent", "written",
    )  # fmt: skip

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.room = limit - limit // 2  # lines of the beginning that are still stored as they come
        self.urgent = limit
        self.held: deque[Entry] = deque()
        self.seen = 0
        self.written = 0  # lines that were held back and then stored
        self.left_out = self.told = 0
        # The first line that is left out and that no marker counts yet.
        self.untold_from = 0
        # The last line that was left out: the number of a marker must be no other line's.
        self.gone: Entry | None = None
        self.next_tell = 1
        self.levels: dict[int, int] = {}
        self.oldest = self.newest = 0.0
        self.fold = ""
        self.scope: JobScope | None = None
        self.changed_at = 0.0

    def allowance(self) -> int:
        """How many of the held lines may be stored now."""
        half = self.limit // 2
        doublings = max(1, self.seen // self.limit).bit_length() - 1
        return max(0, half * (1 + doublings) - self.written)


class Cap:
    """The jobs of one channel."""

    def __init__(self, counts: JobCounts | None = None) -> None:
        self._counts = JobCounts() if counts is None else counts
        self._jobs: OrderedDict[_Key, _Job] = OrderedDict()
        self._holding: dict[_Key, _Job] = {}
        self._swept_at = 0.0
        # Markers on their way to the store: their number (None: not known yet), and the first line they newly count.
        self._telling: list[tuple[int | None, int]] = []
        self.held = 0
        self.left_out = 0

    def take(self, entry: Entry, scope: JobScope, limit: int) -> Entry | None:
        """What is to be stored for this line now: itself, a marker in its place, or nothing yet."""
        key = (entry.namespace, entry.job_id)
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = _Job(limit)
        else:
            self._jobs.move_to_end(key)
        job.seen += 1
        job.scope = scope
        job.changed_at = time.monotonic()
        if job.room:
            job.room -= 1
            return entry
        if job.urgent and entry.level >= logging.WARNING:
            job.urgent -= 1
            return entry
        self._holding[key] = job
        job.held.append(entry)
        self.held += 1
        if len(job.held) <= job.limit // 2:
            return None
        self._leave_out(job, job.held.popleft())
        if job.left_out < job.next_tell:
            return None
        job.next_tell *= 10
        self._telling.append((entry.seq, job.untold_from))
        return _marker(job)

    def owes(self) -> bool:
        """Whether lines are held back, or left out and not told."""
        return bool(self._holding)

    def held_of(self, key: _Key) -> int:
        """How many lines of a job are held back. On any thread."""
        job = self._holding.get(key)
        return 0 if job is None else len(job.held)

    def number_markers(self, seq: int) -> None:
        """Markers that `due` gave have numbers now, none above `seq`."""
        self._telling = [(seq if number is None else number, first) for number, first in self._telling]

    def owed_from(self, done: int) -> int | None:
        """The lowest number of a line that is held back, or left out while no stored marker counts it; or None.

        Up to `done` all is stored.
        """
        self._telling = [one for one in self._telling if one[0] is None or one[0] > done]
        owed = [job.untold_from or job.held[0].seq for job in self._holding.values() if job.untold_from or job.held]
        return min([*owed, *(first for _, first in self._telling)], default=None)

    def due(self, everything: bool = False) -> Iterator[Entry]:
        """Markers, and the held lines behind them, whose time has come. Their `seq` is for the caller to set."""
        if not self._holding and time.monotonic() - self._swept_at < _FORGET / 10:
            return
        now = time.monotonic()
        for key, job in list(self._holding.items()):
            if everything or self.held > _MAX_HELD or now - job.changed_at >= _patience(job):
                del self._holding[key]
                yield from self._release(job)
        self._sweep(now)

    def next_due(self) -> float | None:
        """When to look again, on the monotonic clock; None if nothing is held."""
        if not self._holding:
            return None
        # A scope closes without a word: once its job was silent for a moment, look every second.
        now = time.monotonic()
        times = (
            due if (due := job.changed_at + SILENT) > now else min(now + SILENT, job.changed_at + _patience(job))
            for job in self._holding.values()
        )
        return min(times)

    def _leave_out(self, job: _Job, entry: Entry) -> None:
        self.held -= 1
        self.left_out += 1
        self._counts.of(entry).folded += 1
        job.left_out += 1
        job.gone = entry
        job.untold_from = job.untold_from or entry.seq
        job.levels[entry.level] = job.levels.get(entry.level, 0) + 1
        job.oldest = job.oldest or entry.created
        job.newest = entry.created

    def _release(self, job: _Job) -> Iterator[Entry]:
        allowed = job.allowance()
        while len(job.held) > allowed:
            self._leave_out(job, job.held.popleft())
        if job.left_out > job.told:
            self._telling.append((None, job.untold_from))
            yield _marker(job)
        while job.held:
            self.held -= 1
            job.written += 1
            yield job.held.popleft()

    def _sweep(self, now: float) -> None:
        self._swept_at = now
        for key, job in list(self._jobs.items()):
            if now - job.changed_at < _FORGET and len(self._jobs) <= _MAX_JOBS:
                break  # the longest silent stand first
            if key not in self._holding:
                del self._jobs[key]


def _patience(job: _Job) -> float:
    return SILENT if job.scope is None or job.scope.closed else WAITING


def _marker(job: _Job) -> TallyRow:
    """A row that says how many lines of the job this process has left out so far, and nothing of what is in them."""
    entry = job.gone
    assert entry is not None  # noqa: S101 - markers are of jobs that lines were left out of
    job.told = job.left_out
    job.untold_from = 0
    if not job.fold:
        text = "\0".join((entry.origin, str(entry.seq), entry.namespace, entry.job_id, "cap"))
        job.fold = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
    levels = {logging.getLevelName(level): job.levels[level] for level in sorted(job.levels)}
    counts = ", ".join(f"{name} {count:,}" for name, count in levels.items())
    half = job.limit // 2
    first, last = _time(job.oldest), _time(job.newest)
    noun = "line" if job.left_out == 1 else "lines"
    return TallyRow(
        *entry._replace(
            created=job.newest,
            level=logging.WARNING if max(job.levels) >= logging.WARNING else logging.INFO,
            logger="joblog_router",
            message=f"{job.left_out:,} {noun} left out between {first} and {last}: {counts}. Of each job a process "
            f"keeps about the first {job.limit - half:,} and the last {half:,} lines (max_lines={job.limit})",
            exception=None,
            fields=Folded(job.fold, job.left_out, first, last, levels).as_fields(),
            path="",
            line=0,
        )
    )


def _time(created: float) -> str:
    return dt.datetime.fromtimestamp(created, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
