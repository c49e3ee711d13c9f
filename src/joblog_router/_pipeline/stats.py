"""Exact counters that any thread may raise without a lock. Imports nothing; read by `stats()` and commands."""

from __future__ import annotations

import itertools
import threading


class Counter:
    """`add()` from any thread (one call of C code, atomic, safe in signal handlers), `value()` exact.

    Reading takes a number too and subtracts what reading took; only readers share a lock.
    """

    __slots__ = ("_lock", "_reads", "add")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from nothing again. Not while others count: for the child of a fork."""
        self.add = itertools.count().__next__
        self._reads = 0
        self._lock = threading.RLock()  # a signal handler may ask while its thread is asking

    def value(self) -> int:
        """How often `add` was called."""
        with self._lock:
            taken = self.add()
            value = taken - self._reads
            self._reads += 1
        return value
