"""What became of a job's lines, by what is in its log: stored, folded, dropped, quarantined, and numbers that nothing
accounts for.

Called by readers on their own threads. Reads the whole log once, a page at a time; raises what the store raises.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from ..entry import REFUSED_MARK, Entry
from .store import Selection, Store

__all__ = ["Account", "account_of", "take_account"]

_PAGE: Final = 5_000
# Threads that share a scope may append in another order than they took their numbers.
_BEGINNING: Final = 64
# More than a process can log: what a line says beyond that is not believed. Whoever holds a job's token may write any.
_MOST: Final = 10**12
_OWN: Final = "joblog_router"
# How such rows begin, which have no mark in a store without a place for fields.
_REFUSED: Final = "A line of this job could not be stored"


class Account(NamedTuple):
    """The sums over all processes that wrote. `lost` is the least number of lines that must have been there.

    `lost` counts gaps in the numbers of a scope's lines that no tally, marker or word about a refused line accounts
    for, in processes whose first line is there; `cut` are those whose first is not, as where a log was pruned.
    """

    stored: int
    folded: int
    dropped: int
    quarantined: int
    lost: int
    cut: int

    def is_whole(self) -> bool:
        """Whether nothing is missing."""
        return not (self.dropped or self.quarantined or self.lost)


class _Origin:
    """One process's lines of the job."""

    def __init__(self) -> None:
        self.numbers: Counter[int] = Counter()
        self.reached: dict[tuple[str, int], int] = {}
        self.first: list[tuple[int, int]] = []
        self.folds: dict[str, int] = {}
        self.stored = self.dropped = self.refused = self.told = 0

    def add(self, entry: Entry) -> None:
        fields = entry.fields
        tally = entry.tally
        if tally is not None:
            self.folds[tally.fold] = max(tally.folded, self.folds.get(tally.fold, 0))
            if tally.left_out is None:
                # The last line it stands for was logged, under this number; a recovered tally may be there twice.
                self.reached[tally.fold, tally.folded] = entry.n
            return
        if entry.logger.partition(".")[0] == _OWN and not entry.n:
            self.dropped += _count(fields.get("dropped"))
            if isinstance(counts := fields.get("completeness"), dict):
                self.told = max(self.told, _count(counts.get("quarantined")))
            return
        is_refused = fields.get(REFUSED_MARK) is True or entry.message.startswith(_REFUSED)
        if entry.logger == _OWN and is_refused:
            self.refused += 1
        else:
            self.stored += 1
        if _count(entry.n):
            self.numbers[entry.n] += 1
            self.first.append((entry.seq, entry.n))
            if len(self.first) > 2 * _BEGINNING:
                self.first = sorted(self.first)[:_BEGINNING]

    def quarantined(self) -> int:
        return max(self.refused, self.told)

    def is_cut(self) -> bool:
        return bool(self.first) and all(n != 1 for _, n in sorted(self.first)[:_BEGINNING])

    def lost(self) -> int:
        """Scopes count from 1 each, and a line does not say which it is of: as many scopes came to a number as
        lines have it, or any higher one. What is missing of that was logged and is no line of its own.
        """
        logged = self.numbers + Counter(n for n in self.reached.values() if n > 0)
        missing = scopes = 0
        above = 0
        for n in sorted(logged, reverse=True):
            missing += scopes * max(0, above - n - 1)
            scopes = max(scopes, logged[n])
            missing += scopes - self.numbers[n]
            above = n
        missing += scopes * max(0, above - 1)
        accounted = sum(self.folds.values()) + self.dropped + max(0, self.told - self.refused)
        return max(0, missing - accounted)


def _count(told: object) -> int:
    return told if type(told) is int and 0 < told <= _MOST else 0


def take_account(entries: Iterable[Entry]) -> Account:
    """The account of `entries`: all of one job's, every tally among them."""
    origins: dict[str, _Origin] = {}
    for entry in entries:
        origin = origins.get(entry.origin)
        if origin is None:
            origin = origins[entry.origin] = _Origin()
        origin.add(entry)
    known = list(origins.values())
    return Account(
        sum(origin.stored for origin in known),
        sum(sum(origin.folds.values()) for origin in known),
        sum(origin.dropped for origin in known),
        sum(origin.quarantined() for origin in known),
        sum(origin.lost() for origin in known if not origin.is_cut()),
        sum(origin.is_cut() for origin in known),
    )


def account_of(store: Store, job_id: str, namespace: str | None = None) -> Account:
    """The account of a job's log. Raises SinkUnavailableError where the store cannot be read."""
    return take_account(_all_of(store, job_id, namespace))


def _all_of(store: Store, job_id: str, namespace: str | None) -> Iterable[Entry]:
    cursor, more = "", True
    everything = Selection(audience="staff")
    while more:
        page = store.after(job_id, cursor, everything, _PAGE, namespace)
        yield from page.entries
        more = page.more and page.cursor != cursor
        cursor = page.cursor
