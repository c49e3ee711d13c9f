"""Entries in a list of this process: for tests and demonstrations. Written by the writer, read on any thread."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from .._pipeline import reading
from .._pipeline.namespaces import in_force
from .._pipeline.text import clean
from ..entry import Audience, Entry
from ..exceptions import ConfigurationError
from .store import ALL, Page, Selection, Summary

__all__ = ["MemorySink"]

_KIND: Final = "m1"
_Rows: TypeAlias = list[tuple[int, Entry]]


class MemorySink:
    """Keeps the newest `max_entries` entries in memory. A store, too; all but `write` may be called from any thread."""

    def __init__(self, max_entries: int = 100_000) -> None:
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ConfigurationError(f"sink 'memory': max_entries must be a positive whole number, not {max_entries!r}")
        # With the number each was written as.
        self._entries: deque[tuple[int, Entry]] = deque(maxlen=max_entries)
        self._count = 0
        self._last: dict[str, int] = {}
        self._lock = threading.Lock()
        # Cursors are good for this object only.
        self._token = secrets.token_hex(4)

    def write(self, entries: Sequence[Entry]) -> None:
        """Keep the entries that are not kept yet."""
        with self._lock:
            for entry in entries:
                last = self._last.get(entry.origin, 0)
                # A recovered tally comes behind lines that have higher numbers.
                if entry.seq > last or (entry.tally is not None and all(entry != kept for _, kept in self._entries)):
                    self._last[entry.origin] = max(last, entry.seq)
                    self._count += 1
                    self._entries.append((self._count, entry))

    def close(self) -> None:
        """Nothing to let go of: what was written stays readable."""

    def entries(self, job_id: object = None) -> list[Entry]:
        """What was written so far, oldest first; only one job's if `job_id` is given. Call `flush()` before."""
        kept = [entry for _, entry in self._kept()]
        wanted = clean(str(job_id))
        return kept if job_id is None else [entry for entry in kept if entry.job_id == wanted]

    def clear(self) -> None:
        """Forget what was written."""
        with self._lock:
            self._entries.clear()

    # --- as a store ------------------------------------------------------------------------------------------

    def newest(self, job_id: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None) -> Page:
        """See Store."""
        kept = self._kept()
        return self._page_down(kept, self._chosen(kept, job_id, selection, namespace), limit, reading.Folds())

    def after(
        self, job_id: str, cursor: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        since = min(self._position(cursor)[0], self._count) if cursor else 0  # it may be made up
        kept = self._kept()
        found = [row for row in self._chosen(kept, job_id, selection, namespace) if row[0] > since]
        limit = reading.positive(limit)
        more = len(found) > limit
        last = found[limit - 1][0] if more else _end_of(kept, since)
        entries = reading.in_order(entry for _, entry in found[:limit])
        return Page(entries, reading.encode(_KIND, self._token, last), None, more)

    def before(
        self, job_id: str, earlier: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        until, folds = self._position(earlier)
        kept = self._kept()
        rows = [row for row in self._chosen(kept, job_id, selection, namespace) if row[0] < until]
        return self._page_down(kept, rows, limit, folds)

    def summary(self, job_id: str, audience: Audience = "all", namespace: str | None = None) -> Summary:
        """See Store."""
        rows = self._chosen(self._kept(), job_id, Selection(audience=audience), namespace)
        return reading.summarize(clean(str(job_id)), (entry for _, entry in rows))

    def delete(self, job_id: str, namespace: str | None = None) -> int:
        """See Store."""
        job, space = clean(str(job_id)), in_force(namespace)
        with self._lock:
            kept = [row for row in self._entries if (row[1].job_id, row[1].namespace) != (job, space)]
            return self._replace(kept)

    def prune(
        self, older_than: float, keep: int | None = None, dry_run: bool = False, namespace: str | None = None
    ) -> int:
        """See Store."""
        space = in_force(namespace)
        with self._lock:
            seen: dict[str, int] = {}
            kept: _Rows = []
            for row in reversed(self._entries):
                entry = row[1]
                if entry.namespace == space:
                    seen[entry.job_id] = seen.get(entry.job_id, 0) + 1
                    if entry.created < older_than or (keep is not None and seen[entry.job_id] > keep):
                        continue
                kept.append(row)
            return len(self._entries) - len(kept) if dry_run else self._replace(kept[::-1])

    def _kept(self) -> _Rows:
        with self._lock:
            return list(self._entries)

    def _replace(self, kept: _Rows) -> int:
        gone = len(self._entries) - len(kept)
        self._entries = deque(kept, maxlen=self._entries.maxlen)
        return gone

    @staticmethod
    def _chosen(kept: _Rows, job_id: str, selection: Selection, namespace: str | None) -> _Rows:
        job, space = clean(str(job_id)), in_force(namespace)
        is_wanted = reading.chooser(selection, reading.shown_since(job, space))
        return [row for row in kept if row[1].job_id == job and row[1].namespace == space and is_wanted(row[1])]

    def _page_down(self, kept: _Rows, rows: _Rows, limit: int, folds: reading.Folds) -> Page:
        entries, last = reading.take_newest(reversed(rows), reading.positive(limit), folds)
        earlier = None if last is None else reading.encode(_KIND, self._token, last, folds.seen())
        return Page(entries, reading.encode(_KIND, self._token, _end_of(kept, 0)), earlier)

    def _position(self, text: str) -> tuple[int, reading.Folds]:
        try:
            token, number, *folds = reading.decode(text, _KIND)
            if token != self._token or not reading.is_number(number):
                raise ValueError("another object's")
            return int(number), reading.Folds(*folds)
        except (ValueError, TypeError) as error:
            raise reading.foreign(text) from error


def _end_of(kept: _Rows, at_least: int) -> int:
    """Up to where a reader is who has seen `kept`."""
    return max(at_least, kept[-1][0] if kept else 0)
