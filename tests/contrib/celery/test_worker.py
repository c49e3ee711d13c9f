"""A real prefork worker: handlers survive its start, each task's lines are in its job's log and nowhere else."""

from __future__ import annotations

import pytest

from tests.contrib.celery.worker import TaskFailedError, Worker

AROUND = [
    "prerun, connected before",
    "success",
    "postrun, connected before",
    "postrun, connected after",
]


def test_the_root_handler_survives_the_start_of_a_worker(worker: Worker) -> None:
    """Celery empties the root logger; the job handler is back on it, and sees Celery's own lines, too."""
    worker.run("work", job_id="root")
    worker.wait_for("root", "connected after")
    assert " line 0 of job root" in worker.messages("root")
    (line,) = [line for line in worker.lines("root") if line["logger"] == "celery.app.trace"]
    assert "worker_app.work" in line["message"]
    assert "succeeded" in line["message"]


def test_a_line_is_stored_once(worker: Worker) -> None:
    """Also one of a task logger, whose parent has the handler as the root logger has."""
    with pytest.raises(TaskFailedError, match=r"ValueError.*no such survey"):
        worker.run("fails", job_id="once")
    worker.wait_for("once", "connected after")
    assert worker.messages("once", "shop.tasks") == ["through a task logger"]
    assert worker.messages("once", "shop.receivers").count("failure") == 1


def test_the_exception_of_a_task_is_in_its_jobs_log_with_the_traceback(worker: Worker) -> None:
    """What celery.app.trace logs of a failure."""
    with pytest.raises(TaskFailedError, match=r"ValueError.*no such survey"):
        worker.run("fails", 71)
    lines = worker.wait_for("71", "raised unexpected")
    (line,) = [line for line in lines if "raised unexpected" in line["message"]]
    assert line["level"] == "ERROR"
    assert "in fails" in line["exception"]
    assert line["exception"].rstrip().endswith("ValueError: no such survey")


def test_the_job_comes_from_keyword_position_or_self_less_position(worker: Worker) -> None:
    """By the signature of the task, with and without bind=True."""
    worker.run("work", job_id=1)
    worker.run("positional", 3, 2)
    worker.run("bound", 3)
    worker.run("bound", count=1, job_id=4)
    worker.wait_for("4", "connected after")
    worker.wait_for("3", "connected after")
    assert [worker.messages(job, "shop.work") for job in (1, 2, 3, 4)] == [
        [" line 0 of job 1"],
        ["third of 3"],
        ["bound worker_app.bound"],
        ["bound worker_app.bound"],
    ]


def test_receivers_of_the_application_log_in_the_job(worker: Worker) -> None:
    """Whether they were connected before or after ours: before the task, at its success, after it."""
    worker.run("positional", 3, "around")
    worker.wait_for("around", "connected after")
    assert worker.messages("around", "shop.receivers") == AROUND
    numbers = [line["n"] for line in worker.lines("around")]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_receiver_that_the_task_connects_logs_in_the_job(worker: Worker) -> None:
    """It is called after the scope has closed: the job is still known, until the request is over."""
    worker.run("connects_a_receiver", job_id="late")
    lines = worker.wait_for("late", "the job is late")
    assert "postrun, connected by a task" in [line["message"] for line in lines]
    assert [line["n"] for line in lines] == list(range(1, len(lines) + 1))
    worker.run("connects_a_receiver", job_id="late", leave=True)
    # Whatever that one left behind, in whichever process it ran.
    assert [worker.run("no_job") for _ in range(6)] == [None] * 6


def test_coroutines_that_a_receiver_runs_log_in_the_job(worker: Worker) -> None:
    """As a clean-up after the task does."""
    worker.run("cleans_up_after", job_id="clean")
    assert worker.wait_for("clean", "postrun, in a coroutine")


def test_a_task_without_a_job_has_none_whatever_ran_before(worker: Worker) -> None:
    """Jobs, an unclosed scope and jobless tasks in turn, in the same two processes: no line is in another's log."""
    sent = []
    for number in range(40):
        sent.append(worker.send("work", job_id=f"mix{number % 4}", name="mixed", lines=2))
        sent.append(worker.send("leaves_a_scope_open", job_id=f"open{number % 4}"))
        sent.append(worker.send("no_job", "mixed"))
    assert {result.get(timeout=30) for result in sent[2::3]} == {None}
    for result in sent:
        result.get(timeout=30)
    for number in range(4):
        worker.wait_for(f"mix{number}", "connected after")
    mixed = [line for line in worker.all_lines() if line["message"].startswith("mixed")]
    assert len(mixed) == 80
    assert all(line["message"].endswith(f"of job {line['job_id']}") for line in mixed)
    assert not [line for line in worker.all_lines() if "nobody's mixed" in line["message"]]
    left = [line["logger"] for line in worker.lines("left open")]
    assert set(left) <= {"shop.work", "shop.receivers", "celery.app.trace"}
    assert left.count("shop.work") == 40


def test_a_task_takes_the_job_in_which_it_was_sent(worker: Worker) -> None:
    """The message's header says so; outside of any job (here: detached) there is none. An argument needs no header."""
    worker.run("sends", "sender", "plain")
    worker.wait_for("sender", "nobody's plain")
    worker.run("work", job_id="sender", name="last")
    worker.wait_for("sender", "last line")
    assert "nobody's plain detached" not in worker.messages("sender")


def test_the_argument_wins_over_the_header_and_the_conflict_is_counted(worker: Worker) -> None:
    """None as an argument is no contradiction: then the header counts."""
    worker.run("work", job_id="arg", headers={"joblog_job_id": "head"}, name="both")
    worker.run("work", job_id=None, headers={"joblog_job_id": "head"}, name="header only")
    worker.run("work", headers={"joblog_job_id": "head"}, job_id="head", name="equal")
    worker.wait_for("arg", "connected after")
    worker.wait_for("head", "equal")
    assert worker.messages("arg", "shop.work") == ["both line 0 of job arg"]
    assert worker.messages("head", "shop.work") == ["header only line 0 of job None", "equal line 0 of job head"]
    assert "task worker_app.work was sent in job 'head' with an argument that names job 'arg'" in worker.text()


def test_the_body_of_a_chord_belongs_to_the_job_that_started_it(worker: Worker) -> None:
    """Not to the job of whichever of its tasks ends last: those may be of several."""
    worker.run("starts_chord", "whole", ["part a", "part b"], "the parts")
    lines = worker.wait_for("whole", "summary of the parts")
    assert "summary of the parts" in [line["message"] for line in lines]
    for part in ("part a", "part b"):
        worker.wait_for(part, "connected after")
        assert " line 0 of job " + part in worker.messages(part)
        assert "summary of the parts" not in worker.messages(part)


def test_the_body_of_a_chord_that_no_job_started_has_none(worker: Worker) -> None:
    """Rather no job than that of the last part."""
    worker.run("starts_chord", None, ["piece a", "piece b"], "the pieces")
    for piece in ("piece a", "piece b"):
        worker.wait_for(piece, "connected after")
    worker.wait_for_output("summary of the pieces")
    worker.run("work", job_id="after pieces")
    worker.wait_for("after pieces", "connected after")
    assert not [line for line in worker.all_lines() if "summary of the pieces" in line["message"]]


def test_every_try_of_a_task_is_in_the_job(worker: Worker) -> None:
    """A retry closes the scope as an end does, and the next try opens it again."""
    with pytest.raises(TaskFailedError, match="KeyError"):
        worker.run("retrying", "tries")
    worker.wait_for("tries", "raised unexpected")
    lines = worker.wait_for("tries", "Retry in 0s")  # it may end in the pool's other process, later than that
    assert sorted(line["message"] for line in lines if line["logger"] == "shop.work") == ["try 0", "try 1"]
    assert sum("Retry in 0s" in line["message"] for line in lines) == 1


@pytest.mark.parametrize(
    ("own", "given", "headers"),
    [
        ("", {}, {}),
        ("retry by header", {}, {"joblog_job_id": "retry by header"}),
        ("retry by argument", {"job_id": "retry by argument"}, {}),
    ],
)
def test_a_try_is_in_the_tasks_own_job_wherever_it_was_asked_for(
    worker: Worker, own: str, given: dict[str, str], headers: dict[str, str]
) -> None:
    """A retry within a scope of another job is no task that this job sends. A task of no job stays one."""
    other = f"seen by {own or 'nobody'}"
    worker.send("retries_inside", other=other, headers=headers, **given)  # its result: of whichever try is stored last
    worker.wait_for(other, "inside, try 1")
    worker.wait_for(other, "nobody's sent inside")
    if own:
        worker.wait_for(own, "outside, try 1")
    found = {line["message"]: line["job_id"] for line in worker.all_lines() if line["job_id"] in (own, other)}
    tries = {f"outside, try {number}": own for number in (0, 1)} if own else {}
    shown = {text: job for text, job in found.items() if text.startswith(("outside", "inside"))}
    assert shown == {**tries, "inside, try 0": other, "inside, try 1": other}


def test_what_replaces_a_task_is_in_the_tasks_own_job(worker: Worker) -> None:
    """It is that task under another name: of no job, where the task had none."""
    assert worker.run("replaces_inside", "replaced in") is None
    assert worker.run("replaces_inside", "replaced in", headers={"joblog_job_id": "replaced"}) == "replaced"


@pytest.mark.parametrize("how", ["ignore", "reject"])
def test_an_ignored_or_rejected_task_is_closed_too(worker: Worker, how: str) -> None:
    """Its lines are in the log, Celery's line about it, too; the next task has no job."""
    worker.send("ends", job_id=how, how=how)
    worker.wait_for(how, "postrun, connected after")
    assert f"about to {how}" in worker.messages(how)
    assert len(worker.messages(how, "celery.app.trace")) == 1
    assert [worker.run("no_job") for _ in range(4)] == [None] * 4


def test_a_task_that_exits_is_closed_too(worker: Worker) -> None:
    """`sys.exit()` in a task ends its process: the lines are stored before."""
    worker.send("ends", job_id="exit", how="exit")
    worker.wait_for("exit", "postrun, connected after")
    assert "about to exit" in worker.messages("exit")


def test_a_soft_time_limit_is_in_the_jobs_log(worker: Worker) -> None:
    """As the exception it is."""
    with pytest.raises(TaskFailedError, match="SoftTimeLimitExceeded"):
        worker.run("soft_limited", "soft")
    lines = worker.wait_for("soft", "raised unexpected: SoftTimeLimitExceeded")
    assert "in soft_limited" in str([line["exception"] for line in lines])


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("hard_limited", {}, "TimeLimitExceeded"),
        ("ends", {"how": "be killed"}, "WorkerLostError"),
        ("ends", {"how": "vanish"}, "WorkerLostError"),
    ],
)
def test_the_loss_of_a_tasks_process_is_in_the_jobs_log(
    worker: Worker, name: str, arguments: dict[str, str], error: str
) -> None:
    """Its parent says so, once: nothing else can."""
    job = f"lost {arguments.get('how', 'by limit')}"
    with pytest.raises(TaskFailedError, match=error):
        worker.run(name, job_id=job, **arguments)
    lines = worker.wait_for(job, "was lost: ")
    worker.run("no_job")
    assert [error in line["message"] for line in lines if line["logger"] == "joblog_router.celery"] == [True]


def test_the_signal_that_killed_a_process_is_told_to_the_job_its_task_was_sent_from(worker: Worker) -> None:
    """Of a task whose arguments name no job the message does; each loss is in its own job's log."""
    jobs = ("killed one", "killed two")
    for job in jobs:
        worker.send("sends_dying", job_id=job)
    for job in jobs:
        lines = [line for line in worker.wait_for(job, "was lost: ") if line["logger"] == "joblog_router.celery"]
        (line,) = lines
        assert "worker_app.dies" in line["message"]
        assert "signal 9 (SIGKILL)" in line["message"]
        assert line["level"] == "ERROR"
    assert worker.run("no_job") is None


def test_callbacks_of_a_task_belong_to_its_job(worker: Worker) -> None:
    """Those of `link` and `link_error`, which name none of their own, and a chain's next task."""
    callback = worker.client.signature("worker_app.no_job", args=("callback",), immutable=True)
    worker.client.send_task("worker_app.work", kwargs={"job_id": "linked"}, link=callback)
    worker.wait_for("linked", "nobody's callback")
    errback = worker.client.signature("worker_app.no_job", args=("errback",), immutable=True)
    worker.client.send_task("worker_app.fails", kwargs={"job_id": "errs"}, link_error=errback)
    worker.wait_for("errs", "nobody's errback")
    first = worker.client.signature("worker_app.work", kwargs={"job_id": "chained"})
    (first | worker.client.signature("worker_app.no_job", args=("next",), immutable=True)).apply_async()
    worker.wait_for("chained", "nobody's next")


def test_a_terminated_task_keeps_its_lines(worker: Worker) -> None:
    """`revoke(terminate=True)` ends the process with SIGTERM: what the task had logged is stored."""
    result = worker.send("ends", job_id="revoked", how="sleep")
    worker.wait_for("revoked", "about to sleep")
    worker.client.control.revoke(result.id, terminate=True)
    worker.wait_for("revoked", "postrun, connected after")
    assert [worker.run("no_job") for _ in range(4)] == [None] * 4


def test_what_a_task_prints_is_in_its_jobs_log(worker: Worker) -> None:
    """Celery makes it a line of the logger celery.redirected."""
    worker.run("prints", "printed")
    lines = worker.wait_for("printed", "printed by the task")
    assert "celery.redirected" in {line["logger"] for line in lines}
