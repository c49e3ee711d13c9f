"""Whose line it is on a worker: the copied file keeps jobs apart as the installed library does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contrib.remote.conftest import Receiver, Worker

pytestmark = pytest.mark.timeout(120)

PREAMBLE = """
import asyncio, contextvars, gc, logging, os, sys
handler = joblog_send.RemoteJobLogHandler(sys.argv[1])
X, A, B = sys.argv[2:]
log = logging.getLogger("app")
logging.getLogger().addHandler(handler)
log.setLevel("INFO")
job = handler.job
"""
Run = Callable[[str], dict[str, list[str]]]


@pytest.fixture(params=["copied", "installed"])
def run(request: pytest.FixtureRequest, receiver: Receiver, tmp_path: Path) -> Run:
    """Runs code on a worker that has the file alone, or the library, and gives the lines of the jobs X, A and B."""

    def call(code: str) -> dict[str, list[str]]:
        code = PREAMBLE + code + "\nassert handler.flush(20)\n"
        arguments = [receiver.url, *map(receiver.token, "XAB")]
        if request.param == "copied":
            Worker(tmp_path / "worker").run(code, *arguments)
        else:
            code = "import joblog_router.contrib.remote.send as joblog_send\n" + code
            subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=40)
        return {job: receiver.rows(job) for job in "XAB"}

    return call


def test_scopes_that_are_left_in_another_order_than_entered(run: Run) -> None:
    """Each line is of the job that was opened last and is still open; what was closed in between comes back nowhere."""
    lines = run(
        """
with job(X):
    a, b = job(A), job(B)
    a.__enter__()
    b.__enter__()
    a.__exit__(None, None, None)
    log.info("A was left first")
    b.__exit__(None, None, None)
    log.info("both were left")
with job(X), job(A) as inner:
    with job(A):
        with job(B):
            pass
        log.info("inner")
log.info("nobody's")

async def main():
    of_a = job(A)
    async def enter():
        of_a.__enter__()
        log.info("entered")
    async def evict():
        with job(B):
            of_a.__exit__(None, None, None)  # a pool drops what another task had set up
            log.info("left by the task of B")
    with job(X):
        await asyncio.create_task(enter())
        await asyncio.create_task(evict())
        log.info("X goes on")
asyncio.run(main())
"""
    )
    assert lines == {
        "X": ["X goes on"],
        "A": ["inner", "entered"],
        "B": ["A was left first", "left by the task of B"],
    }


def test_what_outlives_its_job_is_of_no_job(run: Run) -> None:
    """A context that inherited a closed scope: not of the job around that; of its own job if that is still open."""
    lines = run(
        """
with job(X):
    with job(A):
        late = contextvars.copy_context()
    late.run(log.info, "late in X")
    with job(X):
        again = contextvars.copy_context()
    again.run(log.info, "X is open still")
def plain():
    with joblog_send.job_context("B"):
        log.info("opened by what is late")
late.run(plain)
handler.use(B)
"""
    )
    assert lines == {"X": ["X is open still"], "A": [], "B": ["opened by what is late"]}


def test_the_event_loops_own_lines_are_of_no_job(run: Run) -> None:
    """A task's exception that nobody fetched is told by the garbage collector, in any job; an addressed line goes."""
    lines = run(
        """
told = []
class Told(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())
logging.getLogger("asyncio").addHandler(Told())

async def boom():
    raise RuntimeError("of A")
async def main():
    with job(A):
        task = asyncio.create_task(boom())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    with job(B):
        del task
        gc.collect()
        log.info("of B")
        logging.getLogger("asyncio").warning("for B", extra={"job_log_id": "B"})
asyncio.run(main())
assert "never retrieved" in told[0]
"""
    )
    assert lines == {"X": [], "A": [], "B": ["of B", "for B"]}


def test_the_child_of_a_fork_is_in_no_job(run: Run) -> None:
    """Its parent goes on with the job. In the child all contexts are out of it; it may open it, or another, itself."""
    lines = run(
        """
with job(A, step=1):
    log.info("before")
    assert handler.flush(20)
    inherited = contextvars.copy_context()
    child = os.fork()
    if not child:
        log.info("child")
        inherited.run(log.info, "child, in a context of its parent's")
        with job(B):
            log.info("child, in a job of its own")
        with job(A):
            log.info("child, in the same job")
        log.info("child again")
        os._exit(not handler.flush(20))
    assert os.waitpid(child, 0)[1] == 0
    log.info("parent")
"""
    )
    assert sorted(lines["A"]) == ["before", "child, in the same job", "parent"]
    assert (lines["B"], lines["X"]) == (["child, in a job of its own"], [])


def test_a_fork_that_runs_no_hooks_is_in_no_job_either(worker: Worker) -> None:
    """As a C library's: seen by the number of the process."""
    out = worker.run(
        """
import base64, ctypes, json, os
handler = joblog_send.RemoteJobLogHandler("http://127.0.0.1:9/")
log.addHandler(handler)
log.setLevel("INFO")
with joblog_send.job(base64.b64encode(b'{"job": "7"}').decode()):
    log.info("parent")
    child = ctypes.PyDLL(None).fork()
    if not child:
        waiting = handler.stats()["waiting"]
        log.info("child")
        os._exit(10 + handler.stats()["waiting"] - waiting)
    log.info("parent goes on")
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), handler.stats()["waiting"], flush=True)
os._exit(0)  # nobody listens there
"""
    )
    assert out.splitlines()[0] == "10 2"
