"""A real gunicorn: workers forked from a busy master and recycled store every line once; log pages block no worker."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.helpers import SRC
from tests.servers import dying_with_parent

REQUESTS = 240
LINES = 5

APPLICATION = """
import logging, logging.config, os
from joblog_router import current_job, flush, job_context
log = logging.getLogger("shop")
logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
    "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                         "options": {"directory": os.environ["JOBLOG_DIRECTORY"]}}},
    "root": {"level": "INFO", "handlers": ["job"]}})
with job_context("preload"):
    log.info("loaded")
    assert flush(10)  # the master's writer is warm

def application(environ, start_response):
    inherited = current_job()
    number = environ["PATH_INFO"].strip("/")
    with job_context(int(number) % 7):
        for line in range(LINES):
            log.info("request %s line %d", number, line)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{os.getpid()} {inherited}".encode()]
""".replace("LINES", str(LINES))

CONFIGURATION = """
import logging
from joblog_router import job_context
log = logging.getLogger("shop.master")
bind = "127.0.0.1:0"
workers = 3
preload_app = True
max_requests = 20
graceful_timeout = 3  # a worker that is just being born misses the signal
control_socket_disable = True

def pre_fork(server, worker):
    # Waits in the master's buffer while it forks; the scope is open there.
    scope = job_context("master")
    scope.__enter__()
    for line in range(3):
        log.info("before the fork of %d line %d", worker.age, line)

def post_fork(server, worker):
    log.info("a child inherits no job")
"""


@pytest.mark.timeout(120)
def test_recycled_workers_of_a_preloaded_application_store_every_line_once(tmp_path: Path) -> None:
    """More than ten workers come and go: their lines and the master's are all there, each once, in their jobs."""
    (tmp_path / "application.py").write_text(APPLICATION)
    (tmp_path / "configuration.py").write_text(CONFIGURATION)
    directory = tmp_path / "logs"
    output = tmp_path / "output"
    with output.open("wb") as file:
        server = subprocess.Popen(
            dying_with_parent(
                [sys.executable, "-W", "always", "-m", "gunicorn", "-c", "configuration.py", "application"]
            ),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{tmp_path}", "JOBLOG_DIRECTORY": str(directory)},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    try:
        port = _port(server, output)
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda number: _get(port, number), range(REQUESTS)))
        server.send_signal(signal.SIGTERM)
        assert server.wait(40) == 0, output.read_text()
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    assert {answer.split()[1] for answer in answers} == {"None"}, "a worker inherited the master's job"
    workers = {answer.split()[0] for answer in answers}
    lines = [json.loads(line) for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]
    wanted = Counter(
        (str(number % 7), f"request {number} line {line}") for number in range(REQUESTS) for line in range(LINES)
    )
    wanted["preload", "loaded"] = 1
    found = Counter((line["job_id"], line["message"]) for line in lines)
    of_master = {key: found.pop(key) for key in list(found) if key[0] == "master"}
    assert found == wanted, output.read_text()
    assert len(workers) >= 10, "the test is about workers that are recycled"
    assert set(of_master.values()) == {1}
    assert len(of_master) >= 3 * len(workers)
    assert len({(line["origin"], line["seq"]) for line in lines}) == len(lines)
    assert "use of fork()" not in output.read_text(), "Python 3.12+ warns of threads at a fork"


SETTINGS = """
SECRET_KEY = "tests"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "urls"
INSTALLED_APPS = ["joblog_router.contrib.django"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "site.sqlite3"}}
JOBLOG_ROUTER = {"NATS": False, "CELERY": False, "SPOOL": None, "PERMISSION": lambda request, job_id: True}
"""

URLS = """
from django.http import HttpResponse
from django.urls import include, path

urlpatterns = [
    path("jobs/", include("joblog_router.contrib.django.urls")),
    path("shop/", lambda request: HttpResponse("open")),
]
"""


@pytest.mark.timeout(90)
@pytest.mark.parametrize("threads", [1, 2])
def test_open_log_pages_leave_a_thread_for_everybody_else(tmp_path: Path, threads: int) -> None:
    """More streams than the workers have threads: each is answered at once, and so is the site's own page."""
    (tmp_path / "site_settings.py").write_text(SETTINGS)
    (tmp_path / "urls.py").write_text(URLS)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{SRC}{os.pathsep}{tmp_path}",
        "DJANGO_SETTINGS_MODULE": "site_settings",
    }
    subprocess.run([sys.executable, "-m", "django", "migrate", "-v0"], cwd=tmp_path, env=environment, check=True)
    output = tmp_path / "output"
    options = ["--bind", "127.0.0.1:0", "--workers", "1", "--threads", str(threads), "--no-control-socket"]
    options += ["--graceful-timeout", "1"]
    with output.open("wb") as file:
        server = subprocess.Popen(
            dying_with_parent([sys.executable, "-m", "gunicorn", *options, "django.core.wsgi:get_wsgi_application()"]),
            cwd=tmp_path,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    connections = []
    try:
        port = _port(server, output)
        statuses = []
        for _ in range(3):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connections.append(connection)
            connection.request("GET", "/jobs/50/stream/")
            statuses.append(connection.getresponse().status)
        assert statuses == ([204] * 3 if threads == 1 else [200, 204, 204])
        connections[-1].close()
        began = time.monotonic()
        assert _get(port, "shop/") == "open"
        assert time.monotonic() - began < 10
    finally:
        for connection in connections:
            connection.close()
        server.terminate()
        try:
            server.wait(20)
        finally:
            server.kill()
            server.wait()


def _port(server: subprocess.Popen[bytes], output: Path) -> int:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", output.read_text()):
            return int(found[1])
        time.sleep(0.02)  # another process writes the file; up to a deadline
    raise AssertionError(f"gunicorn did not start: {output.read_text()}")


def _get(port: int, number: int | str) -> str:
    """One request on a connection of its own; a worker that is just being recycled may refuse it, unserved."""
    deadline = time.monotonic() + 20
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", f"/{number}")
            return connection.getresponse().read().decode()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
        finally:
            connection.close()
