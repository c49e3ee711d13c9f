"""Sums over a job's log, kept for a moment: many viewers of one job ask for them, and a long log takes seconds.

What is kept is of the log as long as its first line and its first error are there: an id may be another job's by now.
Called by the views, on their threads: what is kept is behind a lock.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

from ..._pipeline import reading
from ...context import current_namespace
from ...entry import Audience
from ...sinks.store import Selection, Store, Summary
from . import windows

__all__ = ["of"]

_KEPT: Final = 100
# Asking again costs a tenth of the time at most.
_SHORTEST, _TIMES = 1.0, 10
_FIRST: Final = Selection(audience="staff")

Sums = tuple[Summary, list[dict[int, int]]]


class _Found(NamedTuple):
    """Sums; until when they are given, and until when to those who come while somebody adds up anew."""

    sums: Sums
    until: float
    at_worst: float
    mark: object


# Namespace, job, audience, parts.
_Key: TypeAlias = tuple[str, str, Audience, int]

_lock = threading.Lock()
_running: dict[_Key, threading.Lock] = {}
_found: OrderedDict[_Key, _Found] = OrderedDict()


def of(store: Callable[[], Store], job_id: str, audience: Audience, buckets: int) -> Sums:
    """The summary of a log and, if there are `buckets`, the rows of each level in each part of its time."""
    key = (current_namespace(), job_id, audience, buckets)
    if (found := _kept(store, key, at_worst=False)) is not None:
        return found
    with _lock:
        running = _running.setdefault(key, threading.Lock())
    # One adds up, the others take what is there or wait: a long log is not read by all who open its page at one time.
    if not running.acquire(blocking=False):
        if (found := _kept(store, key, at_worst=True)) is not None:
            return found
        running.acquire()
    try:
        found = _kept(store, key, at_worst=False)
        return _add_up(store(), key) if found is None else found
    finally:
        with _lock:
            _running.pop(key, None)
        running.release()


def _kept(store: Callable[[], Store], key: _Key, *, at_worst: bool) -> Sums | None:
    """What is kept, if it is young enough and still of that log."""
    with _lock:
        found = _found.get(key)
    if found is None or time.monotonic() >= (found.at_worst if at_worst else found.until):
        return None
    return found.sums if found.mark == _mark_of(store(), key[1], found.sums[0]) else None


def _mark_of(store: Store, job_id: str, summary: Summary | None = None) -> Any:
    """What is another for another log under that id: its first line, and since when lines are shown.

    None where the first error in `summary` is gone. By an index, or from the beginning of a file.
    """
    since = reading.shown_since(job_id, current_namespace())
    table = windows.table_of(store)
    if table is None:
        first = store.after(job_id, "", _FIRST, 1).entries
        return since, *((one.origin, one.seq) for one in first)
    with table.opened(job_id, None) as log:
        error = None if summary is None else summary.first_error
        if error is not None and not log.rows.filter(origin=error.origin, seq=error.seq).exists():
            return None
        return since, log.rows.order_by("created", "id").values_list("origin", "seq").first()


def _add_up(store: Store, key: _Key) -> Sums:
    _, job_id, audience, buckets = key
    began = time.monotonic()
    mark = _mark_of(store, job_id)  # before the lines: they may be deleted meanwhile
    summary = store.summary(job_id, audience)
    counts: list[dict[int, int]] = []
    if buckets and summary.first is not None and summary.last is not None:
        counts = windows.histogram(store, job_id, (summary.first, summary.last), audience, buckets)
    took = time.monotonic() - began
    if took * _TIMES > _SHORTEST / 10:
        kept = max(_SHORTEST, took * _TIMES)
        until = time.monotonic() + kept
        with _lock:
            _found[key] = _Found((summary, counts), until, until + kept, mark)
            while len(_found) > _KEPT:
                _found.popitem(last=False)
    return summary, counts
