"""Rules about workers, and about those who save what workers give.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from typing import Final

from .case import LIKELY, SURE, Case, Diagnosis, Evidence, span
from .figures import (
    age_of,
    attempts_of,
    celery_evidence,
    consumer_evidence,
    error_evidence,
    event_evidence,
    foreign_evidence,
    has_work,
    is_polled,
    is_served,
    is_still,
    job_evidence,
    pending_of,
    quoted,
    results_behind,
    tasks_of,
    were,
)

# So much later than the time that a worker has.
_CLOCK: Final = 1.5


def celery_trouble(case: Case) -> Diagnosis | None:
    """Results come and are not saved: Celery is dead, or behind."""
    if not case.celery or case.phase not in {"running", "unknown"}:
        return None
    depth = sum(count or 0 for count in case.celery["depth"].values())
    evidence = (*celery_evidence(case), *job_evidence(case))
    # A worker of one process answers nothing while it works; a job that gets on has workers.
    gets_on = case.silent_for is not None and not case.is_old(case.silent_for)
    if depth and not case.celery["workers"] and not gets_on:
        return Diagnosis(
            "celery_dead",
            f"Results are accepted but not saved: no Celery worker answers, {depth:,} tasks wait in the broker.",
            "Start the Celery workers.",
            evidence,
            LIKELY,
        )
    return None


def celery_failing(case: Case) -> Diagnosis | None:
    """Celery's task fails: its error is in the log."""
    if not case.celery or case.phase not in {"running", "unknown"} or not case.celery["workers"]:
        return None
    error = case.log.get("last_error")
    if not error or results_behind(case) <= 0 or not is_still(case):
        return None
    age = age_of(case, error["created"])
    task = error["logger"].startswith("celery.")
    if not task and case.log["errors"] < 2:
        return None
    if not task and (age is None or age > 10 * case.patience):
        return None
    return Diagnosis(
        "celery_task_failing",
        f"Results are accepted but not saved, as the Celery task fails: {quoted(error)}",
        "Correct the error and run the task again for what was not saved.",
        (*error_evidence(case), *celery_evidence(case), *job_evidence(case)),
        LIKELY,
    )


def celery_behind(case: Case) -> Diagnosis | None:
    """Celery works, but slower than results come."""
    if not case.celery or case.phase not in {"running", "unknown"} or not case.celery["workers"]:
        return None
    depth = sum(count or 0 for count in case.celery["depth"].values())
    if depth <= max(10, 4 * len(case.celery["workers"])) or results_behind(case) <= (0 if is_still(case) else 10):
        return None
    return Diagnosis(
        "celery_backed_up",
        f"Celery is behind with saving results: {depth:,} tasks wait in the broker, {case.celery['busy']} are in work.",
        "Wait, or start more Celery workers for that queue.",
        (*celery_evidence(case), *job_evidence(case)),
        LIKELY,
    )


def acked_twice(case: Case) -> Diagnosis | None:
    """The same message was acknowledged for two deliveries: `ack_wait` is too short."""
    for stream, consumer in case.consumers if case.is_open else ():
        if not consumer["num_redelivered"] and not consumer["acked_twice"]:
            continue
        seen_twice = consumer["acked_twice"]
        evidence = (
            consumer_evidence(stream, consumer),
            Evidence(
                "nats",
                f"while watched: {consumer['acks']} acknowledgements, {seen_twice} of the same message twice, "
                f"{consumer['late_acks']} of later attempts",
                0.0,
            ),
            *event_evidence(case, "nats.redelivery"),
        )
        if seen_twice or (consumer["late_acks"] > 1 and not consumer["naks"] and consumer["newly_redelivered"] >= 0):
            return Diagnosis(
                "ack_wait_too_short",
                f"Workers need longer than ack_wait ({span(consumer['ack_wait'])}): tasks are delivered again while "
                "they are in work, and processed twice.",
                "Raise ack_wait (the job's visibility timeout), let workers take smaller batches, or have them say "
                "in_progress().",
                evidence,
                SURE if seen_twice else LIKELY,
            )
    return None


def crash_loop(case: Case) -> Diagnosis | None:
    """Workers fetch and never acknowledge."""
    for stream, consumer in case.consumers if case.is_open else ():
        if not consumer["num_redelivered"] or not consumer["num_ack_pending"] or consumer["acks"]:
            continue
        if consumer["in_progress"]:
            continue
        if not is_served(consumer):
            continue
        acked = consumer["ack_floor"]
        attempts = max(consumer["highest_attempt"], attempts_of(stream, consumer))
        limit = consumer["max_deliver"]
        of = f" of {limit}" if limit > 0 else ""
        how = "answer with nak" if consumer["naks"] else "never acknowledge"
        return Diagnosis(
            "crash_loop",
            f"Workers fetch tasks and {how}: {consumer['num_redelivered']:,} were delivered again, attempt "
            f"{attempts}{of}" + (", none was ever acknowledged." if not acked else "."),
            "Look at the workers: they crash or fail on the task before they acknowledge, or need longer than ack_wait "
            f"({span(consumer['ack_wait'])})."
            + (f" After attempt {limit} a task is given up." if limit > 0 else " Without max_deliver this never ends."),
            (consumer_evidence(stream, consumer), *event_evidence(case, "nats.redelivery", "nats.nak")),
            SURE if not acked and (consumer["naks"] or attempts > 2) else LIKELY,
        )
    return None


def ack_pending_full(case: Case) -> Diagnosis | None:
    """The server hands out nothing more before something is acknowledged."""
    for stream, consumer in case.consumers if case.is_open else ():
        limit = consumer["max_ack_pending"] or 0
        if limit <= 0 or consumer["num_ack_pending"] < limit or not consumer["num_pending"]:
            continue
        if consumer["acks"] or consumer["moved"] or consumer["in_progress"]:
            continue
        if consumer["last_delivered"] is not None and consumer["last_delivered"] < min(
            case.patience, consumer["ack_wait"]
        ):
            continue
        expired = (consumer["last_delivered"] or 0) > consumer["ack_wait"] * _CLOCK
        if expired and not is_polled(consumer):
            continue  # nobody polls: that is why
        return Diagnosis(
            "max_ack_pending",
            f"max_ack_pending is reached: {consumer['num_ack_pending']:,} tasks are reserved and none of them is "
            f"acknowledged, so {consumer['num_pending']:,} more wait and workers get nothing.",
            "See why what is reserved is not acknowledged (results that are not saved?), or raise max_ack_pending.",
            (consumer_evidence(stream, consumer), *celery_evidence(case)),
        )
    return None


def exhausted(case: Case) -> Diagnosis | None:
    """Messages were delivered as often as allowed and given up; they block the job's end."""
    for stream, consumer in case.consumers if case.is_open else ():
        if consumer["num_ack_pending"] or consumer["ack_floor"] >= consumer["delivered"] or consumer["max_deliver"] < 1:
            continue
        if consumer["moved"] or consumer["newly_delivered"]:
            continue
        told = case.event("nats.exhausted").get("count", 0)
        count = consumer["num_redelivered"] if consumer["max_deliver"] > 1 else 0
        if not count and consumer["max_deliver"] == 1 and stream["retention"] != "limits":
            count = stream["messages"] - consumer["num_pending"]
        if not count and not told:
            continue
        return Diagnosis(
            "exhausted",
            f"{tasks_of(count or told)} {were(count or told)} given up after {consumer['max_deliver']} attempts: "
            "they are never delivered again and the job waits for them in vain.",
            "Look at what these tasks have in common (the log names them where workers write to it), correct it, and "
            "publish them again or count them as failed.",
            (
                consumer_evidence(stream, consumer),
                Evidence(
                    "nats",
                    f"acknowledged up to delivery {consumer['ack_floor']} of {consumer['delivered']}, nothing in work",
                    consumer["last_delivered"],
                ),
                *event_evidence(case, "nats.exhausted"),
            ),
            SURE if count else LIKELY,
        )
    if case.is_open and case.event("nats.terminated") and case.knows_nats and not has_work(case):
        count = case.event("nats.terminated")["count"]
        return Diagnosis(
            "exhausted",
            f"{tasks_of(count)} {were(count)} terminated by workers: they do not come again and the job waits "
            "for them in vain.",
            "See in the log which they are; run them again or count them as failed.",
            event_evidence(case, "nats.terminated"),
            LIKELY,
        )
    return None


def nobody_polls(case: Case) -> Diagnosis | None:
    """Tasks wait, and no worker asks for them."""
    for stream, consumer in case.consumers if case.is_open else ():
        if is_polled(consumer) or consumer["acks"] or consumer["in_progress"]:
            continue
        last = consumer["last_delivered"]
        busy = consumer["num_ack_pending"] and last is not None and last < consumer["ack_wait"]
        if busy or not (consumer["num_pending"] or consumer["num_ack_pending"]):
            continue
        waiting = min(
            (age for age in (last, stream["last_published"], consumer["age"]) if age is not None), default=None
        )
        if not case.is_old(waiting):
            continue
        reserved = consumer["num_ack_pending"]
        if last is None:
            text = f"No worker has polled yet: {pending_of(consumer)} since {span(waiting)}."
        else:
            text = f"No worker has polled for {span(last)}; {pending_of(consumer)}" + (
                f", {reserved:,} were taken and never answered." if reserved else "."
            )
        return Diagnosis(
            "nobody_polls",
            text,
            "Start the workers, or see why they do not reach NATS or do not know of this job."
            if not consumer["push"]
            else "Start the subscriber: nothing is bound to the consumer's delivery subject.",
            (
                consumer_evidence(stream, consumer),
                Evidence("nats", "no pull request is waiting", 0.0),
                *foreign_evidence(case),
            ),
            # What was taken may be in work for longer than ack_wait.
            LIKELY if consumer["num_ack_pending"] else SURE,
        )
    return None
