"""Rules about a job whose log tells of errors and of nothing that was done.

Each gives a diagnosis or None, from what the probes saw alone. What is known of queues and tasks comes before them.
"""

from __future__ import annotations

from typing import Final

from .case import LIKELY, Case, Diagnosis
from .figures import (
    error_evidence,
    errors_of,
    is_served,
    is_still,
    job_evidence,
    log_evidence,
    progress_of,
    quoted,
)

# Who tells how a task of Django's ended (6.0, and the package before), and how it says that it did badly.
_TASK_LOGGERS: Final = frozenset({"django.tasks", "django_tasks"})
_FAILED: Final = "state=FAILED"
# Where it is not known how far the job is, so large a share of its lines are no mishaps on the way.
_LARGE_SHARE: Final = 0.1


def task_failed(case: Case) -> Diagnosis | None:
    """The last that was said is that a task of Django's failed."""
    newest = case.log.get("newest") or ()
    if not case.is_open or not newest or not _is_unserved(case):
        return None
    last = newest[-1]
    if last["logger"] not in _TASK_LOGGERS or _FAILED not in last["message"]:
        return None
    done = case.progress or case.handled
    if done and not is_still(case):
        return None  # others of its tasks may be at work
    return Diagnosis(
        "task_failed",
        f"{'A task of the job' if done else 'The task'} failed: {quoted(last)}; nothing was logged since.",
        "Correct the error and run the task again; set the job's status where the task should have done so.",
        (*job_evidence(case), *log_evidence(case), *error_evidence(case)),
        LIKELY,
    )


def nothing_done(case: Case) -> Diagnosis | None:
    """Errors in the log, and nothing done, or nothing known of it where they are a large part of all lines."""
    errors = case.log.get("errors", 0)
    if not case.is_open or not errors or not _is_unserved(case):
        return None
    progress, handled = case.progress, case.handled
    if progress or handled or (progress is None and handled is None and errors < _LARGE_SHARE * case.log["lines"]):
        return None
    done = (
        f"{progress_of(case)} done"
        if progress is not None
        else "nothing done"
        if handled is not None
        else "whether anything is done is not known"
    )
    return Diagnosis(
        "errors_in_log",
        f"{errors_of(case)}, {done}; the last: {_last_of(case)}",
        "Read the errors in the log (joblog show JOB --level ERROR) and correct their cause.",
        (*job_evidence(case), *error_evidence(case), *log_evidence(case)),
        LIKELY,
    )


def _last_of(case: Case) -> str:
    error = case.log.get("last_error")
    return quoted(error) if error else "not known"


def _is_unserved(case: Case) -> bool:
    """Whether no queue shows that workers take from it."""
    return not any(is_served(consumer) for _, consumer in case.consumers)
