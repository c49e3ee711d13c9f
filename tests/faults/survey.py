"""The example project `examples/survey`, whole: nats-server, Valkey, Celery worker, web server, SQLite or PostgreSQL.

Its settings, models, REST interface and Celery application are its own; only servers and folders are given to it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import nats
import redis

from tests.contrib.celery.valkey import ValkeyServer
from tests.contrib.nats.conftest import server_version
from tests.helpers import SRC
from tests.servers import NatsServer, dying_with_parent

ROOT = SRC.parent
HERE = ROOT / "examples" / "survey"
TIMEOUT = 30.0
PATIENCE = 0.5


class Survey:
    """Runs from the constructor to `close()`. `database` is a URL of PostgreSQL, "" for SQLite."""

    def __init__(self, database: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="joblog-survey-lab-"))
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self.nats = NatsServer()
        # Queue and counters apart, so that one may be away without the other.
        self.broker, self.counters = ValkeyServer(tcp=True), ValkeyServer(tcp=True)
        self.url = f"http://127.0.0.1:{_free_port()}"
        kept = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV")
        self.environment = {
            **{name: value for name, value in os.environ.items() if name in kept},
            "PYTHONPATH": os.pathsep.join([str(SRC), str(HERE), str(ROOT)]),
            "DJANGO_SETTINGS_MODULE": "survey.settings",
            "SURVEY_DATA_DIR": str(self.folder),
            "SURVEY_URL": self.url,
            "NATS_URL": self.nats.url,
            "VALKEY_URL": f"redis://127.0.0.1:{self.counters.port}/0",
            "CELERY_BROKER_URL": f"redis://127.0.0.1:{self.broker.port}/0",
            "DATABASE_URL": database,
        }
        try:
            self._start("driver", "-m", "tests.faults.survey_driver", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.do("migrate")
            port = self.url.rpartition(":")[2]
            self._start("web", "-m", "uvicorn", "survey.asgi:application", "--port", port)
            self.start_celery()
            self._wait(lambda: "running on" in self.log("web"), "web")
        except BaseException:
            self.close()
            raise

    # --- its processes ------------------------------------------------------------------------------------------

    def _start(self, name: str, *arguments: str, **streams: Any) -> None:
        with (self.folder / f"{name}.log").open("w") as output:
            self._processes[name] = subprocess.Popen(
                dying_with_parent([sys.executable, *arguments]),
                cwd=HERE,
                env=self.environment,
                text=True,
                **{"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output, **streams},
                process_group=0,
            )

    def start_celery(self) -> None:
        """A worker of two processes."""
        arguments = ("-A", "survey", "worker", "-c", "2", "-l", "INFO", "--without-gossip", "--without-mingle")
        self._start("celery", "-m", "celery", *arguments)
        self._wait(lambda: " ready." in self.log("celery"), "celery")

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send it to a process and those that it started."""
        os.killpg(self._processes[name].pid, number)

    def kill(self, name: str) -> None:
        """End a process at once."""
        self.signal(name, signal.SIGKILL)
        self._processes[name].wait(10)

    def log(self, name: str) -> str:
        """What a process printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def _wait(self, is_there: Callable[[], Any], name: str) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not is_there():
            assert self._processes[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline, self.log(name)
            time.sleep(0.02)  # another process; it tells nobody

    def close(self) -> None:
        """End everything."""
        for process in self._processes.values():
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        for server in (self.nats, self.broker, self.counters):
            server.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    # --- what is done in it -------------------------------------------------------------------------------------

    def do(self, what: str, **given: Any) -> Any:
        """Have the project do something: see `survey_driver`."""
        driver = self._processes["driver"]
        assert driver.stdin is not None
        assert driver.stdout is not None
        driver.stdin.write(json.dumps({"do": what, **given}) + "\n")
        driver.stdin.flush()
        line = driver.stdout.readline()
        assert line, self.log("driver")
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def call(self, path: str, data: Any = None) -> Any:
        """The REST interface, as a worker or user calls it."""
        body = None if data is None else json.dumps(data).encode()
        headers = {"Content-Type": "application/json", "X-Worker": "lab"}
        request = urllib.request.Request(f"{self.url}/{path}", data=body, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            error.close()
            raise AssertionError(f"{path} answers {error.code}: {self.log('web')[-3000:]}") from None

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`manage.py` with these arguments."""
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(
            command, cwd=HERE, env=self.environment, text=True, capture_output=True, timeout=60, check=False
        )

    @property
    def redis(self) -> redis.Redis:
        """A client of the counters."""
        return redis.Redis(port=self.counters.port)


class SurveyJob:
    """One job of the survey, and what its workers do."""

    def __init__(self, survey: Survey, pictures: int = 24) -> None:
        self.survey = survey
        self.id: int = survey.do("make", pictures=pictures)
        self.stream, self.consumer = f"job_{self.id}", f"job-{self.id}-consumer"
        self.pictures = pictures

    def run(self) -> None:
        """Ask the project to run it, and wait until its pictures are queued."""
        self.survey.call(f"jobs/{self.id}/run/", {})
        self.until(lambda: self.survey.call(f"jobs/{self.id}/")["status"] == "STARTED", "started")

    def until(self, is_so: Callable[[], Any], what: str) -> Any:
        """Wait for what other processes do."""
        deadline = time.monotonic() + TIMEOUT
        while not (found := is_so()):
            assert time.monotonic() < deadline, f"not {what}: {self.survey.log('celery')}{self.survey.log('web')}"
            time.sleep(0.02)  # other processes; they tell nobody
        return found

    def reserve(self, count: int = 8) -> list[dict[str, str]]:
        """What a worker gets."""
        tasks: list[dict[str, str]] = self.survey.call(f"jobs/{self.id}/tasks/?batch={count}")["tasks"]
        return tasks

    def send(self, tasks: list[dict[str, str]]) -> None:
        """A worker's results."""
        results = self.survey.do("answers", tasks=tasks)
        self.survey.call(f"jobs/{self.id}/result/", {"results": results})

    def work(self, count: int) -> None:
        """A worker does so many pictures; until they are saved."""
        before = self.left()
        done = 0
        while done < count:
            tasks = self.reserve(min(8, count - done))
            assert tasks
            self.send(tasks)
            done += len(tasks)
        self.until(lambda: self.left() <= before - count, "saved")

    def left(self) -> int:
        """How many results are not saved."""
        return int(self.survey.call(f"jobs/{self.id}/")["stages"]["results"]["remaining"])

    def change(self, **fields: Any) -> None:
        """Write its row."""
        self.survey.do("change", job=self.id, **fields)

    def settle(self) -> None:
        """Until the doctor's patience is over: nothing tells that nothing happens."""
        time.sleep(PATIENCE + 0.15)

    def doctor(self, patience: float = PATIENCE, **given: Any) -> dict[str, Any]:
        """The verdict."""
        verdict: dict[str, Any] = self.survey.do("doctor", job=self.id, patience=patience, **given)
        return verdict

    async def with_nats(self, what: Callable[[Any], Any]) -> Any:
        """Do something with a client of its own: `what` is given the JetStream context."""
        client = await nats.connect(self.survey.nats.url)
        try:
            return await what(client.jetstream())
        finally:
            await client.close()

    async def version(self) -> tuple[int, ...]:
        """The server's."""
        client = await nats.connect(self.survey.nats.url)
        try:
            return server_version(client)
        finally:
            await client.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
