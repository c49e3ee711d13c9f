"""Fork: no line lost, none doubled, no job inherited, no warning, no deadlock. In processes of their own."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from pathlib import Path

from tests.helpers import run_python, run_script

SETUP = """
import logging, logging.config, os, sys, threading, time
import joblog_router
from joblog_router import aflush, flush, job_context, stats
log = logging.getLogger("app")
def configure():
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
        "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                             "options": {"directory": sys.argv[1]}}},
        "root": {"level": "INFO", "handlers": ["job"]}})
configure()
"""

# A thread that waits for the interpreter's lock at the moment of a fork without hooks is counted in the child's copy of
# the lock for ever, and the child hangs on it, whatever it does. So the writer looks at its lines once and then sleeps
# until it is told to flush; there is no event for "the thread sleeps".
SLEEPING_WRITER = """
from joblog_router._pipeline import writer
writer.LINGER = writer._LOOK = 60
"""


def stored(directory: Path) -> list[dict[str, object]]:
    """Every line of every job in `directory`."""
    return [json.loads(line) for path in directory.glob("*.jsonl") for line in path.read_text().splitlines()]


def test_thirty_forks_from_a_busy_parent_store_every_line_once(tmp_path: Path) -> None:
    """Threads log in the parent while it forks; children log and leave by os._exit: all lines, each once."""
    result = run_python(
        SETUP
        + """
stop = threading.Event()
made = [0, 0, 0]
def busy(index):
    with job_context("parent"):
        while not stop.is_set():
            log.info("parent %d %d", index, made[index])
            made[index] += 1
            if made[index] % 20 == 0:
                time.sleep(0.001)
threads = [threading.Thread(target=busy, args=(index,)) for index in range(3)]
for thread in threads:
    thread.start()
children = []
with job_context("parent"):
    for number in range(30):
        pid = os.fork()
        if pid == 0:
            log.info("the child has no job")
            with job_context("child"):
                for line in range(50):
                    log.info("child %d %d", number, line)
            os._exit(0 if flush(10) else 1)
        children.append(pid)
statuses = [os.waitpid(pid, 0)[1] for pid in children]
stop.set()
for thread in threads:
    thread.join()
assert flush(20)
print(sum(made), statuses.count(0), joblog_router.stats()["stored"])
""",
        str(tmp_path),
        timeout=55,
    )
    assert result.returncode == 0, result.stderr
    parent, finished, counted = map(int, result.stdout.split())
    assert finished == 30, result.stderr
    lines = stored(tmp_path)
    times = Counter(line["message"] for line in lines)
    assert set(times.values()) == {1}
    assert sum(line["job_id"] == "child" for line in lines) == 1500
    assert sum(line["job_id"] == "parent" for line in lines) == parent == counted
    assert len({(line["origin"], line["seq"]) for line in lines}) == len(lines)
    assert len({line["origin"] for line in lines}) == 31


def test_a_fork_beside_the_writer_warns_nobody(tmp_path: Path) -> None:
    """Python 3.12+ warns of threads at a fork: the writer is gone then, and comes back with the next line."""
    result = run_python(
        # Not "error": of a fork's warning that is raised, Python 3.13 tells nobody.
        "import warnings; warnings.simplefilter('always')\n"
        + SETUP
        + """
children = []
with job_context(1):
    for number in range(20):
        log.info("before %d", number)
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        children.append(pid)
        if number % 2:
            log.info("after %d", number)
print(sum(os.waitpid(pid, 0)[1] for pid in children), flush(10))
""",
        str(tmp_path),
    )
    assert result.stdout.split() == ["0", "True"], result.stderr
    assert result.stderr == ""
    wanted = [f"{when} {number}" for number in range(20) for when in ("before", "after")[: 1 + number % 2]]
    assert [line["message"] for line in stored(tmp_path)] == wanted


def test_what_waits_at_a_fork_is_stored_though_nobody_logs_again(tmp_path: Path) -> None:
    """More than one batch, and lines of a store that is away at the moment of the fork."""
    result = run_python(
        SETUP
        + """
class Away:
    away = True
    kept = []
    stored = threading.Event()
    def write(self, entries):
        if self.away:
            raise OSError("the store is away")
        self.kept.extend(entries)
        if len(self.kept) == 2000:
            self.stored.set()
    def close(self):
        pass
logging.getLogger().addHandler(joblog_router.JobLogHandler(sink=Away(), fold=False))
with job_context(1):
    for number in range(2000):
        log.info("line %d", number)
start = time.monotonic()
pid = os.fork()
if pid == 0:
    os._exit(0)
took = time.monotonic() - start
Away.away = False
print(os.waitpid(pid, 0)[1], took < 2, Away.stored.wait(10))
""",
        str(tmp_path),
    )
    assert result.stdout.split() == ["0", "True", "True"], result.stderr
    assert len(stored(tmp_path)) == 2000


def test_a_child_has_all_its_room_from_its_first_line_on(tmp_path: Path) -> None:
    """Also for DEBUG lines, which go first where there is little."""
    result = run_python(
        SETUP
        + """
logging.getLogger().setLevel(logging.DEBUG)
if (pid := os.fork()) == 0:
    with job_context(1):
        log.debug("first")
        log.debug("second")
    os._exit(0 if flush(10) and not stats()["dropped"] else 1)
print(os.waitpid(pid, 0)[1])
""",
        str(tmp_path),
    )
    assert result.stdout.split() == ["0"], result.stderr
    assert [line["message"] for line in stored(tmp_path)] == ["first", "second"]


def test_scopes_of_the_parent_are_closed_in_the_child_wherever_they_are(tmp_path: Path) -> None:
    """A context copied before the fork brings no job into the child."""
    result = run_python(
        SETUP
        + """
import contextvars
with job_context(1) as scope:
    copied = contextvars.copy_context()
    pid = os.fork()
    if pid == 0:
        copied.run(log.info, "from a copied context")
        log.info("inside the parent's block")
        with job_context(2):
            log.info("of the child's own job")
        ok = joblog_router.current_job() is None and scope.closed and flush(10)
        os._exit(0 if ok else 1)
    log.info("of the parent")
print(os.waitpid(pid, 0)[1])
""",
        str(tmp_path),
    )
    assert result.stdout.split() == ["0"], result.stderr
    assert sorted((line["job_id"], line["message"]) for line in stored(tmp_path)) == [
        ("1", "of the parent"),
        ("2", "of the child's own job"),
    ]


def test_a_forked_pool_of_workers_stores_what_they_log(tmp_path: Path) -> None:
    """multiprocessing's fork pool: lines flushed by the task are there, also where a worker serves two jobs."""
    result = run_python(
        SETUP
        + """
import multiprocessing
def work(job):
    with job_context(job):
        log.info("work of %s", job)
    return flush(10)
with job_context("outer"):
    log.info("warm")
    flush(10)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(pool.map(work, [f"j{number}" for number in range(40)]))
""",
        str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    lines = stored(tmp_path)
    assert len(lines) == 41
    for line in lines[1:]:
        assert line["message"] in (f"work of {line['job_id']}", "warm")


def test_children_of_multiprocessing_store_their_lines_without_a_flush(tmp_path: Path) -> None:
    """They end by os._exit, after their finalizers: nothing is lost, with any start method and executor."""
    script = tmp_path / "script.py"
    script.write_text(
        SETUP
        + """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
def work(job):
    with job_context(job):
        for number in range(100):
            log.warning("%s line %d", job, number)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    process = context.Process(target=work, args=("process",))
    process.start()
    process.join()
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        list(executor.map(work, ["executor"]))
    print(process.exitcode)
"""
    )
    for method in ("fork", "spawn", "forkserver"):
        directory = tmp_path / method
        result = run_script(script, str(directory), method)
        assert result.stdout.split() == ["0"], result.stderr
        messages = Counter(str(line["message"]) for line in stored(directory))
        assert len(messages) == 200, method
        assert set(messages.values()) == {1}


def test_a_child_of_multiprocessing_that_configures_itself_stores_its_lines(tmp_path: Path) -> None:
    """A handler made inside the child, with none in the parent, is flushed when the child ends."""
    script = tmp_path / "script.py"
    script.write_text(
        """
import logging, multiprocessing, sys
def work(directory):
    from joblog_router import JobLogHandler, job_context
    logging.getLogger().addHandler(JobLogHandler(sink="jsonl", options={"directory": directory}))
    with job_context(7):
        for number in range(3):
            logging.warning("item %d", number)
if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[2]).Process(target=work, args=(sys.argv[1],))
    process.start()
    process.join()
"""
    )
    for method in ("fork", "spawn", "forkserver"):
        result = run_script(script, str(tmp_path / method), method)
        assert len(stored(tmp_path / method)) == 3, (method, result.stderr)


def test_a_fork_does_not_wait_for_a_stuck_sink(tmp_path: Path) -> None:
    """With a sink that hangs a fork waits a second at most, and the child logs on its own."""
    result = run_python(
        SETUP
        + """
class Stuck:
    pid = os.getpid()
    reached = threading.Event()
    release = threading.Event()
    def write(self, entries):
        if os.getpid() == self.pid:
            self.reached.set()
            self.release.wait(20)
    def close(self):
        pass
logging.getLogger().addHandler(joblog_router.JobLogHandler(sink=Stuck()))
with job_context(1):
    log.info("hangs")
    assert Stuck.reached.wait(10)
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        with job_context(2):
            log.info("of the child")
        os._exit(0 if flush(10) else 1)
    took = time.monotonic() - start
print(os.waitpid(pid, 0)[1], took < 2)
Stuck.release.set()
log.info("still works")
print(flush(10))
""",
        str(tmp_path),
    )
    assert result.stdout.split() == ["0", "True", "True"], result.stderr
    assert sorted(line["message"] for line in stored(tmp_path)) == ["hangs", "of the child"]


def test_a_fork_without_hooks_is_noticed_with_the_first_line(tmp_path: Path) -> None:
    """Where at-fork hooks do not run, the process id tells: the child stores its own lines and not the parent's."""
    result = run_python(
        SETUP
        + SLEEPING_WRITER
        + """
import ctypes
libc = ctypes.PyDLL(None)  # keeps the interpreter's lock, as uWSGI does: in the child nobody else could give it back
with job_context(1):
    log.info("of the parent")
flush(10)
with job_context(1):
    log.info("of the parent, waiting")
time.sleep(0.1)
pid = libc.fork()  # no hooks: what uWSGI does by default
if pid == 0:
    with job_context(2):
        log.info("of the child")
        log.info("of the child again")
    os._exit(0 if flush(10) else 1)
print(os.waitpid(pid, 0)[1])
""",
        str(tmp_path),
    )
    assert result.stdout.split() == ["0"], result.stderr
    assert sorted(str(line["message"]) for line in stored(tmp_path)) == [
        "of the child",
        "of the child again",
        "of the parent",
        "of the parent, waiting",
    ]


def test_in_a_fork_without_hooks_a_coroutine_flushes_as_well(tmp_path: Path) -> None:
    """What waits there is the parent's: nothing is left to wait for, and nothing is waited for."""
    result = run_python(
        SETUP
        + SLEEPING_WRITER
        + """
import asyncio, ctypes
with job_context(1):
    log.info("of the parent")
    flush(10)
    log.info("of the parent, waiting")
time.sleep(0.1)
pid = ctypes.PyDLL(None).fork()
if pid == 0:
    os._exit(0 if asyncio.run(aflush(5)) and not stats()["captured"] else 1)
print(os.waitpid(pid, 0)[1])
""",
        str(tmp_path),
    )
    assert result.stdout.split() == ["0"], result.stderr
    assert sorted(str(line["message"]) for line in stored(tmp_path)) == ["of the parent", "of the parent, waiting"]


def test_without_a_writer_a_coroutine_that_flushes_has_the_lines_written(tmp_path: Path) -> None:
    """As when the interpreter ends and starts no thread any more, which is played here."""
    result = run_python(
        SETUP
        + """
import asyncio
from joblog_router._pipeline.router import router
router._writer._start = lambda: None
with job_context(1):
    log.info("nobody writes this")
assert asyncio.run(aflush(5))
router._writer._thread = __import__("threading").current_thread()
with job_context(1):
    log.info("on the writer's own thread nobody waits")
assert not asyncio.run(aflush(5))
os._exit(0)
""",
        str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    assert [line["message"] for line in stored(tmp_path)] == ["nobody writes this"]


def test_reconfiguring_while_many_threads_log_neither_locks_nor_loses(tmp_path: Path) -> None:
    """`dictConfig` many times a second beside busy threads and new loggers: it ends, with every line once."""
    result = run_python(
        SETUP
        + """
stop = threading.Event()
made = [0] * 4
def busy(index):
    with job_context(index):
        while not stop.is_set():
            # A fresh logger needs logging's lock, which dictConfig holds.
            logging.getLogger(f"fresh.{index}.{made[index] % 500}").info("line %d", made[index])
            made[index] += 1
            time.sleep(0.0003)  # the pace of a busy thread
threads = [threading.Thread(target=busy, args=(index,)) for index in range(4)]
for thread in threads:
    thread.start()
until = time.monotonic() + 3
rounds = 0
while time.monotonic() < until:
    configure()
    rounds += 1
    time.sleep(0.02)
stop.set()
for thread in threads:
    thread.join(10)
assert flush(20)
print(sum(made), rounds, joblog_router.stats()["stored"])
""",
        str(tmp_path),
        timeout=40,
    )
    assert result.returncode == 0, result.stderr
    made, rounds, counted = map(int, result.stdout.split())
    lines = stored(tmp_path)
    assert rounds > 20
    assert len({(line["job_id"], line["message"]) for line in lines}) == len(lines) == counted
    # While dictConfig has taken the handlers off and not put them back, records reach no handler at all.
    assert counted >= made * 0.8


def test_what_exit_functions_log_is_stored_whichever_comes_first(tmp_path: Path) -> None:
    """Also the last of all, after `logging` has closed its handlers: nobody else would flush it."""
    result = run_python(
        """
        import atexit
        def last():
            with job_context(1):
                log.info("after logging's own end")
        atexit.register(last)
        """
        + textwrap.indent(SETUP, "        ")
        + """
        def first():
            with job_context(1):
                log.info("at exit")
        atexit.register(first)
        """,
        str(tmp_path),
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert [line["message"] for line in stored(tmp_path)] == ["at exit", "after logging's own end"]


def test_a_store_that_is_away_holds_up_the_end_once(tmp_path: Path) -> None:
    """Only one that makes progress is waited for again. Here that would go on for an hour, not twenty seconds."""
    result = run_python(
        SETUP
        + """
from joblog_router._pipeline import router
router.EXIT_TIMEOUT, router.EXIT_AT_MOST = 0.2, 3600
with open(sys.argv[1], "w"):
    pass  # a file where the store should be
with job_context(1):
    log.info("x")
""",
        str(tmp_path / "logs"),
    )
    assert "the process ends with 1 job log lines that could not be stored; they are lost" in result.stderr
