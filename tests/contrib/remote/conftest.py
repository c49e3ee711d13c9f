"""Fixtures: a Django project that takes remote lines, served by a process of its own."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from joblog_router.contrib.remote import send
from joblog_router.contrib.remote.tokens import issue_token
from tests.contrib.django.project import Project
from tests.servers import dying_with_parent
from tests.strangers import as_nobody

URLS = """
from django.urls import path
from joblog_router.contrib.remote.receive import counters, receive
from django.http import JsonResponse

urlpatterns = [path("receive/", receive), path("counters/", lambda request: JsonResponse(counters()))]
"""

SERVER = """
import sys
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
import django
django.setup()
from django.core.wsgi import get_wsgi_application

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

class Quiet(WSGIRequestHandler):
    def log_message(self, *args): pass

server = make_server("127.0.0.1", int(sys.argv[1]), get_wsgi_application(), Server, Quiet)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Receiver:
    """A project on disk whose server can be stopped and started again on the same port."""

    def __init__(self, root: Path, migrated: Path) -> None:
        root.mkdir()
        self.project = Project(root)
        (root / "urls.py").write_text(URLS)
        (root / "server.py").write_text(SERVER)
        self.settings()
        for path in migrated.glob("*.sqlite3*"):
            shutil.copy(path, root)
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def settings(self, more: str = "") -> None:
        """Write the project's settings, with `more` at their end; for servers that are started afterwards."""
        self.project.settings(f'ROOT_URLCONF = "urls"\nALLOWED_HOSTS = ["127.0.0.1"]\n{more}')

    @property
    def url(self) -> str:
        """Where lines are sent to."""
        return f"http://127.0.0.1:{self._port}/receive/"

    def start(self) -> None:
        """Start the server."""
        self._process = self.project.start(*dying_with_parent([sys.executable, "server.py", str(self._port)])[1:])
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(self._process.communicate()[1])
        self._port = int(line)

    def stop(self) -> None:
        """End the server, which has no part in it: nothing handles the signal."""
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=20)
            self._process = None

    def token(self, job: object, **options: Any) -> str:
        """A token for `job`, signed with the project's key, which is that of the tests."""
        return issue_token(job, **options)

    def post(self, body: bytes, token: str | None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Send a request as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            connection.request("POST", "/receive/", body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def send(self, token: str | None, *lines: dict[str, Any], **more: Any) -> tuple[int, dict[str, Any]]:
        """Send a batch of lines."""
        return self.post(json.dumps({"sent": time.time(), "entries": lines, **more}).encode(), token)

    def counters(self) -> dict[str, int]:
        """What the server counted."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request("GET", "/counters/")
            counts: dict[str, int] = json.loads(connection.getresponse().read())
            return counts
        finally:
            connection.close()

    def rows(self, job: str, columns: str = "message") -> list[Any]:
        """What a job's log holds."""
        return self.project.rows(columns, f"job_id = '{job}'")


def line(seq: int = 1, message: str = "hello", **more: Any) -> dict[str, Any]:
    """A line as a worker sends it."""
    return {"origin": "worker-1", "seq": seq, "created": time.time(), "level": 20, "message": message, **more}


@pytest.fixture(scope="session")
def migrated_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the databases of a project, to be copied."""
    root = tmp_path_factory.mktemp("remote")
    Project(root).migrate()
    return root


@pytest.fixture
def receiver(tmp_path: Path, migrated_files: Path) -> Iterator[Receiver]:
    """A project with a running server."""
    made = Receiver(tmp_path / "server", migrated_files)
    try:
        yield made
    finally:
        made.stop()


# Where coverage is measured: it starts with the site-packages, which these workers do not have otherwise.
MEASURING = f"""
import sys
sys.path.append({sysconfig.get_path("purelib")!r})
import coverage
coverage.process_startup()
sys.path.pop()
"""


class Worker:
    """A folder with a copy of `send.py` and nothing else: workers there have the standard library only."""

    def __init__(self, root: Path, python: tuple[str, ...] = ()) -> None:
        root.mkdir(exist_ok=True)
        self.root = root
        self._python = python or (sys.executable,)
        self._is_measured = "COVERAGE_PROCESS_CONFIG" in os.environ and not python
        if self._is_measured:
            (root / "joblog_send.py").symlink_to(str(send.__file__))  # what runs there counts for that file
        else:
            shutil.copy(str(send.__file__), root / "joblog_send.py")

    def start(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Run `code` without site-packages, with `joblog_send` to import."""
        preamble = "import logging, sys, time\nsys.path.insert(0, '.')\nimport joblog_send\nlog = logging.getLogger()\n"
        if self._is_measured:
            preamble = MEASURING + preamble
        return subprocess.Popen(
            [*self._python, "-I", "-S", "-c", preamble + code, *arguments],
            cwd=self.root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, *arguments: str) -> str:
        """Run `code` to its end and give what it printed."""
        process = self.start(code, *arguments)
        try:
            out, err = process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == 0, err
        return out + err


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    """A folder for workers."""
    return Worker(tmp_path / "worker")


@pytest.fixture
def stranger() -> Iterator[Worker]:
    """A folder of another Unix user's, which that user's workers run in."""
    with tempfile.TemporaryDirectory(prefix="joblog-stranger.") as name:
        root = Path(name)
        made = Worker(root, as_nobody())
        root.chmod(0o700)
        shutil.chown(root, "nobody", "nogroup")
        (root / "joblog_send.py").chmod(0o644)
        yield made
