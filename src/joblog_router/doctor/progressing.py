"""Rules about jobs that get on.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from typing import Final

from .case import LIKELY, SURE, Case, Diagnosis, since, span
from .figures import (
    consumer_evidence,
    error_evidence,
    errors_of,
    job_evidence,
    log_evidence,
    progress_of,
    quiet_for,
    time_to_go,
)

TOO_EARLY: Final = "too_early"

# One line is no getting on.
_SOME: Final = 2
_CONFIGURE: Final = (
    "Say where its tasks wait by DOCTOR['NATS'] (or the variable NATS_URL) or DOCTOR['CELERY'] to have that looked "
    "at, too."
)


def moving(case: Case) -> Diagnosis | None:
    """Work goes on: fast or slowly."""
    if not case.is_open:
        return None
    active = [
        (stream, consumer)
        for stream, consumer in case.consumers
        if consumer["moved"] > 0
        or consumer["acks"]
        or consumer["newly_delivered"]
        or consumer["in_progress"]
        or (
            consumer["num_ack_pending"]
            and consumer["last_delivered"] is not None
            and consumer["last_delivered"] < consumer["ack_wait"]
        )
    ]
    recent = case.phase == "running" and case.calm_for is not None and not case.is_old(case.calm_for)
    if not active and not recent:
        return None
    if not active and not case.has_moved:
        # One look shows that it was alive then, not that it gets on; one that just begins is told as such.
        is_young = case.running_for is not None and not case.is_old(case.running_for)
        return None if is_young and not case.progress else _undecided(case)
    evidence = (
        *job_evidence(case),
        *(consumer_evidence(stream, consumer) for stream, consumer in active),
        *log_evidence(case),
        *error_evidence(case),
    )
    eta = time_to_go(case)
    slow = eta is not None and eta > 10 * case.patience
    share = f" ({progress_of(case)})" if case.progress is not None else ""
    rest = f", about {span(eta)} to go" if eta is not None else ""
    return Diagnosis(
        "slow" if slow else "healthy",
        f"The job is healthy{' and slow' if slow else ''}{share}{rest}.",
        "Wait, or start more workers." if slow else "Nothing is to be done.",
        evidence,
        SURE if active else LIKELY,
        False,
    )


def logging_on(case: Case) -> Diagnosis | None:
    """It logs, and nothing else is looked at that could tell: no queue is configured, and no row that says more."""
    if not case.is_open or "nats" in case.results or "celery" in case.results:
        return None
    last, calm = case.log.get("last"), case.calm_for
    if calm is None or case.is_old(calm) or case.log.get("calm") != last or case.log.get("lines", 0) < _SOME:
        return None
    if not case.has_moved:
        return _undecided(case)
    share = f" ({progress_of(case)})" if case.progress is not None else ""
    wrong = f" ({errors_of(case)})" if case.log.get("errors") else ""
    return Diagnosis(
        "healthy",
        f"The job is healthy as far as its log tells{share}: {case.log['lines']:,} lines{wrong}, the last "
        f"{since(calm)}. No queue was looked at, as none is configured.",
        f"Nothing is to be done. {_CONFIGURE}",
        (*job_evidence(case), *log_evidence(case), *error_evidence(case)),
        LIKELY,
        False,
    )


def _undecided(case: Case) -> Diagnosis:
    """Something was said lately, and that is all that is known."""
    eta = time_to_go(case)
    rest = f", about {span(eta)} to go at the rate so far" if eta is not None else ""
    share = f" ({progress_of(case)}{rest})" if case.progress is not None else ""
    looked = "nats" in case.results or "celery" in case.results
    return Diagnosis(
        TOO_EARLY,
        f"It is too early to say whether the job gets on{share}: something moved {since(quiet_for(case))}.",
        "Ask again in a moment, or stay with it (joblog watch JOB)." + ("" if looked else f" {_CONFIGURE}"),
        (*job_evidence(case), *log_evidence(case), *error_evidence(case)),
        LIKELY,
        False,
    )


def waiting(case: Case) -> Diagnosis | None:
    """Too early to say."""
    age = min(
        (age for age in (case.running_for, *(stream["age"] for stream in case.streams)) if age is not None),
        default=None,
    )
    published = [stream["last_published"] for stream in case.streams if stream["last_published"] is not None]
    if published:
        age = min([*published, *([age] if age is not None else [])])
    if age is None or case.is_old(age) or case.phase not in {"created", "queued", "running", "unknown"}:
        return None
    tasks = sum(consumer["num_pending"] for _, consumer in case.consumers)
    return Diagnosis(
        "starting",
        (
            f"Something has moved {since(age)}, it is too early to say"
            if case.is_old(case.running_for)
            else f"The job is just beginning ({span(age)})"
        )
        + (f": {tasks:,} tasks wait for a worker." if tasks else "."),
        "Ask again in a moment.",
        (*job_evidence(case), *(consumer_evidence(*one) for one in case.consumers)),
        LIKELY,
        False,
    )
