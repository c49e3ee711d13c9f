"""What several rules ask of a case, and how evidence is worded. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from .._nats_events import NatsEvent
from .case import Case, Evidence

_JUST_NOW: Final = 5.0

Stream = Mapping[str, Any]
Consumer = Mapping[str, Any]


def is_polled(consumer: Consumer) -> bool:
    """Whether somebody waits for its messages, or asked for some while it was watched."""
    return bool(consumer["num_waiting"] or consumer["pulls"] or consumer["push_bound"])


def is_served(consumer: Consumer) -> bool:
    """Whether workers take from it: they poll, or were given something within the time they have for it."""
    last = consumer["last_delivered"]
    return bool(
        is_polled(consumer)
        or consumer["newly_delivered"]
        or consumer["acks"]
        or (last is not None and last < 2 * consumer["ack_wait"])
    )


def saves_stand(case: Case) -> bool:
    """Whether it is known that nothing has been saved or acknowledged for longer than one has patience for."""
    if any(consumer["acks"] or consumer["moved"] for _, consumer in case.consumers):
        return False
    ages = [age_of(case, case.job.get("updated"))]
    ages += [consumer["last_acked"] for _, consumer in case.consumers]
    is_taken = any(consumer["num_ack_pending"] for _, consumer in case.consumers)
    never = case.running_for if is_taken else None
    return case.is_old(min((age for age in ages if age is not None), default=never))


def in_broker(case: Case) -> int:
    """How many tasks, of whatever job, wait in the broker."""
    return sum(count or 0 for count in case.celery.get("depth", {}).values())


def again_share(consumer: Consumer) -> tuple[int, float]:
    """How many deliveries were not the first of their message, at least, and what share of all that is."""
    again = max(0, consumer["delivered"] - consumer["delivered_stream_seq"])
    return again, again / consumer["delivered"] if consumer["delivered"] else 0.0


def is_still(case: Case) -> bool:
    """Whether nothing has moved for longer than one has patience for."""
    return case.is_old(quiet_for(case)) and not any(
        consumer["moved"] or consumer["acks"] or consumer["newly_delivered"] for _, consumer in case.consumers
    )


def is_lively(case: Case) -> bool:
    """Whether the job said something just now: it may be in the middle of its end."""
    return case.calm_for is not None and case.calm_for < min(_JUST_NOW, case.patience)


def has_work(case: Case) -> bool:
    """Whether any task waits or is in work."""
    return any(consumer["num_pending"] or consumer["num_ack_pending"] for _, consumer in case.consumers)


def was_queued(case: Case) -> bool:
    """Whether anything was ever published."""
    return any(stream["last_seq"] for stream in case.streams)


def attempts_of(stream: Stream, consumer: Consumer) -> int:
    """About how often the tasks in work were delivered, from the counters."""
    tasks = max(1, consumer["delivered_stream_seq"] - stream["first_seq"] + 1)
    # Where what is acknowledged leaves the stream, its deliveries are not of those that are there.
    gone = 0 if stream["retention"] == "limits" else consumer["ack_floor"]
    return max(2, int((consumer["delivered"] - gone) / tasks + 0.5))


def quiet_for(case: Case) -> float | None:
    """For how long nothing has moved, as far as is known."""
    ages = [case.calm_for, age_of(case, case.job.get("updated"))]
    ages += [consumer["last_delivered"] for _, consumer in case.consumers]
    ages += [consumer["last_acked"] for _, consumer in case.consumers]
    return min((age for age in ages if age is not None), default=case.running_for)


def results_behind(case: Case) -> int:
    """How many results were accepted and not saved, as far as is known; 1 where only that some may be."""
    values = case.redis.get("values") or {}
    counts = [int(value) if isinstance(value, int) else 0 for value in map(values.get, ("process", "results"))]
    if counts[1] > counts[0]:
        return counts[1] - counts[0]
    if case.progress is None or case.progress == 1:
        return 0
    taken = any(consumer["num_ack_pending"] or consumer["ack_floor"] for _, consumer in case.consumers)
    return 1 if taken or not case.consumers else 0


def time_to_go(case: Case) -> float | None:
    """Seconds, if it goes on as it did so far; None where that is not known."""
    progress = case.progress
    started: float | None = case.job.get("started")
    if not progress or progress >= 1 or started is None:
        return None
    return max(0.0, case.now - started) * (1 - progress) / progress


def age_of(case: Case, at: float | None) -> float | None:
    """How many seconds ago that was."""
    return case.age(at)


def tasks_of(count: int) -> str:
    """So many tasks, in words."""
    return f"{count:,} task" if count == 1 else f"{count:,} tasks"


def were(count: int) -> str:
    """The verb for so many."""
    return "was" if count == 1 else "were"


def pending_of(consumer: Consumer) -> str:
    """How many tasks wait, in words."""
    return f"{tasks_of(consumer['num_pending'])} waiting"


def progress_of(case: Case) -> str:
    """How far the job is, in words."""
    if case.total is not None and case.handled is not None:
        return f"{case.handled:,} of {case.total:,} tasks"
    return f"{100 * (case.progress or 0):.0f} %"


def quoted(error: Mapping[str, Any]) -> str:
    """An error in its own words."""
    return str(error["exception"] or error["message"])


def job_evidence(case: Case) -> tuple[Evidence, ...]:
    """Status and progress."""
    if not case.job.get("exists"):
        return ()
    found = [Evidence("job", f"status {case.job.get('status')}", case.running_for)]
    if case.progress is not None:
        found.append(Evidence("job", f"progress {progress_of(case)}", age_of(case, case.job.get("updated"))))
    return tuple(found)


def log_evidence(case: Case) -> tuple[Evidence, ...]:
    """The last line."""
    newest = case.log.get("newest") or ()
    return tuple(Evidence("log", line["message"], age_of(case, line["created"])) for line in newest[-1:])


def error_evidence(case: Case) -> tuple[Evidence, ...]:
    """The last error in the log."""
    error = case.log.get("last_error")
    if not error:
        return ()
    text = f"{error['logger']}: {error['message']}" + (f": {error['exception']}" if error["exception"] else "")
    return (Evidence("log", text, age_of(case, error["created"])),)


def event_evidence(case: Case, *names: NatsEvent) -> tuple[Evidence, ...]:
    """The last line about each of these events."""
    return tuple(
        Evidence("log", f"{name}: {case.event(name)['message']}", age_of(case, case.event(name)["last"]))
        for name in names
        if case.event(name)
    )


def workers_evidence(case: Case) -> tuple[Evidence, ...]:
    """When workers were last seen, by the monitor of NATS and by the lines that they send."""
    if not case.workers:
        return ()
    found = []
    nats = case.workers["nats"]
    if nats["is_watched"]:
        words = "workers were last seen" if nats["last"] is not None else "no worker was seen so far"
        rate = f", {nats['rate']:g} acknowledged/s" if nats["rate"] else ""
        found.append(Evidence("workers", f"NATS monitor: {words}{rate}", age_of(case, nats["last"])))
    for worker in case.workers["remote"][:3]:
        text = f"{worker['worker']}: last line received: {worker['message']}"
        found.append(Evidence("workers", text, age_of(case, worker["last"])))
    return tuple(found)


def stream_evidence(stream: Stream) -> Evidence:
    """What a stream holds."""
    return Evidence(
        "nats",
        f"stream {stream['name']}: {stream['messages']:,} messages, last_seq {stream['last_seq']:,}, "
        f"{len(stream['consumers'])} consumers",
        stream["last_published"],
    )


def consumer_evidence(stream: Stream, consumer: Consumer) -> Evidence:
    """A consumer's numbers."""
    limit = consumer["max_ack_pending"]
    return Evidence(
        "nats",
        f"{stream['name']}/{consumer['name']}: num_pending {consumer['num_pending']:,}, num_ack_pending "
        f"{consumer['num_ack_pending']:,}{f' of {limit:,}' if limit and limit > 0 else ''}, num_redelivered "
        f"{consumer['num_redelivered']:,}, num_waiting {consumer['num_waiting']}, delivered {consumer['delivered']:,}, "
        f"ack_floor {consumer['ack_floor']:,}",
        consumer["last_delivered"],
    )


def watched_evidence(consumer: Consumer) -> tuple[Evidence, ...]:
    """What was heard of workers while it was watched."""
    return (
        Evidence(
            "nats",
            f"while watched: {consumer['acks']} acknowledgements, {consumer['acked_twice']} of the same message twice, "
            f"{consumer['late_acks']} of later attempts",
            0.0,
        ),
    )


def counters_evidence(case: Case) -> tuple[Evidence, ...]:
    """The job's counters in Redis."""
    values = case.redis.get("values") or {}
    if not values:
        return ()
    return (Evidence("redis", ", ".join(f"{name} {value}" for name, value in values.items()), 0.0),)


def celery_evidence(case: Case) -> Iterator[Evidence]:
    """Workers and queues."""
    if not case.celery:
        return
    workers = ", ".join(case.celery["workers"]) or "none"
    yield Evidence("celery", f"workers that answer: {workers}", 0.0)
    for name, depth in case.celery["depth"].items():
        yield Evidence("celery", f"queue {name}: {0 if depth is None else depth:,} tasks wait", 0.0)


def foreign_evidence(case: Case) -> tuple[Evidence, ...]:
    """Requests to consumers that do not exist."""
    pulls = case.nats.get("foreign_pulls") or ()
    return tuple(Evidence("nats", f"pull requests to {name}, which does not exist", 0.0) for name in pulls[:3])
