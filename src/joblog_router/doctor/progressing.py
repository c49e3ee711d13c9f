"""Rules about jobs that get on.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from .case import LIKELY, SURE, Case, Diagnosis, since, span
from .figures import consumer_evidence, job_evidence, log_evidence, progress_of, time_to_go


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
