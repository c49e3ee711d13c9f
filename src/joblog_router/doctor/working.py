"""Rules about workers, and about those who save what workers give.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from .case import LIKELY, POSSIBLE, SURE, Case, Diagnosis, Evidence, span
from .effective import settings_evidence
from .figures import (
    again_share,
    age_of,
    attempts_of,
    celery_evidence,
    consumer_evidence,
    counters_evidence,
    error_evidence,
    event_evidence,
    foreign_evidence,
    has_work,
    in_broker,
    is_accepting,
    is_polled,
    is_served,
    is_still,
    job_evidence,
    log_evidence,
    pending_of,
    quiet_for,
    quoted,
    results_behind,
    saves_stand,
    tasks_of,
    watched_evidence,
    were,
    workers_evidence,
)

# Fewer than so many that were worked on twice, or than this share, are no matter of the setting.
_FEW_TWICE: Final = 3
_SHARE_TWICE: Final = 0.02
# So many repeated deliveries, and this share of all, are no matter of one worker that crashed.
_MANY: Final = 20
_LARGE_SHARE: Final = 0.25

# For so many times what one has patience for, a task may say nothing.
_LONG: Final = 10

# So much later than the time that a worker has.
_CLOCK: Final = 1.5


def celery_trouble(case: Case) -> Diagnosis | None:
    """Tasks wait, or results come and are not saved: no worker of Celery is there."""
    if not case.celery or case.phase not in {"running", "unknown"}:
        return None
    depth = in_broker(case)
    # A worker of one process answers nothing while it works; a job that gets on has workers.
    gets_on = case.calm_for is not None and not case.is_old(case.calm_for)
    stands = saves_stand(case) and results_behind(case) > 0 and case.celery.get("depth_moved", 0) >= 0
    if depth and not case.celery["workers"] and (not gets_on or stands):
        waiting = f"{tasks_of(depth)} {'waits' if depth == 1 else 'wait'} in the broker."
        return Diagnosis(
            "celery_dead",
            f"Results are accepted but not saved: no Celery worker answers, {waiting}"
            if is_accepting(case)
            else f"No Celery worker answers: {waiting}",
            "Start the Celery workers (celery -A PROJECT worker -Q QUEUE), and see why they ended.",
            (*celery_evidence(case), *job_evidence(case), *counters_evidence(case)),
            LIKELY,
        )
    return None


def celery_elsewhere(case: Case) -> Diagnosis | None:
    """Workers answer, and none of them takes from the queue where tasks wait."""
    taken = case.celery.get("taken")
    if not case.celery.get("workers") or taken is None or case.phase not in {"created", "queued", "running", "unknown"}:
        return None
    missed = {name: count for name, count in case.celery["depth"].items() if count and name not in taken}
    if not missed or not is_still(case):
        return None
    names = ", ".join(missed)
    return Diagnosis(
        "celery_wrong_queue",
        f"{tasks_of(sum(missed.values())).capitalize()} {'waits' if sum(missed.values()) == 1 else 'wait'} in the "
        f"broker's queue {names}, which no Celery worker takes from: they take from {', '.join(taken) or 'none'}.",
        f"Start a worker for it (-Q {next(iter(missed))}), or send these tasks elsewhere (task_routes).",
        (*celery_evidence(case), Evidence("celery", f"queues taken from: {', '.join(taken) or 'none'}", 0.0)),
        LIKELY,
    )


def celery_silent(case: Case) -> Diagnosis | None:
    """A task of the job is at work, and nothing is to be seen of it."""
    tasks = [task for task in case.celery.get("active", ()) if isinstance(task.get("started"), int | float)]
    if not tasks or not case.is_open or not is_still(case):
        return None
    task = min(tasks, key=lambda one: one["started"])
    age, quiet = age_of(case, task["started"]), quiet_for(case)
    if age is None or quiet is None or not case.is_old(age):
        return None
    is_long = min(age, quiet) > _LONG * case.patience
    return Diagnosis(
        "celery_task_silent",
        f"Celery's task {task['task']} is at work since {span(age)}, and nothing has moved for {span(quiet)}"
        + (": it hangs, or does not say what it does." if is_long else "."),
        "See where it stands (py-spy dump --pid of the worker's process); give it a time limit."
        if is_long
        else "Wait, or have it log how far it is.",
        (
            Evidence("celery", f"{task['worker']}: {task['task']}", age),
            *celery_evidence(case),
            *job_evidence(case),
            *log_evidence(case),
        ),
        LIKELY,
        is_long,
    )


def celery_failing(case: Case) -> Diagnosis | None:
    """Celery's task fails: its error is in the log, and nothing was saved since."""
    if case.phase not in {"running", "unknown"} or (case.celery and not case.celery["workers"]):
        return None
    error = case.log.get("task_error")
    if not error or results_behind(case) <= 0:
        return None
    age = age_of(case, error["created"])
    if age is None:
        return None
    if is_still(case):
        # What went on for long after it is not stopped by it.
        if case.calm_for is not None and age > case.calm_for + 10 * case.patience:
            return None
    elif age > 10 * case.patience or not _nothing_saved_since(case, error):
        return None
    times = error.get("times", 1)
    often = f" (for the {times}th time)" if times > 3 else ""
    return Diagnosis(
        "celery_task_failing",
        (
            f"Results are accepted but not saved, as the Celery task fails{often}: {quoted(error)}"
            if is_accepting(case)
            else f"The Celery task fails{often}: {quoted(error)}"
        ),
        "Correct the error. What is not acknowledged is delivered again by itself; run the task again for the rest.",
        (
            Evidence("log", f"{error['logger']}: {error['message']}", age),
            *celery_evidence(case),
            *job_evidence(case),
            *counters_evidence(case),
        ),
        LIKELY,
    )


def _nothing_saved_since(case: Case, error: Mapping[str, Any]) -> bool:
    """Whether the figures show that nothing was acknowledged since Celery's task failed first, or for long."""
    consumers = [consumer for _, consumer in case.consumers]
    if not consumers or any(consumer["acks"] or consumer["moved"] for consumer in consumers):
        return False
    since = age_of(case, error.get("since", error["created"])) or 0.0
    acked = min((one["last_acked"] for one in consumers if one["last_acked"] is not None), default=None)
    return acked is None or acked > since or case.is_old(acked)


def celery_behind(case: Case) -> Diagnosis | None:
    """Celery works, but slower than results come."""
    if not case.celery or case.phase not in {"running", "unknown"} or not case.celery["workers"]:
        return None
    depth = in_broker(case)
    if depth <= max(10, 4 * len(case.celery["workers"])) or results_behind(case) <= (0 if is_still(case) else 10):
        return None
    return Diagnosis(
        "celery_backed_up",
        f"Celery is behind with saving results: {depth:,} tasks wait in the broker, {case.celery['busy']} are in work.",
        "Wait, or start more Celery workers for that queue.",
        (*celery_evidence(case), *job_evidence(case), *counters_evidence(case)),
        LIKELY,
    )


def acked_twice(case: Case) -> Diagnosis | None:
    """The same message was worked on in two deliveries: `ack_wait` is too short."""
    told = case.recent("nats.ack.twice")
    for stream, consumer in case.consumers if case.is_open else ():
        seen = consumer["acked_twice"]
        if not seen and not told:
            continue
        acked = case.event("nats.snapshot").get("fields", {}).get("acknowledged") or consumer["delivered"]
        # One that was late is no matter of the setting.
        few = told + seen < max(_FEW_TWICE, _SHARE_TWICE * acked)
        return Diagnosis(
            "ack_wait_too_short",
            f"Workers need longer than ack_wait ({span(consumer['ack_wait'])}): tasks are delivered again while "
            f"they are in work, and processed twice ({tasks_of(max(told, seen))} so far as watched).",
            "Raise ack_wait (the job's visibility timeout), let workers take smaller batches, or have them say "
            "in_progress().",
            (
                consumer_evidence(stream, consumer),
                *watched_evidence(consumer),
                *event_evidence(case, "nats.ack.twice", "nats.redelivery"),
                *settings_evidence(case, "ack_wait"),
            ),
            POSSIBLE if few and not seen else SURE,
        )
    return None


def redelivered(case: Case) -> Diagnosis | None:
    """Much is delivered again though workers acknowledge: why is not to be seen from outside, that it is so is."""
    for stream, consumer in case.consumers if case.is_open else ():
        again, share = again_share(consumer)
        alive = consumer["acks"] or consumer["moved"] > 0
        if not alive or consumer["naks"] or case.recent("nats.nak") or not consumer["num_redelivered"]:
            continue
        if again < _MANY or share < _LARGE_SHARE:
            continue
        return Diagnosis(
            "redelivered",
            f"{again:,} of {consumer['delivered']:,} deliveries were repeated ones, though workers acknowledge: they "
            f"need longer than ack_wait ({span(consumer['ack_wait'])}), or crash in the middle of their work.",
            "Compare how long a worker needs for what it takes at once with ack_wait. joblog monitor tells which of "
            "both it is.",
            (
                consumer_evidence(stream, consumer),
                *watched_evidence(consumer),
                *event_evidence(case, "nats.redelivery"),
                *workers_evidence(case),
                *settings_evidence(case, "ack_wait"),
            ),
            LIKELY,
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
        told = case.event("nats.redelivery").get("attempt", 0) if case.recent("nats.redelivery") else 0
        attempts = max(consumer["highest_attempt"], attempts_of(stream, consumer), told)
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
            (
                consumer_evidence(stream, consumer),
                *event_evidence(case, "nats.redelivery", "nats.nak"),
                *workers_evidence(case),
                *error_evidence(case),
                *settings_evidence(case, "ack_wait", "max_deliver"),
            ),
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
            (
                consumer_evidence(stream, consumer),
                *celery_evidence(case),
                *settings_evidence(case, "max_ack_pending"),
            ),
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
            "what was given up is never delivered again, and the job waits in vain.",
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
                *settings_evidence(case, "max_deliver"),
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
    # Beside a consumer that is served another one may be left over: it is nobody's to poll.
    is_beside = len(case.consumers) > 1 and any(
        is_served(consumer) or (consumer["delivered"] and consumer["ack_floor"] >= consumer["delivered"])
        for _, consumer in case.consumers
    )
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
                *workers_evidence(case),
                *foreign_evidence(case),
            ),
            # What was taken may be in work for longer than ack_wait.
            POSSIBLE if is_beside else LIKELY if consumer["num_ack_pending"] else SURE,
        )
    return None


def several_consumers(case: Case) -> Diagnosis | None:
    """Two consumers are given the same tasks, and both are served: each task is done twice. Told beside the verdict."""
    for stream in case.streams if case.is_open else ():
        served = [consumer for consumer in stream["consumers"] if consumer["delivered"] and is_served(consumer)]
        filters = [set(consumer["filter_subjects"] or [">"]) for consumer in served]
        if stream["retention"] != "limits" or len(served) < 2 or not filters[0] & filters[1]:
            continue
        names = ", ".join(consumer["name"] for consumer in served)
        return Diagnosis(
            "several_consumers",
            f"The stream {stream['name']} has {len(served)} consumers for the same tasks ({names}), and workers take "
            "from each: every task is done more than once.",
            "Have all workers bind to one consumer, and delete the others.",
            tuple(consumer_evidence(stream, consumer) for consumer in served),
            POSSIBLE,
        )
    return None
