"""A server is killed while a task keeps its state there: the true error is in the job's log, not a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contrib.celery.valkey import ValkeyServer
from tests.contrib.celery.worker import TaskFailedError, Worker, until


def wait_until_stuck(progress: Path) -> None:
    """Wait until the task no longer gets on: the frozen server has its words unread."""
    seen: list[str] = []

    def is_stuck() -> bool:
        seen.append(progress.read_text())
        return len(seen) > 50 and len(set(seen[-50:])) == 1

    until(is_stuck, "the task waits for the server")


def has_started(progress: Path) -> bool:
    """Whether the task updated its state some times."""
    return progress.exists() and progress.read_text() > "" and int(progress.read_text() or 0) > 5


def test_a_killed_redis_is_named_in_the_jobs_log(broker: ValkeyServer, tmp_path: Path) -> None:
    """`Connection reset by peer`, logged by the library that kept the state and raised out of the task."""
    progress = tmp_path / "progress"
    with ValkeyServer(tcp=True) as state, Worker(broker.database(), tmp_path, "-c", "1") as worker:
        result = worker.send("keeps_state", job_id=1220, port=state.port, progress=str(progress))
        until(lambda: has_started(progress), "some updates")
        state.pause()
        wait_until_stuck(progress)
        state.kill()
        with pytest.raises(TaskFailedError, match="ConnectionError"):
            result.get()
        lines = worker.wait_for(1220, "raised unexpected")
    error = "Error while reading from 127.0.0.1:"
    (library,) = [line for line in lines if line["logger"] == "shop.state"]
    (celery,) = [line for line in lines if "raised unexpected" in line["message"]]
    for line in (library, celery):
        assert line["level"] == "ERROR"
        assert error in line["exception"]
        assert "Connection reset by peer" in line["exception"]
        assert "in update_state" in line["exception"]


def test_a_killed_result_backend_is_named_in_the_jobs_log(broker: ValkeyServer, tmp_path: Path) -> None:
    """Celery cannot even store that the task failed: it logs nothing that tells the task, so we do."""
    progress = tmp_path / "progress"
    with ValkeyServer(tcp=True) as backend:
        url = f"redis://127.0.0.1:{backend.port}/0"
        with Worker(broker.database(), tmp_path, "-c", "1", BACKEND=url) as worker:
            worker.send("tells_progress", job_id=1221, progress=str(progress))
            until(lambda: has_started(progress), "some updates")
            backend.kill()
            lines = worker.wait_for(1221, "could not be finished")
            # Celery 5.4 waits for ever for a task whose result it cannot store: no orderly end.
            worker.kill()
            (line,) = [line for line in worker.lines(1221) if line["logger"] == "joblog_router.celery"]
    assert line["level"] == "ERROR"
    assert "worker_app.tells_progress" in line["message"]
    assert f"ConnectionError: Error 111 connecting to 127.0.0.1:{backend.port}" in line["message"]
    # Where the task met it, before Celery could not store the failure.
    assert "in tells_progress\n" in line["exception"]
    assert not [line for line in lines if line["logger"].startswith("celery.app")]
