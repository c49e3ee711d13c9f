"""The only thing that flows from the writer to sinks and readers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["Entry"]


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
        """The entry as the JSON-lines store writes it."""
        return {
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
            "audience": self.audience,
        }
