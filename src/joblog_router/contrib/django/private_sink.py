"""What the sinks of this app have in common: a connection of their own, and in a test run lines that stay in memory.

Made while `django.setup()` configures logging, before any app is loaded: this module imports no model. `idle` and
`close` are called by the writer, `entries` by tests, on any thread.
"""

from __future__ import annotations

from typing import Final

from django.conf import settings
from django.db import connections

from ...entry import Entry
from ...exceptions import ConfigurationError
from ...sinks import MemorySink
from .connection import PrivateConnection
from .delegation import StoreByDelegation
from .faults import unknown_alias
from .test_runs import is_test_run, say_so

__all__ = ["PrivateSink"]

# Read when logging is configured, before a test runner can have changed them.
_NAMES_AT_START: Final = {alias: str(database.get("NAME")) for alias, database in settings.DATABASES.items()}


class PrivateSink(StoreByDelegation):
    """The options `database` and `tests` of the sink `name`, see DjangoSink; subclasses write, and say where."""

    def __init__(self, name: str, database: str | None, tests: str) -> None:
        given: object = database
        if given is not None and (not isinstance(given, str) or not given):
            raise ConfigurationError(f"sink {name!r}: database must be an alias in DATABASES, not {database!r}")
        if tests not in ("memory", "database"):
            raise ConfigurationError(f"sink {name!r}: tests must be 'memory' or 'database', not {tests!r}")
        self._database = database
        self._tests = tests
        self._memory = MemorySink()
        self._connection: PrivateConnection | None = None
        say_so(tests)

    @property
    def alias(self) -> str:
        """The database alias written to."""
        raise NotImplementedError

    def entries(self, job_id: object = None) -> list[Entry]:
        """What a test run kept in memory, oldest first; only one job's if `job_id` is given. `flush()` before."""
        return self._memory.entries(job_id)

    def is_in_memory(self) -> bool:
        """Whether lines stay in memory, as in a test run."""
        return is_test_run() and not self._is_for_test_database()

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
            raise unknown_alias(alias)
        if self._connection is None or self._connection.alias != alias:
            self.close()
            self._connection = PrivateConnection(alias)
        return self._connection
