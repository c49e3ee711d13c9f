"""Up to which id everything that will ever be in the table is visible: what lets a reader go on from an id.

PostgreSQL hands out ids before commit, so a row with a smaller id may appear after one with a larger. Every writing
transaction therefore holds a shared advisory lock whose second key is where the ids stood before it took its own.
Called by the sink on the writer thread, and by readers on theirs.
"""

from __future__ import annotations

from typing import Any, Final

from ...exceptions import JobLogError

__all__ = ["MARK_WRITER", "WRITERS_LOCK", "floor_from_marks", "settled_floor"]

WRITERS_LOCK: Final = -637_210_741  # CRC-32 of "joblog_router"
"""First key of the advisory locks of all who write the table."""

_BITS: Final = 31  # the second key is an int4, and its sign is left alone
_WRAP: Final = 1 << _BITS
_LAST_ID: Final = "pg_catalog.pg_sequence_last_value(pg_catalog.pg_get_serial_sequence(%s, 'id')::regclass)"

MARK_WRITER: Final = (
    f"pg_catalog.pg_advisory_xact_lock_shared({WRITERS_LOCK}, (coalesce({_LAST_ID}, 0) & {_WRAP - 1})::int)"
)
"""What a writing transaction selects before its first row; the parameter is the quoted name of the table."""


def settled_floor(connection: Any, table: str) -> int:
    """The id up to which a query that begins after this call sees every row there will ever be; 0 for none.

    It can be smaller than the last time while somebody writes to another table of job logs in the same database:
    keep the larger one. Asks the database twice. Raises JobLogError on a PostgreSQL replica, which does not know who
    is writing, in a transaction that sees nothing new, and where ids do not come from a sequence that this user may
    look at. On SQLite, where one writes at a time, it is the largest id, and so it is on other databases, where a row
    may still come late.
    """
    quoted = connection.ops.quote_name(table)
    with connection.cursor() as cursor:
        if connection.vendor != "postgresql":
            cursor.execute(f"SELECT max(id) FROM {quoted}")  # noqa: S608 - a name of ours, quoted
            return int(cursor.fetchone()[0] or 0)
        # First how far ids have come, then who is writing: whoever begins in between gets larger ids.
        last = _last_id(cursor, table, quoted, is_in_block=connection.in_atomic_block)
        cursor.execute(
            "SELECT objid::bigint FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND objsubid = 2 "
            "AND classid = %s::bigint::oid AND database = "
            "(SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())",
            [WRITERS_LOCK & 0xFFFF_FFFF],  # shown there as an unsigned number
        )
        return floor_from_marks(last, [mark for (mark,) in cursor.fetchall()])


def floor_from_marks(last: int, marks: list[int]) -> int:
    """The smallest of `marks`, which are the low 31 bits of ids near `last`, as an id not above `last`."""
    floor = last
    for mark in marks:
        behind = (last - mark) % _WRAP
        if behind <= min(last, _WRAP // 2):  # else it is ahead: its writer began after `last` was read
            floor = min(floor, last - behind)
    return floor


def _last_id(cursor: Any, table: str, quoted: str, *, is_in_block: bool) -> int:
    cursor.execute(
        f"SELECT {_LAST_ID}, pg_catalog.pg_is_in_recovery(), pg_catalog.pg_get_serial_sequence(%s, 'id'), "
        "pg_catalog.current_setting('transaction_isolation')",
        [quoted, quoted],
    )
    last, is_replica, sequence, isolation = cursor.fetchone()
    if is_replica:
        raise JobLogError(
            f"The end of {table} cannot be followed on a replica, which does not know who is writing: "
            "route reads of job logs to the primary."
        )
    if is_in_block and isolation != "read committed":
        raise JobLogError(
            f"The end of {table} cannot be followed in a transaction with isolation level {isolation!r}, which sees "
            "no new rows: read job logs outside of transactions (non_atomic_requests), or in 'read committed'."
        )
    if sequence is None:
        raise JobLogError(
            f"The ids of {table} come from no sequence of its own: "
            f"ALTER SEQUENCE ... OWNED BY {table}.id tells PostgreSQL which one it is."
        )
    if last is None:
        # Nothing was written yet, or (from PostgreSQL 17) this user may not look.
        cursor.execute("SELECT has_sequence_privilege(%s, 'USAGE, SELECT')", [sequence])
        if not cursor.fetchone()[0]:
            raise JobLogError(f"This database user may not look at {sequence}: GRANT USAGE ON SEQUENCE {sequence}.")
    return int(last or 0)
