"""For settings modules: a SQLite alias of the log's own, and the router that keeps the log's table there.

Imports neither models nor settings, since the settings are what imports it.
"""

from __future__ import annotations

import os
from typing import Any, Final

import django

from ...exceptions import ConfigurationError

__all__ = ["JobLogRouter", "sqlite_alias"]

_LABEL: Final = "joblog_router"


def sqlite_alias(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The value of `DATABASES["joblog"]`: a SQLite file of the log's own at `path`, made when it is migrated.

    A log that shares the project's SQLite file makes transactions of the project fail: one that reads before
    it writes gets "database is locked" at once when somebody wrote in between, whatever `timeout` says
    (https://www.sqlite.org/rescode.html#busy_snapshot). The file belongs on a local disk, WAL does not work
    over a network. Before 5.1 Django has no options for WAL and IMMEDIATE; the alias works without them.
    Raises ConfigurationError if `path` is no path of a file.
    """
    try:
        name = os.fspath(path)
    except TypeError:
        name = ""
    if name in ("", ":memory:"):
        raise ConfigurationError(
            f"sqlite_alias() needs the path of a file, not {path!r}: a database in memory is seen by one "
            "connection only, and the log is written over its own"
        )
    options: dict[str, Any] = {"timeout": 20}
    if django.VERSION >= (5, 1):
        options["transaction_mode"] = "IMMEDIATE"
        options["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
    return {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options}


class JobLogRouter:
    """For DATABASE_ROUTERS: job logs live in the database JOBLOG_ROUTER["DATABASE"] names, and only there.

    The alias "joblog" holds nothing else: no other app is migrated into it. Of another alias this router
    takes care of the job logs alone. Put it first: the first router with an answer wins.
    """

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        """The log's alias for its model; no opinion about others."""
        return _alias() if model._meta.app_label == _LABEL else None

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        """The log's alias for its model; no opinion about others."""
        return _alias() if model._meta.app_label == _LABEL else None

    def allow_relation(self, obj1: Any, obj2: Any, **hints: Any) -> bool | None:
        """Between job log rows only: a row names its job by text, as the job may be uncommitted or gone."""
        ours = (obj1._meta.app_label == _LABEL) + (obj2._meta.app_label == _LABEL)
        return None if not ours else ours == 2

    def allow_migrate(self, db: str, app_label: str, model_name: str | None = None, **hints: Any) -> bool | None:
        """The log's table on its alias only, nothing else on the alias "joblog"."""
        alias = _alias()
        if app_label == _LABEL:
            return db == alias
        from .conf import ALIAS

        return False if db == alias == ALIAS else None


def _alias() -> str:
    from .conf import database_alias

    return database_alias()
