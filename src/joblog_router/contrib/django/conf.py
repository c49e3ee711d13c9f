"""The settings dictionary JOBLOG_ROUTER: names, types and defaults, read when they are used.

Called by the app's start, the checks, the database router and, on the writer thread, the sink.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import NoneType
from typing import Any, Final, TypeAlias

from django.conf import settings
from django.core.signals import setting_changed

from ..._pipeline import folding, rules
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
    - `REDACT`: True masks credentials and registered secrets, a list of regular expressions also what they match,
      False nothing; a handler's `redact` beats it.
    - `STAFF`: loggers whose lines, and those of the loggers below, only staff may see; a handler's `staff` beats it.
    - `MAX_LINES`: how many lines of one job each process stores, about; 0 stores all. A handler's `max_lines` beats it.
    - `NATS`: None instruments nats-py where it is installed; False does not; True or a dictionary of options
      for `joblog_router.contrib.nats.instrument` insists on it.
    - `CELERY`: the same for Celery and `joblog_router.contrib.celery.instrument`.
    """

    DATABASE: str | None = None
    FOLD: bool = True
    REDACT: bool | Sequence[Any] = True
    STAFF: Sequence[str] | None = None
    MAX_LINES: int = 0
    NATS: Choice = None
    CELERY: Choice = None


_KEYS: Final = tuple(field.name for field in fields(JobLogSettings))
_CHOICE: Final = ((bool, Mapping, NoneType), "True, False, None or a dictionary of options")
_TYPES: Final[Mapping[str, tuple[tuple[type, ...], str]]] = {
    "DATABASE": ((str, NoneType), "the name of an alias in DATABASES, or None"),
    "FOLD": ((bool,), "True or False"),
    "REDACT": ((bool, list, tuple), "True, False or a list of regular expressions"),
    "STAFF": ((list, tuple, NoneType), "a list of logger names"),
    "MAX_LINES": ((int,), "a whole number"),
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


def apply() -> None:
    """Hand over what the core keeps for itself, as it knows no Django settings."""
    folding.enabled = current().FOLD
    rules.use_defaults(_rules())


def _rules() -> rules.Rules:
    """What is done to lines on their way to the store. Raises ConfigurationError."""
    given = current()
    return rules.Rules.of(given.REDACT, given.STAFF, given.MAX_LINES, f"{SETTING}: {{}}")


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == SETTING:
        current.cache_clear()
        with contextlib.suppress(ConfigurationError):  # whoever reads the settings next is told
            apply()


setting_changed.connect(_forget, dispatch_uid="joblog_router.conf")
