"""What handlers and settings say about attribution, combined: there is one answer per process to whose record it is.

Handlers hand theirs over when they are made and take it back when they are closed; JOBLOG_ROUTER's counts where no open
handler says anything. Called where logging is configured; takes a lock, raises ConfigurationError there only. Called by
handlers and `handing_over`; imports what it tells: `resolve`, `services`, `generators`, `lifetime`.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from logging import LogRecord
from typing import Any, Final

from ..exceptions import ConfigurationError
from . import lifetime, resolve, services
from .dotted import load
from .generators import use_drivers
from .naming import LoggerNames
from .outliving import report_outliving
from .report import report_once

SETTINGS: Final = "settings"
DROP: Final = "drop"
MARK: Final = "mark"
_DEFAULT_GRACE: Final = 60.0


@dataclass(frozen=True)
class Policy:
    """One handler's words, or the settings'; None where it says nothing."""

    evidence: tuple[str, ...] | None = None
    late: Mapping[str, str] | None = None
    late_grace: float | None = None
    services: tuple[str, ...] | None = None
    generator_drivers: tuple[str, ...] | None = None
    report_tasks: bool | None = None
    resolvers: tuple[Callable[[LogRecord], object], ...] | None = None

    @classmethod
    def of(cls, where: str, **given: Any) -> Policy:
        """Checked; `where` begins the messages, for example "JobLogHandler: " or "JOBLOG_ROUTER: "."""
        late, grace, report_tasks = given.get("late"), given.get("late_grace"), given.get("report_tasks")
        if late is not None:
            late = _late(where, late)
        if grace is not None and (isinstance(grace, bool) or not isinstance(grace, int | float) or not grace >= 0):
            raise ConfigurationError(f"{where}late_grace must be a number of seconds, not {grace!r}")
        if report_tasks is not None and not isinstance(report_tasks, bool):
            raise ConfigurationError(f"{where}report_tasks must be True or False, not {report_tasks!r}")
        return cls(
            evidence=_texts(where, "evidence", "keys of extra", given.get("evidence")),
            late=late,
            late_grace=grace,
            services=_dotted(where, "services", given.get("services")),
            generator_drivers=_dotted(where, "generator_drivers", given.get("generator_drivers")),
            report_tasks=report_tasks,
            resolvers=_callables(where, given.get("resolvers")),
        )


_policies: dict[Hashable, Policy] = {}
_lock = threading.RLock()


def use(owner: Hashable, policy: Policy | None) -> None:
    """From now on `owner` says `policy`; None when it says nothing any more."""
    with _lock:
        if policy is None:
            _policies.pop(owner, None)
        else:
            _policies[owner] = policy
        _apply()


def _apply() -> None:
    resolve.use_evidence(frozenset(key for keys in _given("evidence") for key in keys) or resolve.DEFAULT_EVIDENCE)
    late: dict[str, str] = {}
    for each in _given("late"):
        late.update(each)
    grace = max(_given("late_grace"), default=_DEFAULT_GRACE)
    resolve.use_late_policy({name for name, what in late.items() if what == MARK}, set(late), grace)
    names = tuple(dict.fromkeys(name for names in _given("services") for name in names))
    services.use_service_names(LoggerNames(names, ()) if names else None)
    use_drivers(dict.fromkeys(name for names in _given("generator_drivers") for name in names))
    resolve.use_resolvers(dict.fromkeys(resolver for resolvers in _given("resolvers") for resolver in resolvers))
    wanted = any(_given("report_tasks"))
    if wanted and sys.version_info < (3, 12):
        report_once(("report-tasks",), "report_tasks needs Python 3.12: before, a task does not tell its context")
        wanted = False
    lifetime.on_close("report_tasks", report_outliving if wanted else None)


def _given(name: str) -> list[Any]:
    """What handlers say, or else the settings."""
    of_handlers = [getattr(policy, name) for owner, policy in _policies.items() if owner != SETTINGS]
    given = [value for value in of_handlers if value is not None]
    if not given and SETTINGS in _policies:
        given = [value for value in [getattr(_policies[SETTINGS], name)] if value is not None]
    return given


def _texts(where: str, name: str, what: str, value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item for item in value):
        raise ConfigurationError(f"{where}{name} must be a list of {what}, not {value!r}")
    return tuple(value)


def _dotted(where: str, name: str, value: object) -> tuple[str, ...] | None:
    names = _texts(where, name, "dotted names", value)
    for item in names or ():
        if not all(part.isidentifier() or part == "<locals>" for part in item.split(".")):
            raise ConfigurationError(
                f"{where}{name} holds {item!r}, which is not a dotted name like 'shop.jobs' or 'shop.jobs.poll'"
            )
    return names


def _callables(where: str, value: object) -> tuple[Callable[[LogRecord], object], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list | tuple):
        raise ConfigurationError(f"{where}resolvers must be a list of functions or their dotted names, not {value!r}")
    found = []
    for item in value:
        try:
            resolver = load(item) if isinstance(item, str) else item
        except ImportError as error:
            raise ConfigurationError(f"{where}resolvers: {error}") from error
        if not callable(resolver):
            raise ConfigurationError(f"{where}resolvers holds {item!r}, which cannot be called with a record")
        found.append(resolver)
    return tuple(found)


def _late(where: str, value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(name, str) and what in (DROP, MARK) for name, what in value.items()
    ):
        raise ConfigurationError(
            f"{where}late must be a dictionary of logger names and {DROP!r} or {MARK!r}, not {value!r}; "
            "the name '' stands for all loggers"
        )
    return dict(value)
