"""What stores have in common: choosing lines, collapsing folds, cursors as text, sums.

Called by readers on their own threads. Pure functions and small objects, no I/O. Imports the protocol of stores, no
store.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from ..entry import EARLIEST, LATEST, Entry
from ..sinks.store import Selection, Summary
from .text import clean

P = TypeVar("P")

# Tallies that an `earlier` remembers: enough for the runs that go on at one time, and a short text.
_MAX_FOLDS: Final = 100
_MAX_TOKEN: Final = 20_000
_MAX_UNPACKED: Final = 200_000

# The lines of a job that are older than its row belong to an earlier job of that id: from when on lines are shown,
# in seconds since the epoch, for a job and namespace. The Django app sets it where JOB_MODEL is set.
shown_since: Callable[[str, str], float] = lambda job_id, namespace: 0.0  # noqa: E731 - replaced as a whole


# --- cursors -------------------------------------------------------------------------------------------------


def encode(kind: str, *parts: Any) -> str:
    """`parts` (JSON values) as short text for URLs; `kind` names the store and the version of what follows."""
    raw = json.dumps([kind, *parts], separators=(",", ":")).encode()
    packed = zlib.compress(raw, 9)
    body = b"z" + packed if len(packed) < len(raw) else b"j" + raw
    return base64.urlsafe_b64encode(body).rstrip(b"=").decode("ascii")


def decode(text: str, kind: str) -> list[Any]:
    """The parts of what `encode(kind, …)` made. Raises ValueError for any other text."""
    try:
        if not isinstance(text, str) or len(text) > _MAX_TOKEN:
            raise ValueError("too long")
        body = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        raw = body[1:]
        if body[:1] == b"z":
            raw = zlib.decompressobj().decompress(raw, _MAX_UNPACKED)
        elif body[:1] != b"j":
            raise ValueError("unknown form")
        parts = json.loads(raw)
        if not isinstance(parts, list) or parts[:1] != [kind]:
            raise ValueError("another store's")
    except (ValueError, UnicodeError, binascii.Error, zlib.error, RecursionError) as error:
        raise foreign(text) from error
    return parts[1:]


def foreign(text: str) -> ValueError:
    """What to raise for a cursor that this store did not make."""
    return ValueError(f"{str(text)[:40]!r} is not a cursor of this store: leave it out to begin with the newest lines")


def datable(seconds: float) -> float:
    """A time that a store has as one that a date can be told of: others' rows may have any."""
    if EARLIEST <= seconds <= LATEST:
        return seconds
    return EARLIEST if seconds < 0 else LATEST


def is_number(value: object) -> bool:
    """Whether `value` can be a position: a whole number from 0 on that a database takes."""
    return type(value) is int and 0 <= value < 2**63


# --- choosing ------------------------------------------------------------------------------------------------


def chooser(selection: Selection, since: float) -> Callable[[Entry], bool]:
    """Whether an entry is selected and not older than `since`; 0 is since ever."""
    level, logger, text, origin, audience = selection
    below = logger + "."
    wanted = text.casefold()

    def is_wanted(entry: Entry) -> bool:
        return (
            entry.level >= level
            and (entry.created >= since or since <= 0)
            and (audience == "staff" or entry.audience == "all")
            and (not logger or entry.logger == logger or entry.logger.startswith(below))
            and (not origin or entry.origin == origin)
            and (not wanted or wanted in entry.message.casefold() or wanted in (entry.exception or "").casefold())
        )

    return is_wanted


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    """`entries` as they are shown: by time, then as each process wrote them."""
    return sorted(entries, key=lambda entry: (entry.created, entry.origin, entry.seq))


def fold_of(entry: Entry) -> str:
    """The id of the run of similar lines that a tally stands for; "" for a line of its own."""
    return "" if (tally := entry.tally) is None else tally.fold


def stands_for(entry: Entry) -> str:
    """What a text says behind a tally's message, with a space before; "" for a line of its own."""
    if (tally := entry.tally) is None:
        return ""
    return f" (stands for {tally.folded} similar line{'' if tally.folded == 1 else 's'})"


class Folds:
    """The runs whose newest tally was given already, for readers that go from new to old."""

    def __init__(self, seen: object = ()) -> None:
        if (
            not isinstance(seen, list | tuple)
            or len(seen) > _MAX_FOLDS
            or not all(isinstance(fold, str) for fold in seen)
        ):
            raise ValueError("not a list of runs")
        self._seen = dict.fromkeys(seen)

    def shows(self, entry: Entry) -> bool:
        """Whether `entry` is a line, or the newest tally of its run."""
        fold = fold_of(entry)
        if not fold:
            return True
        is_known = fold in self._seen
        self._seen.pop(fold, None)
        self._seen[fold] = None  # the last met are those whose older tallies are near
        return not is_known

    def seen(self) -> list[str]:
        """What an `earlier` has to carry."""
        return list(self._seen)[-_MAX_FOLDS:]


def take_newest(rows: Iterable[tuple[P, Entry | None]], limit: int, folds: Folds) -> tuple[list[Entry], P | None]:
    """The first `limit` of `rows`, which come newest first, and the position before which older ones are.

    A row without an entry ends the search there: what is older was not looked at. None where there is nothing older.
    """
    taken: list[Entry] = []
    last: P | None = None
    for position, entry in rows:
        if entry is None:
            return in_order(taken), position
        if len(taken) >= limit:
            return in_order(taken), last
        if folds.shows(entry):
            taken.append(entry)
        last = position
    return in_order(taken), None


# --- sums ----------------------------------------------------------------------------------------------------


class Counting:
    """Adds up a job's lines; a run of folded lines counts with its newest tally."""

    def __init__(self, job_id: str) -> None:
        self._job_id = job_id
        self._levels: dict[int, int] = {}
        # By run: how many lines, and of which levels.
        self._tallies: dict[str, tuple[int, dict[int, int]]] = {}
        self._origins: dict[str, None] = {}
        self._first: float | None = None
        self._last: float | None = None
        self._first_error: Entry | None = None

    def add(self, entry: Entry) -> None:
        """Count one entry."""
        self.add_many(entry.level, entry.origin, 1, entry.created, entry.created)
        if (tally := entry.tally) is not None:
            self.add_tally(tally.fold, entry.level, tally.folded, tally.left_out)
        if entry.level >= logging.ERROR and (
            self._first_error is None or (entry.created, entry.seq) < (self._first_error.created, self._first_error.seq)
        ):
            self._first_error = entry

    def add_many(self, level: int, origin: str, count: int, first: float, last: float) -> None:
        """Count lines of one level and origin."""
        self._levels[level] = self._levels.get(level, 0) + count
        self._origins[origin] = None
        first, last = datable(first), datable(last)
        self._first = first if self._first is None else min(self._first, first)
        self._last = last if self._last is None else max(self._last, last)

    def add_tally(self, fold: str, level: int, folded: object, left_out: object = None) -> None:
        """Say that a line counted is a tally: it counts as the lines it stands for, `left_out` of them by level.

        Of those of one run the largest counts, as they only grow.
        """
        self._levels[level] = self._levels.get(level, 0) - 1
        count = folded if type(folded) is int else 0
        if count > self._tallies.get(fold, (0, {}))[0]:
            self._tallies[fold] = (count, _levels_of(left_out, count) or {level: count})

    def has_errors(self) -> bool:
        """Whether a line of level ERROR or above was counted."""
        return any(level >= logging.ERROR and count > 0 for level, count in self._levels.items())

    def summary(self, first_error: Entry | None = None) -> Summary:
        """The sums."""
        levels = dict(self._levels)
        for _, counts in self._tallies.values():
            for level, count in counts.items():
                levels[level] = levels.get(level, 0) + count
        return Summary(
            self._job_id,
            sum(levels.values()),
            {level: count for level, count in sorted(levels.items()) if count},
            self._first,
            self._last,
            first_error or self._first_error,
            sorted(self._origins),
        )


def _levels_of(left_out: object, total: int) -> dict[int, int]:
    """What the marker of a long log says of the levels of its `total` lines; empty if that cannot be right."""
    if not isinstance(left_out, dict) or not all(type(count) is int for count in left_out.values()):
        return {}
    known = logging.getLevelNamesMapping()
    levels: dict[int, int] = {}
    for name, count in left_out.items():
        number = str(name).removeprefix("Level ")
        level = known.get(name) if name in known else int(number) if number.isdecimal() and len(number) < 10 else None
        if level is None:
            return {}  # a name of the writing process alone
        levels[level] = levels.get(level, 0) + count
    return levels if sum(levels.values()) == total else {}


def summarize(job_id: str, entries: Iterable[Entry]) -> Summary:
    """The summary of `entries`, which are all of one job."""
    counting = Counting(job_id)
    for entry in entries:
        counting.add(entry)
    return counting.summary()


def positive(limit: int) -> int:
    """`limit`, at least 1."""
    return max(1, int(limit))


def marks_of(value: object, most: int) -> dict[str, int]:
    """A checked `{origin: position}` out of a cursor, `most` of them. Raises ValueError."""
    if (
        not isinstance(value, dict)
        or len(value) > most
        or not all(clean(origin) == origin and is_number(at) for origin, at in value.items())
    ):
        raise ValueError("not positions by origin")
    return dict(value)
