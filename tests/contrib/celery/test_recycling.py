"""Pool processes that are replaced after few tasks end by os._exit: no line is lost with them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.contrib.celery.valkey import ValkeyServer
from tests.contrib.celery.worker import Worker

LINES = 5


def run_tasks(
    broker: ValkeyServer, directory: Path, tasks: int, per_child: int, timeout: float, **environment: str
) -> int:
    """Run `tasks` in processes of `per_child` tasks each; every line must be stored once. Gives the processes used."""
    arguments = ("-P", "prefork", "-c", "2", f"--max-tasks-per-child={per_child}")
    with Worker(broker.database(), directory, *arguments, **environment) as worker:
        sent = [worker.send("work", job_id=number % 20, lines=LINES, name=f"task {number}") for number in range(tasks)]
        processes = {result.get(timeout=timeout) for result in sent}
        worker.stop(timeout)
        of_tasks = [line for line in worker.all_lines() if line["logger"] == "shop.work"]
        times = Counter(line["message"] for line in of_tasks)
        wanted = {f"task {task} line {n} of job {task % 20}" for task in range(tasks) for n in range(LINES)}
        assert wanted - set(times) == set()
        assert set(times.values()) == {1}
        assert all(line["message"].endswith(f"of job {line['job_id']}") for line in of_tasks)
        after = [line for line in worker.all_lines() if line["message"] == "postrun, connected after"]
        assert len(after) == tasks
    return len(processes)


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("per_child", "tasks"), [(1, 30), (3, 36)])
def test_every_line_of_recycled_processes_is_stored_once(
    broker: ValkeyServer, tmp_path: Path, per_child: int, tasks: int
) -> None:
    """Five lines a task, and those of the receivers after it."""
    assert run_tasks(broker, tmp_path, tasks, per_child, 200) >= tasks / per_child


@pytest.mark.timeout(120)
def test_with_a_spool_every_line_of_recycled_processes_is_stored_once(broker: ValkeyServer, tmp_path: Path) -> None:
    """A process that Celery kills may leave its file, with nothing in it that is not stored."""
    assert run_tasks(broker, tmp_path, 20, 1, 100, JOBLOG_SPOOL=str(tmp_path / "spool")) == 20


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_line_of_four_thousand_processes_is_stored_once(broker: ValkeyServer, tmp_path: Path) -> None:
    """A process a task."""
    assert run_tasks(broker, tmp_path, 4000, 1, 3500) == 4000
