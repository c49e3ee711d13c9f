"""Log calls where other code is interrupted: signal handlers, `__del__`, exit functions. None waits, all are stored.

Each in a process of its own, which a deadlock would keep from ending: the timeout tells. Finalizers name their job in
`extra`: Python 3.11 itself crashes where a collection inside of `ContextVar.set` runs one that sets a variable.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.helpers import run_python

SETUP = """
import atexit, gc, itertools, logging, logging.config, os, signal, sys, threading, time
import joblog_router
from joblog_router import job_context, flush
log = logging.getLogger("app")
def configure():
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
        "filters": {"job": {"()": "joblog_router.JobContextFilter"}},
        "handlers": {"console": {"class": "logging.StreamHandler", "filters": ["job"], "level": "CRITICAL"},
                     "job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                             "options": {"directory": sys.argv[1]}}},
        "root": {"level": "INFO", "handlers": ["console", "job"]}})
configure()
"""


def stored(directory: Path) -> Counter[tuple[str, str]]:
    """How often each message stands in each job's log."""
    lines = [json.loads(line) for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]
    return Counter((line["job_id"], line["message"]) for line in lines)


def test_signal_handlers_that_log_interrupt_anything_and_wait_for_nothing(tmp_path: Path) -> None:
    """A thousand signals into logging calls, scopes, flushes and counters of the main thread: each line once."""
    result = run_python(
        SETUP
        + """
numbers = itertools.count(1)
caught = 0
def handler(number, frame):
    global caught
    mine = caught = next(numbers)  # another signal may interrupt right here
    with job_context("signal"):
        log.info("signal %d", mine)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
made = 0
until = time.monotonic() + 20
while caught < 1000 and time.monotonic() < until:
    with job_context("main"):
        for _ in range(20):
            log.info("main %d", made)
            made += 1
    if made % 200 == 0:
        assert flush(10)
    joblog_router.stats()
    if made % 2000 == 0:
        configure()
signal.setitimer(signal.ITIMER_REAL, 0)
assert flush(10)
print(caught, made)
""",
        str(tmp_path),
        timeout=45,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    caught, made = map(int, result.stdout.split())
    assert caught >= 1000
    lines = stored(tmp_path)
    # A signal that comes while dictConfig has taken the handlers off reaches none; that is logging's own gap.
    of_signals = {message for job, message in lines if job == "signal"}
    assert caught - len(of_signals) <= made // 2000
    assert {message for job, message in lines if job == "main"} == {f"main {number}" for number in range(made)}
    assert set(lines.values()) == {1}


def test_a_line_of_a_signal_handler_is_about_the_job_it_names_or_interrupts(tmp_path: Path) -> None:
    """The handler runs in whatever code it meets: its own scope wins, and the interrupted job's is back behind it."""
    result = run_python(
        SETUP
        + """
def handler(number, frame):
    log.info("no scope of its own")
    with job_context("signal"):
        log.info("its own scope")
    with joblog_router.detached():
        log.info("about nobody")
signal.signal(signal.SIGUSR1, handler)
with job_context("interrupted"):
    os.kill(os.getpid(), signal.SIGUSR1)
    log.info("after")
os.kill(os.getpid(), signal.SIGUSR1)
""",
        str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert stored(tmp_path) == {
        ("interrupted", "no scope of its own"): 1,
        ("interrupted", "after"): 1,
        ("signal", "its own scope"): 2,
    }


def test_finalizers_that_log_inside_of_logging_and_of_the_writer_end(tmp_path: Path) -> None:
    """`__del__` logs from garbage collections at every allocation, in the main thread, threads and the writer."""
    result = run_python(
        SETUP
        + """
made = threading.local()
total = [0]
lock = threading.Lock()
class Node:
    def __init__(self, number):
        self.number = number
        self.me = self  # only a collection frees it
    def __del__(self):
        log.info("freed %d", self.number, extra={"job_log_id": "finalizer"})
gc.set_threshold(7, 2, 2)
def work(index):
    with job_context(index):
        for number in range(400):
            Node(index * 400 + number)
            log.info("line %d", number, extra={"data": [{} for _ in range(5)]})
            if number % 100 == 0:
                flush(10)
threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
for thread in threads:
    thread.start()
work(4)
for thread in threads:
    thread.join()
gc.set_threshold(700)
gc.collect()
assert flush(10)
""",
        str(tmp_path),
        timeout=45,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    lines = stored(tmp_path)
    assert {message for job, message in lines if job == "finalizer"} == {f"freed {number}" for number in range(2000)}
    for index in range(5):
        assert {message for job, message in lines if job == str(index)} == {f"line {number}" for number in range(400)}
    assert set(lines.values()) == {1}


def test_finalizers_that_log_while_the_interpreter_ends_harm_nothing(tmp_path: Path) -> None:
    """What is freed with the module's globals logs when nearly all is gone: the process ends as it would have."""
    result = run_python(
        SETUP
        + """
class Held:
    def __del__(self):
        with job_context(1):
            log.info("freed at the end")
held = Held()
held.me = held
with job_context(1):
    log.info("before the end")
""",
        str(tmp_path),
    )
    assert result.returncode == 0
    assert result.stderr == ""
    assert stored(tmp_path)["1", "before the end"] == 1


def test_exit_functions_before_and_after_the_configuration_log_and_are_stored(tmp_path: Path) -> None:
    """Those registered before logging was even imported run last, when everything else has ended."""
    code = (
        """
import atexit
def first():
    with job_context(1):
        for number in range(200):
            log.info("first %d", number)
    if sys.argv[2] == "shutdown":
        logging.shutdown()
        with job_context(1):
            log.info("after the shutdown")
atexit.register(first)
"""
        + SETUP
        + """
def second():
    with job_context(2):
        for number in range(200):
            log.info("second %d", number)
atexit.register(second)
"""
    )
    for how, more in (("shutdown", 1), ("end", 0)):
        result = run_python(code, str(tmp_path / how), how)
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        lines = stored(tmp_path / how)
        assert set(lines.values()) == {1}
        assert sum(job == "1" for job, _ in lines) == 200 + more, how
        assert sum(job == "2" for job, _ in lines) == 200, how


def test_an_exit_function_waits_once_for_a_store_that_is_away(tmp_path: Path) -> None:
    """Three seconds at the end of our own exit function and three in one that runs later, not for every line."""
    result = run_python(
        """
import atexit
def first():
    start = time.monotonic()
    with job_context(1):
        for number in range(50):
            log.info("first %d", number)
    print(time.monotonic() - start < 6)
atexit.register(first)
"""
        + SETUP
        + """
class Away:
    def write(self, entries):
        raise OSError("the store is away")
    def close(self):
        pass
logging.getLogger().handlers[:] = [joblog_router.JobLogHandler(sink=Away())]
""",
        str(tmp_path),
    )
    assert result.stdout.split() == ["True"], result.stderr
    assert result.returncode == 0


def test_logging_shutdown_stores_what_waits_and_the_handlers_go_on(tmp_path: Path) -> None:
    """Called in the middle of a process, as test runners and daemons do, beside threads that log: no line is lost."""
    result = run_python(
        SETUP
        + """
stop = threading.Event()
made = [0] * 3
def busy(index):
    with job_context(index):
        while not stop.is_set():
            log.info("line %d", made[index])
            made[index] += 1
            time.sleep(0.0005)  # the pace of a busy thread
threads = [threading.Thread(target=busy, args=(index,)) for index in range(3)]
for thread in threads:
    thread.start()
start = time.monotonic()
for _ in range(20):
    logging.shutdown()
    time.sleep(0.02)
took = time.monotonic() - start
stop.set()
for thread in threads:
    thread.join(10)
with job_context("main"):
    log.info("after")
logging.shutdown()
print(took < 5, *made)
""",
        str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    in_time, *made = result.stdout.split()
    assert in_time == "True", "logging.shutdown waited for the store"
    lines = stored(tmp_path)
    assert set(lines.values()) == {1}
    assert lines["main", "after"] == 1
    assert sum(lines.values()) == sum(map(int, made)) + 1


def test_configuring_twice_a_second_beside_signals_and_finalizers_ends(tmp_path: Path) -> None:
    """All of it at once, with loggers never used before, whose first call needs logging's own lock: no deadlock."""
    result = run_python(
        SETUP
        + """
stop = threading.Event()
class Node:
    def __init__(self):
        self.me = self
    def __del__(self):
        log.info("freed", extra={"job_log_id": "finalizer"})
def handler(number, frame):
    # Enters no scope: before Python 3.12, where a collection may begin in the middle of setting a context variable, one
    # that is set by a signal in a finalizer then frees what the interpreter is reading, whosever variables they are.
    log.info("signal", extra={"job_log_id": "signal"})
def busy(index):
    number = 0
    with job_context(index):
        while not stop.is_set():
            Node()
            number += 1
            logging.getLogger(f"busy.{index}.{number % 300}").info("line")
            time.sleep(0.0005)  # the pace of a busy thread
gc.set_threshold(20, 2, 2)
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
threads = [threading.Thread(target=busy, args=(index,)) for index in range(3)]
for thread in threads:
    thread.start()
rounds = 0
until = time.monotonic() + 2.5
while time.monotonic() < until or rounds <= 10:
    configure()
    rounds += 1
    time.sleep(0.05)
stop.set()
signal.setitimer(signal.ITIMER_REAL, 0)
for thread in threads:
    thread.join(10)
print(any(thread.is_alive() for thread in threads), flush(30))
""",
        str(tmp_path),
        env={"COVERAGE_PROCESS_CONFIG": ""},  # where it is measured: what traces it does not survive such signals
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["False", "True"], result.stderr
