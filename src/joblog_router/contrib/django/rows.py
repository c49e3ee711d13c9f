"""Rows of the app's own table as entries: the columns that readers select, and their order.

Called by whatever reads the table, on the reader's thread. Imports no model; what is written is made elsewhere.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ...entry import Entry
from .times import MICROSECONDS

__all__ = ["StoredRow"]


class StoredRow(NamedTuple):
    """A row as `values_list(*StoredRow._fields)` gives it; whose it is, is known to who asked for it."""

    id: int
    created: int
    level: int
    logger: str
    message: str
    exception: str
    fields: Any
    path: str
    line: int
    origin: str
    seq: int
    n: int
    audience: str

    def entry(self, job_id: str, namespace: str) -> Entry:
        """The row as a line of that job."""
        return Entry(
            job_id=job_id,
            created=self.created / MICROSECONDS,
            level=self.level,
            logger=self.logger,
            message=self.message,
            exception=self.exception or None,
            fields=self.fields if isinstance(self.fields, dict) else {},
            path=self.path,
            line=self.line,
            origin=self.origin,
            seq=self.seq,
            n=self.n,
            namespace=namespace,
            audience=self.audience,
        )
