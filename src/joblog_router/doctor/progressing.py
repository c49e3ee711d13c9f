"""Rules about jobs that get on.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from typing import Final

from .case import LIKELY, SURE, Case, Diagnosis, since, span
from .figures import consumer_evidence, job_evidence, log_evidence, progress_of, time_to_go

# One line is no getting on.
_SOME: Final = 2


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
    evidence = (
        *job_evidence(case),
        *(consumer_evidence(stream, consumer) for stream, consumer in active),
        *log_evidence(case),
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
    share = f" ({progress_of(case)})" if case.progress is not None else ""
    return Diagnosis(
        "healthy",
        f"The job is healthy as far as its log tells{share}: {case.log['lines']:,} lines, the last {since(calm)}. "
        "No queue was looked at, as none is configured.",
        "Nothing is to be done. Say where its tasks wait by DOCTOR['NATS'] (or the variable NATS_URL) or "
        "DOCTOR['CELERY'] to have that looked at, too.",
        (*job_evidence(case), *log_evidence(case)),
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
