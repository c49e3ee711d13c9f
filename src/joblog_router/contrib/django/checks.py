"""System checks: what a look at the settings shows before the first line is lost.

Registered by the app's start; called by `manage.py check` and the commands that run the checks.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's name
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections, router
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.urls import get_resolver

from ..._pipeline.dotted import load
from ...exceptions import ConfigurationError
from ...handlers import JobLogHandler
from ...sinks.opening import open_store, readable_sinks
from . import conf
from .model_store import NAMESPACE_ADVICE, ModelStore
from .permissions import VIEW_PERMISSION
from .sink import sinks

__all__: list[str] = []

_ROUTER: Final = "joblog_router.contrib.django.db.JobLogRouter"


def _aliases() -> list[str]:
    return sorted({sink.alias for sink in sinks()})


@register
def check_logging(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W001`: LOGGING silences loggers that exist already."""
    config = settings.LOGGING
    if not config or not settings.LOGGING_CONFIG or config.get("incremental"):
        return []
    if config.get("disable_existing_loggers", True) is False:
        return []
    return [
        Warning(
            "LOGGING disables the loggers of all modules that were imported before it is read: "
            "their lines reach no job's log.",
            hint="Add 'disable_existing_loggers': False to LOGGING.",
            id="joblog_router.W001",
        )
    ]


@register
def check_attached(**kwargs: Any) -> list[CheckMessage]:
    """What job handlers miss: `joblog_router.W005` everything, `W013` all but one logger's lines, `W014` INFO.

    `W006`: a logger keeps its records from the one on root.
    """
    config = settings.LOGGING
    if not config or not settings.LOGGING_CONFIG or config.get("incremental"):
        return []
    ours = {name for name, handler in (config.get("handlers") or {}).items() if _is_job_handler(handler)}
    loggers = {**(config.get("loggers") or {}), "": config.get("root") or {}}
    attached = {name: ours & set(logger.get("handlers") or ()) for name, logger in loggers.items()}
    found: list[CheckMessage] = [
        Warning(
            f"The handler {name!r} of LOGGING puts lines into job logs, but no logger has it: job logs stay empty.",
            hint=f"Add it to the root logger: LOGGING['root']['handlers'] = [..., {name!r}].",
            id="joblog_router.W005",
        )
        for name in sorted(ours - set().union(*attached.values()))
    ]
    if attached[""]:
        # Django's own loggers say little about jobs, and projects keep them apart on purpose.
        found += [
            Warning(
                f"The logger {name!r} has 'propagate': False and no job handler: what it and the loggers below it say "
                "reaches no job's log.",
                hint=f"Add the handler {min(attached[''])!r} to LOGGING['loggers'][{name!r}]['handlers'], or let it "
                "propagate. If this is wanted: SILENCED_SYSTEM_CHECKS = ['joblog_router.W006'].",
                id="joblog_router.W006",
            )
            for name, logger in sorted(loggers.items())
            if name.partition(".")[0] not in ("", "django") and logger.get("propagate") is False and not attached[name]
        ]
    else:
        found += [_misnamed(name, min(has)) for name, has in sorted(attached.items()) if has and not _is_of_code(name)]
    handlers = {name for name in ours if _takes_info(config["handlers"][name])}
    found += [_too_quiet(name) for name, has in sorted(attached.items()) if has & handlers and _hides(name, loggers)]
    return found


def _misnamed(logger: str, handler: str) -> CheckMessage:
    near = difflib.get_close_matches(logger, [app.name for app in apps.get_app_configs()], n=1)
    suggestion = f"Did you mean {near[0]!r}? " if near else ""
    return Warning(
        f"The job handler {handler!r} is on the logger {logger!r}, but no installed app and no module has that name: "
        "lines of other loggers reach no job's log.",
        hint=f"{suggestion}Add the handler to the root logger: LOGGING['root']['handlers'] = [..., {handler!r}]. "
        "If this is wanted: SILENCED_SYSTEM_CHECKS = ['joblog_router.W013'].",
        id="joblog_router.W013",
    )


def _is_of_code(logger: str) -> bool:
    """Whether a logger has the name of an app, of a module in one or of a package around one, or of a module."""
    for app in apps.get_app_configs():
        if f"{app.name}.".startswith(f"{logger}.") or f"{logger}.".startswith(f"{app.name}."):
            return True
    try:
        return logger in sys.modules or importlib.util.find_spec(logger.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _takes_info(handler: Mapping[str, Any]) -> bool:
    level = handler.get("level") or 0
    return (logging.getLevelNamesMapping().get(level, 0) if isinstance(level, str) else level) <= logging.INFO


def _hides(name: str, loggers: Mapping[str, Any]) -> bool:
    """Whether INFO stops at the logger because nobody gave it a level, and none below it lets INFO through."""
    above = {"", *(name[:end] for end in range(len(name) + 1) if name[end : end + 1] in ("", "."))}
    if any("level" in loggers[one] for one in above & set(loggers)):
        return False
    below = [logging.getLogger(one) for one in loggers if one and (not name or f"{one}.".startswith(f"{name}."))]
    return all(logger.getEffectiveLevel() > logging.INFO for logger in (logging.getLogger(name), *below))


def _too_quiet(name: str) -> CheckMessage:
    level = logging.getLevelName(logging.getLogger(name).getEffectiveLevel())
    place = f"LOGGING['loggers'][{name!r}]" if name else "LOGGING['root']"
    return Warning(
        f"{f'The logger {name!r}' if name else 'The root logger'} has a job handler and no level, so it is at {level}: "
        "INFO lines reach no job's log.",
        hint=f"Set {place}['level'] = 'INFO'.",
        id="joblog_router.W014",
    )


@register
def check_enabled(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W008`: nothing is captured. `E003`: whether to is asked of something that is not there."""
    enabled = conf.current().ENABLED
    if enabled is False:
        return [
            Warning(
                f"{conf.SETTING}['ENABLED'] is False: no line goes into any job's log.",
                hint="Take it out, or set it to True, to have job logs.",
                id="joblog_router.W008",
            )
        ]
    return [] if enabled is True else _check_function("ENABLED", "joblog_router.E003", "bool", 0)


@register
def check_permission(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.E004`: the project's rule cannot be asked, so nobody sees a log."""
    if conf.current().PERMISSION is None:
        return []
    return _check_function("PERMISSION", "joblog_router.E004", "False, True or 'staff'", 2)


@register
def check_header(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.E006`: what tells the status of jobs cannot be asked."""
    if conf.current().HEADER is None:
        return []
    return _check_function("HEADER", "joblog_router.E006", "a dictionary", 2)


def _check_function(key: str, number: str, gives: str, parameters: int) -> list[CheckMessage]:
    expected = f"a function with {parameters or 'no'} parameters that gives {gives}"
    if parameters == 2:
        expected = f"a function (request, job_id) that gives {gives}"
    try:
        function = conf.loaded(key)
    except ConfigurationError as error:
        return [Error(f"{error}", hint=f"Name {expected}.", id=number)]
    if inspect.iscoroutinefunction(function):
        text = f"{conf.SETTING}[{key!r}] is a coroutine function: nobody awaits it."
        return [Error(text, hint=f"Make it {expected}.", id=number)]
    try:
        inspect.signature(function).bind(*range(parameters))
    except TypeError as error:
        text = f"{conf.SETTING}[{key!r}] cannot be called as it will be: {error}."
        return [Error(text, hint=f"Make it {expected}.", id=number)]
    except ValueError:
        pass  # written in C: it has no signature to look at
    return []


@register(Tags.urls)
def check_urls(**kwargs: Any) -> list[CheckMessage]:
    """What keeps the page from being seen: `joblog_router.W009` no users, `W010` no template, `W011` no static files.

    `W012`: the URLs are included under another name than links use. `E005`: there is nothing to read.
    """
    namespaces = _our_namespaces()
    if not namespaces:
        return []
    found: list[CheckMessage] = []
    try:
        open_store()
    except ConfigurationError as error:
        found.append(
            Error(
                f"The pages of job logs have nothing to read: {error}.",
                hint='Give a JobLogHandler a sink that can be read ("django", "jsonl"), or name one in '
                f"{conf.SETTING}['STORE'].",
                id="joblog_router.E005",
            )
        )
    if conf.current().PERMISSION is None and not _has_users():
        found.append(
            Warning(
                "The pages of job logs are for staff, but this project has no users: everybody gets 404.",
                hint="Add 'django.contrib.auth' to INSTALLED_APPS and its AuthenticationMiddleware to MIDDLEWARE, or "
                f"set {conf.SETTING}['PERMISSION'] to a function (request, job_id) that gives True or False.",
                id="joblog_router.W009",
            )
        )
    try:
        get_template("joblog_router/page.html")
    except (TemplateDoesNotExist, ImproperlyConfigured):
        found.append(
            Warning(
                "No template engine finds 'joblog_router/page.html': the page of a job's log fails.",
                hint="Have one in TEMPLATES with 'BACKEND': 'django.template.backends.django.DjangoTemplates' and "
                "'APP_DIRS': True.",
                id="joblog_router.W010",
            )
        )
    if not settings.STATIC_URL or not apps.is_installed("django.contrib.staticfiles"):
        found.append(
            Warning(
                "The project serves no static files: the page of a job's log has no style and does not follow the job.",
                hint="Add 'django.contrib.staticfiles' to INSTALLED_APPS and set STATIC_URL = 'static/'.",
                id="joblog_router.W011",
            )
        )
    if "joblog" not in namespaces:
        found.append(
            Warning(
                f"The URLs of job logs are included with the namespace {namespaces[0]!r}: links to 'joblog:page' fail.",
                hint="Include them outside of other namespaces: "
                "path('jobs/', include('joblog_router.contrib.django.urls')).",
                id="joblog_router.W012",
            )
        )
    return found


def _has_users() -> bool:
    return apps.is_installed("django.contrib.auth") and any(
        "AuthenticationMiddleware" in middleware for middleware in settings.MIDDLEWARE
    )


def _our_namespaces() -> list[str]:
    """The namespaces under which the project's URLs include ours."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    try:
        return _namespaces_in(get_resolver())
    except Exception:
        return []  # Django's own checks speak about URLs that cannot be loaded


def _namespaces_in(resolver: Any, above: str = "") -> list[str]:
    found: list[str] = []
    for pattern in resolver.url_patterns:
        if not hasattr(pattern, "url_patterns"):
            continue
        own = f"{above}{pattern.namespace}" if pattern.namespace else above
        if pattern.app_name == "joblog" and getattr(pattern.urlconf_name, "__name__", "").endswith("django.urls"):
            found.append(own)
        found += _namespaces_in(pattern, f"{own}:" if pattern.namespace else above)
    return found


def _is_job_handler(handler: Any) -> bool:
    kind = handler.get("class") or handler.get("()") if hasattr(handler, "get") else None
    if isinstance(kind, str):
        try:
            kind = load(kind)
        except Exception:
            return False  # dictConfig has refused it, or it is no class
    return isinstance(kind, type) and issubclass(kind, JobLogHandler)


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
            f"{sink.no_namespace()}.",
            hint=f"{NAMESPACE_ADVICE[0].upper()}{NAMESPACE_ADVICE[1:]}.",
            id="joblog_router.E007",
        )
        for sink in readable_sinks()
        if isinstance(sink, ModelStore) and not sink.has_namespace()
    ]


@register
def check_own_file(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W002`: job logs share a SQLite file with the project, whose transactions then fail."""
    return [
        Warning(
            f"Job logs are written to the SQLite file that the project itself uses (alias {alias!r}). "
            "Project transactions that read before they write will fail at once: 'database is locked'.",
            hint="Give the log its own file: DATABASES['joblog'] = sqlite_alias(BASE_DIR / 'joblog.sqlite3') "
            f"(of joblog_router.contrib.django.db), DATABASE_ROUTERS = [{_ROUTER!r}], then run: "
            f"{conf.migrate_command(conf.ALIAS)}. If the table is in the project's file already, take it out first: "
            f"{conf.migrate_command(alias)} joblog_router zero",
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

    if sys.argv[1:2] == ["migrate"]:
        return []  # that command runs this check before it makes the table
    found: list[CheckMessage] = []
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
                    f"The table of the job logs is missing in the database {alias!r}: lines wait in memory.",
                    hint=f"Run: {conf.migrate_command(alias)}. If that says 'No migrations to apply', the table was "
                    f"recorded there while it was routed elsewhere: run migrate --fake joblog_router zero with the "
                    "same --database first.",
                    id="joblog_router.W003",
                )
            )
    return found


@register(Tags.database)
def check_permission_exists(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W015`: nobody can be given the permission to see the page. Only in `check --database ALIAS`."""
    if sys.argv[1:2] == ["migrate"] or conf.current().PERMISSION is not None:
        return []
    if not _has_users() or not _our_namespaces():
        return []
    from django.contrib.auth.models import Permission

    alias = router.db_for_read(Permission)
    if alias not in (databases or ()) or alias not in connections.settings:
        return []
    label, _, codename = VIEW_PERMISSION.partition(".")
    try:
        found = Permission.objects.using(alias).filter(content_type__app_label=label, codename=codename).exists()
    except (DatabaseError, InterfaceError):
        found = False  # its table is not there, which the same command mends, or Django's own checks speak about it
    if found:
        return []
    return [
        Warning(
            f"The permission {VIEW_PERMISSION!r} is not in the database {alias!r}: it can be given to nobody, and "
            "only superusers see the pages of job logs.",
            hint=f"Run: {conf.migrate_command(alias)} (besides the one that makes the log's table).",
            id="joblog_router.W015",
        )
    ]


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
