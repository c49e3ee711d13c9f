"""What a database's error means for job log lines, in words: the lines or the database, and what to do.

Called by sinks on the writer thread and by stores on the threads of readers. Asks no database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from django.db import DataError, Error, IntegrityError, connections

from ...exceptions import SinkUnavailableError
from . import conf
from .postgresql import sqlstate
from .test_runs import is_test_run

__all__ = ["is_about_values", "unavailable", "unknown_alias"]


def unknown_alias(alias: str) -> SinkUnavailableError:
    """What to raise where DATABASES has no such alias."""
    return SinkUnavailableError(
        f"DATABASES has no alias {alias!r}", "see manage.py check, joblog_router.E002, for what to set"
    )


def is_about_values(error: Error) -> bool:
    """Whether the database refused what it was given rather than being unable to take anything."""
    state = sqlstate(error)
    if state == "23505":
        return False  # a line that is there already is passed over: another unique column is in the way
    # Classes 22 (data) and 54 (a limit exceeded), which psycopg counts among operational errors.
    return isinstance(error, DataError | IntegrityError) or state[:2] in ("22", "54")


def _lacks_table(error: Error) -> bool:
    text = str(error)
    return (
        sqlstate(error) in ("42P01", "42703")
        or (bool(error.args) and error.args[0] in (1054, 1146))  # MySQL
        or any(words in text for words in ("no such table", "no such column", "has no column named"))
    )


def unavailable(alias: str, error: Error, what: str = "does not take job log lines") -> SinkUnavailableError:
    """What to raise for an error that is about the database, or about the app's own table there."""
    if _lacks_table(error):
        return SinkUnavailableError(
            f"the table of the job logs is missing in database {alias!r} ({_first_line(error)})",
            f"Run: {conf.migrate_command(alias)}",
        )
    place = str(connections.settings[alias].get("NAME") or "")
    return SinkUnavailableError(
        f"database {alias!r} ({place}) {what}: {_first_line(error)}",
        _advice(alias, error),
    )


# By PostgreSQL's SQLSTATE.
_ADVICE: Final[Mapping[str, str]] = {
    "23505": "ids are handed out that are in use: run what manage.py sqlsequencereset joblog_router prints",
    "25006": "DATABASES must name the server that takes writes, not a replica of it",
    "42501": "allow this user INSERT and SELECT on the table and USAGE on its sequence",
    "53100": "make room on the server's disk",
    "53300": "allow the server more connections, or this user",
    "55P03": "somebody holds a lock on the table, perhaps a migration; lines are tried again until it is gone",
    "57014": "the server is too slow or somebody cancelled the statement; lines are tried again",
}


def _advice(alias: str, error: Error) -> str:
    text = str(error)
    if "unable to open database file" in text or "readonly database" in text:
        return f"make the file and its folder writable for this process, or change DATABASES[{alias!r}]['NAME']"
    if "is locked" in text and is_test_run():
        return "a TestCase holds its database: use TransactionTestCase with databases=..., or leave lines in memory"
    if "is locked" in text:
        return "another connection is writing for long; give the log a file of its own with sqlite_alias()"
    advice = _ADVICE.get(sqlstate(error))
    if advice is not None:
        return advice
    return f"see that the server runs and that DATABASES[{alias!r}] is right"


def _first_line(error: Error) -> str:
    lines: Iterable[str] = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)
