"""One line at the end of a scope where something of its job is not in the log: what became of every line.

Runs on the writer thread. Nothing here costs a job whose lines are all stored. Called by the delivery; imports `scopes`
and what counts lines.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from ..entry import Entry
from .completeness import JobCounts, Key, key_of
from .scopes import JobScope, still_open
from .tally import TallyRow

LOGGER: Final = "joblog_router.completeness"
# Seconds without a word of a job after which it is told, where its scope is not known; and between two looks.
QUIET: Final = 1.0
_MOST_JOBS: Final = 10_000
_MOST_SCOPES: Final = 1_000


class Missing:
    """The jobs of one channel that lack lines and were not told so at the end of their scope yet."""

    def __init__(self) -> None:
        # Since when on the monotonic clock; and of the jobs that were seen last the scope.
        self._jobs: OrderedDict[Key, float] = OrderedDict()
        self._scopes: OrderedDict[Key, JobScope] = OrderedDict()
        self._last: JobScope | None = None

    def note(self, key: Key) -> None:
        """Lines of the job `key` are dropped or set aside."""
        self._jobs[key] = time.monotonic()
        if len(self._jobs) > _MOST_JOBS:
            self._jobs.popitem(last=False)

    def forget(self, entry: Entry) -> None:
        """The job of `entry` is not to be told."""
        self._jobs.pop(key_of(entry), None)

    def saw(self, scope: JobScope) -> None:
        """A line of `scope` came: should lines of its job be missing, its end is waited for."""
        if scope is not self._last:
            self._last = scope
            key = (scope.namespace, scope.job_id)
            self._scopes[key] = scope
            self._scopes.move_to_end(key)
            if len(self._scopes) > _MOST_SCOPES:
                self._scopes.popitem(last=False)

    def owes(self) -> bool:
        """Whether a job is to be told of whose scope is not open. On any thread."""
        return bool(self._jobs) and not all(map(self._is_open, list(self._jobs)))

    def _is_open(self, key: Key) -> bool:
        scope = self._scopes.get(key)
        return scope is not None and still_open(scope) is not None

    def next_due(self) -> float | None:
        """When to look again, on the monotonic clock; None if nothing is to be told."""
        return time.monotonic() + QUIET if self._jobs else None

    def rows(
        self, origin: str, everything: bool, jobs: JobCounts, counts_of: Callable[[str, str], dict[str, int]]
    ) -> Iterator[TallyRow]:
        """A row for each job whose scope has closed and of which nothing waits. Its `seq` is for the caller to set.

        `everything`: somebody waits, so a scope that is not known is not waited for.
        """
        now = time.monotonic()
        for key, since in list(self._jobs.items()):
            if self._is_open(key) or not (everything or key in self._scopes or now - since >= QUIET):
                continue
            counts = counts_of(*key)
            if counts["waiting"]:
                continue
            del self._jobs[key]
            known = jobs.at(key)
            missing = counts["dropped"] + counts["quarantined"]
            if missing > known.told_missing:
                known.told_missing = missing
                yield _row(origin, key, counts)


def _row(origin: str, key: Key, counts: dict[str, int]) -> TallyRow:
    namespace, job_id = key
    parts = {name: counts[name] for name in ("dropped", "quarantined") if counts[name]}
    named = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    message = f"{sum(parts.values()):,} of {counts['emitted']:,} lines are not in this log: {named}"
    fields = {"missing": sum(parts.values()), "completeness": counts}
    return TallyRow(job_id, time.time(), 30, LOGGER, message, None, fields, "", 0, origin, 0, 0, namespace)
