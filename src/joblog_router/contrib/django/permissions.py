"""Who may see a job's log in the browser. Decided before any look at the store; in doubt nobody.

Called by every view, on the view's thread.
"""

from __future__ import annotations

import inspect
from typing import Final, NamedTuple

from django.conf import settings
from django.core.exceptions import ObjectDoesNotExist, PermissionDenied, ValidationError
from django.http import Http404, HttpRequest

from ..._pipeline.report import report_once
from ...entry import Audience
from . import conf

__all__ = ["VIEW_PERMISSION", "Access", "access_to", "is_log_staff"]

VIEW_PERMISSION: Final = "joblog_router.view_joblogentry"

# What a look for an object that is not there, or whose key has another form, raises: no error of the project's.
_ABSENT: Final = (ObjectDoesNotExist, PermissionDenied, ValidationError, Http404, ValueError, TypeError, OverflowError)


class Access(NamedTuple):
    """That a log may be seen, and which lines."""

    audience: Audience


def access_to(request: HttpRequest, job_id: str) -> Access | None:
    """What of the log of `job_id` this request may see; None if nothing. Never raises for what a rule does."""
    if conf.current().PERMISSION is None:
        if is_log_staff(request):
            return Access("staff")
        _explain(
            request,
            f"without {conf.SETTING}['PERMISSION'] only active staff with the permission {VIEW_PERMISSION} see logs",
        )
        return None
    audience = _asked(request, job_id)
    if audience is None:
        _explain(request, f"{conf.SETTING}['PERMISSION'] did not let in for this job")
        return None
    return Access("staff" if is_log_staff(request) else audience)


def is_log_staff(request: HttpRequest) -> bool:
    """Whether the user is active staff who may view job log entries."""
    user = getattr(request, "user", None)
    return bool(user is not None and user.is_active and user.is_staff and user.has_perm(VIEW_PERMISSION))


def _explain(request: HttpRequest, reason: str) -> None:
    """In development only, where a 404 of one's own page puzzles: nothing is said of visitors who probe."""
    if settings.DEBUG:
        user = getattr(request, "user", None)
        who = "nobody (no AuthenticationMiddleware)" if user is None else str(user)
        report_once(("404", who, reason), f"{request.path} is a 404 for {who}: {reason}")


def _asked(request: HttpRequest, job_id: str) -> Audience | None:
    try:
        answer = conf.loaded("PERMISSION")(request, job_id)
    except _ABSENT:
        return None
    except Exception as error:
        report_once(
            ("permission", repr(error)), f"{conf.SETTING}['PERMISSION'] failed, the log is not shown: {error!r}"
        )
        return None
    if answer is True or answer == "all":
        return "all"
    if answer == "staff":
        return "staff"
    if answer is not False and answer is not None:
        if inspect.iscoroutine(answer):
            answer.close()
        report_once(
            ("permission", type(answer)),
            f"{conf.SETTING}['PERMISSION'] must give True, False, 'all', 'staff' or None, not {type(answer).__name__}; "
            "the log is not shown",
        )
    return None
