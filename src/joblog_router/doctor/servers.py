"""Rules about servers that are away, and about what was lost with them.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from .case import LIKELY, SURE, Case, Diagnosis, Evidence, since, span
from .figures import job_evidence, log_evidence, was_queued


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
            (Evidence("nats", reason, 0.0), *log_evidence(case)),
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


def redis_lost(case: Case) -> Diagnosis | None:
    """What Redis should hold of a running job is gone."""
    if not case.redis.get("lost") or case.phase != "running":
        return None
    progress = case.progress
    if progress == 1 or not (case.is_old(case.running_for) or was_queued(case)):
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
            *job_evidence(case),
        ),
        SURE if restarted or (case.redis.get("is_expected") and case.is_old(case.running_for)) else LIKELY,
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
        (*job_evidence(case), Evidence("pipeline", f"lost in this process: {lost}", 0.0), *audit),
        LIKELY,
    )
