"""The sink "django": entries to the table of the app, over a connection of its own.

Made by JobLogHandler while `django.setup()` configures logging, before any app is loaded: this module imports
no model. `write`, `idle` and `close` are called by the writer, one at a time.
"""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    connections,
    transaction,
)
from django.db.backends.base.base import BaseDatabaseWrapper

from ..._pipeline.report import report_once
from ...entry import Entry
from ...exceptions import ConfigurationError, SinkUnavailableError
from ...sinks import MemorySink, Store
from . import conf, postgresql, sqlite
from .columns import COLUMNS, UNIQUE, Row, rows_of
from .connection import PrivateConnection
from .delegation import StoreByDelegation
from .keys import stored_key
from .postgresql import sqlstate
from .test_runs import is_test_run, say_so

if TYPE_CHECKING:
    from .models import JobLogEntry

__all__ = ["APP", "DjangoSink", "sinks"]

APP: Final = "joblog_router.contrib.django"
# Long enough for most starts: a line logged before the apps are loaded waits without a word on stderr.
_APPS_WAIT: Final = 2.0
# After so many rows of one job their sums are kept: those of a few blocks, so that lines need not wait for long.
_ROWS_OF_SUMS: Final = 10_000
_SUMS_AT_ONCE: Final = 3
_MOST_JOBS: Final = 1000

# Read when logging is configured, before a test runner can have changed them.
_NAMES_AT_START: Final = {alias: str(database.get("NAME")) for alias, database in settings.DATABASES.items()}

_made: Final[weakref.WeakSet[DjangoSink]] = weakref.WeakSet()


class DjangoSink(StoreByDelegation):
    """Adds entries to the table `JobLogEntry`. An entry that is there already is not added twice.

    `database` is an alias in DATABASES; without it JOBLOG_ROUTER["DATABASE"] decides, else "joblog" if there
    is such an alias, else "default". Writes on a private connection, so a line survives the rollback of what
    logged it, may name a job whose row is not committed or gone, and can be logged from coroutines.

    In a test run (`manage.py test`, pytest), which is said on stderr, lines stay in memory, see `entries()`: a line
    stored by another thread would outlive the test's rollback, and one that waits would reach the project's real
    database after the tests, in the log of a real job with the same id. `tests="database"` writes to test databases,
    never to the real one.

    A store, too: what is read is where lines are written.
    """

    place: str

    def __init__(self, database: str | None = None, tests: str = "memory") -> None:
        given: object = database
        if given is not None and (not isinstance(given, str) or not given):
            raise ConfigurationError(f"sink 'django': database must be an alias in DATABASES, not {database!r}")
        if tests not in ("memory", "database"):
            raise ConfigurationError(f"sink 'django': tests must be 'memory' or 'database', not {tests!r}")
        self._database = database
        self._tests = tests
        self._memory = MemorySink()
        self.place = f"{database or ''} {tests}"
        self._connection: PrivateConnection | None = None
        # By namespace and job: rows written since sums were kept.
        self._unsummed: dict[tuple[str, str], int] = {}
        _made.add(self)
        say_so(tests)

    @property
    def alias(self) -> str:
        """The database alias written to. Raises ConfigurationError where JOBLOG_ROUTER is wrong."""
        return self._database or conf.database_alias()

    def write(self, entries: Sequence[Entry]) -> None:
        """Add `entries` in one transaction.

        Raises SinkUnavailableError while the apps are not loaded, the table is missing or the database away,
        and DataError, IntegrityError or ValueError for what the database cannot hold.
        """
        if self.is_in_memory():
            self._memory.write(entries)
            return
        model = _loaded_model()
        connection = self._connection_to(self.alias)
        try:
            with connection.in_place() as own:
                _add(own, model, entries)
                self._keep_sums(own.alias, entries)
        except (DatabaseError, InterfaceError) as error:
            if _is_about_values(error):
                raise
            connection.close()
            raise _unavailable(connection.alias, error) from error
        except ImproperlyConfigured as error:
            raise SinkUnavailableError(f"database {connection.alias!r}: {error}", "correct DATABASES") from error

    def _keep_sums(self, alias: str, entries: Sequence[Entry]) -> None:
        """Have sums kept of a log that this process has written so many rows of; see `sums`. Never raises."""
        for key, count in Counter((entry.namespace, entry.job_id) for entry in entries).items():
            rows = self._unsummed.get(key, 0) + count
            if rows >= _ROWS_OF_SUMS:
                from . import sums

                try:
                    is_done = sums.extend(sums.Log(alias, stored_key(key[0]), stored_key(key[1])), _SUMS_AT_ONCE)
                except Exception as error:  # the rows are written: readers add up for themselves
                    report_once(("sums", alias), f"no sums over long logs are kept in database {alias!r}: {error}")
                    is_done = True
                rows = 0 if is_done else rows - _ROWS_OF_SUMS // 10
            if len(self._unsummed) >= _MOST_JOBS:
                self._unsummed.clear()
            self._unsummed[key] = rows

    def entries(self, job_id: object = None) -> list[Entry]:
        """What a test run kept in memory, oldest first; only one job's if `job_id` is given. `flush()` before."""
        return self._memory.entries(job_id)

    def is_in_memory(self) -> bool:
        """Whether lines stay in memory, as in a test run."""
        return is_test_run() and not self._is_for_test_database()

    def _store(self) -> Store:
        if self.is_in_memory():
            return self._memory
        _loaded_model()
        from .store import DjangoStore

        return DjangoStore(self.alias)

    def _is_for_test_database(self) -> bool:
        if self._tests != "database":
            return False
        # The test runner gives the alias another name, and its own back when the tests are over.
        if self.alias not in connections.settings:
            return True  # writing tells what is wrong
        now = str(connections.settings[self.alias].get("NAME"))
        return now != _NAMES_AT_START.get(self.alias, now)

    def idle(self) -> None:
        """Close the connection, after a second of rest: an open one keeps a database from being dropped."""
        self.close()

    def close(self) -> None:
        """Close the connection; the next `write` opens it again."""
        if self._connection is not None:
            self._connection.close()

    def _connection_to(self, alias: str) -> PrivateConnection:
        if alias not in connections.settings:
            raise SinkUnavailableError(
                f"DATABASES has no alias {alias!r}",
                "see manage.py check, joblog_router.E002, for what to set",
            )
        if self._connection is None or self._connection.alias != alias:
            self.close()
            self._connection = PrivateConnection(alias)
        return self._connection


def sinks() -> list[DjangoSink]:
    """The sinks in use in this process, for the checks."""
    return list(_made)


def _loaded_model() -> type[JobLogEntry]:
    if not apps.ready_event.wait(_APPS_WAIT):
        raise SinkUnavailableError(
            "sink 'django': Django's apps are not loaded in this process",
            "call django.setup() when it starts",
        )
    if not apps.is_installed(APP):
        raise SinkUnavailableError("sink 'django': its app is not installed", f"add {APP!r} to INSTALLED_APPS")
    from .models import JobLogEntry

    return JobLogEntry


def _add(own: BaseDatabaseWrapper, model: type[JobLogEntry], entries: Sequence[Entry]) -> None:
    """In one transaction, or two where PostgreSQL's first came upon a row that is there already."""
    rows = rows_of(entries)
    table = model._meta.db_table
    if own.vendor == "postgresql":
        postgresql.add_rows(own, table, COLUMNS, UNIQUE, rows, are_plain=True)
    elif own.vendor == "sqlite":
        sqlite.add_rows(own, table, COLUMNS, UNIQUE, rows)
    else:
        with transaction.atomic(using=own.alias):
            add_objects(own.alias, model, rows)


def add_objects(alias: str, model: type[JobLogEntry], rows: Iterable[Row]) -> None:
    """Add `rows` by way of the model: any database, and the transaction that a test runs in."""
    objects = []
    for row in rows:
        values = dict(zip(COLUMNS, row, strict=True))
        objects.append(model(**{**values, "fields": json.loads(values["fields"])}))
    model._base_manager.using(alias).bulk_create(objects, ignore_conflicts=True)


# --- what went wrong ---------------------------------------------------------------------------------------


def _is_about_values(error: Error) -> bool:
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


def _unavailable(alias: str, error: Error, what: str = "does not take job log lines") -> SinkUnavailableError:
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


# --- the check that is needed where the app is not installed ------------------------------------------------


def check_app_installed(**kwargs: Any) -> list[checks.CheckMessage]:
    """`joblog_router.E001`: a handler uses the sink, and its app is not installed."""
    if not sinks() or apps.is_installed(APP):
        return []
    return [
        checks.Error(
            f"A JobLogHandler uses the sink 'django', but {APP!r} is not in INSTALLED_APPS.",
            hint=f"Add {APP!r} to INSTALLED_APPS and run: {conf.migrate_command(conf.database_alias())}",
            id="joblog_router.E001",
        )
    ]


checks.register(check_app_installed)
