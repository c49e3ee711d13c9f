"""How rows get into a PostgreSQL table: by COPY, and by INSERT where some are there already or none may be copied.

Called by the sink, on the writer thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

from django.db import Error, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .ordering import MARK_WRITER

__all__ = ["LIMITS", "add_rows", "sqlstate"]

LIMITS: Final = {
    # A migration that locks the table holds the log back, but the log never queues up behind it for long: whoever
    # comes after a waiting lock waits as well.
    "lock_timeout": "3s",
    "statement_timeout": "30s",
    # A process that was frozen or unplugged halfway must not keep readers waiting for its rows.
    "idle_in_transaction_session_timeout": "10s",
}
"""What a transaction of the sink may take, set for itself alone: behind pgbouncer the session is everybody's."""

# One round trip. The limits come first; a select list is evaluated from left to right.
_BEGIN: Final = (
    "SELECT "
    + ", ".join(f"pg_catalog.set_config('{name}', '{value}', true)" for name, value in LIMITS.items())
    + f", {MARK_WRITER}"
)
# Under the 65,535 parameters that a statement can have where they are bound by the server.
_ROWS_OF_INSERT: Final = 1000
# Lines may be long: so many are one text at a time.
_ROWS_OF_PIECE: Final = 50
# Tables that refused a COPY, by connection.
_uncopied: Final[WeakKeyDictionary[BaseDatabaseWrapper, set[str]]] = WeakKeyDictionary()
# https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def add_rows(
    own: BaseDatabaseWrapper,
    table: str,
    columns: Sequence[str],
    unique: Sequence[str],
    rows: list[tuple[Any, ...]],
    *,
    are_plain: bool = False,
) -> None:
    """Add `rows` that are not there yet by their `unique` columns, in one transaction of the connection `own`.

    `are_plain` says that they are of text and whole numbers alone, which are sent more cheaply. psycopg 3 copies, five
    times as fast as inserting; a copy cannot pass over a row that is there, so it starts again as an INSERT if it meets
    one. Nor does PostgreSQL copy into a table with row-level security, for others than its owner: the connection is
    asked for that once. psycopg 2 inserts. Raises what Django makes of the driver's errors.
    """
    target = f"{own.ops.quote_name(table)} ({_names(own, columns)})"
    if hasattr(own.Database, "Copy") and table not in _uncopied.get(own, ()):  # type: ignore[attr-defined]
        try:
            with _transaction(own, table) as cursor:
                _copy(own, cursor, target, rows, are_plain)
            return
        except Error as error:
            state = sqlstate(error)
            if state == "0A000":
                _uncopied.setdefault(own, set()).add(table)
            elif state != "23505":
                raise
    with _transaction(own, table) as cursor:
        for start in range(0, len(rows), _ROWS_OF_INSERT):
            _insert(cursor, target, _names(own, unique), rows[start : start + _ROWS_OF_INSERT])


def sqlstate(error: Error) -> str:
    """PostgreSQL's five characters for what went wrong, or nothing."""
    cause = error.__cause__
    return str(getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None) or "")


@contextmanager
def _transaction(own: BaseDatabaseWrapper, table: str) -> Iterator[Any]:
    """A cursor in a transaction that has its limits and that readers know of."""
    with transaction.atomic(using=own.alias), own.cursor() as cursor:
        cursor.execute(_BEGIN, [own.ops.quote_name(table)])
        yield cursor


def _copy(own: BaseDatabaseWrapper, cursor: Any, target: str, rows: list[tuple[Any, ...]], are_plain: bool) -> None:
    # Before the COPY begins: what is no Unicode is about a row, not about the server. Django's connections speak UTF-8.
    plain = range(0, len(rows), _ROWS_OF_PIECE) if are_plain else ()
    pieces = [_text_of(rows[at : at + _ROWS_OF_PIECE]).encode() for at in plain]
    # Django wraps the errors of execute, but lets copy through as it is.
    with own.wrap_database_errors, cursor.copy(f"COPY {target} FROM STDIN") as copy:
        for piece in pieces:
            copy.write(piece)
        for row in () if are_plain else rows:
            copy.write_row(row)


def _text_of(rows: list[tuple[Any, ...]]) -> str:
    """Rows of text and whole numbers in COPY's text format."""
    line = "\t".join(["%s"] * len(rows[0])) + "\n"
    text = "".join([line % row for row in rows])
    is_plain = text.count("\n") == len(rows) and text.count("\t") == len(rows) * (len(rows[0]) - 1)
    if is_plain and not any(mark in text for mark in ("\\", "\r", "None")):
        return text  # as most are: nothing in them means anything to COPY
    return "".join([line % tuple([_escaped(value) for value in row]) for row in rows])


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_ESCAPES)
    return r"\N" if value is None else value


def _insert(cursor: Any, target: str, unique: str, rows: list[tuple[Any, ...]]) -> None:
    """One statement. A named conflict: an id that is taken is an error, not a row that is there already."""
    places = "(" + ", ".join(["%s"] * len(rows[0])) + ")"
    cursor.execute(
        f"INSERT INTO {target} VALUES {', '.join([places] * len(rows))} "  # noqa: S608 - names of ours, quoted
        f"ON CONFLICT ({unique}) DO NOTHING",
        [value for row in rows for value in row],
    )


def _names(own: BaseDatabaseWrapper, names: Iterable[str]) -> str:
    return ", ".join(own.ops.quote_name(name) for name in names)
