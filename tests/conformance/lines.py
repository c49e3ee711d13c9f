"""What the conformance tests log and look at."""

from __future__ import annotations

import logging

from joblog_router import stats
from tests.helpers import entries

log = logging.getLogger("third_party.module")


def lines() -> list[tuple[str, str]]:
    """Job and text of every stored line."""
    return [(entry.job_id, entry.message) for entry in entries()]


class Counted:
    """How much a counter of `stats()` has risen since this was made."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._before = stats()[name]

    def more(self) -> int:
        """By how much."""
        return int(stats()[self._name] - self._before)
