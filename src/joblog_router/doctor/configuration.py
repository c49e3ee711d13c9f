"""What the doctor is told about a project: the setting DOCTOR, and which probes follow from it.

Called by `verdict` for each look; imports probes by name. Raises ConfigurationError.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from .._pipeline.dotted import load
from .._pipeline.namespaces import in_force
from .._pipeline.unknown import did_you_mean
from ..exceptions import ConfigurationError, JobLogError, MissingExtraError
from ..sinks.store import Store
from .builtin import LogProbe, PipelineProbe, WorkersProbe
from .probing import Probe
from .processes import ProcessesProbe

__all__ = ["Configuration", "configured", "mistakes_in", "probes_of", "use_default"]

PLACE: Final = "DOCTOR"

_PROBES: Final[Mapping[str, str]] = {
    "JOB": "joblog_router.contrib.django.diagnosis.JobProbe",
    "NATS": "joblog_router.contrib.nats.diagnosis.NatsProbe",
    "REDIS": "joblog_router.contrib.redis.RedisProbe",
    "CELERY": "joblog_router.contrib.celery.diagnosis.CeleryProbe",
    "REST": "joblog_router.doctor.rest.RestProbe",
    "TASKS": "joblog_router.doctor.rest.TasksProbe",
    "SETTINGS": "joblog_router.doctor.effective.SettingsProbe",
}


@dataclass(frozen=True)
class Configuration:
    """What DOCTOR says. The defaults are these and stand nowhere else.

    - `PATIENCE`: seconds for which nothing may happen before it is a finding.
    - `TIMEOUT`: seconds that each probe has.
    - `JOB`, `NATS`, `REDIS`, `CELERY`, `REST`, `TASKS`: the options of that probe, False to leave it out, None to have
      it where it needs no options.
    - `SETTINGS`: where the project takes the queue's settings from, `{"ack_wait": {"env": "NATS_TASK_TTR"}}`.
    - `PROBES`: probes of the project's own: `{"tasks": "dotted.path"}`, a class or function that gives a probe.
    """

    PATIENCE: float = 60.0
    TIMEOUT: float = 2.5
    JOB: Mapping[str, Any] | bool | None = None
    NATS: Mapping[str, Any] | bool | None = None
    REDIS: Mapping[str, Any] | bool | None = None
    CELERY: Mapping[str, Any] | bool | None = None
    REST: Mapping[str, Any] | bool | None = None
    TASKS: Mapping[str, Any] | bool | None = None
    SETTINGS: Mapping[str, Any] | bool | None = None
    PROBES: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, given: Mapping[str, Any] | None, place: str = PLACE) -> Configuration:
        """The configuration as given. Raises ConfigurationError for an unknown key or a wrong type."""
        known = [one.name for one in fields(cls)]
        for key, value in (given or {}).items():
            if key not in known:
                hint = did_you_mean(str(key).upper(), known)
                raise ConfigurationError(f"{place} has no key {key!r}.{hint} Known: {', '.join(known)}")
            if key in ("PATIENCE", "TIMEOUT"):
                if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                    raise ConfigurationError(f"{place}[{key!r}] must be a number of seconds, not {value!r}")
            elif not (isinstance(value, Mapping) or (key != "PROBES" and isinstance(value, bool | None))):
                raise ConfigurationError(f"{place}[{key!r}] must be a dictionary, not {value!r}")
        return cls(**(given or {}))


# The Django app says what the project's settings say, and which options follow from others of them.
_default: Callable[[], Configuration] = Configuration


def use_default(default: Callable[[], Configuration]) -> None:
    """Have `default()` tell the project's configuration."""
    global _default
    _default = default


def configured() -> Configuration:
    """The configuration in force. Raises ConfigurationError."""
    return _default()


def probes_of(configuration: Configuration, store: Store, namespace: str | None = None) -> list[Probe]:
    """The probes to ask, made anew. Raises ConfigurationError where one cannot be made."""
    # Asked here: probes work in threads of their own, where no tenant's namespace is in force.
    namespace = in_force(namespace)
    probes: list[Probe] = [
        LogProbe(store, namespace),
        PipelineProbe(),
        WorkersProbe(store, namespace),
        ProcessesProbe(store, namespace),
    ]
    probes += [_made(f"{PLACE}[{key!r}]", _PROBES[key], options) for key, options in _wanted(configuration).items()]
    for name, given in configuration.PROBES.items():
        probe = _made(f"{PLACE}['PROBES'][{name!r}]", given, {})
        probe.name = name
        probes.append(probe)
    return probes


def mistakes_in(configuration: Configuration) -> list[str]:
    """What is wrong with the options of probes, without asking any; probes of the project's own are only imported."""
    found = []
    for key, options in _wanted(configuration).items():
        try:
            _made(f"{PLACE}[{key!r}]", _PROBES[key], options)
        except JobLogError as error:
            found.append(str(error))
    for name, given in configuration.PROBES.items():
        try:
            _loaded(f"{PLACE}['PROBES'][{name!r}]", given)
        except JobLogError as error:
            found.append(str(error))
    return found


def _wanted(configuration: Configuration) -> dict[str, Mapping[str, Any]]:
    """The options of the probes that are asked, by key."""
    found: dict[str, Mapping[str, Any]] = {}
    for key in _PROBES:
        given = getattr(configuration, key)
        if given is None and key == "NATS" and os.environ.get("NATS_URL"):
            given = {}
        if given is not None and given is not False:
            found[key] = {} if given is True else given
    return found


def _loaded(place: str, given: Any) -> Any:
    try:
        return load(given) if isinstance(given, str) else given
    except ImportError as error:
        raise ConfigurationError(f"{place}: {given!r} cannot be imported: {error}") from error


def _check_options(place: str, factory: Any, options: Mapping[str, Any]) -> None:
    """Raise ConfigurationError for a key that is none of the probe's, and for one that it cannot do without."""
    parameters = inspect.signature(factory).parameters.values()
    known = [one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    for key in options:
        if key not in known and not (takes_any and isinstance(key, str)):
            raise ConfigurationError(f"{place} has no key {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}")
    for one in parameters:
        if one.name in known and one.default is one.empty and one.name not in options:
            raise ConfigurationError(f"{place} needs the key {one.name!r}")


def _made(place: str, given: Any, options: Mapping[str, Any]) -> Probe:
    factory = _loaded(place, given)
    try:
        if given in _PROBES.values():
            _check_options(place, factory, options)
        probe = factory(**options)
    except MissingExtraError as error:
        raise ConfigurationError(f"{place}: {error}") from error
    except JobLogError:
        raise
    except ImportError as error:
        raise ConfigurationError(f"{place}: {given!r} cannot be imported: {error}") from error
    except TypeError as error:
        raise ConfigurationError(f"{place}: {error}") from error
    if not isinstance(probe, Probe):
        raise ConfigurationError(f"{place}: {given!r} gives no probe (a name and a coroutine function probe(job_id))")
    return probe
