"""What is said where no rule explains a job: what was seen of it, and what nobody looked at.

Called by `verdict`; imports `case` and `figures`. No I/O.
"""

from __future__ import annotations

from typing import Final

from .case import POSSIBLE, Case, Diagnosis, Evidence
from .figures import consumer_evidence, error_evidence, job_evidence, log_evidence, stream_evidence

__all__ = ["unexplained"]

# By what to look at: the probes that do, and what has them look.
_LOOKS: Final = (
    ("job", ("job", "rest"), "its row was not looked at: JOB_MODEL (or DOCTOR['REST']) is not set"),
    ("queue", ("nats", "celery"), "none was looked at: NATS_URL, DOCTOR['NATS'] and DOCTOR['CELERY'] are not set"),
)


def _seen(case: Case) -> list[Evidence]:
    seen = [
        *job_evidence(case),
        *(stream_evidence(stream) for stream in case.streams),
        *(consumer_evidence(*one) for one in case.consumers),
        *log_evidence(case),
        *error_evidence(case),
    ]
    if case.log and not case.log.get("lines"):
        seen.append(Evidence("log", "no line"))
    return seen


def unexplained(case: Case) -> Diagnosis:
    """The verdict that is none."""
    failed = [Evidence(name, result.error) for name, result in case.results.items() if result.error]
    unseen = [Evidence(what, why) for what, probes, why in _LOOKS if not any(name in case.results for name in probes)]
    try:
        seen = _seen(case)
    except Exception:
        seen = []  # a probe of the project's own took the place of ours and says other things
    return Diagnosis(
        "unknown",
        "I don't know: nothing of what was looked at explains it.",
        "Look at joblog status JOB and joblog tail JOB."
        + (" To have more looked at, set what is named below." if unseen else ""),
        (*failed, *seen, *unseen),
        POSSIBLE,
    )
