"""The only thing that flows from the writer to sinks and readers, and what a row that stands for folded lines says.

Made on the writer thread, read on any. Imports nothing of this library.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

__all__ = ["Entry"]

# Who may read a line: whoever may see the job, or staff only.
Audience: TypeAlias = Literal["all", "staff"]
AUDIENCES: Final[tuple[Audience, ...]] = get_args(Audience)

# Levels whose names mean the same in every process.
_STANDARD: Final = frozenset({10, 20, 30, 40, 50})


# Beyond them no date can be told, in whatever time zone: the second day of the year 1, the last but one of 9999.
EARLIEST: Final = -62_135_510_400.0
LATEST: Final = 253_402_128_000.0


class Folded(NamedTuple):
    """What a tally row stands for: lines that were counted and not stored.

    `fold` is the run's id, `folded` how many lines of it were counted so far, beyond those stored as rows of their own;
    the newest tally of a run counts. `first` and `last` are the texts of its ends. `left_out` is of the marker that a
    log with `max_lines` has between its ends: counts by the names of levels. Nobody else knows the names of the fields.
    """

    fold: str
    folded: int
    first: str
    last: str
    left_out: Mapping[str, int] | None = None

    def as_fields(self) -> dict[str, Any]:
        """As the fields of the row."""
        fields = self._asdict()
        if self.left_out is None:
            del fields["left_out"]
        return fields


# The fields by which a row is known to be a tally, and all that its line is about, before those of the line itself.
TALLY_MARKS: Final = ("fold", "folded")
# The field of a row that stands, under its number, for a line whose contents the store refused.
REFUSED_MARK: Final = "refused"
TALLY_FIELDS: Final = ("fold", "folded", "first", "last")


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
    audience: Audience = "all"

    @property
    def tally(self) -> Folded | None:
        """What this row stands for if it is a tally of folded lines; None for a line of its own."""
        fields = self.fields
        if "fold" not in fields or "folded" not in fields or not isinstance(fold := fields["fold"], str) or not fold:
            return None
        folded, left_out = fields["folded"], fields.get("left_out")
        return Folded(
            fold,
            folded if type(folded) is int else 0,
            str(fields.get("first", "")),
            str(fields.get("last", "")),
            left_out if isinstance(left_out, Mapping) else None,
        )

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
