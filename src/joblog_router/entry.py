"""The only thing that flows from the writer to sinks and readers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

__all__ = ["Entry"]


# Levels whose names mean the same in every process.
_STANDARD: Final = frozenset({10, 20, 30, 40, 50})


class Entry(NamedTuple):
    """One line of one job's log: immutable, primitives only, safe to store as it is.

    `created` is seconds since the epoch (UTC, as in `LogRecord.created`), `level` the number of the level,
    `exception` the rendered traceback or None, `fields` JSON-ready. `(origin, seq)` identifies the entry for ever:
    `origin` is one process's life, `seq` counts in it. `n` counts within the scope, 0 where the record was addressed
    from outside a scope: a gap in `n` is a loss. Made on the writer thread.
    """

    job_id: str
    created: float
    level: int
    logger: str
    message: str
    exception: str | None
    fields: Mapping[str, Any]
    path: str
    line: int
    origin: str
    seq: int
    n: int
    namespace: str = ""
    audience: str = "all"

    @property
    def level_name(self) -> str:
        """The level's name as the process that logs knows it, for example `WARNING`."""
        return logging.getLevelName(self.level)

    def as_dict(self) -> dict[str, Any]:
        """The entry as the JSON-lines store writes it. What is as it mostly is (`namespace`, ...) is left out."""
        entry: dict[str, Any] = {
            "job_id": self.job_id,
            "created": self.created,
            "level": self.level_name,
            "logger": self.logger,
            "message": self.message,
            "exception": self.exception,
            "fields": dict(self.fields),
            "path": self.path,
            "line": self.line,
            "origin": self.origin,
            "seq": self.seq,
            "n": self.n,
        }
        if self.level not in _STANDARD:
            entry["levelno"] = self.level
        if self.namespace:
            entry["namespace"] = self.namespace
        if self.audience != "all":
            entry["audience"] = self.audience
        return entry
