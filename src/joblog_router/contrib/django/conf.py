"""The settings dictionary JOBLOG_ROUTER: names, types and defaults, read when they are used.

Called by the app's start, the checks, the database router and, on the writer thread, the sink.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeAlias

from django.conf import settings
from django.core.signals import setting_changed

from ..._pipeline import folding
from ..._pipeline.router import router
from ..._pipeline.spool_folder import default_directory
from ...exceptions import ConfigurationError

__all__ = ["ALIAS", "SETTING", "JobLogSettings", "current", "database_alias", "migrate_command"]

SETTING: Final = "JOBLOG_ROUTER"
ALIAS: Final = "joblog"
"""The database alias that holds nothing but job logs, used where DATABASES has it."""

Choice: TypeAlias = "bool | Mapping[str, Any] | None"


@dataclass(frozen=True)
class JobLogSettings:
    """What JOBLOG_ROUTER says. The defaults are these and stand nowhere else.

    - `DATABASE`: alias of the database that holds the job logs; None takes "joblog" if DATABASES has it, else
      "default".
    - `FOLD`: whether many similar DEBUG and INFO lines of a job become the first few and a tally; a handler's
      `fold` beats it.
    - `SPOOL`: the directory of the spool, in which lines stand until they are stored; True takes one in the temporary
      directory, by user, project and database; None or False for no spool. A handler's `spool` beats it. In test runs
      there is none.
    - `NATS`: None instruments nats-py where it is installed; False does not; True or a dictionary of options
      for `joblog_router.contrib.nats.instrument` insists on it.
    - `CELERY`: the same for Celery and `joblog_router.contrib.celery.instrument`.
    """

    DATABASE: str | None = None
    FOLD: bool = True
    SPOOL: bool | str | os.PathLike[str] | None = True
    NATS: Choice = None
    CELERY: Choice = None


_KEYS: Final = tuple(field.name for field in fields(JobLogSettings))
_CHOICE: Final = ((bool, Mapping, NoneType), "True, False, None or a dictionary of options")
_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "DATABASE": ((str, NoneType), "the name of an alias in DATABASES, or None"),
    "FOLD": ((bool,), "True or False"),
    "SPOOL": ((bool, str, os.PathLike, NoneType), "the path of a directory, True, or None for no spool"),
    "NATS": _CHOICE,
    "CELERY": _CHOICE,
}


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
            near = difflib.get_close_matches(str(key).upper(), _KEYS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigurationError(f"{SETTING} has no setting {key!r}.{hint} Known: {', '.join(_KEYS)}")
        types, wanted = _TYPES[key]
        if not isinstance(value, types) or value == "":
            raise ConfigurationError(f"{SETTING}[{key!r}] must be {wanted}, not {value!r}")
    return JobLogSettings(**given)


def database_alias() -> str:
    """The alias of the database that holds the job logs."""
    return current().DATABASE or (ALIAS if ALIAS in settings.DATABASES else "default")


def migrate_command(alias: str) -> str:
    """The command that makes the table in the database `alias`."""
    return "manage.py migrate" if alias == "default" else f"manage.py migrate --database {alias}"


def spool_directory() -> Path | None:
    """Where handlers that say nothing about it have their spool; None where they have none."""
    from .sink import is_test_run

    choice = current().SPOOL
    if choice is None or choice is False or is_test_run():
        return None
    if choice is not True:
        path = Path(os.fspath(choice))
        return Path(os.path.realpath(path.parent)) / path.name
    # By database too: lines for one must not be recovered into another that the same project uses at other times.
    module = sys.modules.get(os.environ.get("DJANGO_SETTINGS_MODULE", ""))
    alias = settings.DATABASES.get(database_alias(), {})
    parts = [getattr(settings, "BASE_DIR", ""), getattr(module, "__file__", "")]
    parts += [alias.get(name, "") for name in ("ENGINE", "NAME", "HOST", "PORT")]
    return default_directory("\0".join(map(str, parts)))


def apply() -> None:
    """Hand over what the core keeps for itself, as it knows no Django settings."""
    folding.enabled = current().FOLD
    router.use_default_spool(spool_directory())


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        current.cache_clear()
        with contextlib.suppress(ConfigurationError):  # whoever reads the settings next is told
            apply()


setting_changed.connect(_forget, dispatch_uid="joblog_router.conf")
