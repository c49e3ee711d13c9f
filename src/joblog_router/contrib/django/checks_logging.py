"""System checks of LOGGING: what keeps lines from job handlers.

Registered by the app's start; called by `manage.py check` and the commands that run the checks, on their thread.
"""

from __future__ import annotations

import difflib
import importlib.util
import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Warning, register  # noqa: A004 - Django's name

from ..._inspection.audit import audit_logging, loggers_that_pass_on, open_handlers
from ..._pipeline.dotted import load
from ...handlers import JobLogHandler
from . import conf
from .levels import level_named

__all__: list[str] = []


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
def check_kept_apart(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W016`: code keeps a logger of the project from the job handler; LOGGING does not say so.

    Of other people's loggers nothing is said: packages keep their own apart on purpose.
    """
    named = (settings.LOGGING or {}).get("loggers") or {}
    found: list[CheckMessage] = []
    for finding in audit_logging():
        if finding.kind == "propagate" and finding.logger not in named and _is_of_project(finding.logger, named):
            problem, _, advice = finding.text.partition(". ")
            found.append(
                Warning(
                    f"{problem}.",
                    hint=f"Code does that, not LOGGING. {advice} If this is wanted: "
                    "SILENCED_SYSTEM_CHECKS = ['joblog_router.W016'].",
                    id="joblog_router.W016",
                )
            )
    return found


def _is_of_project(logger: str, named: Iterable[str]) -> bool:
    """Whether a logger is below one of those in LOGGING, or of an app that was not installed as a package."""
    return any(f"{logger}.".startswith(f"{name}.") for name in (*_own_apps(), *named) if name)


def _own_apps() -> list[str]:
    packages = {"site-packages", "dist-packages"}
    apart = [app.name for app in apps.get_app_configs() if packages.isdisjoint(Path(app.path).parts)]
    return [name for name in apart if not name.startswith("joblog_router.")]


@register
def check_handler(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W017`: there is no job handler, neither in LOGGING nor made by code."""
    if conf.current().ENABLED is False or open_handlers() or _in_logging():
        return []
    return [
        Warning(
            "No handler of LOGGING is a JobLogHandler: job logs stay empty.",
            hint="Add LOGGING['handlers']['job'] = {'class': 'joblog_router.JobLogHandler', 'sink': 'django'}, and "
            "'job' to LOGGING['root']['handlers']. If only other processes have one: "
            "SILENCED_SYSTEM_CHECKS = ['joblog_router.W017'].",
            id="joblog_router.W017",
        )
    ]


def _in_logging() -> set[str]:
    """The names of the job handlers in LOGGING, where it is used."""
    if not settings.LOGGING or not settings.LOGGING_CONFIG:
        return set()
    handlers = settings.LOGGING.get("handlers") or {}
    return {name for name, handler in handlers.items() if _is_job_handler(handler)}


@register
def check_attached(**kwargs: Any) -> list[CheckMessage]:
    """What job handlers miss: `joblog_router.W005` everything, `W013` all but one logger's lines, `W014` INFO.

    `W006`: a logger keeps its records from the one on root. `W018`: they are on loggers of no app of the project.
    """
    config = settings.LOGGING
    if not config or not settings.LOGGING_CONFIG or config.get("incremental"):
        return []
    ours = _in_logging()
    loggers = {**(config.get("loggers") or {}), "": config.get("root") or {}}
    attached = {name: ours & _with_those_behind(logger.get("handlers")) for name, logger in loggers.items()}
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
        having = {name: min(has) for name, has in sorted(attached.items()) if has}
        misnamed = [_misnamed(name, handler) for name, handler in having.items() if not _is_of_code(name)]
        found += misnamed or _beside_apps(having)
    handlers = {name for name in ours if _takes_info(config["handlers"][name])}
    found += [_too_quiet(name) for name, has in sorted(attached.items()) if has & handlers and _hides(name, loggers)]
    return found


def _with_those_behind(handlers: Iterable[str] | None) -> set[str]:
    """The names of handlers, and of those to which the buffers and queues among them pass records."""
    found: set[str] = set()
    left = [*(handlers or ())]
    while left:
        name = left.pop()
        handler = settings.LOGGING["handlers"].get(name)
        if name not in found and hasattr(handler, "get"):
            left += [each for each in (handler.get("target"), *(handler.get("handlers") or ())) if each]
        found.add(name)
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


def _beside_apps(having: Mapping[str, str]) -> list[CheckMessage]:
    """Said only where no app of the project's own is reached: a project may mean some of its apps alone.

    `having` are the loggers of LOGGING with a job handler. Where the handlers really are counts, too: code adds some,
    and others stand behind a queue.
    """
    own = _own_apps()
    known = {*having, *loggers_that_pass_on()}
    if not having or not own or any(_is_along(app, logger) for app in own for logger in known):
        return []
    loggers = ", ".join(map(repr, having))
    handler = min(having.values())
    return [
        Warning(
            f"The job handler {handler!r} is on the logger{'s' * (len(having) > 1)} {loggers}: what the project's apps "
            f"({', '.join(map(repr, own))}) log reaches no job's log.",
            hint=f"Add the handler to the root logger: LOGGING['root']['handlers'] = [..., {handler!r}], or to the "
            f"logger of an app: LOGGING['loggers'][{own[0]!r}]['handlers']. If this is wanted: "
            "SILENCED_SYSTEM_CHECKS = ['joblog_router.W018'].",
            id="joblog_router.W018",
        )
    ]


def _is_along(app: str, logger: str) -> bool:
    """Whether a logger is root, the app's, above it or below it."""
    return not logger or f"{app}.".startswith(f"{logger}.") or f"{logger}.".startswith(f"{app}.")


def _is_of_code(logger: str) -> bool:
    """Whether a logger has the name of an app, of a module in one or of a package around one, or of a module."""
    if any(_is_along(app.name, logger) for app in apps.get_app_configs()):
        return True
    try:
        return logger in sys.modules or importlib.util.find_spec(logger.partition(".")[0]) is not None
    except (ImportError, ValueError):
        return False


def _takes_info(handler: Mapping[str, Any]) -> bool:
    level = handler.get("level") or 0
    return ((level_named(level) or 0) if isinstance(level, str) else level) <= logging.INFO


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


def _is_job_handler(handler: Any) -> bool:
    kind = handler.get("class") or handler.get("()") if hasattr(handler, "get") else None
    if isinstance(kind, str):
        try:
            kind = load(kind)
        except Exception:
            return False  # dictConfig has refused it, or it is no class
    return isinstance(kind, type) and issubclass(kind, JobLogHandler)
