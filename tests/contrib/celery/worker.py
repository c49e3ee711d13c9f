"""A real Celery worker in a process of its own, and what it put into job logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import redis
from celery import Celery

from joblog_router._pipeline.escaping import escape_job_id
from tests.helpers import SRC
from tests.servers import dying_with_parent

HERE = Path(__file__).parent
TIMEOUT = 30.0


def until(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """Wait for `condition` where nothing announces it: what another process writes to files."""
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.01)  # another process writes the file; up to a deadline
    return found


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """What is in a file, but for a line that is being written."""
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def store_at(url: str) -> redis.Redis:
    """A client of the database that `ValkeyServer.database()` names."""
    path, _, database = url.removeprefix("redis+socket://").partition("?virtual_host=")
    return redis.Redis(unix_socket_path=path, db=int(database))


class TaskFailedError(Exception):
    """A task ended with an error: its type and text."""


class Result:
    """What became of a task, read from the result backend.

    Not Celery's own AsyncResult: that one holds a connection of this process until it is collected.
    """

    def __init__(self, task_id: str, store: redis.Redis) -> None:
        self.id = task_id
        self._store = store

    def get(self, timeout: float = TIMEOUT) -> Any:
        """What the task returned; raises TaskFailedError where it failed."""

        def end() -> dict[str, Any] | None:
            raw = self._store.get(f"celery-task-meta-{self.id}")
            meta = json.loads(raw) if raw else {}
            return meta if meta.get("status") in ("SUCCESS", "FAILURE", "REVOKED") else None

        meta = until(end, f"the end of task {self.id}", timeout)
        if meta["status"] == "SUCCESS":
            return meta["result"]
        error = meta["result"]
        raise TaskFailedError(f"{error['exc_type']}: {error['exc_message']}")


class Worker:
    """`celery -A worker_app worker` with `arguments`; job logs go to `directory`."""

    def __init__(
        self,
        broker: str,
        directory: Path,
        *arguments: str,
        app: str = "worker_app",
        ready: bool = True,
        **environment: str,
    ) -> None:
        """`ready=False`: do not wait for the line that it is; where it goes elsewhere."""
        self.app = app
        self.directory = directory / "joblog"
        self.output = directory / "worker.log"
        self.path = f"{HERE}{os.pathsep}{directory}"
        self.cwd = directory
        self.client = Celery("client", broker=broker, set_as_current=False)
        self.results = store_at(broker)
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST", "CELERY", "DJANGO", "_MP"))
        }
        command = [
            *(sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO"),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
            *("-n", f"{directory.name}@localhost"),
            *arguments,
        ]
        with self.output.open("w") as output:
            self._process = subprocess.Popen(
                dying_with_parent(command),
                cwd=self.cwd,
                env={
                    **inherited,
                    "PYTHONPATH": f"{SRC}{os.pathsep}{self.path}",
                    "BROKER": broker,
                    "JOBLOG_DIRECTORY": str(self.directory),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        try:
            if ready:
                until(self._is_ready, "the worker's start")
        except BaseException:
            self.close()
            print(self.text())
            raise

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, self.text()
        return " ready." in self.text()

    def text(self) -> str:
        """What the worker printed."""
        return self.output.read_text(errors="replace")

    def send(self, name: str, /, *args: Any, headers: dict[str, Any] | None = None, **kwargs: Any) -> Result:
        """Send the task; nothing of ours runs in this process."""
        sent = self.client.send_task(f"{self.app}.{name}", args, kwargs, headers=headers)
        return Result(sent.id, self.results)

    def run(self, name: str, /, *args: Any, headers: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Send the task and wait for what it returns."""
        return self.send(name, *args, headers=headers, **kwargs).get()

    def lines(self, job: object) -> list[dict[str, Any]]:
        """What is in the job's log now."""
        path = self.directory / f"{escape_job_id(str(job))}.jsonl"
        return _whole_lines(path) if path.exists() else []

    def messages(self, job: object, logger: str = "shop") -> list[str]:
        """The texts in the job's log now, of loggers below `logger`."""
        return [line["message"] for line in self.lines(job) if line["logger"].startswith(logger)]

    def wait_for(self, job: object, message: str) -> list[dict[str, Any]]:
        """The job's log, once a line with `message` in it is there."""

        def is_there() -> bool:
            return any(message in line["message"] for line in self.lines(job))

        deadline = time.monotonic() + TIMEOUT
        while not is_there():
            assert time.monotonic() < deadline, f"no {message!r} in job {job!r}: {self.lines(job)}\n{self.text()}"
            time.sleep(0.01)  # another process writes the file; up to a deadline
        return self.lines(job)

    def wait_for_output(self, text: str) -> None:
        """Wait until the worker printed `text`."""
        until(lambda: text in self.text(), f"{text!r} from the worker")

    def seconds_between_tasks(self, name: str, /, **kwargs: Any) -> float:
        """Run the task, then another behind it in the same process: how long that one took to be done."""
        self.run(name, **kwargs)
        start = time.monotonic()
        self.run("counters")
        return time.monotonic() - start

    def all_lines(self) -> list[dict[str, Any]]:
        """The lines of all jobs."""
        return [line for path in self.directory.glob("*.jsonl") for line in _whole_lines(path)]

    def stop(self, timeout: float = TIMEOUT) -> str:
        """End the worker as its operator does, and give what it printed."""
        if self._process.poll() is None:
            # Twice is a cold shutdown; once waits for running tasks.
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout)
        return self.text()

    def kill(self) -> None:
        """End the worker and its pool at once."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)

    def close(self) -> None:
        """End it in whatever way."""
        with suppress(subprocess.TimeoutExpired):
            self.stop(10)
        self.kill()
        self.client.close()
        self.results.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
