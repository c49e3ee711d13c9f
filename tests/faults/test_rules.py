"""The rules alone, on what probes said: what is not known is never a certain cause."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from joblog_router.doctor.phases import phase_of
from joblog_router.doctor.probing import ProbeResult
from joblog_router.doctor.verdict import Verdict, diagnose

NOW = 1_800_000_000.0


def job(**facts: Any) -> ProbeResult:
    """A job that was started an hour ago."""
    base = {"exists": True, "status": "STARTED", "phase": "running", "started": NOW - 3600, "created": NOW - 3600}
    return ProbeResult("job", {**base, **facts})


def log(**facts: Any) -> ProbeResult:
    """A log whose last line is half an hour old."""
    base = {"lines": 5, "errors": 0, "first": NOW - 3600, "last": NOW - 1800, "newest": [], "last_error": None}
    return ProbeResult("log", {**base, "events": {}, **facts})


def celery(**facts: Any) -> ProbeResult:
    """A worker that has nothing to do."""
    base = {"workers": ["one"], "depth": {"celery": 0}, "busy": 0, "active": [], "reserved": []}
    return ProbeResult("celery", {**base, **facts})


def verdict(*results: ProbeResult) -> Verdict:
    """The verdict with a minute's patience."""
    return diagnose("7", {result.name: result for result in results}, NOW, 60)


ERROR = {"created": NOW - 2, "logger": "celery.app.trace", "message": "x", "exception": "ValueError", "level": 40}

FAILED = [
    ProbeResult("nats", {}, "boom"),
    ProbeResult("redis", {}, "boom"),
    ProbeResult("celery", {}, "boom"),
    ProbeResult("log", {}, "boom"),
    ProbeResult("job", {}, "boom"),
]


@pytest.mark.parametrize("phase", ["created", "queued", "running", "canceling", "unknown"])
def test_probes_that_fail_prove_nothing(phase: str) -> None:
    """Whichever fail for a reason of their own: no certain cause, as nothing was seen."""
    seen = [job(phase=phase), log()]
    for count in range(len(FAILED) + 1):
        for broken in itertools.combinations(FAILED, count):
            found = verdict(*seen, *broken).diagnosis
            assert not (found.is_finding and found.sure == "certain"), (broken, found)


def test_nothing_known_is_not_a_cause() -> None:
    """It says so, and names what was seen and what failed."""
    found = verdict(job(), log(), ProbeResult("nats", {}, "boom"))
    assert [one.text for one in found.diagnosis.evidence] == ["boom", "status STARTED"]
    assert found.diagnosis.cause == "unknown"
    assert found.diagnosis.sentence.startswith("I don't know")
    assert found.failures == {"nats": "boom"}


def test_nothing_known_names_what_nobody_looked_at() -> None:
    """Without a row and a queue there is little to see: it says which settings have them looked at."""
    found = verdict(log(lines=0)).diagnosis
    assert found.cause == "unknown"
    assert "joblog status JOB" in found.advice
    assert "set what is named below" in found.advice
    assert {one.source: one.text for one in found.evidence} == {
        "log": "no line",
        "job": "its row was not looked at: JOB_MODEL (or DOCTOR['REST']) is not set",
        "queue": "none was looked at: NATS_URL, DOCTOR['NATS'] and DOCTOR['CELERY'] are not set",
    }
    assert "below" not in verdict(job(), log(), ProbeResult("nats", {}, "boom")).diagnosis.advice


LOGS: dict[str, Any] = {"lines": 12, "last": NOW - 3, "calm": NOW - 3}


def test_a_job_that_logs_is_likely_healthy_where_no_queue_is_configured() -> None:
    """It says on what grounds, and what to configure to have more looked at."""
    found = verdict(log(**LOGS)).diagnosis
    assert (found.cause, found.sure, found.is_finding) == ("healthy", "likely", False)
    assert "12 lines, the last 3.0 s ago. No queue was looked at" in found.sentence
    assert "DOCTOR['NATS']" in found.advice
    assert "50 %" in verdict(job(phase="queued", progress=0.5), log(**LOGS)).diagnosis.sentence


@pytest.mark.parametrize(
    ("facts", "others"),
    [
        pytest.param({"last": NOW - 100, "calm": NOW - 100}, (), id="silent"),
        pytest.param({"calm": NOW - 4}, (), id="last-an-error"),
        pytest.param({"lines": 1}, (), id="one-line"),
        pytest.param({}, (ProbeResult("nats", {}, "boom"),), id="queue-not-seen"),
        pytest.param({}, (celery(),), id="queue-of-celery"),
    ],
)
def test_otherwise_a_log_alone_is_no_verdict(facts: dict[str, Any], others: tuple[ProbeResult, ...]) -> None:
    """Lines that are old, few, errors, or beside a queue that says nothing."""
    assert verdict(log(**{**LOGS, **facts}), *others).diagnosis.cause == "unknown"


def test_a_rule_that_fails_costs_nothing() -> None:
    """A project's own probe under the name of ours says other things."""
    found = verdict(job(), log(), ProbeResult("nats", {"streams": [{"exists": True, "consumers": [{}]}]}))
    assert found.diagnosis.cause == "unknown"


def test_celery_backed_up() -> None:
    """Many tasks wait, workers work, the counters say that results are behind."""
    redis = ProbeResult("redis", {"values": {"process": 3, "results": 90}, "lost": False, "gone": []})
    found = verdict(job(progress=0.5), log(), celery(depth={"celery": 400}, busy=8), redis).diagnosis
    assert found.cause == "celery_backed_up"
    assert "400 tasks wait" in found.sentence


@pytest.mark.parametrize(("calm", "cause"), [(1800, "celery_task_failing"), (1, "slow")])
def test_a_task_of_celery_that_failed_last(calm: int, cause: str) -> None:
    """It stopped the job where nothing followed; where the job went on after it, it did not."""
    error = {**ERROR, "created": NOW - 1700, "times": 1, "since": NOW - 1700}
    found = verdict(job(total=9, done=3), log(task_error=error, last=NOW - calm, calm=NOW - calm), celery()).diagnosis
    assert found.cause == cause
    if cause == "celery_task_failing":
        assert "ValueError" in found.sentence


def test_the_line_that_names_the_error() -> None:
    """Of a traceback with more lines than one behind its last frame, the one that names the error."""
    from joblog_router.doctor.builtin import _last_error

    traceback = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    x()\n'
    assert _last_error(f"{traceback}ValueError: no") == "ValueError: no"
    assert _last_error(f"{traceback}db.Error: no table\nLINE 1: INSERT\n        ^") == "db.Error: no table"
    assert _last_error("plain") == "plain"
    assert _last_error("") == ""


def test_a_job_that_gets_on_is_no_matter_of_celery() -> None:
    """Its errors are its own, the broker's depth is others', and a worker at work need not answer."""
    recent = log(last=NOW - 2, errors=9, last_error=ERROR)
    for state in (celery(), celery(depth={"celery": 400}, busy=8), celery(workers=[], depth={"celery": 5})):
        found = verdict(job(total=9, done=3), recent, state).diagnosis
        assert not found.is_finding, found


def test_a_stream_that_the_job_itself_deleted() -> None:
    """It is about to end; only when nothing follows is that a finding."""
    nats = ProbeResult("nats", {"streams": [{"name": "job_7", "exists": False, "consumers": []}]})
    events = {
        name: {"times": 1, "count": 1, "last": NOW, "message": ""}
        for name in ("nats.stream.created", "nats.stream.deleted")
    }
    assert not verdict(job(), log(last=NOW - 2, events=events), nats).diagnosis.is_finding
    found = verdict(job(), log(events=events), nats).diagnosis
    assert (found.cause, found.sure) == ("not_marked", "likely")


def test_a_job_in_the_middle_of_its_end_is_no_finding() -> None:
    """Its queue is gone, what tells that it was its own doing is not stored yet; the last line is a second old."""
    nats = ProbeResult("nats", {"streams": [{"name": "job_7", "exists": False, "consumers": []}]})
    created = {"nats.stream.created": {"times": 1, "count": 1, "last": NOW - 60, "message": ""}}
    found = verdict(job(total=9, done=8), log(events=created, last=NOW - 1, calm=NOW - 1), nats)
    assert not found.diagnosis.is_finding, found
    assert [(one.cause, one.sure) for one in found.others] == [("stream_deleted", "possible")]
    found = verdict(job(total=9, done=8), log(events=created, last=NOW - 90, calm=NOW - 90), nats)
    assert (found.diagnosis.cause, found.diagnosis.sure) == ("stream_deleted", "certain")


def test_an_idle_celery_is_no_cause() -> None:
    """It is told apart from one that is behind."""
    found = verdict(job(progress=0.5), log(), celery()).diagnosis
    assert not found.cause.startswith("celery")


def test_redis_unreachable_is_not_redis_lost() -> None:
    """Also where all else says that the job hangs."""
    redis = ProbeResult("redis", {"unreachable": True}, "Redis cannot be reached: timeout")
    assert verdict(job(), log(), redis).diagnosis.cause == "redis_unreachable"


@pytest.mark.parametrize(
    ("status", "phase"),
    [("STARTED", "running"), ("Status.SUCCESS", "done"), ("In progress", "running"), ("BUSY!", "unknown")],
)
def test_statuses(status: str, phase: str) -> None:
    """What projects call it; a word of their own by setting."""
    assert phase_of(status) == phase
    assert phase_of(status, {status: "canceling"}) == "canceling"


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400], ids=["infinite", "nan", "large"])
@pytest.mark.parametrize("fact", ["total", "done", "progress", "started", "finished", "updated"])
def test_facts_of_the_project_s_own_that_are_no_numbers_cost_no_verdict(fact: str, value: float) -> None:
    """As a hook or a probe of its own may give them: rules that stumble are left out, and it is not 100 %."""
    found = verdict(job(**{"total": 5, "done": 1, fact: value}), log())
    assert found.diagnosis.sentence
    assert "All tasks are done" not in found.diagnosis.sentence


CONSUMER: dict[str, Any] = {
    "name": "c",
    "push": False,
    "filter_subjects": [],
    "num_waiting": 1,
    "pulls": 1,
    "paused": 0,
    "age": 3600,
    "delivered": 4,
    "ack_floor": 4,
    "num_pending": 0,
    "num_ack_pending": 0,
    "num_redelivered": 0,
    "moved": 0,
    "acks": 0,
    "naks": 0,
    "in_progress": 0,
    "newly_delivered": 0,
    "acked_twice": 0,
    "highest_attempt": 1,
    "max_deliver": 5,
    "ack_wait": 30,
    "max_ack_pending": 100,
    "last_delivered": 1900,
    "last_acked": 1900,
}


@pytest.mark.parametrize(("waiting", "is_told"), [(0, True), (1, False)])
def test_messages_that_workers_terminated(waiting: int, is_told: bool) -> None:
    """They do not come again: why the job does not end once nothing else is left, not while there is work."""
    stream = {"name": "job_7", "exists": True, "messages": waiting, "first_seq": 1, "last_seq": 4 + waiting}
    consumers = [{**CONSUMER, "num_pending": waiting}]
    nats = ProbeResult(
        "nats", {"streams": [{**stream, "retention": "limits", "last_published": 3000, "consumers": consumers}]}
    )
    events = {"nats.terminated": {"times": 2, "count": 2, "last": NOW - 1800, "message": "seq 3 is terminated"}}
    found = verdict(job(total=4 + waiting, done=2), log(events=events), nats).diagnosis
    assert (found.cause == "exhausted") is is_told, found
    if is_told:
        assert found.sentence.startswith("2 tasks were terminated by workers")
        assert found.evidence[0].text == "nats.terminated: seq 3 is terminated"
