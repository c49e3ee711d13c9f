"""The columns of the app's table, and the rows there that entries become.

Called by the sink "django", on the writer thread, for each line of every job: a batch at a time. Imports `keys`, no
model and nothing of Django.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from ..._pipeline.primitives import freeze
from ...entry import Entry
from .keys import stored_key

__all__ = ["COLUMNS", "UNIQUE", "Row", "rows_of"]

Row: TypeAlias = tuple[Any, ...]

COLUMNS: Final = (
    "namespace",
    "job_id",
    "created",
    "level",
    "logger",
    "message",
    "exception",
    "fields",
    "path",
    "line",
    "audience",
    "origin",
    "seq",
    "n",
)
UNIQUE: Final = ("origin", "seq")

_LOWEST, _HIGHEST = -(2**15), 2**15 - 1
_LONGEST_LINE: Final = 2**31 - 1


def rows_of(entries: Iterable[Entry]) -> list[Row]:
    """A row of text and whole numbers for each entry, in the order of `COLUMNS`.

    Raises TypeError or ValueError for what no column can hold.
    """
    keys: dict[str, str] = {}  # a batch is of few jobs
    rows = []
    for (
        job_id, created, level, logger, message, exception, fields, path, line, origin, seq, n, namespace, audience
    ) in entries:  # fmt: skip
        key = keys.get(job_id)
        if key is None:
            key = keys[job_id] = stored_key(job_id)
        rows.append(
            (
                stored_key(namespace) if namespace else "",
                key,
                round(created * 1_000_000),
                level if _LOWEST <= level <= _HIGHEST else min(max(level, _LOWEST), _HIGHEST),
                logger,
                message,
                exception or "",
                _json(fields) if fields else "{}",
                path,
                min(max(line or 0, 0), _LONGEST_LINE),
                audience,
                origin,
                seq,
                n,
            )
        )
    return rows


def _json(fields: Mapping[str, Any]) -> str:
    """`fields` as JSON that every database takes: no NaN, no Infinity, nothing but primitives."""
    try:
        return _encode(dict(fields))
    except (TypeError, ValueError):
        return _encode(freeze(dict(fields)))


# Made once: json.dumps makes an encoder for every call that asks for anything.
_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
