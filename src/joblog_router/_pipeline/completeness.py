"""Per job: what became of every line. emitted = stored + folded + dropped + quarantined + waiting.

Kept by the writer for the jobs that this process logged for last; read on any thread.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Final

from ..entry import Entry

_MOST_JOBS: Final = 5_000

Key = tuple[str, str]


def key_of(entry: Entry) -> Key:
    """Whose line it is: the same id in two namespaces is two jobs."""
    return entry.namespace, entry.job_id


class Counts:
    """One job's lines in one channel."""

    __slots__ = ("dropped", "folded", "quarantined", "stored", "told_missing")

    def __init__(self) -> None:
        self.stored = 0
        self.folded = 0
        self.quarantined = 0
        self.told_missing = 0  # of which the line at a scope's end told
        self.dropped = 0  # of which the log tells; others are in Overflow


class JobCounts:
    """The counts of a channel's jobs, the one that was touched longest ago forgotten first."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[Key, Counts] = OrderedDict()

    def of(self, entry: Entry) -> Counts:
        """The counts of `entry`'s job, to be raised. On the writer thread."""
        return self.at(key_of(entry))

    def stored(self, entries: Iterable[Entry]) -> None:
        """These are in the store. On the writer thread."""
        for key, count in Counter(map(key_of, entries)).items():
            self.at(key).stored += count

    def at(self, key: Key) -> Counts:
        """The counts of the job `key`, to be raised. On the writer thread."""
        counts = self._jobs.get(key)
        if counts is None:
            counts = self._jobs[key] = Counts()
            if len(self._jobs) > _MOST_JOBS:
                self._jobs.popitem(last=False)
        else:
            self._jobs.move_to_end(key)
        return counts

    def get(self, key: Key) -> Counts | None:
        """The counts of a job, if they are known. On any thread."""
        return self._jobs.get(key)
