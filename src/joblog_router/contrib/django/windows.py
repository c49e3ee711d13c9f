"""Lines by time: from a moment on, up to one, around one. What a reader who jumps about in a long log asks for.

Called by the views. The table answers by its index; of other stores the pages from the newest back are looked through.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from ..._pipeline import reading
from ...entry import Audience, Entry
from ...sinks.store import Selection, Store
from . import sums
from .delegation import StoreByDelegation
from .store import DjangoStore, read_rows
from .times import MICROSECONDS

__all__ = ["Window", "histogram", "since", "table_of", "until"]

_PAGE: Final = 1000
# Of a store that is no table: how many of its newest lines are looked through.
_FAR: Final = 200_000


class Window(NamedTuple):
    """Lines by time, oldest first, and whether there are more beyond."""

    entries: list[Entry]
    more: bool


def until(store: Store, job_id: str, moment: float, selection: Selection, limit: int) -> Window:
    """The newest `limit` lines created at `moment` or before."""
    table = table_of(store)
    if table is None:
        found = []
        for entry in _downwards(store, job_id, selection):
            if entry.created <= moment:
                found.append(entry)
                if len(found) > limit:
                    break
        found.reverse()
        return Window(reading.in_order(found[-limit:]), len(found) > limit)
    at = math.ceil(moment * MICROSECONDS)
    with table.opened(job_id, None) as log:
        rows = log.selected(selection).filter(created__lte=at).order_by("-created", "-id")
        return _window(log, rows, limit)


def since(store: Store, job_id: str, moment: float, selection: Selection, limit: int) -> Window:
    """The oldest `limit` lines created at `moment` or after."""
    table = table_of(store)
    if table is None:
        found = []
        for entry in _downwards(store, job_id, selection):
            if entry.created < moment:
                break
            found.append(entry)
        found = reading.in_order(found)
        return Window(found[:limit], len(found) > limit)
    at = math.floor(moment * MICROSECONDS)
    with table.opened(job_id, None) as log:
        rows = log.selected(selection).filter(created__gte=at).order_by("created", "id")
        return _window(log, rows, limit)


def _window(log: Any, rows: Any, limit: int) -> Window:
    found = read_rows(rows, limit + 1)
    folds = reading.Folds()
    entries = reading.in_order(log.entry_of(row) for row in found[:limit])
    shown = [entry for entry in reversed(entries) if folds.shows(entry)]
    return Window(shown[::-1], len(found) > limit)


def table_of(store: Store) -> DjangoStore | None:
    """The table that `store` reads, None where it is another."""
    while isinstance(store, StoreByDelegation):
        store = store.delegate()
    return store if isinstance(store, DjangoStore) else None


def _downwards(store: Store, job_id: str, selection: Selection) -> Iterator[Entry]:
    page = store.newest(job_id, selection, _PAGE)
    for _ in range(_FAR // _PAGE):
        yield from reversed(page.entries)
        if page.earlier is None:
            return
        page = store.before(job_id, page.earlier, selection, _PAGE)


def histogram(
    store: Store, job_id: str, span: tuple[float, float], audience: Audience, buckets: int
) -> list[dict[int, int]]:
    """How many rows of each level there are in each of `buckets` equal parts of the time `span`.

    In a long log a row may be counted beside its own part: see `sums.count_by_time`.
    """
    first, last = span
    found: list[dict[int, int]] = [{} for _ in range(buckets)]
    start = math.floor(first * MICROSECONDS)
    width = max(1, math.ceil((last - first) * MICROSECONDS / buckets + 1))
    table = table_of(store)
    if table is None:
        for entry in _downwards(store, job_id, Selection(audience=audience)):
            part = min(buckets - 1, max(0, round(entry.created * MICROSECONDS) - start) // width)
            found[part][entry.level] = found[part].get(entry.level, 0) + 1
        return found
    with table.opened(job_id, None) as log:
        counts = sums.count_by_time(log.place, audience, start=start, width=width, parts=buckets, since=log.since())
        for part, level, count in counts:
            found[part][level] = found[part].get(level, 0) + count
    return found
