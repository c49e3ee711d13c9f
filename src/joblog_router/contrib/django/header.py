"""What the project tells of a job for the head of its page: status, progress, stages, a verdict; or its row alone.

Called by the views on their threads, after the permission; whatever the project's function does or gives, the page is
shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from django.http import HttpRequest

from ..._pipeline.report import report_once
from ..._pipeline.text import clip
from . import conf
from .diagnosis import phase_in_row

__all__ = ["header_of"]

_OVER: Final = frozenset({"done", "failed", "canceled"})
_MOST_STAGES: Final = 50
_SHORT: Final = 100
_LONG: Final = 2000


def header_of(request: HttpRequest, job_id: str) -> dict[str, Any] | None:
    """What JOBLOG_ROUTER["HEADER"] says of the job, checked and bounded; None where it says nothing.

    Without that setting it is whether the job is over, by the status of its row, and nothing to show.
    """
    if conf.current().HEADER is None:
        return _by_status(job_id)
    try:
        given = conf.loaded("HEADER")(request, job_id)
        return _checked(given) if given else None
    except Exception as error:
        report_once(("header", repr(error)), f"{conf.SETTING}['HEADER'] failed, the page goes without: {error!r}")
        return None


def _by_status(job_id: str) -> dict[str, Any] | None:
    try:
        phase = phase_in_row(job_id)
    except Exception as error:
        report_once(("header", repr(error)), f"the row of job {job_id!r} could not be read: {error!r}")
        return None
    return None if phase == "unknown" else _checked({"done": phase in _OVER})


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "status": _text(given.get("status"), _SHORT),
        "progress": _share(given.get("progress")),
        "failed": bool(given.get("failed")),
        "done": bool(given.get("done")),
        "verdict": _text(given.get("verdict"), _LONG),
        "stages": [
            {
                "name": _text(stage.get("name"), _SHORT),
                "status": _text(stage.get("status"), _SHORT),
                "progress": _share(stage.get("progress")),
            }
            for stage in list(given.get("stages") or ())[:_MOST_STAGES]
        ],
    }


def _text(value: object, limit: int) -> str:
    return "" if value is None else clip(str(value), limit)


def _share(value: Any) -> float | None:
    if value is None or not math.isfinite(share := float(value)):
        return None
    return min(1.0, max(0.0, share))
