"""The worker's side where servers answer amiss, files vanish and processes end. Real HTTP, and answers of any kind."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from joblog_router.contrib.remote import send
from joblog_router.contrib.remote.send import RemoteJobLogHandler
from joblog_router.contrib.remote.tokens import issue_token
from tests.helpers import until

pytestmark = pytest.mark.timeout(60)

# A status, a content type and a body; None: no answer for as long as the server lives.
Answer = tuple[int, str, bytes] | None


def receipt(count: int, **more: Any) -> Answer:
    """What the receiver says of so many lines."""
    return 200, "application/json", json.dumps({"stored": count, "known": 0, "refused": 0, **more}).encode()


class Front:
    """What stands at the address: it answers as `answer` says of a job and its lines; what it took, by job."""

    def __init__(self) -> None:
        self.answer: Callable[[str, list[str]], Answer] = lambda job, lines: receipt(len(lines))
        self.taken: list[tuple[str, str]] = []
        self.requests = 0
        self.over = threading.Event()
        front = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                front.requests += 1
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                job = send._Grant(self.headers["Authorization"].split()[1]).job_id
                lines = [str(entry["message"]) for entry in body["entries"]]
                answer = front.answer(job, lines)
                if answer is None:
                    front.over.wait()
                    return
                status, kind, text = answer
                if answer == receipt(len(lines)):
                    front.taken += [(job, line) for line in lines]
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/receive/"

    def close(self) -> None:
        """End it."""
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def front() -> Iterator[Front]:
    """Such a server."""
    made = Front()
    yield made
    made.close()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A directory as the spool's must be."""
    made = tmp_path / "spool"
    made.mkdir(0o700)
    return made


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of the test's own. Its handlers are rid of what waits in them."""
    made = logging.getLogger("remote.sending")
    made.setLevel(logging.DEBUG)
    made.propagate = False
    yield made
    for handler in [one for one in made.handlers if isinstance(one, RemoteJobLogHandler)]:
        made.removeHandler(handler)
        assert handler.flush(10), handler.stats()
        handler.close()


@pytest.mark.parametrize(
    "amiss",
    [
        (200, "text/html", b"<html>We are back soon</html>"),
        (200, "application/json", b'{"stored": null, "known": 0, "refused": 0}'),
        (200, "application/json", b'{"stored": true, "known": 0, "refused": 0}'),
        (200, "application/json", b'{"stored": 1}'),
        receipt(1, taken=2),
        (204, "text/plain", b""),
        (400, "text/html", b"<html>The plain HTTP request was sent to HTTPS port</html>"),
        (401, "text/html", b"<html>Log in</html>"),
    ],
    ids=["page", "null", "bool", "one figure", "another batch", "empty", "proxy's 400", "proxy's 401"],
)
def test_only_the_receivers_own_answer_counts(
    front: Front, logger: logging.Logger, amiss: Answer, capfd: pytest.CaptureFixture[str], spool: Path
) -> None:
    """Whatever else answers is said, by what it is and where; the lines wait and are stored later, with the token."""
    front.answer = lambda job, lines: amiss
    handler = RemoteJobLogHandler(front.url, spool=spool)
    logger.addHandler(handler)
    with handler.job(issue_token(7)):
        logger.info("line")
    assert not handler.flush(0.3)
    assert front.requests > 0
    stats = handler.stats()
    assert (stats["sent"], stats["refused"], stats["waiting"]) == (0, 0, 1)
    said = capfd.readouterr().err
    assert amiss is not None
    assert front.url in said
    assert f"{amiss[0]} {amiss[1]}" in said
    front.answer = lambda job, lines: receipt(len(lines), taken=len(lines))
    assert handler.flush(10)
    assert handler.stats()["sent"] == 1


def unavailable(job: str, lines: list[str]) -> Answer:
    """A store that is away."""
    return 503, "application/json", b'{"error": "unavailable"}'


def stored(job: str, lines: list[str]) -> Answer:
    """All is well."""
    return receipt(len(lines))


def open_files(directory: Path) -> list[str]:
    """Which files below it this process has open."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(fd.readlink()))
    return [name for name in found if name.startswith(f"{directory}/") and name.endswith(".joblog")]


@pytest.mark.parametrize("harm", ["removed", "cut", "unreadable"])
def test_what_happens_to_one_jobs_file_costs_its_own_lines(
    front: Front, logger: logging.Logger, spool: Path, harm: str
) -> None:
    """Other jobs go on; the lines are counted, in the job's log, too; its next line is kept."""
    front.answer = unavailable
    handler = RemoteJobLogHandler(front.url, spool=spool)
    logger.addHandler(handler)
    with handler.job(issue_token(1)):
        logger.info("lost")
        logger.info("lost, too")
    until(lambda: not open_files(spool))
    (file,) = spool.glob("*.joblog")
    if harm == "cut":
        file.write_bytes(b"")
    else:
        file.unlink()
        if harm == "unreadable":
            file.mkdir()
    front.answer = stored
    with handler.job(issue_token(2)):
        logger.info("of another job")
    until(lambda: ("2", "of another job") in front.taken)
    if harm == "unreadable":
        file.rmdir()
    with handler.job(issue_token(1)):
        logger.info("kept")
    assert handler.flush(20)
    of_the_job = [line for job, line in front.taken if job == "1"]
    notice = "2 lines were dropped on the worker: they could not be kept there until they were sent"
    assert sorted(of_the_job) == [notice, "kept"]
    stats = handler.stats()
    assert (stats["sent"], stats["dropped"], stats["waiting"]) == (3, 2, 0)


def test_a_job_that_logs_all_the_time_does_not_hold_up_others(front: Front, logger: logging.Logger) -> None:
    """It has its turn, and then the next has."""
    handler = RemoteJobLogHandler(front.url, batch=1)
    logger.addHandler(handler)

    def answer(job: str, lines: list[str]) -> Answer:
        if job == "1" and not any(job == "2" for job, _ in front.taken):
            with handler.job(issue_token(1)):
                logger.info("one more")  # there is always one more when the last is stored
        return receipt(len(lines))

    front.answer = answer
    with handler.job(issue_token(1)):
        logger.info("first")
    until(lambda: front.requests > 2)
    with handler.job(issue_token(2)):
        logger.info("of another job")
    until(lambda: ("2", "of another job") in front.taken, 10)
