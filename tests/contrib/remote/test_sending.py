"""The worker's side where servers answer amiss, files vanish and processes end. Real HTTP, and answers of any kind."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from joblog_router.contrib.remote import send
from joblog_router.contrib.remote.send import RemoteJobLogHandler
from joblog_router.contrib.remote.tokens import issue_token
from tests.contrib.remote.conftest import Worker
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
    elif harm == "cut":
        until(lambda: handler.stats()["dropped"] == 2)  # what is written there before this is found out is lost, too
    with handler.job(issue_token(1)):
        logger.info("kept")
    assert handler.flush(20)
    of_the_job = [line for job, line in front.taken if job == "1"]
    notice = "2 lines were dropped on the worker: they found no room there, or could not be made text"
    assert sorted(of_the_job) == [notice, "kept"]
    stats = handler.stats()
    assert (stats["sent"], stats["dropped"], stats["waiting"]) == (3, 2, 0)


def test_a_file_that_is_given_up_while_its_lines_are_sent_costs_the_next_one_nothing(
    front: Front, logger: logging.Logger, spool: Path
) -> None:
    """The answer to what was sent is not taken for an answer to what was written since."""
    asked, go = threading.Event(), threading.Event()

    def answer(job: str, lines: list[str]) -> Answer:
        asked.set()
        assert go.wait(10)
        return receipt(len(lines))

    front.answer = answer
    handler = RemoteJobLogHandler(front.url, spool=spool)
    logger.addHandler(handler)
    with handler.job(issue_token(1)):
        for number in range(5):
            logger.info("sent %d", number)
        assert asked.wait(10)
        (lane,) = handler._lanes.values()
        assert isinstance(lane, send._FileLane)
        lane._segments[0].close()  # as files are that nobody wrote to for a while
        for file in spool.glob("*.joblog"):
            file.unlink()
        logger.info("later 0")
        go.set()
        for number in range(1, 10):
            logger.info("later %d", number)
    assert handler.flush(20)
    later = [line for _, line in front.taken if line.startswith("later")]
    assert later == [f"later {number}" for number in range(10)]


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


def silent(job: str, lines: list[str]) -> Answer:
    """A server that takes the request and never answers."""
    return None


CONFIGURED = """
import logging.config
def configure(**more):
    logging.config.dictConfig({
        "version": 1, "disable_existing_loggers": False,
        "handlers": {"jobs": {"class": "joblog_send.RemoteJobLogHandler", "url": sys.argv[1], **more}},
        "root": {"level": "INFO", "handlers": ["jobs"]},
    })
"""


def test_nothing_of_loggings_own_waits_for_a_server_that_never_answers(front: Front, worker: Worker) -> None:
    """Not a new configuration, close() or logging.shutdown(): the thread goes on; the end waits its three seconds."""
    front.answer = silent
    begin = time.monotonic()
    out = worker.run(
        CONFIGURED
        + """
configure(timeout=30)
with joblog_send.job(sys.argv[2]):
    log.info("one")
    begin = time.monotonic()
    configure(timeout=30)
    log.info("two")
    log.handlers[0].flush()
    log.handlers[0].close()
    logging.shutdown()
    log.info("three")
    print("configured and closed", time.monotonic() - begin)
""",
        front.url,
        issue_token(7),
    )
    assert float(out.split("configured and closed")[1].split()[0]) < 20, "each would wait for thirty seconds"
    assert time.monotonic() - begin < 25, "three seconds, and the start of Python on a busy machine"
    # Of the old handler, and of the new one, which was closed when the second of its lines was logged.
    assert "the process ends with 1 lines" in out
    assert "the process ends with 2 lines" in out


def test_lines_that_wait_at_a_new_configuration_are_sent(front: Front, worker: Worker) -> None:
    """With the server away, without a spool: the old handler's thread goes on, and flush() of the new one waits."""
    front.answer = unavailable
    process = worker.start(
        CONFIGURED
        + """
configure()
with joblog_send.job(sys.argv[2]):
    log.info("before")
configure()
print("configured", flush=True)
sys.stdin.readline()
with joblog_send.job(sys.argv[2]):
    log.info("after")
assert log.handlers[0].flush(20)
print([handler.stats() for handler in list(joblog_send._handlers)])
""",
        front.url,
        issue_token(7),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "configured\n"
    front.answer = stored
    out, err = process.communicate("\n", timeout=40)
    assert process.returncode == 0, err
    assert sorted(front.taken) == [("7", "after"), ("7", "before")]
    assert "'waiting': 1" not in out


def test_lines_that_wait_for_a_token_get_it_from_the_next_handler(front: Front, logger: logging.Logger) -> None:
    """Nobody has a hold of the old handler any more."""
    old = RemoteJobLogHandler(front.url)
    logger.addHandler(old)
    with send.job_context("7"):
        logger.info("waits")
    old.close()
    RemoteJobLogHandler(front.url).use(issue_token(7))
    until(lambda: front.taken == [("7", "waits")])


@pytest.mark.parametrize("is_spooled", [False, True], ids=["memory", "spool"])
def test_children_of_multiprocessing_send_before_they_end(front: Front, worker: Worker, is_spooled: bool) -> None:
    """Exit functions do not run there; also with a handler that is made in the child."""
    worker.run(
        """
import multiprocessing
def child(number):
    if number == 0:
        log.handlers[:] = [joblog_send.RemoteJobLogHandler(sys.argv[1], spool=spool)]
    with joblog_send.job(sys.argv[2]):
        log.error("line %d", number)
spool = sys.argv[3] if len(sys.argv) > 3 else None
log.addHandler(joblog_send.RemoteJobLogHandler(sys.argv[1], spool=spool))
fork = multiprocessing.get_context("fork")
children = [fork.Process(target=child, args=(number,)) for number in range(3)]
[one.start() for one in children]
[one.join() for one in children]
assert [one.exitcode for one in children] == [0, 0, 0]
""",
        front.url,
        issue_token(7),
        *([str(worker.root / "spool")] if is_spooled else []),
    )
    assert sorted(front.taken) == [("7", f"line {number}") for number in range(3)]


def test_what_a_dead_child_left_is_sent_by_its_parent(front: Front, worker: Worker) -> None:
    """It ended by os._exit: flush() of whoever lives looks for its files; so does the sending thread now and then."""
    worker.run(
        """
import os
joblog_send._LOOK = 0.2
handler = joblog_send.RemoteJobLogHandler(sys.argv[1], spool=sys.argv[3])
log.addHandler(handler)
def die(text):
    if not os.fork():
        with joblog_send.job(sys.argv[2]):
            handler._wake = lambda: None  # the child has no time to send
            log.error(text)
        os._exit(0)
    os.wait()
for text in ("one", "two"):
    die(text)
    assert handler.flush(20)
assert handler.stats()["sent"] == 2, handler.stats()
die("three")
until = time.monotonic() + 20
while handler.stats()["sent"] < 3:
    assert time.monotonic() < until, handler.stats()
    time.sleep(0.02)  # the sender tells nobody what it has sent
""",
        front.url,
        issue_token(7),
        str(worker.root / "spool"),
    )
    assert [line for _, line in front.taken] == ["one", "two", "three"]


@pytest.mark.parametrize("is_spooled", [False, True], ids=["memory", "spool and logging.shutdown()"])
def test_an_exit_function_that_was_registered_first_is_heard(front: Front, worker: Worker, is_spooled: bool) -> None:
    """It runs after this file's own and logging's: its line is sent at once."""
    out = worker.run(
        """
import atexit
def last():
    with joblog_send.job(sys.argv[2]):
        log.error("goodbye")
for function in (joblog_send._at_exit, logging.shutdown):
    atexit.unregister(function)
for function in (last, logging.shutdown, joblog_send._at_exit):
    atexit.register(function)  # as if they had been registered in this order
log.addHandler(joblog_send.RemoteJobLogHandler(sys.argv[1], spool=(sys.argv + [None])[3]))
with joblog_send.job(sys.argv[2]):
    log.error("work")
if len(sys.argv) > 3:
    logging.shutdown()
""",
        front.url,
        issue_token(7),
        *([str(worker.root / "spool")] if is_spooled else []),
    )
    assert front.taken == [("7", "work"), ("7", "goodbye")]
    assert out == ""


def test_what_waits_in_memory_is_bounded_by_bytes_over_all_jobs(front: Front, logger: logging.Logger) -> None:
    """What was sent makes room again; what did not fit is counted and told, for each job."""
    front.answer = unavailable
    handler = RemoteJobLogHandler(front.url, capacity_bytes=1_000_000)
    logger.addHandler(handler)
    for number in range(2):
        with handler.job(issue_token(number)):
            for _ in range(20):
                logger.info("x" * 50_000)
    assert handler.stats()["dropped"] == 21, "there is room for 19 of 50,000 bytes and a little more each"
    front.answer = stored
    assert handler.flush(20)
    with handler.job(issue_token(2)):
        for _ in range(19):
            logger.info("x" * 50_000)
    assert handler.flush(20)
    stats = handler.stats()
    assert (stats["dropped"], stats["waiting"]) == (21, 0)
    lines = [line for _, line in front.taken]
    assert lines.count("x" * 50_000) == 19 + 19
    assert sum(int(line.split()[0]) for line in lines if "were dropped" in line) == 21


def test_threads_take_room_and_give_it_back_without_a_drift() -> None:
    """None waits for another, and the sum is right when they are done, though they change at every step."""
    room = send._Room(1_000)

    def change(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code.co_name != "take":
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            time.sleep(0)  # lets another thread run between two steps of this one
        return change

    def work() -> None:
        for _ in range(50):
            room.take(3)
            room.take(-2)

    threads = [threading.Thread(target=work) for _ in range(4)]
    threading.settrace(change)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.settrace(None)
    room.take(0)
    assert (room.has(800), room.has(801)) == (True, False)


def test_a_thread_that_logs_waits_for_no_other(front: Front, logger: logging.Logger) -> None:
    """Not for one that holds the handler's lock, as logging.shutdown() and a new configuration do."""
    handler = RemoteJobLogHandler(front.url)
    logger.addHandler(handler)
    handler.addFilter(lambda record: record.getMessage() != "filtered")
    logged = threading.Event()

    def work() -> None:
        with handler.job(issue_token(7)):
            logger.info("filtered")
            logger.info("line")
        logged.set()

    handler.acquire()
    try:
        threading.Thread(target=work).start()
        assert logged.wait(10)
    finally:
        handler.release()
    assert handler.flush(10)
    assert front.taken == [("7", "line")]
