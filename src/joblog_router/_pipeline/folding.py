"""Many similar lines of one job become the first few and a tally: DEBUG and INFO only, never an exception.

Runs on the writer thread, between records and the sink. Lines are similar if they come from the same call site and
logger in the same job and their texts differ only in numbers, ids and quoted values; so one helper through which many
different messages pass is not folded, nor are loggers whose lines are for different readers. A tally row carries the
message of the last line it stands for and the fields of `Entry.tally`. Tally rows are added, never changed: readers
show the newest of a run. Called by `conversion` and by a delivery; imports `capping`, which comes behind it, and
nothing of the writer.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from ..entry import Entry, Folded
from .capping import Cap
from .completeness import JobCounts
from .scopes import JobScope
from .tally import TallyRow
from .text import clip

KEPT = 5  # lines of a run that are stored as they are
QUIET = 1.0  # seconds after which a run that stopped gets its tally
AT_MOST = 10.0  # seconds between two tallies of a run that goes on
_FORGET = 5.0
_FORGET_UNSCOPED = 60.0
_MAX_RUNS = 10_000
_LONGEST = 300
_MAX_TEXT = 500
# This library's own lines are sums already.
_OWN = "joblog_router."

# Masked or not, a digit is a digit: what has been masked once is known for all texts that differ in digits alone.
_SAME_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_MAX_SHAPES = 512

# Quoted values (not apostrophes inside words), long hexadecimal ids, and runs that begin with a digit.
_VALUES = re.compile(
    r"""(?<!\w)'[^']{0,200}'(?!\w)|"[^"]{0,200}"|\b[0-9a-fA-F]{8}[0-9a-fA-F-]*\b|\d[0-9A-Za-z]*""",
)


class _Run:
    __slots__ = (
        "changed_at",
        "first",
        "first_seq",
        "fold",
        "folded",
        "kept",
        "last",
        "next_tell",
        "scope",
        "told",
        "told_at",
        "untold_from",
    )

    def __init__(self) -> None:
        self.kept = 0
        self.folded = 0
        self.told = 0
        self.next_tell = 10
        self.fold = ""
        self.first = ""
        self.first_seq = 0
        # The first line that no tally row covers yet.
        self.untold_from = 0
        self.last: Entry | None = None
        self.scope: JobScope | None = None
        self.changed_at = self.told_at = time.monotonic()


_Key = tuple[str, str, str, int, int, str, str]


class Folder:
    """The runs of one delivery."""

    def __init__(self) -> None:
        self._runs: OrderedDict[_Key, _Run] = OrderedDict()
        self._untold: dict[_Key, _Run] = {}
        self._swept_at = 0.0
        self.jobs = JobCounts()
        self._cap = Cap(self.jobs)
        self._shapes: dict[bytes, str] = {}
        self.folded = 0
        # With a spool: notes (seq, first of the run, count), and those that a dead process left, by seq.
        self.mark: Callable[[int, int, int], None] | None = None
        self.marks: dict[int, tuple[int, int]] = {}
        # In recovery: nobody knows whether a line without a mark is in the store already, so it must not be counted.
        self.only_marked = False

    def pass_on(self, entry: Entry, scope: JobScope) -> Entry | None:
        """What is to be stored for this line: the line itself, a tally row in its place, or nothing yet."""
        if self.only_marked and entry.seq not in self.marks:
            return entry
        job_id, _, level, logger, message, exception, fields, path, line, _, _, _, namespace, _ = entry
        if level > logging.INFO or exception is not None or len(message) > _LONGEST or logger.startswith(_OWN):
            return entry
        digits_alike = message.encode("utf-8", "surrogatepass").translate(_SAME_DIGITS)
        shape = self._shapes.get(digits_alike)
        if shape is None:
            if len(self._shapes) >= _MAX_SHAPES:
                self._shapes.clear()
            shape = self._shapes[digits_alike] = shape_of(message)
        if fields:
            # Words in `extra` tell lines apart as words in the text do.
            shape += "".join(f"\0{name}={_shape_of_value(value)}" for name, value in fields.items())
        key = (namespace, job_id, path, line, level, logger, shape)
        runs = self._runs
        run = runs.get(key)
        if run is None:
            run = runs[key] = _Run()
        else:
            runs.move_to_end(key)
        run.scope = scope
        run.changed_at = time.monotonic()
        if self.marks and (mark := self.marks.pop(entry.seq, None)) is not None and run.first_seq != mark[0]:
            _resume(run, entry, key, mark)
        if run.kept < KEPT:
            run.kept += 1
            return entry
        if not run.folded:
            run.first_seq = entry.seq
            run.fold = _fold_id(entry.origin, entry.seq, key)
            run.first = clip(entry.message, _MAX_TEXT)
            run.told_at = run.changed_at
        run.folded += 1
        run.last = entry
        self.folded += 1
        self.jobs.at((namespace, job_id)).folded += 1
        if self.mark is not None:
            self.mark(entry.seq, run.first_seq, run.folded)
        if run.folded == run.next_tell:
            run.next_tell *= 10
            return self._tell(key, run)
        if key not in self._untold:
            run.untold_from = entry.seq
            self._untold[key] = run
        return None

    def within(self, entry: Entry, scope: JobScope, limit: int) -> Entry | None:
        """What is to be stored for a line that is not folded, where a job may have `limit` lines: see `capping`."""
        before = self._cap.left_out
        kept = self._cap.take(entry, scope, limit)
        self.folded += self._cap.left_out - before
        return kept

    def number_rows(self, seq: int) -> None:
        """What `due` gave has numbers now, none above `seq`."""
        self._cap.number_markers(seq)

    def owed_from(self, done: int) -> int | None:
        """The lowest number of a line that is held back, or counted and in no stored row's count yet; or None.

        Up to `done` all is stored.
        """
        # The dictionary keeps the order in which runs came to owe, which is that of the numbers.
        untold = next((run.untold_from for run in self._untold.values()), None)
        held = self._cap.owed_from(done)
        if untold is None or held is None:
            return held if untold is None else untold
        return min(untold, held)

    def held_of(self, namespace: str, job_id: str) -> int:
        """How many lines of a job wait for its end. On any thread."""
        return self._cap.held_of((namespace, job_id))

    def held_back(self) -> int:
        """How many lines wait for the end of their jobs."""
        return self._cap.held

    def owes(self) -> bool:
        """Whether lines were folded that no tally row has told yet, or are held back."""
        return bool(self._untold) or self._cap.owes()

    def due(self, everything: bool = False) -> Iterator[Entry]:
        """Tally rows whose time has come, or all that are owed (for a flush). Their `seq` is for the caller to set."""
        yield from self._due_tallies(everything)
        before = self._cap.left_out
        yield from self._cap.due(everything)
        self.folded += self._cap.left_out - before

    def _due_tallies(self, everything: bool) -> Iterator[TallyRow]:
        if not self._untold and len(self._runs) <= _MAX_RUNS and not self._may_sweep():
            return
        now = time.monotonic()
        for key, run in list(self._untold.items()):
            if everything or now - run.changed_at >= QUIET or now - run.told_at >= AT_MOST:
                yield self._tell(key, run)
        yield from self._sweep(now)

    def next_due(self) -> float | None:
        """When to look again, on the monotonic clock; None if nothing is owed."""
        times = [min(run.changed_at + QUIET, run.told_at + AT_MOST) for run in self._untold.values()]
        if (cap := self._cap.next_due()) is not None:
            times.append(cap)
        return min(times, default=None)

    def _tell(self, key: _Key, run: _Run) -> TallyRow:
        self._untold.pop(key, None)
        run.told = run.folded
        run.told_at = time.monotonic()
        last = run.last
        assert last is not None  # noqa: S101 - told runs have folded lines
        run.last = None
        stands_for = Folded(run.fold, run.folded, run.first, clip(last.message, _MAX_TEXT))
        return TallyRow(*last._replace(fields={**last.fields, **stands_for.as_fields()}))

    def _may_sweep(self) -> bool:
        return bool(self._runs) and time.monotonic() - self._swept_at > _FORGET

    def _sweep(self, now: float) -> Iterator[TallyRow]:
        """Forget runs of closed scopes and, beyond the bound, those that were quiet longest."""
        self._swept_at = now
        for key, run in list(self._runs.items()):
            quiet = now - run.changed_at
            if key in self._untold or quiet < _FORGET:
                continue
            if quiet > _FORGET_UNSCOPED or (run.scope is not None and run.scope.closed):
                del self._runs[key]
        while len(self._runs) > _MAX_RUNS:
            key, run = self._runs.popitem(last=False)
            if key in self._untold:
                yield self._tell(key, run)


def shape_of(message: str) -> str:
    """`message` with its numbers, ids and quoted values masked."""
    return _VALUES.sub("#", message)


def _shape_of_value(value: object) -> str:
    if isinstance(value, str):
        return shape_of(value[:_LONGEST])
    return str(value) if isinstance(value, bool) or value is None else type(value).__name__


def _resume(run: _Run, entry: Entry, key: _Key, mark: tuple[int, int]) -> None:
    """Go on with a run of a process that was killed: `entry` is its line number mark[1], whoever counts them."""
    run.kept = KEPT
    run.first_seq, count = mark
    run.folded = run.told = count - 1
    run.fold = _fold_id(entry.origin, run.first_seq, key)
    run.first = run.first or clip(entry.message, _MAX_TEXT)
    run.told_at = run.changed_at
    while run.next_tell <= run.folded:
        run.next_tell *= 10


def _fold_id(origin: str, first_seq: int, key: _Key) -> str:
    # Without logger and shape: recovery may see them with secrets masked, and must come to the same.
    text = "\0".join((origin, str(first_seq), *map(str, key[:-2])))
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).hexdigest()
