"""The system check of DOCTOR: what the doctor could not look at, told before it is needed.

Registered by the app's start; called by `manage.py check` and the commands that run the checks, on their thread.
"""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Warning, register  # noqa: A004 - Django's name

from ...doctor.configuration import mistakes_in
from ...exceptions import JobLogError
from . import conf
from .diagnosis import configuration

__all__ = ["check_doctor"]


@register
def check_doctor(**kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W021`: `joblog doctor`, `status` and `watch` cannot look at a job. Asks no server."""
    try:
        mistakes = mistakes_in(configuration())
    except JobLogError as error:
        mistakes = [str(error)]
    return [
        Warning(
            f"The doctor cannot be asked: {mistake}",
            hint=f"Correct {conf.SETTING}['DOCTOR'].",
            id="joblog_router.W021",
        )
        for mistake in mistakes
    ]
