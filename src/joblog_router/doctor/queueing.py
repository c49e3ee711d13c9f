"""Rules about tasks that nobody can be given: never queued, taken away, out of reach.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from typing import Final

from .._nats_events import NatsEvent
from .._pipeline.subjects import takes
from .case import LIKELY, POSSIBLE, SURE, Case, Diagnosis, Evidence, since, span
from .effective import effective, settings_evidence, worded
from .figures import (
    celery_evidence,
    consumer_evidence,
    error_evidence,
    event_evidence,
    foreign_evidence,
    is_lively,
    is_polled,
    is_still,
    job_evidence,
    log_evidence,
    pending_of,
    quiet_for,
    stream_evidence,
    tasks_of,
    workers_evidence,
)

# What is told only where the stream was there.
_THERE: Final[tuple[NatsEvent, ...]] = (
    "nats.stream.created",
    "nats.stream.reused",
    "nats.fetch.first",
    "nats.publish.summary",
)
# A message more does not fit.
_FULL: Final = 0.99
# How the server says that something is full.
_SHORT: Final = (
    "insufficient resources",
    "insufficient storage",
    "no space left",
    "maximum messages exceeded",
    "maximum bytes exceeded",
    "resource limits exceeded",
    "maximum number of streams",
    "maximum consumers",
)


def never_started(case: Case) -> Diagnosis | None:
    """The job waits to be started: in the broker, or nowhere at all."""
    if case.phase not in {"created", "queued"} or case.streams or case.job.get("started"):
        return None
    age = case.running_for
    if not case.is_old(age):
        return None
    evidence = (*job_evidence(case), *celery_evidence(case))
    if case.celery:
        depth = sum(count or 0 for count in case.celery["depth"].values())
        if case.celery["reserved"] or case.celery["active"]:
            return None
        if not case.celery["workers"]:
            return Diagnosis(
                "celery_dead",
                f"The job waits since {span(age)} to be started: no Celery worker answers, {depth} tasks wait.",
                "Start the Celery workers.",
                evidence,
                LIKELY,
            )
        if depth:
            return Diagnosis(
                "celery_backed_up",
                f"The job waits since {span(age)} to be started behind {depth} tasks in the broker.",
                "Wait, start more Celery workers, or give jobs a queue of their own.",
                evidence,
                LIKELY,
            )
        return Diagnosis(
            "never_queued",
            f"The job was made {since(age)} and never queued: neither the broker nor a worker has a task for it.",
            "Start it. Where it should have started by itself, look for the error where it was sent (on_commit?).",
            evidence,
            LIKELY,
        )
    return Diagnosis(
        "never_queued",
        f"The job was made {since(age)} and has not been started; there is no stream of it.",
        "Start it, and see that whoever should start jobs runs.",
        evidence,
        LIKELY,
    )


def no_stream(case: Case) -> Diagnosis | None:
    """The job runs, NATS answers, and has nothing of it."""
    if not case.knows_nats or case.streams or case.phase not in {"running", "queued"}:
        return None
    if case.progress == 1 or case.nats.get("shared"):
        return None
    names = ", ".join(stream["name"] for stream in case.nats.get("streams", ())) or "its stream"
    evidence = (
        Evidence("nats", f"no stream {names}", 0.0),
        *job_evidence(case),
        *event_evidence(case, "nats.stream.created", "nats.publish.summary", "nats.stream.vanished"),
    )
    handled = case.handled or 0
    was_there = any(map(case.event, _THERE))
    if case.event("nats.stream.deleted"):
        if not is_still(case):
            return None  # it is about to end
        return Diagnosis(
            "not_marked",
            f"The job deleted its stream itself and has not been marked as finished; nothing has moved for "
            f"{span(quiet_for(case))}.",
            "Set its status; see in the log what should have followed.",
            (*evidence, *event_evidence(case, "nats.stream.deleted"), *error_evidence(case)),
            LIKELY,
        )
    if case.event("nats.stream.vanished") or was_there or handled:
        return Diagnosis(
            "stream_deleted",
            f"The stream {names} was deleted under the job: what was in it of its tasks is gone.",
            "Queue the tasks that are not done again. See who deletes streams: another clean-up, or a server without "
            "a store on disk that was restarted.",
            evidence,
            # Without a word of the log the job's stream may have another name.
            POSSIBLE
            if not (was_there or case.event("nats.stream.vanished")) or is_lively(case)
            else SURE
            if is_still(case)
            else LIKELY,
        )
    if not case.is_old(case.running_for) or not is_still(case):
        return None
    return Diagnosis(
        "never_queued",
        f"The job is {case.job.get('status')} since {span(case.running_for)}, but nothing was ever queued: NATS has "
        f"no {names}, and its log tells of none.",
        "See the last lines of the log: what should have queued the tasks failed, or still collects them.",
        (*evidence, *log_evidence(case), *error_evidence(case)),
        # Where nothing says that jobs use NATS, this one may not.
        LIKELY if case.nats.get("is_named") else POSSIBLE,
    )


def nothing_in_stream(case: Case) -> Diagnosis | None:
    """The stream is there, and nothing was ever put into it."""
    if not case.is_open or not case.streams or any(stream["last_seq"] for stream in case.streams):
        return None
    stream = case.streams[0]
    if not case.is_old(stream["age"]):
        return None
    return Diagnosis(
        "never_queued",
        f"The stream {stream['name']} was made {since(stream['age'])}, but no task was ever published to it.",
        f"See why queueing stopped, and that tasks are published to its subjects ({', '.join(stream['subjects'])}).",
        (stream_evidence(stream), *job_evidence(case), *error_evidence(case)),
    )


def consumer_missing(case: Case) -> Diagnosis | None:
    """The stream has messages, and nobody can be given them."""
    for stream in case.streams if case.is_open else ():
        if stream["consumers"] or not stream["messages"]:
            continue
        was_there = bool(case.event("nats.consumer.created") or case.event("nats.fetch.first") or case.handled)
        if not was_there and not case.is_old(stream["last_published"]):
            continue
        name = stream["expected_consumer"] or "any consumer"
        return Diagnosis(
            "consumer_deleted" if was_there else "consumer_missing",
            f"The stream {stream['name']} has {stream['messages']:,} messages and no consumer"
            + (": it was deleted under the job." if was_there else f": {name} was never made."),
            "Make the consumer again (workers then start from its deliver policy: done tasks may come twice)."
            if was_there
            else "See why the consumer was not made; workers that bind to it fail until then.",
            (
                stream_evidence(stream),
                *event_evidence(case, "nats.consumer.created", "nats.fetch.first", "nats.consumer.final"),
                *foreign_evidence(case),
            ),
            POSSIBLE if is_lively(case) else SURE if case.event("nats.consumer.created") and is_still(case) else LIKELY,
        )
    return None


def paused(case: Case) -> Diagnosis | None:
    """Somebody has paused the consumer."""
    for stream, consumer in case.consumers if case.is_open else ():
        if consumer["paused"]:
            return Diagnosis(
                "consumer_paused",
                f"The consumer {consumer['name']} is paused: workers poll and get nothing, {pending_of(consumer)}.",
                f"Resume it: nats consumer resume {stream['name']} {consumer['name']}.",
                (consumer_evidence(stream, consumer),),
            )
    return None


def filter_mismatch(case: Case) -> Diagnosis | None:
    """Messages are there, but the consumer is for other subjects."""
    for stream in case.streams if case.is_open else ():
        subjects, consumers = stream["queued_subjects"], stream["consumers"]
        filters = [pattern for consumer in consumers for pattern in consumer["filter_subjects"] or [">"]]
        missed = {
            subject: count
            for subject, count in subjects.items()
            if not any(takes(pattern, subject) for pattern in filters)
        }
        if not missed or not consumers or any(consumer["num_pending"] for consumer in consumers):
            continue
        count = sum(missed.values())
        is_all = len(missed) == len(subjects) and not any(consumer["delivered"] for consumer in consumers)
        # Other messages may be in the stream for another reason: answers, for example.
        explains = case.total is not None and stream["messages"] - count < case.total <= stream["messages"]
        return Diagnosis(
            "filter_mismatch",
            f"Workers get {'nothing' if is_all else 'only a part'}: the consumer {consumers[0]['name']} takes "
            f"{', '.join(filters)}, but {count:,} messages are published to {', '.join(list(missed)[:3])}.",
            "Let consumer and publisher name the same subject, then make the consumer again.",
            (
                Evidence("nats", f"filter {', '.join(filters)}", consumers[0]["age"]),
                Evidence("nats", f"subjects in the stream: {', '.join(f'{k} ({v})' for k, v in subjects.items())}"),
                *(consumer_evidence(stream, consumer) for consumer in consumers),
            ),
            SURE if is_all else LIKELY if explains and is_still(case) else POSSIBLE,
        )
    return None


def partly_queued(case: Case) -> Diagnosis | None:
    """Fewer tasks were queued than the job has, all of them are done, and nothing comes any more."""
    if not case.is_open or case.total is None or len(case.streams) != 1 or not is_still(case):
        return None
    stream = case.streams[0]
    consumers = stream["consumers"]
    queued = stream["last_seq"]
    if not queued or queued >= case.total or not consumers:
        return None
    if any(one["num_pending"] or one["num_ack_pending"] or one["ack_floor"] < one["delivered"] for one in consumers):
        return None
    if not case.is_old(stream["last_published"]):
        return None
    return Diagnosis(
        "partly_queued",
        f"Only {queued:,} of {case.total:,} tasks were ever queued; these are done, and nothing was published for "
        f"{span(stream['last_published'])}.",
        "See in the log why queueing stopped (a crash, a time-out, a limit), and queue the rest.",
        (
            stream_evidence(stream),
            *job_evidence(case),
            *event_evidence(case, "nats.publish.failed", "nats.publish.summary", "nats.publish.progress"),
            *error_evidence(case),
        ),
        LIKELY,
    )


def wrong_place(case: Case) -> Diagnosis | None:
    """Workers poll a stream or consumer of this job that does not exist."""
    foreign = case.nats.get("foreign_pulls") or ()
    waiting = [(stream, consumer) for stream, consumer in case.consumers if consumer["num_pending"]]
    if not foreign or not case.is_open or not waiting or any(is_polled(consumer) for _, consumer in waiting):
        return None
    stream, consumer = waiting[0]
    return Diagnosis(
        "wrong_stream",
        f"Workers poll {foreign[0]}, which does not exist; {pending_of(consumer)} in "
        f"{stream['name']}/{consumer['name']}, which nobody polls.",
        "Correct the name of stream or consumer in the workers.",
        (*foreign_evidence(case), consumer_evidence(stream, consumer)),
    )


def limits_reached(case: Case) -> Diagnosis | None:
    """JetStream, the account or the stream is full: tasks cannot be queued."""
    if not case.is_open:
        return None
    told = case.event("nats.publish.failed") or case.event("nats.publish.summary")
    failed = case.recent("nats.publish.failed") > 0 or bool(
        case.event("nats.publish.summary").get("fields", {}).get("failed")
    )
    full = [
        f"stream {stream['name']} holds {stream[what]:,} of {limit}={stream[limit]:,}"
        for stream in case.streams
        for what, limit in (("messages", "max_msgs"), ("bytes", "max_bytes"))
        if (stream.get(limit) or 0) > 0 and stream[what] >= _FULL * stream[limit] and stream.get("discard") == "new"
    ]
    account = case.nats.get("account") or {}
    full += [
        f"the account uses {account[used]:,} of {limit}={account[limit]:,}"
        for used, limit in (("storage", "max_storage"), ("memory", "max_memory"), ("streams", "max_streams"))
        if (account.get(limit) or 0) > 0 and (account.get(used) or 0) >= _FULL * account[limit]
    ]
    short = any(word in told.get("message", "").lower() for word in _SHORT) or any(
        word in f"{error['message']} {error['exception']}".lower()
        for error in [case.log.get("last_error") or {"message": "", "exception": ""}]
        for word in _SHORT
    )
    if not full and not short:
        return None
    if not (failed or short):
        return None  # full and nobody wants to add anything
    return Diagnosis(
        "queue_full",
        f"NATS takes no more tasks: {'; '.join(full) or 'it says that a limit is reached or its disk is full'}.",
        "Make room (delete streams of jobs that have ended), or raise the limit; then queue what is missing again.",
        (
            *(Evidence("nats", text, 0.0) for text in full),
            *event_evidence(case, "nats.publish.failed", "nats.publish.summary"),
            *error_evidence(case),
            *job_evidence(case),
        ),
        LIKELY,
    )


def removed(case: Case) -> Diagnosis | None:
    """Tasks left the stream before anybody was given them: too old, too many, or purged."""
    for stream in case.streams if case.is_open else ():
        if stream["retention"] != "limits" or len(stream["consumers"]) != 1:
            continue
        consumer = stream["consumers"][0]
        filters = consumer["filter_subjects"]
        takes_all = not filters or set(filters) >= set(stream["subjects"]) or case.total == stream["last_seq"]
        first, last = stream["first_seq"], consumer["delivered_stream_seq"]
        lost = first - 1 - last
        if lost <= 0 and consumer["deliver_policy"] == "all":
            # A purge takes the consumer along: it went on behind messages that it never delivered.
            lost = last - consumer["delivered"]
            if case.total is None or (case.handled or 0) + lost > case.total or not is_still(case):
                continue
        if not takes_all or lost <= 0 or not stream["last_seq"]:
            continue
        age = f"max_age {span(stream['max_age'])}" if stream["max_age"] else "a limit of the stream"
        return Diagnosis(
            "tasks_removed",
            f"{tasks_of(lost)} left the stream {stream['name']} before any worker was given them: {age}, or somebody "
            "purged it. The job waits for them in vain.",
            "Queue them again, and let the stream keep tasks for longer than workers may be away.",
            (
                stream_evidence(stream),
                Evidence("nats", f"the first message is {first:,}, the last delivered was {last:,}", 0.0),
                consumer_evidence(stream, consumer),
                *settings_evidence(case, "max_age"),
                *workers_evidence(case),
            ),
            LIKELY,
        )
    return None


def endpoint_empty(case: Case) -> Diagnosis | None:
    """The endpoint that workers ask gives nothing, though tasks wait."""
    tasks = case.facts("tasks")
    waiting = [(stream, consumer) for stream, consumer in case.consumers if consumer["num_pending"]]
    if not tasks.get("peeked") or tasks["count"] or not case.is_open or not waiting or not is_still(case):
        return None
    stream, consumer = waiting[0]
    return Diagnosis(
        "endpoint_empty",
        f"Workers get nothing: the tasks endpoint gives an empty list, though {pending_of(consumer)} in "
        f"{stream['name']} (the job is {case.job.get('status')}).",
        "See why the endpoint leaves the job out: its status, the worker's pipeline, or its own connection to NATS.",
        (Evidence("tasks", f"{tasks['url']}: 0 tasks", 0.0), consumer_evidence(stream, consumer), *job_evidence(case)),
        LIKELY,
    )


def drift(case: Case) -> Diagnosis | None:
    """The consumer has other settings than the program asks for; told beside the verdict."""
    told = case.event("nats.consumer.drift")
    found = [setting for setting in effective(case) if setting.drift]
    if not (told or found) or not case.consumers or not case.is_open:
        return None
    text = told["message"] if told else "; ".join(worded(setting) for setting in found)
    return Diagnosis(
        "drift",
        f"The queue's settings are not those that the program asks for: {text}",
        "Delete the consumer between jobs, or update it: an existing one keeps its settings.",
        (*event_evidence(case, "nats.consumer.drift"), *settings_evidence(case)),
        POSSIBLE,
    )
