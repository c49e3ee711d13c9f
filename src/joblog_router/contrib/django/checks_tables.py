"""System checks of where lines are stored: aliases, routers, the table, and whether this is a test run.

Registered by the app's start; called by `manage.py check` and the commands that run the checks, on their thread.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, Warning, register  # noqa: A004 - Django's name
from django.db import DatabaseError, InterfaceError, connections, router

from ...sinks.opening import readable_sinks
from . import conf
from .model_columns import NAMESPACE_ADVICE
from .model_store import ModelStore
from .sink import sinks
from .test_runs import sign

__all__: list[str] = []

_ROUTER: Final = "joblog_router.contrib.django.db.JobLogRouter"


@register
def check_alias(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.E002`: job logs go to an alias that DATABASES does not have."""
    named = {sink.alias for sink in sinks()} | {conf.database_alias()}
    found: list[CheckMessage] = []
    for alias in sorted(named - set(connections.settings)):
        near = difflib.get_close_matches(alias, connections.settings, n=1)
        suggestion = f"Did you mean {near[0]!r}? " if near else ""
        found.append(
            Error(
                f"Job logs go to the database alias {alias!r}, which is not in DATABASES.",
                hint=f"{suggestion}Add DATABASES[{alias!r}], for example with "
                "joblog_router.contrib.django.db.sqlite_alias(path), or name another alias in "
                f"{conf.SETTING}['DATABASE'] (a handler's options={{'database': ...}} beat it).",
                id="joblog_router.E002",
            )
        )
    return found


@register
def check_own_table(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.E007`: NAMESPACE is set, and a table of the project's own cannot say whose job a line is of."""
    if not conf.current().NAMESPACE:
        return []
    return [
        Error(
            f"{sink.columns.no_namespace()}.",
            hint=f"{NAMESPACE_ADVICE[0].upper()}{NAMESPACE_ADVICE[1:]}.",
            id="joblog_router.E007",
        )
        for sink in readable_sinks()
        if isinstance(sink, ModelStore) and not sink.columns.has_namespace()
    ]


@register
def check_own_file(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W002`: job logs share a SQLite file with the project, whose transactions then fail."""
    return [
        Warning(
            f"Job logs are written to the SQLite file that the project itself uses (alias {alias!r}). "
            "Project transactions that read before they write will fail at once: 'database is locked'.",
            hint="First, with the settings as they are now, run: "
            f"{conf.migrate_command(alias)} joblog_router zero (it takes the table out of the project's file, if it is "
            "there; the lines stored so far go with it). After that, give the log its own file: DATABASES['joblog'] = "
            "sqlite_alias(BASE_DIR / 'joblog.sqlite3') (of joblog_router.contrib.django.db), "
            f"DATABASE_ROUTERS = [{_ROUTER!r}], and run: {conf.migrate_command(conf.ALIAS)}",
            id="joblog_router.W002",
        )
        for alias in _aliases()
        if alias in connections.settings and _is_shared_file(alias)
    ]


@register
def check_alias_of_router(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W007`: the router is there, and an alias whose name is nearly the one it looks for."""
    if conf.current().DATABASE or conf.ALIAS in connections.settings or _ROUTER not in settings.DATABASE_ROUTERS:
        return []
    near = difflib.get_close_matches(conf.ALIAS, connections.settings, n=1)
    return [
        Warning(
            f"JobLogRouter is in DATABASE_ROUTERS, but DATABASES has no alias {conf.ALIAS!r}: "
            "job logs go to 'default'.",
            hint=f"Rename the alias {alias!r} to {conf.ALIAS!r}, or set {conf.SETTING} = {{'DATABASE': {alias!r}}}.",
            id="joblog_router.W007",
        )
        for alias in near
    ]


@register
def check_router(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W004`: the log has a database of its own, but its model is routed elsewhere."""
    from .models import JobLogEntry

    alias = conf.database_alias()
    if alias not in connections.settings or router.db_for_write(JobLogEntry) == alias:
        return []
    return [
        Warning(
            f"Job logs are stored in the database {alias!r}, but DATABASE_ROUTERS sends their model to "
            f"{router.db_for_write(JobLogEntry)!r}: they would be looked for and migrated there.",
            hint=f"Put {_ROUTER!r} first in DATABASE_ROUTERS, then run: {conf.migrate_command(alias)}",
            id="joblog_router.W004",
        )
    ]


@register(Tags.database)
def check_table(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W003`: the table is missing. Only in `check --database ALIAS`: it asks the database."""
    from .models import JobLogEntry

    if conf.is_migrating():
        return []  # that command runs this check before it makes the table
    found: list[CheckMessage] = []
    place = "in memory" if conf.spool_directory() is None else "in the spool"
    for alias in _aliases():
        if alias not in (databases or ()) or alias not in connections.settings:
            continue
        try:
            tables = connections[alias].introspection.table_names()
        except (DatabaseError, InterfaceError):
            continue  # Django's own checks speak about a database that cannot be reached
        if JobLogEntry._meta.db_table not in tables:
            found.append(
                Warning(
                    f"The table of the job logs is missing in the database {alias!r}: lines wait {place}.",
                    hint=f"Run: {conf.migrate_command(alias)}. If that says 'No migrations to apply', the table was "
                    f"recorded there while it was routed elsewhere: run migrate --fake joblog_router zero with the "
                    "same --database first.",
                    id="joblog_router.W003",
                )
            )
    return found


@register
def check_test_run(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.I021`: this process counts as a test run."""
    if not any(sink.is_in_memory() for sink in sinks()):
        return []
    return [
        Info(
            f"Job log lines stay in memory: this is a test run ({sign()}).",
            hint="The option tests='database' of the handler's sink has them stored in test databases.",
            id="joblog_router.I021",
        )
    ]


def _aliases() -> list[str]:
    return sorted({sink.alias for sink in sinks()})


def _is_shared_file(alias: str) -> bool:
    path = _file_of(alias)
    if path is None:
        return False
    return alias == "default" or any(other != alias and _file_of(other) == path for other in connections.settings)


def _file_of(alias: str) -> str | None:
    """The resolved path of an alias that is a SQLite file, else None."""
    database = connections.settings[alias]
    name = database.get("NAME")
    if not database.get("ENGINE", "").endswith(("sqlite3", "spatialite")) or not name:
        return None
    text = os.fspath(name)
    return None if ":memory:" in text or "mode=memory" in text else os.path.realpath(text)
