"""Jobs and their rows, for a table of lines with a foreign key: who has one, and the lines of those who have none yet.

Called by the sink "model" alone, under its lock: on the writer thread, and on the one that looks after parked lines.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from django.core.exceptions import ValidationError

from ..._pipeline.report import report_once
from ...entry import Entry

__all__ = ["KnownJobs", "Parking"]

_KNOWN_JOBS: Final = 1_000

_Parked: TypeAlias = dict[str, tuple[float, list[Entry]]]


class KnownJobs:
    """The jobs that were seen to have rows: each is asked for once."""

    def __init__(self) -> None:
        self._seen: dict[str, None] = {}

    def __contains__(self, job_id: str) -> bool:
        return job_id in self._seen

    def missing(self, jobs: set[str]) -> set[str]:
        """Those of `jobs` that are not among them."""
        return jobs - self._seen.keys()

    def forget(self, job_id: str | None = None) -> None:
        """Have one job asked for again, or all."""
        if job_id is None:
            self._seen.clear()
        else:
            self._seen.pop(job_id, None)

    def look_up(self, field: Any, alias: str, jobs: set[str]) -> None:
        """Ask for the rows of those of `jobs` that are not known yet; `field` is the foreign key to them."""
        unknown = _keys(field, self.missing(jobs))
        if not unknown:
            return
        if len(self._seen) + len(unknown) > _KNOWN_JOBS:
            self._seen.clear()
            unknown = _keys(field, jobs)
        name = field.target_field.attname
        rows = field.remote_field.model._base_manager.using(alias)
        for key in rows.filter(**{f"{name}__in": list(unknown)}).values_list(name, flat=True):
            self._seen[unknown[key]] = None


def _keys(field: Any, jobs: Iterable[str]) -> Mapping[Any, str]:
    """The ids of jobs by what the model has for them; without those that are no id of it."""
    found = {}
    for job_id in jobs:
        try:
            found[field.target_field.to_python(job_id)] = job_id
        except ValidationError:
            continue  # its lines are given up when their time is over
    return found


class Parking:
    """Lines that wait for their job's row: `most` of them at most, those of one job for `seconds`.

    `dropped` counts those that were given up.
    """

    dropped: int

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._parked: _Parked = {}
        self.dropped = 0

    def __len__(self) -> int:
        # Asked for without the lock, too.
        return sum(len(lines) for _, lines in list(self._parked.values()))

    @property
    def jobs(self) -> set[str]:
        """Whose lines wait."""
        return set(self._parked)

    def lowest(self, origin: str) -> int | None:
        """The lowest number of a line of `origin`."""
        seqs = (entry.seq for _, lines in self._parked.values() for entry in lines if entry.origin == origin)
        return min(seqs, default=None)

    def park(self, entry: Entry) -> None:
        """Keep a line, or drop it where there is no room."""
        if len(self) >= self._most:
            self.drop(entry.job_id, 1, f"has no row, and {self._most} lines wait for rows already")
            return
        if entry.job_id not in self._parked:
            # A line of a process that was killed has waited already; a row that is just being committed gets a second.
            waited = min(max(time.time() - entry.created, 0.0), self._seconds - min(1.0, self._seconds))
            self._parked[entry.job_id] = (time.monotonic() - waited, [])
        self._parked[entry.job_id][1].append(entry)

    def take(self, known: KnownJobs) -> list[Entry]:
        """The lines of jobs that have rows by now; they wait no more."""
        return [entry for job_id in list(self._parked) if job_id in known for entry in self._parked.pop(job_id)[1]]

    def give_up(self) -> None:
        """Drop what has waited for too long."""
        until = time.monotonic() - self._seconds
        for job_id, (since, lines) in list(self._parked.items()):
            if since <= until:
                del self._parked[job_id]
                self.drop(job_id, len(lines), f"had no row for {self._seconds:g} seconds")

    def drop(self, job_id: str, count: int, why: str) -> None:
        """Count lines that are lost, and say it."""
        self.dropped += count
        report_once(("parked", job_id, why), f"{count} lines of job {job_id!r} are dropped: the job {why}")

    def forget(self) -> None:
        """In a process that a fork made: the lines are the parent's."""
        self._parked = {}

    def state(self) -> tuple[_Parked, int]:
        """What `restore` brings back."""
        return {job_id: (since, list(lines)) for job_id, (since, lines) in self._parked.items()}, self.dropped

    def restore(self, state: tuple[_Parked, int]) -> None:
        """Be as it was: what was tried did not come about."""
        self._parked, self.dropped = state
