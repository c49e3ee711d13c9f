"""The examples run as they stand, in processes of their own, against real servers."""

from __future__ import annotations

import json
import os
import re
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
        dying_with_parent([sys.executable, "-m", "uvicorn", "app:app", "--port", "0"]),
        cwd=EXAMPLES / "fastapi",
        env={
            **os.environ,
            "PYTHONPATH": str(SRC),
            "JOBLOG_DIRECTORY": str(tmp_path),
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
