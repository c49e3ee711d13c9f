"""The sink "django": entries to the table of the app, over a connection of its own.

Made by JobLogHandler while `django.setup()` configures logging, before any app is loaded: this module imports
no model. `write`, `idle` and `close` are called by the writer, one at a time.
"""

from __future__ import annotations

import json
import weakref
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from django.apps import apps
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..._pipeline.report import report_once
from ...entry import Entry
from ...exceptions import SinkUnavailableError
from ...sinks import Store
from . import conf, postgresql, sqlite
from .columns import COLUMNS, UNIQUE, Row, rows_of
from .faults import is_about_values, unavailable
from .keys import stored_key
from .private_sink import PrivateSink

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

_made: Final[weakref.WeakSet[DjangoSink]] = weakref.WeakSet()


class DjangoSink(PrivateSink):
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
        super().__init__("django", database, tests)
        self.place = f"{database or ''} {tests}"
        # By namespace and job: rows written since sums were kept.
        self._unsummed: dict[tuple[str, str], int] = {}
        _made.add(self)

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
            if is_about_values(error):
                raise
            connection.close()
            raise unavailable(connection.alias, error) from error
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

    def delegate(self) -> Store:
        """See StoreByDelegation."""
        if self.is_in_memory():
            return self._memory
        _loaded_model()
        from .store import DjangoStore

        return DjangoStore(self.alias)


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
