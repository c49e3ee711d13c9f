"""The rules alone, on what probes said: what is not known is never a certain cause."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest

from joblog_router import Entry
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


def verdict(*results: ProbeResult, before: tuple[ProbeResult, ...] = ()) -> Verdict:
    """The verdict with a minute's patience, after an earlier look where one is given."""
    return diagnose(
        "7", {result.name: result for result in results}, NOW, 60, {result.name: result for result in before}
    )


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
    before = log(**LOGS | {"calm": NOW - 4})
    found = verdict(log(**LOGS), before=(before,)).diagnosis
    assert (found.cause, found.sure, found.is_finding) == ("healthy", "likely", False)
    assert "12 lines, the last 3.0 s ago. No queue was looked at" in found.sentence
    assert "DOCTOR['NATS']" in found.advice
    rows = [job(phase="queued", progress=share) for share in (0.4, 0.5)]
    assert "50 %" in verdict(rows[1], log(**LOGS), before=(rows[0], before)).diagnosis.sentence


def test_that_something_moved_is_not_yet_that_the_job_is_healthy() -> None:
    """Too early to say, until its progress moves between two looks; without any progress, its lines."""
    rows = [job(total=9, done=done) for done in (3, 4)]
    moved = log(**LOGS | {"lines": 13})
    for seen, before in (
        ((rows[1], log(**LOGS)), ()),
        ((rows[1], log(**LOGS)), (rows[1], log(**LOGS | {"calm": NOW - 9}))),
        ((log(**LOGS),), ()),
        ((job(), log(**LOGS)), (job(), log(**LOGS))),
    ):
        found = verdict(*seen, before=before).diagnosis
        assert (found.cause, found.is_finding) == ("too_early", False), found
        assert "too early to say" in found.sentence
        assert "something moved 3.0 s ago" in found.sentence
        assert "healthy" not in found.sentence + found.advice
        assert "Nothing is to be done" not in found.advice
    assert verdict(rows[1], log(**LOGS), before=(rows[0], log(**LOGS))).diagnosis.cause == "slow"
    found = verdict(job(), moved, before=(job(), log(**LOGS | {"calm": NOW - 9}))).diagnosis
    assert found.cause == "healthy"


def test_a_job_that_has_just_begun_is_told_as_such_until_something_is_done() -> None:
    """Beginning is no news of how it gets on."""
    begun = {"started": NOW - 9, "created": NOW - 9, "total": 9}
    assert verdict(job(**begun, done=0), log(**LOGS)).diagnosis.cause == "starting"
    assert verdict(job(**begun, done=3), log(**LOGS)).diagnosis.cause == "too_early"


WRONG: dict[str, Any] = {
    "lines": 13,
    "errors": 5,
    "last_error": {
        "created": NOW - 4,
        "logger": "jobs",
        "message": "image 4 failed",
        "exception": "ValueError: image 4 cannot be read",
        "level": 40,
    },
}


@pytest.mark.parametrize("ago", [3, 1800], ids=["just-now", "silent"])
@pytest.mark.parametrize("others", [(), (celery(),)], ids=["no-queue", "celery"])
def test_errors_and_nothing_done_are_never_healthy(ago: int, others: tuple[ProbeResult, ...]) -> None:
    """The figures and the last error, whether lines keep coming or not."""
    seen = log(**WRONG, last=NOW - ago, calm=NOW - ago)
    found = verdict(job(total=5, done=0), seen, *others).diagnosis
    assert (found.cause, found.sure, found.is_finding) == ("errors_in_log", "likely", True)
    assert found.sentence == (
        "5 of 13 lines are errors, 0 of 5 tasks done; the last: ValueError: image 4 cannot be read"
    )
    assert any("image 4 cannot be read" in one.text for one in found.evidence)


def test_errors_where_no_progress_is_known() -> None:
    """Many are a finding; a few are told beside that it logs on."""
    seen = {**WRONG, "last": NOW - 3, "calm": NOW - 3}
    found = verdict(log(**seen)).diagnosis
    assert (found.cause, found.sure) == ("errors_in_log", "likely")
    assert "whether anything is done is not known" in found.sentence
    few, before = log(**{**seen, "lines": 1000}), log(**{**seen, "lines": 999, "calm": NOW - 4})
    found = verdict(few, before=(before,)).diagnosis
    assert (found.cause, found.is_finding) == ("healthy", False)
    assert "5 of 1,000 lines are errors" in found.sentence
    found = verdict(job(total=5, done=3), log(**seen), before=(job(total=5, done=2),)).diagnosis
    assert found.cause == "slow", "it gets on in spite of them"


FAILED_TASK = {
    "created": NOW - 3,
    "logger": "django.tasks",
    "message": "Task id=Rzvhbd path=jobs.tasks.run state=FAILED",
    "exception": "ValueError: image 4 cannot be read",
    "level": 40,
}


@pytest.mark.parametrize("ago", [3, 1800], ids=["just-now", "silent"])
@pytest.mark.parametrize("row", [(), (job(),), (job(total=5, done=0),)], ids=["no-row", "row", "nothing-done"])
def test_a_task_of_django_s_that_failed_is_quoted(ago: int, row: tuple[ProbeResult, ...]) -> None:
    """Where that is the last that was said; not while others of the job's tasks get on."""
    told = {**FAILED_TASK, "created": NOW - ago}
    seen = {"lines": 900, "errors": 1, "last": NOW - ago, "calm": NOW - 1900, "newest": [told], "last_error": told}
    found = verdict(*row, log(**seen)).diagnosis
    assert (found.cause, found.sure) == ("task_failed", "likely")
    assert found.sentence.startswith("The task failed: ValueError: image 4 cannot be read")
    assert verdict(job(total=5, done=2, updated=NOW - 3), log(**seen)).diagnosis.cause != "task_failed"
    went_on = {**told, "message": "Task id=Rzvhbd path=jobs.tasks.run state=SUCCESSFUL", "exception": ""}
    assert verdict(*row, log(**{**seen, "newest": [told, went_on]})).diagnosis.cause != "task_failed"


def test_what_cannot_be_explained_quotes_the_last_error() -> None:
    """It may be why."""
    found = verdict(job(total=5, done=3), log(**WRONG), ProbeResult("nats", {}, "boom")).diagnosis
    assert found.cause == "unknown"
    assert "jobs: image 4 failed: ValueError: image 4 cannot be read" in [one.text for one in found.evidence]


def test_results_are_only_said_to_be_accepted_where_counters_show_it() -> None:
    """A project whose whole work is Celery's has no such results."""
    dead = celery(workers=[], depth={"celery": 163})
    found = verdict(job(progress=0.5), log(), dead).diagnosis
    assert (found.cause, found.sentence) == (
        "celery_dead",
        "No Celery worker answers: 163 tasks wait in the broker.",
    )
    redis = ProbeResult("redis", {"values": {"process": 3, "results": 90}, "lost": False, "gone": []})
    found = verdict(job(progress=0.5), log(), dead, redis).diagnosis
    assert found.sentence == (
        "Results are accepted but not saved: no Celery worker answers, 163 tasks wait in the broker."
    )
    error = {**ERROR, "created": NOW - 1700, "times": 1, "since": NOW - 1700}
    found = verdict(job(total=9, done=3), log(task_error=error), celery()).diagnosis
    assert found.sentence == "The Celery task fails: ValueError"
    found = verdict(job(total=90, done=3), log(task_error=error), celery(), redis).diagnosis
    assert found.sentence == "Results are accepted but not saved, as the Celery task fails: ValueError"


def processes(state: str = "gone", spool: str = "waits", others: tuple[str, ...] = ()) -> ProbeResult:
    """Who logged last, and in which states others are."""
    last = {"origin": "here-41-ab", "pid": 41, "program": "work.py", "state": state, "spool": spool}
    beside = [{"origin": f"here-{number}-ab", "state": other} for number, other in enumerate(others)]
    return ProbeResult("processes", {"last": last, "others": beside})


@pytest.mark.parametrize("ago", [3, 1800], ids=["just-now", "silent"])
def test_a_process_that_has_ended_without_ending_the_job(ago: int) -> None:
    """Likely, with what is left of it; errors that it told of before it ended stand in the evidence."""
    seen = log(**{**WRONG, "last": NOW - ago, "calm": NOW - ago})
    found = verdict(job(total=5, done=0), seen, processes()).diagnosis
    assert (found.cause, found.sure) == ("process_gone", "likely")
    assert found.sentence == (
        "The process work.py (pid 41), which logged last, has ended without ending the job; "
        "lines may wait in its spool."
    )
    assert "image 4 cannot be read" in " ".join(one.text for one in found.evidence)
    found = verdict(log(**LOGS), processes(spool="recovered", others=("gone",))).diagnosis
    assert (found.cause, found.sure) == ("process_gone", "likely")


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param((processes("running"),), id="running"),
        pytest.param((processes("unknown"),), id="not-known"),
        pytest.param((processes(others=("running",)),), id="another-is-there"),
        pytest.param((processes(others=("unknown",)),), id="another-may-be"),
        pytest.param((processes(), celery(active=[{"task": "x"}])), id="celery-is-at-it"),
        pytest.param((processes(), celery()), id="another-worker-may-have-it"),
        pytest.param((processes(spool=""),), id="no-trace"),
    ],
)
def test_a_process_that_may_be_at_work_or_have_handed_on_is_no_verdict(seen: tuple[ProbeResult, ...]) -> None:
    """Somebody else may go on; without a trace in a spool it is told as what else it may be."""
    found = verdict(job(total=5, done=2), log(**LOGS), *seen)
    assert found.diagnosis.cause == "too_early"
    assert [one.cause for one in found.others] == (["process_gone"] if seen == (processes(spool=""),) else [])
    assert verdict(job(phase="queued"), log(**LOGS), processes()).diagnosis.cause != "process_gone"
    assert verdict(job(phase="done"), log(**LOGS), processes()).diagnosis.cause == "finished"


def test_who_a_process_is_by_its_origin() -> None:
    """Of this machine by its number; of others, and of workers elsewhere, not."""
    from joblog_router._pipeline import origins

    origin = origins.new_origin()
    assert origins.pid_here(origin) == origins.pid_here(origins.of_channel(origin, 2)) == os.getpid()
    assert origins.of_process(origins.of_channel(origin, 2)) == origins.of_process(origin) == origin
    for other in (f"x{origin}", origins.of_worker("7", origin), "lab", "", "a-b-c"):
        assert origins.pid_here(other) is None, other


def test_a_job_that_was_not_started_is_told_of_streams_only_where_nats_is_asked() -> None:
    """Elsewhere there are none."""
    made = job(status="NEW", phase="created", started=None, created=NOW - 90)
    assert verdict(made, log(lines=0)).diagnosis.sentence == "The job was made 1 min 30 s ago and has not been started."
    nats = ProbeResult("nats", {"streams": []})
    assert "; there is no stream of it." in verdict(made, log(lines=0), nats).diagnosis.sentence


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


@pytest.mark.parametrize(("calm", "cause"), [(1800, "celery_task_failing"), (1, "too_early")])
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
        name: {"times": 1, "count": 1, "last": NOW, "message": "", "own": 1}
        for name in ("nats.stream.created", "nats.stream.deleted")
    }
    assert not verdict(job(), log(last=NOW - 2, events=events), nats).diagnosis.is_finding
    found = verdict(job(), log(events=events), nats).diagnosis
    assert (found.cause, found.sure) == ("not_marked", "likely")


def test_a_stream_whose_deletion_only_the_monitor_tells_of() -> None:
    """It sees that, not who did it: another program may have."""
    nats = ProbeResult("nats", {"streams": [{"name": "job_7", "exists": False, "consumers": []}]})
    told = {"times": 1, "count": 1, "last": NOW - 1800, "message": "NATS stream job_7 was deleted", "own": 0}
    found = verdict(job(total=20, done=12), log(events={"nats.stream.deleted": told}), nats).diagnosis
    assert (found.cause, found.sure) == ("stream_deleted", "likely")
    assert "itself" not in found.sentence
    assert "nats.stream.deleted: NATS stream job_7 was deleted" in [one.text for one in found.evidence]


def test_who_told_of_an_event() -> None:
    """The monitor, or the job's own processes: as the probe counts them."""
    from joblog_router.doctor.builtin import _events

    def entry(**fields: Any) -> Any:
        told = {"event": "nats.stream.deleted", **fields}
        return Entry("7", NOW, 20, "joblog_router.nats", "gone", None, told, "x.py", 1, "here", 1, 1)

    assert _events([entry(source="monitor")])["nats.stream.deleted"]["own"] == 0
    assert _events([entry(source="monitor"), entry()])["nats.stream.deleted"]["own"] == 1


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
