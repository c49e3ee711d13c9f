"""Rows of the app's own table as entries: the columns that readers select, and their order.

Called by whatever reads the table, on the reader's thread. Imports no model; what is written is made elsewhere.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from ..._pipeline.reading import datable
from ...entry import Entry
from .times import MICROSECONDS

__all__ = ["READ_COLUMNS", "StoredRow", "entry_of", "place_of"]

StoredRow: TypeAlias = tuple[Any, ...]
"""A row as `values_list(*READ_COLUMNS)` gives it; whose it is, is known to who asked for it."""

# Those of `place_of` first. Nobody else knows the order.
READ_COLUMNS: Final = (
    "id",
    "created",
    "origin",
    "level",
    "logger",
    "message",
    "exception",
    "fields",
    "path",
    "line",
    "seq",
    "n",
    "audience",
)


def place_of(row: StoredRow) -> tuple[int, int, str]:
    """The id of a row, when it was created (in microseconds), and its origin."""
    return row[0], row[1], row[2]


def entry_of(row: StoredRow, job_id: str, namespace: str) -> Entry:
    """The row as a line of that job."""
    _, created, origin, level, logger, message, exception, fields, path, line, seq, n, audience = row
    # By position: by name it would take twice as long.
    return Entry(
        job_id,
        datable(created / MICROSECONDS),
        level,
        logger,
        message,
        exception or None,
        fields if isinstance(fields, dict) else {},
        path,
        line,
        origin,
        seq,
        n,
        namespace,
        audience,
    )
