"""The examples run as they stand, in processes of their own, against real servers."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.helpers import SRC, run_script
from tests.servers import NatsServer, dying_with_parent

EXAMPLES = Path(__file__).parents[1] / "examples"


def logs(directory: Path) -> dict[str, list[str]]:
    """The messages of each job's file."""
    return {
        path.stem: [json.loads(line)["message"] for line in path.read_text().splitlines()]
        for path in directory.glob("*.jsonl")
    }


def as_documented(example: str, folder: Path) -> list[list[str]]:
    """The commands of an example's docstring but those that install, for `folder`, which then has the examples."""
    (folder / "examples").symlink_to(EXAMPLES)
    text = ast.get_docstring(ast.parse((EXAMPLES / example).read_text())) or ""
    programs = {
        "python": [sys.executable],
        "joblog": [sys.executable, "-m", "joblog_router"],
        "uvicorn": [sys.executable, "-m", "uvicorn"],
    }
    lines = [shlex.split(line) for line in re.findall(r"^    (\w+ .*)$", text, re.MULTILINE)]
    return [[*programs[name], *rest] for name, *rest in lines if name in programs]


def in_folder(command: list[str], folder: Path) -> str:
    """What a command prints that runs there."""
    environment = {**os.environ, "PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"}
    for name in ("DJANGO_SETTINGS_MODULE", "JOBLOG_STORE"):
        environment.pop(name, None)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_script_as_its_docstring_says(tmp_path: Path) -> None:
    """Typed in beside `examples`: what it prints, the one log, and nothing written but under `var`."""
    run, tail = as_documented("script/job.py", tmp_path)
    assert "INFO [resize-2] images: resized c.png" in in_folder(run, tmp_path)
    told = in_folder(tail, tmp_path)
    for text in ("resized a.png", "resized b.png", "resize-1 is done"):
        assert text in told
    assert "c.png" not in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples", "var"]


def test_the_nats_worker_as_its_docstring_says(nats_server: NatsServer, tmp_path: Path) -> None:
    """With another server, as the usual port is not the tests'."""
    run, tail = as_documented("nats/worker.py", tmp_path)
    assert in_folder([*run, nats_server.url], tmp_path) == ""
    told = in_folder(tail, tmp_path)
    assert "worked on 20 images" in told
    assert "Deleted NATS stream job_1" in told
    assert "job_2" not in told


def test_the_script_keeps_two_jobs_apart(tmp_path: Path) -> None:
    """Each job's file has its own lines, the console the job of each."""
    done = run_script(EXAMPLES / "script" / "job.py", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = logs(tmp_path)
    assert sorted(found["resize-1"]) == ["resize-1 is done", "resized a.png", "resized b.png"]
    assert found["resize-2"] == ["resized c.png", "resize-2 is done"]
    assert "INFO [None] images: outside of any job" in done.stderr
    assert "INFO [resize-1] images: resized a.png" in done.stderr


def test_nats_events_of_two_jobs_on_one_connection(nats_server: NatsServer, tmp_path: Path) -> None:
    """Each log tells of its own stream, the sum of what was published, and its own work."""
    done = run_script(EXAMPLES / "nats" / "worker.py", nats_server.url, str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = logs(tmp_path)
    assert "worked on 20 images" in found["1"]
    assert "worked on 5 images" in found["2"]
    for job, other in (("1", "2"), ("2", "1")):
        assert any(f"job_{job}" in message for message in found[job])
        assert not any(f"job_{other}" in message for message in found[job])


@pytest.mark.timeout(120)
def test_fastapi_serves_a_jobs_log(tmp_path: Path) -> None:
    """A job that a request starts, with tasks and threads: its log by HTTP, from a real uvicorn."""
    with subprocess.Popen(
        dying_with_parent([*as_documented("fastapi/app.py", tmp_path)[0], "--port", "0"]),
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(SRC),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            told = iter(server.stderr)
            base = next(f"{found[0]}" for line in told if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            for job in ("7", "8"):
                request = urllib.request.Request(f"{base}/jobs/{job}", method="POST")
                assert urllib.request.urlopen(request, timeout=20).status == 202
            for job in ("7", "8"):
                deadline = time.monotonic() + 20
                while len(lines := json.load(urllib.request.urlopen(f"{base}/jobs/{job}/log", timeout=20))) < 5:
                    assert time.monotonic() < deadline, lines
                    time.sleep(0.05)  # the background task is on its way
                assert lines[0] == "INFO shop.work: started"
                assert lines[-1] == "INFO shop.work: done"
                assert len(lines) == 5
        finally:
            server.terminate()
