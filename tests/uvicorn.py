"""One real uvicorn for tests, on a free port of loopback, and a client that keeps its connection."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from tests.helpers import SRC
from tests.servers import dying_with_parent

START_TIMEOUT = 20.0


class Uvicorn:
    """Serves `application` ("module:name", found in `folder`) from the constructor to the end of the `with` block."""

    def __init__(self, folder: Path, application: str, *options: str, **environment: str) -> None:
        self._output = folder / "uvicorn.out"
        command = [sys.executable, "-m", "uvicorn", application, "--host", "127.0.0.1", "--port", "0", *options]
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                dying_with_parent(command),
                cwd=folder,
                env={**os.environ, "PYTHONPATH": f"{SRC}{os.pathsep}{folder}", **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            self.port = self._wait_for_port()
        except BaseException:
            self.close()
            raise

    def _wait_for_port(self) -> int:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            if found := re.search(r"running on http://127\.0\.0\.1:(\d+)", self.text()):
                return int(found[1])
            time.sleep(0.02)  # another process writes the file; up to a deadline
        raise AssertionError(f"uvicorn did not start: {self.text()}")

    def text(self) -> str:
        """What it printed so far."""
        return self._output.read_text(errors="replace")

    def connection(self) -> http.client.HTTPConnection:
        """A connection that is kept from request to request."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        connection = self.connection()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def close(self) -> None:
        """End it as its operator does, and wait for that."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
