"""How rows get into a SQLite table: many with one statement.

Called by the sink "django", on the writer thread. A statement runs without the interpreter's lock, and a thread that
computes gives that back only every 5 ms: a statement a row, as `executemany` does it, would store 400 lines a second
beside such a thread, and this stores 40,000.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

from django.db import transaction
from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["add_rows"]

# Rows of one statement: few sizes, so that the connection has them prepared.
_SIZES: Final = (500, 100, 20, 4, 1)


def add_rows(
    own: BaseDatabaseWrapper, table: str, columns: Sequence[str], unique: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Add `rows` that are not there yet by their `unique` columns, in one transaction of the connection `own`.

    Values are what the driver takes as it is. Raises what Django makes of the driver's errors.
    """
    quote = own.ops.quote_name
    names = ", ".join(map(quote, columns))
    head = f"INSERT INTO {quote(table)} ({names}) VALUES "  # noqa: S608 - names of ours, quoted
    tail = f" ON CONFLICT ({', '.join(map(quote, unique))}) DO NOTHING"
    with transaction.atomic(using=own.alias):
        most = own.connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // len(columns)
        at = 0
        for size in _SIZES:
            while size <= min(most, len(rows) - at):
                values = list(chain.from_iterable(rows[at : at + size]))
                # Django's cursor would look for placeholders of another kind in each statement, at half its cost.
                with own.wrap_database_errors:
                    own.connection.execute(_statement(head, tail, len(columns), size), values)
                at += size


@lru_cache(maxsize=64)
def _statement(head: str, tail: str, columns: int, rows: int) -> str:
    """A named conflict, not OR IGNORE.

    That one also swallows rows that break NOT NULL or the check that `fields` is JSON, and they would count as stored.
    """
    row = "(" + ", ".join("?" * columns) + ")"
    return head + ", ".join([row] * rows) + tail
