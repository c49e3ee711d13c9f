"""Rules about a job that has ended, or is to end: and about one that does not say so.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from typing import Final

from .._nats_events import NatsEvent
from .case import LIKELY, POSSIBLE, SURE, Case, Diagnosis, Evidence, since, span
from .figures import (
    age_of,
    consumer_evidence,
    error_evidence,
    event_evidence,
    has_work,
    is_served,
    is_still,
    job_evidence,
    log_evidence,
    pending_of,
    progress_of,
    quiet_for,
    quoted,
    stream_evidence,
    tasks_of,
    were,
)

_FEW: Final = 3
# By where what a process left behind is.
_LEFT: Final = {
    "waits": "; lines may wait in its spool",
    "recovered": "; what waited in its spool was stored since",
}
# Work of the job that nobody will do any more.
_GIVEN_UP: Final[tuple[NatsEvent, ...]] = ("nats.exhausted", "nats.terminated")


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
            tuple(stream_evidence(stream) for stream in case.streams),
        )
    return Diagnosis(
        "no_such_job", f"{text}, nor a line in its log.", "Look at the id.", (Evidence("job", "no such row"),)
    )


def orphaned(case: Case) -> Diagnosis | None:
    """The job has ended, its stream has not."""
    if case.phase not in {"done", "failed", "canceled"} or not case.streams:
        return None
    ended = age_of(case, case.job.get("finished"))
    if ended is None or not case.is_old(ended):
        return None
    serving = [consumer for _, consumer in case.consumers if is_served(consumer)]
    names = ", ".join(stream["name"] for stream in case.streams)
    messages = sum(stream["messages"] for stream in case.streams)
    return Diagnosis(
        "orphaned_stream",
        f"The job ended {since(ended)}, but its stream {names} is still there with {messages:,} messages"
        + (" and still hands out tasks." if serving else "."),
        f"Delete it (nats stream rm {case.streams[0]['name']}), and see why the job's end did not.",
        (
            Evidence("job", f"status {case.job.get('status')}", ended),
            *(stream_evidence(stream) for stream in case.streams),
        ),
    )


def canceling(case: Case) -> Diagnosis | None:
    """Cancelling does not come to an end."""
    if case.phase != "canceling":
        return None
    age = age_of(case, case.job.get("updated")) or case.silent_for
    if "nats" in case.results and not case.knows_nats:
        return None  # it may still be served
    served = [(stream, consumer) for stream, consumer in case.consumers if is_served(consumer)]
    evidence = (
        Evidence("job", f"status {case.job.get('status')}", age),
        *(consumer_evidence(stream, consumer) for stream, consumer in case.consumers),
    )
    if served:
        stream, consumer = served[0]
        return Diagnosis(
            "canceling_still_serving",
            f"The job is being canceled and still serves tasks: {pending_of(consumer)} in {stream['name']}, last "
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


def settled(case: Case) -> Diagnosis | None:
    """The job has ended: well, badly or on request."""
    if case.phase not in {"done", "failed", "canceled"}:
        return None
    ended = age_of(case, case.job.get("finished"))
    evidence = (Evidence("job", f"status {case.job.get('status')}", ended), *log_evidence(case))
    if case.phase == "failed":
        error = case.log.get("last_error")
        reason = f": {quoted(error)}" if error else ""
        return Diagnosis(
            "failed",
            f"The job failed {since(ended) if ended is not None else ''}".rstrip() + f"{reason}.",
            "Read the error in the log (joblog show), correct its cause and run the job again.",
            (*evidence, *error_evidence(case)),
        )
    given_up = sum(case.event(name).get("count", 0) for name in _GIVEN_UP)
    if case.phase == "done" and given_up:
        return Diagnosis(
            "exhausted",
            f"The job is done, but {tasks_of(given_up)} {were(given_up)} given up on the way.",
            f"The log tells which (events {', '.join(_GIVEN_UP)}): run them again or count them as failed.",
            (*evidence, *event_evidence(case, *_GIVEN_UP)),
        )
    total, handled = case.total, case.handled
    count = f", {handled} of {total} tasks" if total and handled is not None else ""
    word = "done" if case.phase == "done" else "canceled"
    when = f" since {span(ended)}" if ended is not None else ""
    return Diagnosis("finished", f"The job is {word}{when}{count}.", "Nothing is to be done.", evidence, SURE, False)


def process_gone(case: Case) -> Diagnosis | None:
    """The process that logged last is gone, and no other of the job's is known to be at work."""
    last = case.processes.get("last")
    if not case.is_open or case.phase == "queued" or not last or last["state"] != "gone":
        return None
    if case.celery.get("active") or any(is_served(consumer) for _, consumer in case.consumers):
        return None
    others = case.processes["others"]
    if any(one["state"] != "gone" for one in others) and not is_still(case):
        return None  # one of them may go on
    if case.celery.get("workers") and not is_still(case):
        return None  # another worker may have its task
    left = _LEFT.get(last["spool"], "")
    name = f"{last['program']} " if last["program"] else ""
    return Diagnosis(
        "process_gone",
        f"The process {name}(pid {last['pid']}), which logged last, has ended without ending the job{left}.",
        "See why it ended (the system's log tells of what it killed for want of memory), and run the job again; "
        "joblog recover stores what it left behind. Set the job's status where nobody else does.",
        (
            Evidence("processes", f"{name}(pid {last['pid']}, {last['origin']}): gone", case.silent_for),
            *(Evidence("processes", f"{one['origin']}: {one['state']}") for one in others[:_FEW]),
            *job_evidence(case),
            *log_evidence(case),
            *error_evidence(case),
        ),
        # Without a trace in a spool it may have handed on to somebody else and ended as it should.
        LIKELY if left else POSSIBLE,
    )


def not_marked(case: Case) -> Diagnosis | None:
    """All is done, and the job does not say so."""
    if case.phase != "running":
        return None
    left = has_work(case)
    if left or (case.celery and (sum(n or 0 for n in case.celery["depth"].values()) or case.celery["active"])):
        return None
    quiet = quiet_for(case)
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
            (*job_evidence(case), *log_evidence(case), *error_evidence(case)),
            SURE if case.knows_nats else LIKELY,
        )
    acked = sum(consumer["ack_floor"] for _, consumer in case.consumers)
    if all_acked and case.progress is not None and (case.total is None or acked >= case.total):
        return Diagnosis(
            "results_not_saved",
            f"All tasks are acknowledged, but only {progress_of(case)} are saved and nothing has moved for "
            f"{span(quiet)}: results were accepted and lost on the way to the job.",
            "See the errors of whoever saves results; run again what is missing.",
            (
                *job_evidence(case),
                *(consumer_evidence(stream, consumer) for stream, consumer in case.consumers),
                *error_evidence(case),
            ),
            LIKELY,
        )
    return None
