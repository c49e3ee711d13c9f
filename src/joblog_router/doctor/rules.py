"""The rules by which a cause is found: pure functions of what the probes saw, root causes before their consequences.

Each gives a diagnosis or None. The first one that is at least likely is the verdict; what comes after it, and what is
merely possible, is told as what else it may be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from .case import LIKELY, POSSIBLE, SURE, Case, Diagnosis, Evidence, since, span

__all__ = ["RULES"]

Stream = Mapping[str, Any]
Consumer = Mapping[str, Any]

# So many more deliveries than this share of the wait, and a delivery was long ago.
_CLOCK: Final = 1.5


def no_such_job(case: Case) -> Diagnosis | None:
    """There is neither a row nor a line nor a stream."""
    if case.job.get("exists") is not False:
        return None
    left = bool(case.streams)
    if not left and case.log.get("lines"):
        return None
    text = f"There is no job {case.job_id} in {case.job.get('model')}"
    if left:
        names = ", ".join(stream["name"] for stream in case.streams)
        return Diagnosis(
            "orphaned_stream",
            f"{text}, but its NATS stream is still there ({names}).",
            f"Nobody will take these messages: delete the stream (nats stream rm {case.streams[0]['name']}).",
            tuple(_stream_evidence(stream) for stream in case.streams),
        )
    return Diagnosis(
        "no_such_job", f"{text}, nor a line in its log.", "Look at the id.", (Evidence("job", "no such row"),)
    )


def settled(case: Case) -> Diagnosis | None:
    """The job has ended: well, badly or on request."""
    if case.phase not in {"done", "failed", "canceled"}:
        return None
    ended = _age(case, case.job.get("finished"))
    evidence = (Evidence("job", f"status {case.job.get('status')}", ended), *_log_evidence(case))
    if case.phase == "failed":
        error = case.log.get("last_error")
        reason = f": {_quoted(error)}" if error else ""
        return Diagnosis(
            "failed",
            f"The job failed {since(ended) if ended is not None else ''}".rstrip() + f"{reason}.",
            "Read the error in the log (joblog show), correct its cause and run the job again.",
            (*evidence, *_error_evidence(case)),
        )
    given_up = sum(case.event(name).get("count", 0) for name in ("nats.exhausted", "nats.terminated"))
    if case.phase == "done" and given_up:
        return Diagnosis(
            "exhausted",
            f"The job is done, but {_tasks(given_up)} {_were(given_up)} given up on the way.",
            "The log tells which (events nats.exhausted, nats.terminated): run them again or count them as failed.",
            (*evidence, *_event_evidence(case, "nats.exhausted", "nats.terminated")),
        )
    total, handled = case.total, case.handled
    count = f", {handled} of {total} tasks" if total and handled is not None else ""
    word = "done" if case.phase == "done" else "canceled"
    when = f" since {span(ended)}" if ended is not None else ""
    return Diagnosis("finished", f"The job is {word}{when}{count}.", "Nothing is to be done.", evidence, SURE, False)


def orphaned(case: Case) -> Diagnosis | None:
    """The job has ended, its stream has not."""
    if case.phase not in {"done", "failed", "canceled"} or not case.streams:
        return None
    ended = _age(case, case.job.get("finished"))
    if ended is None or not case.is_old(ended):
        return None
    serving = [consumer for _, consumer in case.consumers if _is_served(consumer)]
    names = ", ".join(stream["name"] for stream in case.streams)
    messages = sum(stream["messages"] for stream in case.streams)
    return Diagnosis(
        "orphaned_stream",
        f"The job ended {since(ended)}, but its stream {names} is still there with {messages:,} messages"
        + (" and still hands out tasks." if serving else "."),
        f"Delete it (nats stream rm {case.streams[0]['name']}), and see why the job's end did not.",
        (
            Evidence("job", f"status {case.job.get('status')}", ended),
            *(_stream_evidence(stream) for stream in case.streams),
        ),
    )


def canceling(case: Case) -> Diagnosis | None:
    """Cancelling does not come to an end."""
    if case.phase != "canceling":
        return None
    age = _age(case, case.job.get("updated")) or case.silent_for
    if "nats" in case.results and not case.knows_nats:
        return None  # it may still be served
    served = [(stream, consumer) for stream, consumer in case.consumers if _is_served(consumer)]
    evidence = (
        Evidence("job", f"status {case.job.get('status')}", age),
        *(_consumer_evidence(stream, consumer) for stream, consumer in case.consumers),
    )
    if served:
        stream, consumer = served[0]
        return Diagnosis(
            "canceling_still_serving",
            f"The job is being canceled and still serves tasks: {_pending(consumer)} in {stream['name']}, last "
            f"delivered {since(consumer['last_delivered'])}.",
            "Delete the stream and set the job's status: its cancelling does not stop the queue.",
            evidence,
        )
    if case.streams and any(stream["messages"] for stream in case.streams):
        return Diagnosis(
            "canceling_stuck",
            f"The job is being canceled, but its stream {case.streams[0]['name']} is still there; nobody takes tasks.",
            "Delete the stream and set the job's status: whoever should have done so did not.",
            evidence,
            SURE if case.is_old(age) else LIKELY,
        )
    if age is not None and not case.is_old(age):
        return Diagnosis("canceling", f"The job is being canceled since {span(age)}.", "Wait.", evidence, LIKELY, False)
    return Diagnosis(
        "canceling_stuck",
        "The job is being canceled and nothing of its work is left, but nobody has marked it as canceled.",
        "Set the job's status; see why the task that should have done so did not run.",
        evidence,
        LIKELY,
    )


def nats_away(case: Case) -> Diagnosis | None:
    """NATS cannot be asked, or has no quorum."""
    if case.phase in {"done", "failed", "canceled"}:
        return None
    reason = case.failed("nats", "unreachable")
    if reason:
        return Diagnosis(
            "nats_down",
            "NATS cannot be reached: no task can be queued, taken or acknowledged.",
            "Start the server, or correct the address in the settings of job, workers and doctor.",
            (Evidence("nats", reason, 0.0), *_log_evidence(case)),
        )
    reason = case.failed("nats", "no_jetstream")
    if reason:
        return Diagnosis(
            "nats_no_quorum",
            "NATS can be reached, but JetStream does not answer: it is switched off or has lost its quorum.",
            "Look at the cluster (nats server report jetstream) and bring back the servers that are missing.",
            (Evidence("nats", reason, 0.0),),
            LIKELY,
        )
    for stream in case.streams:
        missing = stream["missing_replicas"]
        if missing < 0 or (missing and 2 * missing >= stream["replicas"]):
            return Diagnosis(
                "nats_no_quorum",
                f"The stream {stream['name']} has no quorum: its numbers are stale and nothing can be added.",
                "Bring back the servers that are missing (nats server report jetstream).",
                (Evidence("nats", f"{'no leader' if missing < 0 else f'{missing} of its servers offline'}", 0.0),),
            )
    return None


def nats_silent(case: Case) -> Diagnosis | None:
    """NATS took the connection or hung, and did not answer in time."""
    result = case.results.get("nats")
    if result is None or not result.error or result.facts or case.phase in {"done", "failed", "canceled"}:
        return None
    if "no answer within" not in result.error:
        return None
    return Diagnosis(
        "nats_down",
        "NATS does not answer: the server hangs, or the network loses what is sent.",
        "Look at the server; a restart keeps streams that are on disk.",
        (Evidence("nats", result.error, 0.0),),
        LIKELY,
    )


def redis_away(case: Case) -> Diagnosis | None:
    """Redis cannot be asked: state that seems to be missing may be there."""
    if case.phase in {"done", "failed", "canceled"}:
        return None
    reason = case.failed("redis", "unreachable")
    if not reason:
        return None
    return Diagnosis(
        "redis_unreachable",
        "Redis cannot be reached: the job's counters are not lost, they cannot be read or written now.",
        "Start Redis or correct its address. Do not start the job again because its state seems to be missing.",
        (Evidence("redis", reason, 0.0),),
    )


def broker_away(case: Case) -> Diagnosis | None:
    """Celery's broker cannot be asked."""
    if not (case.is_open or case.phase == "created"):
        return None
    reason = case.failed("celery", "unreachable")
    if not reason:
        return None
    return Diagnosis(
        "broker_unreachable",
        "Celery's broker cannot be reached: no task is sent or taken.",
        "Start the broker or correct its address.",
        (Evidence("celery", reason, 0.0),),
    )


def log_away(case: Case) -> Diagnosis | None:
    """The job's log cannot be read."""
    reason = case.failed("log", "unreachable")
    if not reason:
        return None
    return Diagnosis(
        "log_unreachable",
        "The store of the job logs cannot be read; what the job logs is not stored either, or waits in its processes.",
        "Bring the store back: lines that wait are stored then.",
        (Evidence("log", reason, 0.0),),
        LIKELY,
    )


def redis_lost(case: Case) -> Diagnosis | None:
    """What Redis should hold of a running job is gone."""
    if not case.redis.get("lost") or case.phase != "running":
        return None
    progress = case.progress
    if progress == 1 or not (case.is_old(case.running_for) or _was_queued(case)):
        return None
    uptime: float | None = case.redis.get("uptime")
    restarted = uptime is not None and case.running_for is not None and uptime < case.running_for
    why = f"Redis was started {since(uptime)}, after the job" if restarted else "it was flushed, evicted or has expired"
    gone = ", ".join(case.redis["gone"])
    return Diagnosis(
        "redis_lost",
        f"The job's state in Redis is lost ({gone}): {why}. Its progress can not be counted to the end.",
        "Results that come are not counted: run the job again, or write the counters anew from what is stored.",
        (
            Evidence("redis", f"no key for {gone}", 0.0),
            *((Evidence("redis", f"up for {span(uptime)}", 0.0),) if uptime is not None else ()),
            *_job_evidence(case),
        ),
        SURE if restarted or (case.redis.get("is_expected") and case.is_old(case.running_for)) else LIKELY,
    )


def never_started(case: Case) -> Diagnosis | None:
    """The job waits to be started: in the broker, or nowhere at all."""
    if case.phase not in {"created", "queued"} or case.streams or case.job.get("started"):
        return None
    age = case.running_for
    if not case.is_old(age):
        return None
    evidence = (*_job_evidence(case), *_celery_evidence(case))
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
        *_job_evidence(case),
        *_event_evidence(case, "nats.stream.created", "nats.publish.summary", "nats.stream.vanished"),
    )
    handled = case.handled or 0
    was_there = [
        name
        for name in ("nats.stream.created", "nats.stream.reused", "nats.fetch.first", "nats.publish.summary")
        if case.event(name)
    ]
    if case.event("nats.stream.deleted"):
        if not _is_still(case):
            return None  # it is about to end
        return Diagnosis(
            "not_marked",
            f"The job deleted its stream itself and has not been marked as finished; nothing has moved for "
            f"{span(_quiet_for(case))}.",
            "Set its status; see in the log what should have followed.",
            (*evidence, *_event_evidence(case, "nats.stream.deleted"), *_error_evidence(case)),
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
            POSSIBLE if not (was_there or case.event("nats.stream.vanished")) else SURE if _is_still(case) else LIKELY,
        )
    if not case.is_old(case.running_for) or not _is_still(case):
        return None
    return Diagnosis(
        "never_queued",
        f"The job is {case.job.get('status')} since {span(case.running_for)}, but nothing was ever queued: NATS has "
        f"no {names}, and its log tells of none.",
        "See the last lines of the log: what should have queued the tasks failed, or still collects them.",
        (*evidence, *_log_evidence(case), *_error_evidence(case)),
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
        (_stream_evidence(stream), *_job_evidence(case), *_error_evidence(case)),
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
                _stream_evidence(stream),
                *_event_evidence(case, "nats.consumer.created", "nats.fetch.first", "nats.consumer.final"),
                *_foreign(case),
            ),
            SURE if case.event("nats.consumer.created") and _is_still(case) else LIKELY,
        )
    return None


def paused(case: Case) -> Diagnosis | None:
    """Somebody has paused the consumer."""
    for stream, consumer in case.consumers if case.is_open else ():
        if consumer["paused"]:
            return Diagnosis(
                "consumer_paused",
                f"The consumer {consumer['name']} is paused: workers poll and get nothing, {_pending(consumer)}.",
                f"Resume it: nats consumer resume {stream['name']} {consumer['name']}.",
                (_consumer_evidence(stream, consumer),),
            )
    return None


def filter_mismatch(case: Case) -> Diagnosis | None:
    """Messages are there, but the consumer is for other subjects."""
    for stream, consumer in case.consumers if case.is_open else ():
        subjects, filters = stream["queued_subjects"], consumer["filter_subjects"]
        if not subjects or not filters or consumer["num_pending"] or consumer["delivered"]:
            continue
        if any(_matches(subject, pattern) for subject in subjects for pattern in filters):
            continue
        return Diagnosis(
            "filter_mismatch",
            f"Workers get nothing: the consumer {consumer['name']} takes {', '.join(filters)}, but the "
            f"{stream['messages']:,} tasks are published to {', '.join(list(subjects)[:3])}.",
            "Let consumer and publisher name the same subject, then make the consumer again.",
            (
                Evidence("nats", f"filter {', '.join(filters)}", consumer["age"]),
                Evidence("nats", f"subjects in the stream: {', '.join(f'{k} ({v})' for k, v in subjects.items())}"),
                _consumer_evidence(stream, consumer),
            ),
        )
    return None


def wrong_place(case: Case) -> Diagnosis | None:
    """Workers poll a stream or consumer of this job that does not exist."""
    foreign = case.nats.get("foreign_pulls") or ()
    waiting = [(stream, consumer) for stream, consumer in case.consumers if consumer["num_pending"]]
    if not foreign or not case.is_open or not waiting or any(_is_polled(consumer) for _, consumer in waiting):
        return None
    stream, consumer = waiting[0]
    return Diagnosis(
        "wrong_stream",
        f"Workers poll {foreign[0]}, which does not exist; {_pending(consumer)} in "
        f"{stream['name']}/{consumer['name']}, which nobody polls.",
        "Correct the name of stream or consumer in the workers.",
        (*_foreign(case), _consumer_evidence(stream, consumer)),
    )


def acked_twice(case: Case) -> Diagnosis | None:
    """The same message was acknowledged for two deliveries: `ack_wait` is too short."""
    for stream, consumer in case.consumers if case.is_open else ():
        if not consumer["num_redelivered"] and not consumer["acked_twice"]:
            continue
        seen_twice = consumer["acked_twice"]
        evidence = (
            _consumer_evidence(stream, consumer),
            Evidence(
                "nats",
                f"while watched: {consumer['acks']} acknowledgements, {seen_twice} of the same message twice, "
                f"{consumer['late_acks']} of later attempts",
                0.0,
            ),
            *_event_evidence(case, "nats.redelivery"),
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
        if not _is_served(consumer):
            continue
        acked = consumer["ack_floor"]
        attempts = max(consumer["highest_attempt"], _attempts(stream, consumer))
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
            (_consumer_evidence(stream, consumer), *_event_evidence(case, "nats.redelivery", "nats.nak")),
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
        if expired and not _is_polled(consumer):
            continue  # nobody polls: that is why
        return Diagnosis(
            "max_ack_pending",
            f"max_ack_pending is reached: {consumer['num_ack_pending']:,} tasks are reserved and none of them is "
            f"acknowledged, so {consumer['num_pending']:,} more wait and workers get nothing.",
            "See why what is reserved is not acknowledged (results that are not saved?), or raise max_ack_pending.",
            (_consumer_evidence(stream, consumer), *_celery_evidence(case)),
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
            f"{_tasks(count or told)} {_were(count or told)} given up after {consumer['max_deliver']} attempts: "
            "they are never delivered again and the job waits for them in vain.",
            "Look at what these tasks have in common (the log names them where workers write to it), correct it, and "
            "publish them again or count them as failed.",
            (
                _consumer_evidence(stream, consumer),
                Evidence(
                    "nats",
                    f"acknowledged up to delivery {consumer['ack_floor']} of {consumer['delivered']}, nothing in work",
                    consumer["last_delivered"],
                ),
                *_event_evidence(case, "nats.exhausted"),
            ),
            SURE if count else LIKELY,
        )
    if case.is_open and case.event("nats.terminated") and case.knows_nats and not _has_work(case):
        count = case.event("nats.terminated")["count"]
        return Diagnosis(
            "exhausted",
            f"{_tasks(count)} {_were(count)} terminated by workers: they do not come again and the job waits "
            "for them in vain.",
            "See in the log which they are; run them again or count them as failed.",
            _event_evidence(case, "nats.terminated"),
            LIKELY,
        )
    return None


def celery_trouble(case: Case) -> Diagnosis | None:
    """Results come and are not saved: Celery is dead, or behind."""
    if not case.celery or case.phase not in {"running", "unknown"}:
        return None
    depth = sum(count or 0 for count in case.celery["depth"].values())
    evidence = (*_celery_evidence(case), *_job_evidence(case))
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
    if not error or _behind(case) <= 0 or not _is_still(case):
        return None
    age = _age(case, error["created"])
    task = error["logger"].startswith("celery.")
    if not task and case.log["errors"] < 2:
        return None
    if not task and (age is None or age > 10 * case.patience):
        return None
    return Diagnosis(
        "celery_task_failing",
        f"Results are accepted but not saved, as the Celery task fails: {_quoted(error)}",
        "Correct the error and run the task again for what was not saved.",
        (*_error_evidence(case), *_celery_evidence(case), *_job_evidence(case)),
        LIKELY,
    )


def celery_behind(case: Case) -> Diagnosis | None:
    """Celery works, but slower than results come."""
    if not case.celery or case.phase not in {"running", "unknown"} or not case.celery["workers"]:
        return None
    depth = sum(count or 0 for count in case.celery["depth"].values())
    if depth <= max(10, 4 * len(case.celery["workers"])) or _behind(case) <= (0 if _is_still(case) else 10):
        return None
    return Diagnosis(
        "celery_backed_up",
        f"Celery is behind with saving results: {depth:,} tasks wait in the broker, {case.celery['busy']} are in work.",
        "Wait, or start more Celery workers for that queue.",
        (*_celery_evidence(case), *_job_evidence(case)),
        LIKELY,
    )


def nobody_polls(case: Case) -> Diagnosis | None:
    """Tasks wait, and no worker asks for them."""
    for stream, consumer in case.consumers if case.is_open else ():
        if _is_polled(consumer) or consumer["acks"] or consumer["in_progress"]:
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
            text = f"No worker has polled yet: {_pending(consumer)} since {span(waiting)}."
        else:
            text = f"No worker has polled for {span(last)}; {_pending(consumer)}" + (
                f", {reserved:,} were taken and never answered." if reserved else "."
            )
        return Diagnosis(
            "nobody_polls",
            text,
            "Start the workers, or see why they do not reach NATS or do not know of this job."
            if not consumer["push"]
            else "Start the subscriber: nothing is bound to the consumer's delivery subject.",
            (
                _consumer_evidence(stream, consumer),
                Evidence("nats", "no pull request is waiting", 0.0),
                *_foreign(case),
            ),
            # What was taken may be in work for longer than ack_wait.
            LIKELY if consumer["num_ack_pending"] else SURE,
        )
    return None


def not_marked(case: Case) -> Diagnosis | None:
    """All is done, and the job does not say so."""
    if case.phase != "running":
        return None
    left = _has_work(case)
    if left or (case.celery and (sum(n or 0 for n in case.celery["depth"].values()) or case.celery["active"])):
        return None
    quiet = _quiet_for(case)
    if not case.is_old(quiet):
        return None
    all_acked = bool(case.consumers) and all(
        consumer["delivered"] and consumer["ack_floor"] >= consumer["delivered"] for _, consumer in case.consumers
    )
    if case.progress == 1:
        return Diagnosis(
            "not_marked",
            f"All {case.total or ''} tasks are done since {span(quiet)}, but nobody has marked the job as "
            "finished.".replace("  ", " "),
            "Set its status; see in the log what should have followed the last result.",
            (*_job_evidence(case), *_log_evidence(case), *_error_evidence(case)),
            SURE if case.knows_nats else LIKELY,
        )
    if all_acked and case.progress is not None:
        return Diagnosis(
            "results_not_saved",
            f"All tasks are acknowledged, but only {_progress(case)} are saved and nothing has moved for "
            f"{span(quiet)}: results were accepted and lost on the way to the job.",
            "See the errors of whoever saves results; run again what is missing.",
            (
                *_job_evidence(case),
                *(_consumer_evidence(stream, consumer) for stream, consumer in case.consumers),
                *_error_evidence(case),
            ),
            LIKELY,
        )
    return None


def logging_broken(case: Case) -> Diagnosis | None:
    """What the job says does not arrive."""
    if "lines" not in case.log:
        return None
    stats = case.pipeline.get("stats") or {}
    if case.log["lines"] or not case.job.get("exists"):
        return None
    if case.phase in {"created", "queued", "unknown"} or not case.is_old(case.running_for):
        return None
    lost = stats.get("dropped", 0) + stats.get("quarantined", 0)
    audit = tuple(Evidence("pipeline", text) for text in case.pipeline.get("audit", ())[:3])
    return Diagnosis(
        "logging_broken",
        f"The job is {case.job.get('status')} since {span(case.running_for)} and its log is empty: what it says is "
        "not captured or not stored.",
        "Run the system checks (manage.py check) where the job runs; see that its process has the job handler on the "
        "root logger and opens the job (job_context or the integration).",
        (*_job_evidence(case), Evidence("pipeline", f"lost in this process: {lost}", 0.0), *audit),
        LIKELY,
    )


def drift(case: Case) -> Diagnosis | None:
    """The consumer has other settings than the program asked for; the log tells. Told beside the verdict."""
    told = case.event("nats.consumer.drift")
    if not told or not case.consumers or not case.is_open:
        return None
    return Diagnosis(
        "drift",
        f"The consumer's settings are not those that the program asks for: {told['message']}",
        "Delete the consumer between jobs, or update it: an existing one keeps its settings.",
        _event_evidence(case, "nats.consumer.drift"),
        POSSIBLE,
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
    recent = case.phase == "running" and case.silent_for is not None and not case.is_old(case.silent_for)
    if not active and not recent:
        return None
    evidence = (
        *_job_evidence(case),
        *(_consumer_evidence(stream, consumer) for stream, consumer in active),
        *_log_evidence(case),
    )
    eta = _eta(case)
    slow = eta is not None and eta > 10 * case.patience
    share = f" ({_progress(case)})" if case.progress is not None else ""
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
        (*_job_evidence(case), *(_consumer_evidence(*one) for one in case.consumers)),
        LIKELY,
        False,
    )


RULES: Final[tuple[Callable[[Case], Diagnosis | None], ...]] = (
    no_such_job,
    orphaned,
    canceling,
    settled,
    nats_away,
    nats_silent,
    broker_away,
    redis_away,
    redis_lost,
    log_away,
    never_started,
    no_stream,
    nothing_in_stream,
    consumer_missing,
    paused,
    filter_mismatch,
    wrong_place,
    celery_trouble,
    celery_failing,
    celery_behind,
    acked_twice,
    crash_loop,
    ack_pending_full,
    exhausted,
    nobody_polls,
    not_marked,
    logging_broken,
    drift,
    moving,
    waiting,
)


def _is_polled(consumer: Consumer) -> bool:
    return bool(consumer["num_waiting"] or consumer["pulls"] or consumer["push_bound"])


def _is_served(consumer: Consumer) -> bool:
    """Whether workers take from it: they poll, or were given something within the time they have for it."""
    last = consumer["last_delivered"]
    return bool(
        _is_polled(consumer)
        or consumer["newly_delivered"]
        or consumer["acks"]
        or (last is not None and last < 2 * consumer["ack_wait"])
    )


def _is_still(case: Case) -> bool:
    """Whether nothing has moved for longer than one has patience for."""
    return case.is_old(_quiet_for(case)) and not any(
        consumer["moved"] or consumer["acks"] or consumer["newly_delivered"] for _, consumer in case.consumers
    )


def _has_work(case: Case) -> bool:
    return any(consumer["num_pending"] or consumer["num_ack_pending"] for _, consumer in case.consumers)


def _was_queued(case: Case) -> bool:
    return any(stream["last_seq"] for stream in case.streams)


def _attempts(stream: Stream, consumer: Consumer) -> int:
    """About how often the tasks in work were delivered, from the counters."""
    tasks = max(1, consumer["delivered_stream_seq"] - stream["first_seq"] + 1)
    return max(2, int(consumer["delivered"] / tasks + 0.5))


def _quiet_for(case: Case) -> float | None:
    """For how long nothing has moved, as far as is known."""
    ages = [case.silent_for, _age(case, case.job.get("updated"))]
    ages += [consumer["last_delivered"] for _, consumer in case.consumers]
    ages += [consumer["last_acked"] for _, consumer in case.consumers]
    return min((age for age in ages if age is not None), default=case.running_for)


def _behind(case: Case) -> int:
    """How many results were accepted and not saved, as far as is known; 1 where only that some may be."""
    values = case.redis.get("values") or {}
    counts = [int(value) if isinstance(value, int) else 0 for value in map(values.get, ("process", "results"))]
    if counts[1] > counts[0]:
        return counts[1] - counts[0]
    if case.progress is None or case.progress == 1:
        return 0
    taken = any(consumer["num_ack_pending"] or consumer["ack_floor"] for _, consumer in case.consumers)
    return 1 if taken or not case.consumers else 0


def _eta(case: Case) -> float | None:
    progress = case.progress
    started: float | None = case.job.get("started")
    if not progress or progress >= 1 or started is None:
        return None
    return max(0.0, case.now - started) * (1 - progress) / progress


def _matches(subject: str, pattern: str) -> bool:
    ours, theirs = subject.split("."), pattern.split(".")
    for at, part in enumerate(theirs):
        if part == ">":
            return len(ours) > at
        if at >= len(ours) or part not in ("*", ours[at]):
            return False
    return len(ours) == len(theirs)


def _age(case: Case, at: float | None) -> float | None:
    return None if at is None else max(0.0, case.now - at)


def _tasks(count: int) -> str:
    return f"{count:,} task" if count == 1 else f"{count:,} tasks"


def _were(count: int) -> str:
    return "was" if count == 1 else "were"


def _pending(consumer: Consumer) -> str:
    return f"{_tasks(consumer['num_pending'])} waiting"


def _progress(case: Case) -> str:
    if case.total is not None and case.handled is not None:
        return f"{case.handled:,} of {case.total:,} tasks"
    return f"{100 * (case.progress or 0):.0f} %"


def _quoted(error: Mapping[str, Any]) -> str:
    return str(error["exception"] or error["message"])


def _job_evidence(case: Case) -> tuple[Evidence, ...]:
    if not case.job.get("exists"):
        return ()
    found = [Evidence("job", f"status {case.job.get('status')}", case.running_for)]
    if case.progress is not None:
        found.append(Evidence("job", f"progress {_progress(case)}", _age(case, case.job.get("updated"))))
    return tuple(found)


def _log_evidence(case: Case) -> tuple[Evidence, ...]:
    newest = case.log.get("newest") or ()
    return tuple(Evidence("log", line["message"], _age(case, line["created"])) for line in newest[-1:])


def _error_evidence(case: Case) -> tuple[Evidence, ...]:
    error = case.log.get("last_error")
    if not error:
        return ()
    text = f"{error['logger']}: {error['message']}" + (f": {error['exception']}" if error["exception"] else "")
    return (Evidence("log", text, _age(case, error["created"])),)


def _event_evidence(case: Case, *names: str) -> tuple[Evidence, ...]:
    return tuple(
        Evidence("log", f"{name}: {case.event(name)['message']}", _age(case, case.event(name)["last"]))
        for name in names
        if case.event(name)
    )


def _stream_evidence(stream: Stream) -> Evidence:
    return Evidence(
        "nats",
        f"stream {stream['name']}: {stream['messages']:,} messages, last_seq {stream['last_seq']:,}, "
        f"{len(stream['consumers'])} consumers",
        stream["last_published"],
    )


def _consumer_evidence(stream: Stream, consumer: Consumer) -> Evidence:
    limit = consumer["max_ack_pending"]
    return Evidence(
        "nats",
        f"{stream['name']}/{consumer['name']}: num_pending {consumer['num_pending']:,}, num_ack_pending "
        f"{consumer['num_ack_pending']:,}{f' of {limit:,}' if limit and limit > 0 else ''}, num_redelivered "
        f"{consumer['num_redelivered']:,}, num_waiting {consumer['num_waiting']}, delivered {consumer['delivered']:,}, "
        f"ack_floor {consumer['ack_floor']:,}",
        consumer["last_delivered"],
    )


def _celery_evidence(case: Case) -> Iterator[Evidence]:
    if not case.celery:
        return
    workers = ", ".join(case.celery["workers"]) or "none"
    yield Evidence("celery", f"workers that answer: {workers}", 0.0)
    for name, depth in case.celery["depth"].items():
        yield Evidence("celery", f"queue {name}: {0 if depth is None else depth:,} tasks wait", 0.0)


def _foreign(case: Case) -> tuple[Evidence, ...]:
    pulls = case.nats.get("foreign_pulls") or ()
    return tuple(Evidence("nats", f"pull requests to {name}, which does not exist", 0.0) for name in pulls[:3])
