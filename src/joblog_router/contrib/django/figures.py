"""Sums over a job's log, kept for a moment: many viewers of one job ask for them, and a long log takes seconds."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ...context import current_namespace
from ...sinks.store import Store, Summary
from . import windows

__all__ = ["of"]

_KEPT: Final = 100
# Asking again costs a tenth of the time at most.
_SHORTEST, _TIMES = 1.0, 10

Sums = tuple[Summary, list[dict[int, int]]]

_lock = threading.Lock()
_running: dict[tuple[str, str, str, int], threading.Lock] = {}
_found: OrderedDict[tuple[str, str, str, int], tuple[float, Sums]] = OrderedDict()


def of(store: Callable[[], Store], job_id: str, audience: str, buckets: int) -> Sums:
    """The summary of a log and, if there are `buckets`, the rows of each level in each part of its time."""
    key = (current_namespace(), job_id, audience, buckets)
    with _lock:
        until, found = _found.get(key, (0.0, None))
        if found is not None and time.monotonic() < until:
            return found
        running = _running.setdefault(key, threading.Lock())
    # One adds up, the others take what is there or wait: a long log is not read by all who open its page at one time.
    if not running.acquire(blocking=found is None) and found is not None:
        return found
    try:
        with _lock:
            until, found = _found.get(key, (0.0, None))
        if found is not None and time.monotonic() < until:
            return found
        return _add_up(store(), key)
    finally:
        with _lock:
            _running.pop(key, None)
        running.release()


def _add_up(store: Store, key: tuple[str, str, str, int]) -> Sums:
    _, job_id, audience, buckets = key
    began = time.monotonic()
    summary = store.summary(job_id, audience)
    counts: list[dict[int, int]] = []
    if buckets and summary.first is not None and summary.last is not None:
        counts = windows.histogram(store, job_id, (summary.first, summary.last), audience, buckets)
    took = time.monotonic() - began
    if took * _TIMES > _SHORTEST / 10:
        with _lock:
            _found[key] = (time.monotonic() + max(_SHORTEST, took * _TIMES), (summary, counts))
            while len(_found) > _KEPT:
                _found.popitem(last=False)
    return summary, counts
