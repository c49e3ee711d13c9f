"""The other pools, Celery's set-up of logging without hijacking, and a Django project."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contrib.celery.valkey import ValkeyServer
from tests.contrib.celery.worker import TaskFailedError, Worker


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_in_threads_and_in_the_workers_own_thread_tasks_are_in_their_jobs(
    broker: ValkeyServer, tmp_path: Path, pool: str
) -> None:
    """What tasks leave behind is gone for the next, and the worker's own lines between tasks have no job."""
    with Worker(broker.database(), tmp_path, "-P", pool, "-c", "4") as worker:
        sent = []
        for number in range(30):
            sent.append(worker.send("work", job_id=f"mix{number % 3}", lines=3))
            sent.append(worker.send("leaves_a_scope_open", f"open{number % 3}"))
            sent.append(worker.send("connects_a_receiver", f"late{number % 3}"))
            sent.append(worker.send("no_job"))
        assert {result.get(timeout=30) for result in sent[3::4]} == {None}
        for result in sent:
            result.get(timeout=30)
        for number in range(3):
            worker.wait_for(f"late{number}", "the job is late")
        with pytest.raises(TaskFailedError, match="no such survey"):
            worker.run("fails", "failing")
        assert worker.run("counters")["late"] == 0
        worker.stop()
        lines = worker.all_lines()
    mixed = [line for line in lines if " line " in line["message"]]
    assert len(mixed) == 90
    assert all(line["message"].endswith(f"of job {line['job_id']}") for line in mixed)
    assert all(
        line["message"] == f"the job is {line['job_id']}" for line in lines if line["message"].startswith("the job is")
    )
    assert not [line for line in lines if "nobody's" in line["message"]]
    # "Task ... received", warm shutdown and the like.
    assert {line["logger"] for line in lines} <= {"shop.work", "shop.receivers", "shop.tasks", "celery.app.trace"}
    assert [line["message"] for line in lines if line["logger"] == "shop.tasks"] == ["through a task logger"]


def test_without_hijacking_a_line_is_stored_once(broker: ValkeyServer, tmp_path: Path) -> None:
    """`worker_hijack_root_logger=False` leaves root's handlers alone, and still cuts the task loggers off."""
    with Worker(broker.database(), tmp_path, "-c", "1", ready=False, HIJACK="0") as worker:
        with pytest.raises(TaskFailedError, match="no such survey"):
            worker.run("fails", job_id=1)
        worker.wait_for("1", "connected after")
        assert worker.messages(1) == [
            "prerun, connected before",
            "through a task logger",
            "failure",
            "postrun, connected before",
            "postrun, connected after",
        ]


def test_a_worker_that_logs_to_a_file_for_each_process_keeps_the_handlers(broker: ValkeyServer, tmp_path: Path) -> None:
    """Celery then sets logging up in each process again."""
    with Worker(broker.database(), tmp_path, "-c", "1", f"--logfile={tmp_path}/%i.log", ready=False) as worker:
        worker.run("work", job_id=1)
        worker.wait_for("1", "connected after")
        assert " line 0 of job 1" in worker.messages(1)


STUCK = """
import os, time
from joblog_router import SinkUnavailableError
from joblog_router.sinks import JsonLinesSink

class SwitchedSink(JsonLinesSink):
    def __init__(self):
        super().__init__(os.environ["JOBLOG_DIRECTORY"])
    def write(self, entries):
        if os.path.exists(os.environ["JOBLOG_DIRECTORY"] + ".away"):
            raise SinkUnavailableError("the store is away")
        super().write(entries)
"""


def test_a_store_that_is_away_costs_one_wait_not_one_a_task(broker: ValkeyServer, tmp_path: Path) -> None:
    """The first task waits for it two seconds at most, the next ones not at all; back again, all lines are stored."""
    (tmp_path / "switched.py").write_text(STUCK)
    away = tmp_path / "joblog.away"
    away.touch()
    with Worker(broker.database(), tmp_path, "-c", "1", JOBLOG_SINK="switched.SwitchedSink") as worker:
        times = [worker.seconds_between_tasks("work", job_id=number) for number in range(6)]
        assert sum(times) < 4.0, times
        assert sum(time > 1.0 for time in times) <= 1, times
        assert worker.all_lines() == []
        away.unlink()
        worker.stop()
        assert sorted(line["message"] for line in worker.all_lines() if line["logger"] == "shop.work") == [
            f" line 0 of job {number}" for number in range(6)
        ]
