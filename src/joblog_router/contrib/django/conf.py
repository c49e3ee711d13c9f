"""The settings dictionary JOBLOG_ROUTER: names, types and defaults, read when they are used.

Called by the app's start, the checks, the database router and, on the writer thread, the sink.
"""

# ruff: noqa: RUF009 - what _key gives is a field
from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias, get_args, get_origin, get_type_hints

from django.conf import settings
from django.core.signals import setting_changed
from django.db import connections

from ..._pipeline.dotted import load
from ..._pipeline.handing_over import hand_over
from ..._pipeline.policy import Policy
from ..._pipeline.rules import Rules
from ..._pipeline.settings import Settings
from ..._pipeline.spool_folder import absolute, default_directory
from ..._pipeline.unknown import did_you_mean
from ...doctor import configuration
from ...exceptions import ConfigurationError

if TYPE_CHECKING:
    from django.http import HttpRequest

__all__ = [
    "ALIAS",
    "SETTING",
    "JobLogSettings",
    "current",
    "database_alias",
    "is_migrating",
    "loaded",
    "migrate_command",
]

SETTING: Final = "JOBLOG_ROUTER"
ALIAS: Final = "joblog"
"""The database alias that holds nothing but job logs, used where DATABASES has it."""

Choice: TypeAlias = bool | Mapping[str, Any] | None

_CHOICE: Final = "True, False, None or a dictionary of options"
_NAMES: Final = "a list of dotted names, or None"
_LIKE_THE_HANDLER: Final = "as the handler's keywords of these names in small letters, which beat them."


def _key(default: Any, wanted: str, meaning: str) -> Any:
    """A setting: what it is by default, what it takes (for messages) and what it means (for docs/settings.md)."""
    return field(default=default, metadata={"wanted": wanted, "meaning": meaning})


@dataclass(frozen=True)
class JobLogSettings:
    """What JOBLOG_ROUTER says: each setting's name, type, default and meaning. They stand nowhere else."""

    DATABASE: str | None = _key(
        None,
        "the name of an alias in DATABASES, or None",
        'alias of the database that holds the job logs; None takes "joblog" if DATABASES has it, else "default".',
    )
    ENABLED: bool | str | Callable[[], object] = _key(
        True,
        "True, False, a function or its dotted path",
        "False captures nothing, at run time too; a function without parameters (or its dotted path) is asked once a "
        "second, on the writer's thread.",
    )
    PERMISSION: str | Callable[[HttpRequest, str], object] | None = _key(
        None,
        "a function, its dotted path, or None",
        "who may see a job's log in the browser: a function `(request, job_id)` (or its dotted path) that gives "
        'False, True ("all": the lines for everybody) or "staff" (every line). None lets staff with the permission to '
        "view job log entries see every line.",
    )
    CSP: str | bool | None = _key(
        None,
        "the header's value, False or None",
        "the Content-Security-Policy header of the page; None is a strict one, False sets none.",
    )
    STREAMS: int | None = _key(
        None,
        "a whole number, or None",
        "how many pages of this process may follow logs at one time, others ask every few seconds; None is 500 under "
        "ASGI and 1 under WSGI, where each takes a thread: give fewer than the server has. A process with a single "
        "thread has none, whatever this says.",
    )
    HEADER: str | Callable[[HttpRequest, str], object] | None = _key(
        None,
        "a function, its dotted path, or None",
        "what stands above a job's log: a function `(request, job_id)` (or its dotted path) that gives a dictionary "
        "with `status`, `progress` (0 to 1), `stages` (each with `name`, `status`, `progress`), `failed`, `done`, "
        "`verdict`, all of them optional; or None.",
    )
    FOLD: bool = _key(
        True,
        "True or False",
        "whether many similar DEBUG and INFO lines of a job become the first few and a tally; a handler's `fold` "
        "beats it.",
    )
    SPOOL: bool | str | os.PathLike[str] | None = _key(
        True,
        "the path of a directory, True, or None for no spool",
        "the directory of the spool, in which lines stand until they are stored; True takes one in the temporary "
        "directory, by user, project and database; None or False for no spool. A handler's `spool` beats it. In test "
        "runs there is none.",
    )
    REDACT: bool | Sequence[Any] = _key(
        True,
        "True, False or a list of regular expressions",
        "True masks credentials and registered secrets, a list of regular expressions also what they match, False "
        "nothing; a handler's `redact` beats it.",
    )
    SPOOL_REDACT: bool = _key(
        False,
        "True or False",
        "True masks secrets before a line stands in the spool, on the thread that logs; a handler's `spool_redact` "
        "beats it.",
    )
    STAFF: Sequence[str] | None = _key(
        None,
        "a list of logger names",
        "loggers whose lines, and those of the loggers below, only staff may see; a handler's `staff` beats it.",
    )
    MAX_LINES: int = _key(
        0,
        "a whole number",
        "how many lines of one job each process stores, about; 0 stores all. A handler's `max_lines` beats it.",
    )
    NATS: Choice = _key(
        None,
        _CHOICE,
        "None instruments nats-py where it is installed; False does not; True or a dictionary of options for "
        "`joblog_router.contrib.nats.instrument` insists on it.",
    )
    CELERY: Choice = _key(
        None,
        _CHOICE,
        "the same for Celery and `joblog_router.contrib.celery.instrument`.",
    )
    REMOTE: Mapping[str, Any] | None = _key(
        None,
        "a dictionary of limits, or None",
        'limits of what workers elsewhere send, see `joblog_router.contrib.remote.receive`: `{"max_bytes": ..., '
        '"max_lines": ..., "lines_per_minute": ..., "sink": ..., "options": {...}}`.',
    )
    STORE: Any = _key(
        None,
        "the name of a store",
        "what readers read, as `joblog_router.sinks.open_store` takes it; None takes the first sink of the handlers "
        "that can be read, else the table.",
    )
    NAMESPACE: str | Callable[[], object] = _key(
        "",
        "text or a callable",
        "whose jobs they are, part of every key: text, or a callable that is called where a scope is opened and where "
        "a reader runs (a tenant's schema).",
    )
    JOB_MODEL: str | None = _key(
        None,
        "the name of a model like 'app.Model', or None",
        '"app.Model" of the jobs: with a job its log is deleted, and what is older than it is not shown.',
    )
    JOB_CREATED: str | bool | None = _key(
        None,
        "the name of a field, None or False",
        "the field of JOB_MODEL that tells since when a job exists; None looks for one, False for none.",
    )
    LATE: Mapping[str, str] | None = _key(
        None,
        "a dictionary of logger names and 'drop' or 'mark', or None",
        _LIKE_THE_HANDLER,
    )
    LATE_GRACE: float | None = _key(
        None,
        "a number of seconds, or None",
        _LIKE_THE_HANDLER,
    )
    SERVICES: Sequence[str] | None = _key(
        None,
        _NAMES,
        _LIKE_THE_HANDLER,
    )
    GENERATOR_DRIVERS: Sequence[str] | None = _key(
        None,
        _NAMES,
        _LIKE_THE_HANDLER,
    )
    REPORT_TASKS: bool | None = _key(
        None,
        "True, False or None",
        _LIKE_THE_HANDLER,
    )
    TASKS: Choice = _key(
        None,
        _CHOICE,
        "the same for Django's tasks and `joblog_router.contrib.tasks.instrument`.",
    )
    THREADS: bool = _key(
        False,
        "True or False",
        "whether threads and pools work for the job that starts or submits, see "
        "`joblog_router.contrib.threads.instrument_threads`.",
    )
    DOCTOR: Mapping[str, Any] | None = _key(
        None,
        "a dictionary of what the doctor looks at, or None",
        "what `joblog doctor` looks at, see `joblog_router.doctor.configuration.Configuration`.",
    )
    URLS: Mapping[str, str] | None = _key(
        None,
        "a dictionary of the names of URLs and their arguments that hold a job's id",
        'for `JobContextMiddleware`, which argument of which URL names a job: `{"jobs:detail": "pk"}`.',
    )


def _runtime_types(hint: Any) -> tuple[type, ...]:
    """What `isinstance` is to be asked of a value for a setting of the type `hint`."""
    each = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    kinds = [get_origin(one) or one for one in each]
    return tuple(kind for one in kinds for kind in _TAKEN.get(one, (one,)))


# Settings are written by hand: lists and tuples for sequences, whole numbers where others may be, too.
_TAKEN: Final[Mapping[Any, tuple[type, ...]]] = {Sequence: (list, tuple), float: (int, float), Any: (object,)}
_HINTS: Final = get_type_hints(JobLogSettings, localns={"HttpRequest": object})
_KEYS: Final = {one.name: (_runtime_types(_HINTS[one.name]), one.metadata["wanted"]) for one in fields(JobLogSettings)}
_MAY_BE_EMPTY: Final = frozenset({"NAMESPACE"})


@functools.cache
def current() -> JobLogSettings:
    """The settings as they are now. Raises ConfigurationError for an unknown key or a wrong type."""
    given = getattr(settings, SETTING, None)
    if given is None:
        return JobLogSettings()
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{SETTING} must be a dictionary, not {given!r}")
    for key, value in given.items():
        if key not in _KEYS:
            hint = did_you_mean(str(key).upper(), _KEYS)
            raise ConfigurationError(f"{SETTING} has no setting {key!r}.{hint} Known: {', '.join(_KEYS)}")
        types, wanted = _KEYS[key]
        if not isinstance(value, types) or (value == "" and key not in _MAY_BE_EMPTY):
            raise ConfigurationError(f"{SETTING}[{key!r}] must be {wanted}, not {value!r}")
        if key == "URLS" and isinstance(value, Mapping) and not _are_words(value):
            raise ConfigurationError(f"{SETTING}[{key!r}] must be {wanted}, not {value!r}")
    result = JobLogSettings(**given)
    _attribution(result)  # raises for what the types alone do not show
    return result


def _attribution(given: JobLogSettings) -> Policy:
    return Policy.of(
        f"{SETTING}: ",
        late=given.LATE,
        late_grace=given.LATE_GRACE,
        services=given.SERVICES,
        generator_drivers=given.GENERATOR_DRIVERS,
        report_tasks=given.REPORT_TASKS,
    )


def _are_words(value: Mapping[Any, Any]) -> bool:
    return all(isinstance(word, str) and word for pair in value.items() for word in pair)


def database_alias() -> str:
    """The alias of the database that holds the job logs."""
    return current().DATABASE or (ALIAS if ALIAS in settings.DATABASES else "default")


def migrate_command(alias: str) -> str:
    """The command that makes the table in the database `alias`."""
    return "manage.py migrate" if alias == "default" else f"manage.py migrate --database {alias}"


def is_migrating() -> bool:
    """Whether this process is the command that makes tables: that one is missing is no news in it."""
    return sys.argv[1:2] == ["migrate"]


def spool_directory() -> Path | None:
    """Where handlers that say nothing about it have their spool; None where they have none."""
    from .test_runs import is_test_run

    choice = current().SPOOL
    if choice is None or choice is False or is_test_run():
        return None
    if choice is not True:
        return absolute(choice)
    # By database too: lines for one must not be recovered into another that the same project uses at other times.
    module = sys.modules.get(os.environ.get("DJANGO_SETTINGS_MODULE", ""))
    alias = settings.DATABASES.get(database_alias(), {})
    parts = [getattr(settings, "BASE_DIR", ""), getattr(module, "__file__", "")]
    parts += [alias.get(name, "") for name in ("ENGINE", "NAME", "HOST", "PORT")]
    return default_directory("\0".join(map(str, parts)))


def apply() -> None:
    """Hand over what the core keeps for itself, as it knows no Django settings."""
    given = current()
    if given.REMOTE is not None:
        load("joblog_router.contrib.remote.receive.Limits.of")(given.REMOTE)
    hand_over(
        Settings(
            fold=given.FOLD,
            rules=Rules.of(given.REDACT, given.STAFF, given.MAX_LINES, given.SPOOL_REDACT, f"{SETTING}: {{}}"),
            attribution=_attribution(given),
            namespace=given.NAMESPACE,
            spool=spool_directory(),
            enabled=given.ENABLED if isinstance(given.ENABLED, bool) else _ask_whether_enabled,
            store=_store,
        )
    )
    configuration.use_default(_doctor)


def _ask_whether_enabled() -> bool:
    """Ask the project's function. On the writer's thread, whose connections to databases it may have opened."""
    enabled = current().ENABLED
    try:
        return bool(enabled) if isinstance(enabled, bool) else bool(loaded("ENABLED")())
    finally:
        for connection in connections.all(initialized_only=True):
            connection.close()


def loaded(key: str) -> Any:
    """The function that the setting `key` names or is. Raises ConfigurationError where it cannot be had."""
    given = getattr(current(), key)
    if isinstance(given, str):
        try:
            given = load(given)
        except Exception as error:
            raise ConfigurationError(f"{SETTING}[{key!r}]: {given!r} cannot be imported: {error}") from error
    if not callable(given):
        raise ConfigurationError(f"{SETTING}[{key!r}] must be a function or its dotted path, not {given!r}")
    return given


def _store() -> tuple[object, object]:
    """For `open_store`: what STORE says, and what is read where no handler's sink can be read."""
    return current().STORE, "django"


def _doctor() -> configuration.Configuration:
    found: configuration.Configuration = load("joblog_router.contrib.django.diagnosis.configuration")()
    return found


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        current.cache_clear()
        with contextlib.suppress(ConfigurationError):  # whoever reads the settings next is told
            apply()


setting_changed.connect(_forget, dispatch_uid="joblog_router.conf")
