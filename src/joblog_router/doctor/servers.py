"""Rules about servers that are away, and about what was lost with them.

Each gives a diagnosis or None, from what the probes saw alone.
"""

from __future__ import annotations

from .case import LIKELY, POSSIBLE, SURE, Case, Diagnosis, Evidence, since, span
from .figures import counters_evidence, error_evidence, is_lively, is_still, job_evidence, log_evidence, was_queued


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
    if reason and case.failed("nats", "is_off"):
        return Diagnosis(
            "jetstream_off",
            "NATS can be reached, but has no JetStream for the doctor's account: nobody answers its requests.",
            "Start the server with JetStream (-js), enable it for the account, or correct address, account and prefix "
            "(DOCTOR, NATS).",
            (Evidence("nats", reason, 0.0), *log_evidence(case)),
            LIKELY,
        )
    if reason:
        return Diagnosis(
            "nats_no_quorum",
            "NATS can be reached, but JetStream does not answer: its cluster has lost its quorum, or it hangs.",
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
                (
                    Evidence(
                        "nats",
                        "no leader"
                        if missing < 0
                        else f"{missing} of its {stream['replicas']} servers are offline or not heard of",
                        0.0,
                    ),
                ),
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
        LIKELY if case.failed("celery", "is_late") else SURE,
    )


def broker_refuses(case: Case) -> Diagnosis | None:
    """The broker answers and takes no task: results cannot be handed to Celery."""
    reason = case.failed("celery", "refuses_writes")
    if not reason or not (case.is_open or case.phase == "created"):
        return None
    return Diagnosis(
        "broker_refuses_writes",
        "Celery's broker answers, but takes no tasks. Jobs are not started and results not accepted.",
        "Give the broker room (maxmemory, fewer keys), or write to the primary.",
        (Evidence("celery", reason, 0.0), *job_evidence(case), *error_evidence(case)),
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


def redis_refuses(case: Case) -> Diagnosis | None:
    """Redis answers and takes no writes: counters stand still."""
    reason = case.redis.get("refuses_writes")
    if not reason or not case.is_open:
        return None
    return Diagnosis(
        "redis_refuses_writes",
        f"Redis answers, but refuses writes: {reason}. The job's counters can not be counted on.",
        "Give Redis room (maxmemory, another policy, fewer keys), or write to the primary.",
        (Evidence("redis", reason, 0.0), *counters_evidence(case), *job_evidence(case), *error_evidence(case)),
        # A replica that only the doctor asks is no trouble of the job's.
        LIKELY if not reason.startswith("it is a replica") else POSSIBLE,
    )


def database_refuses(case: Case) -> Diagnosis | None:
    """The database gives the job's row and takes no writes."""
    reason = case.job.get("refuses_writes")
    if not reason or not (case.is_open or case.phase in {"created", "canceling"}):
        return None
    return Diagnosis(
        "database_read_only",
        f"The project's database takes no writes: {reason}. Results and status can not be saved.",
        "Make it writable again: a fail-over, a setting, or room on its disk.",
        (Evidence("job", reason, 0.0), *job_evidence(case), *error_evidence(case)),
        LIKELY,
    )


def rest_away(case: Case) -> Diagnosis | None:
    """Workers elsewhere ask the project's own interface, which is away or fails; the job stands still."""
    if not case.is_open or not is_still(case):
        return None
    for name in ("rest", "tasks"):
        reason = case.failed(name, "unreachable") or case.failed(name, "is_failing")
        if reason:
            away = bool(case.failed(name, "unreachable"))
            return Diagnosis(
                "api_unreachable" if away else "api_failing",
                f"The project's REST interface {'cannot be reached' if away else 'answers with errors'}: workers are "
                "given nothing and cannot send results.",
                "Start the web server or correct its address." if away else "Read the web server's log for the error.",
                (Evidence(name, reason, 0.0), *job_evidence(case), *log_evidence(case)),
                LIKELY,
            )
    return None


def rest_differs(case: Case) -> Diagnosis | None:
    """The interface says something else of the job than its row. Told beside the verdict."""
    row, told = case.facts("job"), case.facts("rest")
    if not row.get("exists") or not told or told["phase"] == "unknown" or row["phase"] == told["phase"]:
        return None
    return Diagnosis(
        "rest_differs",
        f"The REST interface says {told['status']}, the job's row {row['status']}.",
        "Ask again; if it stays so, the interface answers from a cache, another database or another job's row.",
        (Evidence("rest", f"status {told['status']}", 0.0), Evidence("job", f"status {row['status']}", 0.0)),
        POSSIBLE,
    )


def clocks_apart(case: Case) -> Diagnosis | None:
    """Somebody's clock is ahead: ages are not known there. Told beside the verdict."""
    found = []
    last = case.log.get("last")
    if last is not None and last > case.now and case.age(last) is None:
        found.append(Evidence("log", f"the last line is from {span(last - case.now)} ahead", 0.0))
    for name in ("started", "updated", "created"):
        at = case.job.get(name)
        if at is not None and case.age(at) is None:
            found.append(Evidence("job", f"{name} {span(at - case.now)} ahead", 0.0))
    found += [
        Evidence("workers", f"{worker['worker']}: its clock is {worker['clock_ahead']:+} s off", 0.0)
        for worker in case.workers.get("remote", ())
        if worker["clock_ahead"]
    ]
    if not found:
        return None
    return Diagnosis(
        "clock_skew",
        "Clocks are apart: what is told of ages may be wrong where they come from another machine.",
        "Have all machines take their time from the same place (NTP).",
        tuple(found),
        POSSIBLE,
    )


def redis_lost(case: Case) -> Diagnosis | None:
    """What Redis should hold of a running job is gone."""
    if not case.redis.get("lost") or case.phase != "running":
        return None
    progress = case.progress
    if progress == 1 or not (case.is_old(case.running_for) or was_queued(case)):
        return None
    began = was_queued(case) or bool(case.log.get("events")) or bool(case.job.get("done") or case.job.get("progress"))
    if not began and (case.knows_nats or not case.log.get("lines")):
        return None  # it has none yet
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
        SURE
        if began
        and not is_lively(case)
        and (restarted or (case.redis.get("is_expected") and case.is_old(case.running_for)))
        else LIKELY,
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
