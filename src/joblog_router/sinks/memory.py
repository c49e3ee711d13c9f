"""Entries in a list of this process: for tests and demonstrations."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from .._pipeline.text import clean
from ..entry import Entry
from ..exceptions import ConfigurationError

__all__ = ["MemorySink"]


class MemorySink:
    """Keeps the newest `max_entries` entries in memory. `entries()` may be called from any thread."""

    def __init__(self, max_entries: int = 100_000) -> None:
        if isinstance(max_entries, bool) or not isinstance(max_entries, int) or max_entries < 1:
            raise ConfigurationError(f"sink 'memory': max_entries must be a positive whole number, not {max_entries!r}")
        self._entries: deque[Entry] = deque(maxlen=max_entries)
        self._last: dict[str, int] = {}

    def write(self, entries: Sequence[Entry]) -> None:
        """Keep the entries that are not kept yet."""
        for entry in entries:
            last = self._last.get(entry.origin, 0)
            # A recovered tally comes behind lines that have higher numbers.
            if entry.seq > last or ("fold" in entry.fields and entry not in self._entries):
                self._last[entry.origin] = max(last, entry.seq)
                self._entries.append(entry)

    def close(self) -> None:
        """Nothing to let go of: what was written stays readable."""

    def entries(self, job_id: object = None) -> list[Entry]:
        """What was written so far, oldest first; only one job's if `job_id` is given. Call `flush()` before."""
        kept = list(self._entries)
        wanted = clean(str(job_id))
        return kept if job_id is None else [entry for entry in kept if entry.job_id == wanted]

    def clear(self) -> None:
        """Forget what was written."""
        self._entries.clear()
