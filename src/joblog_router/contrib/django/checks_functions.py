"""System checks of the functions that JOBLOG_ROUTER names: whether they can be called as they will be.

Registered by the app's start; called by `manage.py check` and the commands that run the checks, on their thread.
"""

from __future__ import annotations

import inspect
from typing import Any

from django.core.checks import CheckMessage, Error, Warning, register  # noqa: A004 - Django's name

from ...exceptions import ConfigurationError
from . import conf

__all__: list[str] = []


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
