"""The site of the browser tests in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Site:
    """Uvicorn with the site on a port of its own. `say` logs in it; `stop` and `start` restart it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "JOBLOG_TEST_SITE": str(folder),
            "DJANGO_SETTINGS_MODULE": "tests.browser.settings",
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        for alias in ("default", "joblog"):
            self._python("-m", "django", "migrate", "--verbosity", "0", "--database", alias).wait(60)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _python(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=self.environment)

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it answers."""
        arguments = ["--port", str(self.port), "--lifespan", "off", "--log-level", "error"]
        self._process = self._python("-m", "uvicorn", *arguments, "tests.browser.asgi:application")
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, "the site did not start"
            assert time.monotonic() < deadline
            time.sleep(0.05)  # nobody tells when a port is open

    def stop(self) -> None:
        """End the server at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def say(self, job: str, *messages: str, level: int = 20, **extra: Any) -> None:
        """Have the site log lines."""
        lines = [(job, level, message, extra) for message in messages]
        request = urllib.request.Request(f"{self.url}/say/", json.dumps(lines).encode())
        urllib.request.urlopen(request, timeout=20).close()

    def fill(self, job: str, count: int, start: float = 1_700_000_000.0, step: float = 0.01, origin: str = "") -> None:
        """Put `count` lines into the table directly; every thousandth is an error, every hundredth a warning."""

        def level(number: int) -> int:
            return 40 if number % 1000 == 500 else 30 if number % 100 == 50 else 20

        rows = (
            (job, round((start + number * step) * 1e6), level(number), f"Processed image {number} of {count}", number)
            for number in range(count)
        )
        origin = origin or f"{job}-1"
        connection = sqlite3.connect(self.folder / "joblog.sqlite3", timeout=30)
        connection.executemany(
            "INSERT INTO joblog_router_joblogentry (namespace, job_id, created, level, logger, message, exception,"
            " fields, path, line, audience, origin, seq, n)"
            f" VALUES ('', ?, ?, ?, 'survey.images', ?, '', '{{}}', '/srv/x.py', 7, 'all', '{origin}', ?, 1)",
            rows,
        )
        connection.commit()
        connection.close()
