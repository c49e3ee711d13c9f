"""Nothing of ours raises into the application, loops through logging, or changes what other handlers see."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from joblog_router import JobLogHandler, aflush, completeness, flush, job_context, stats
from joblog_router.entry import Entry
from tests.helpers import SRC, configure, entries, messages, run_python

log = logging.getLogger("app")


class _RaisingRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class _LoggingRepr:
    def __repr__(self) -> str:
        log.info("from inside repr")
        return "<logs>"


class _EndlessRepr:
    def __repr__(self) -> str:
        log.info("again: %s", self)
        return "<endless>"


def test_a_message_that_cannot_be_formatted_is_kept_in_parts() -> None:
    """Wrong arguments neither raise nor lose the line."""
    configure()
    with job_context(1):
        log.info("count %d", "three")
        log.info("two %s %s", "one")  # noqa: PLE1206 - the mistake under test
        log.info("mapping %(missing)s", {"other": 1})
        log.info("bad %s", _RaisingRepr())
        log.info(_RaisingRepr())
    kept = entries()
    assert [entry.message for entry in kept[:3]] == [
        "count %d ['three']",
        "two %s %s ['one']",
        "mapping %(missing)s {'other': 1}",
    ]
    assert len(kept) == 5
    assert all(entry.fields["format_error"] is True for entry in kept)


def test_a_text_that_fails_in_every_way_is_a_line_that_says_so() -> None:
    """Not even its parts can be kept; the line is there all the same, and counted."""

    class Unspeakable(str):
        __slots__ = ()

        def __str__(self) -> str:
            raise RuntimeError("no text")

        def __format__(self, spec: str) -> str:
            raise RuntimeError("no text")

    configure()
    with job_context(1):
        log.info(Unspeakable("x"), "argument")
    (entry,) = entries()
    assert (entry.message, entry.n) == ("<this line's message could not be formatted>", 1)
    assert entry.fields == {"format_error": True}


def test_repr_that_logs_or_recurses_ends() -> None:
    """Code that logs while a message is formatted is captured too; endless recursion stops at Python's limit."""
    configure()
    with job_context(1):
        log.info("value %r", _LoggingRepr())
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(300)
        try:
            log.info("endless %r", _EndlessRepr())
        finally:
            sys.setrecursionlimit(limit)
        log.info("still here")
    kept = messages()
    assert kept[:2] == ["from inside repr", "value <logs>"]
    assert kept[-1] == "still here"


@pytest.mark.parametrize(
    "value",
    [
        _RaisingRepr(),
        {"deep": {"er": {"and": {"deeper": {"still": 1}}}}},
        float("nan"),
        float("inf"),
        10**400,
        b"bytes",
        object(),
        {1: "int key", (1, 2): "tuple key"},
        ["x"] * 1000,
        "long " * 10_000,
        "nul\x00 and surrogate \udcff",
        {"a", "b"},
    ],
)
def test_any_extra_becomes_json(value: Any) -> None:
    """Whatever is passed in `extra` is stored as JSON-ready primitives and never by running its code."""
    import json

    configure()
    cycle: dict[str, Any] = {"value": value}
    cycle["self"] = cycle
    with job_context(1, field=value):
        log.info("x", extra={"value": value, "cycle": cycle})
    (entry,) = entries()
    text = json.dumps(entry.as_dict(), allow_nan=False)
    assert len(text) < 70_000
    text.encode("utf-8")
    assert "\x00" not in text


def test_objects_in_extra_are_named_not_shown() -> None:
    """An object's repr may query a database or show a secret: only its type is kept."""
    configure()
    with job_context(1):
        log.info("x", extra={"thing": _LoggingRepr(), "path": __import__("pathlib").Path("a/b")})
    (entry,) = entries()
    assert entry.fields["thing"].endswith("_LoggingRepr>")
    assert entry.fields["path"] == "a/b"
    assert len(entries()) == 1


def test_hostile_text_is_stored_as_text() -> None:
    """NUL, lone surrogates and ten megabytes cost one row each, cut and escaped."""
    configure()
    with job_context(1):
        log.info("nul \x00 here")
        log.info("surrogate \udcff here")
        log.info("x" * 10_000_000)
    nul, surrogate, long = messages()
    assert nul == "nul \u2400 here"
    assert surrogate == "surrogate \\udcff here"
    assert len(long) < 101_000
    assert long.endswith("[9900000 more characters]")


def test_arguments_are_formatted_when_logged() -> None:
    """A value that changes after the call is stored as it was."""
    configure()
    state = {"step": 1}
    extra = {"state": state}
    with job_context(1, state=state):
        log.info("state %s", state, extra={"extra_state": extra})
        state["step"] = 2
    (entry,) = entries()
    assert entry.message == "state {'step': 1}"
    assert entry.fields == {"state": {"step": 1}, "extra_state": {"state": {"step": 1}}}


def test_exceptions_are_rendered_with_chain_notes_and_groups() -> None:
    """The traceback reads as Python prints it; frames and locals are not kept alive."""
    configure()
    import weakref

    class Local:
        pass

    def fail() -> weakref.ref[Local]:
        local = Local()
        reference = weakref.ref(local)
        try:
            try:
                raise KeyError("inner")
            except KeyError as error:
                raise ValueError("outer") from error
        except ValueError as error:
            error.add_note("a note")
            log.exception("failed")
        try:
            raise ExceptionGroup("several", [OSError("one"), TypeError("two")])
        except ExceptionGroup:
            log.warning("group", exc_info=True)
        return reference

    with job_context(1):
        reference = fail()
        log.info("with stack", stack_info=True)
    chain, group, stack = (entry.exception or "" for entry in entries())
    assert reference() is None
    assert "KeyError: 'inner'" in chain
    assert "The above exception was the direct cause" in chain
    assert chain.index("KeyError") < chain.index("ValueError: outer")
    assert chain.rstrip().endswith("a note")
    assert 'raise KeyError("inner")' in chain, "source lines are shown"
    assert "ExceptionGroup: several (2 sub-exceptions)" in group
    assert "OSError: one" in group
    assert "TypeError: two" in group
    assert "Stack (most recent call last)" in stack


def test_what_an_exception_interrupted_is_shown_unless_it_is_suppressed() -> None:
    """As Python prints it: an error met while another was handled with that one, `from None` without."""
    configure()

    def fail(suppressed: bool) -> None:
        try:
            raise KeyError("inner")
        except KeyError:
            if suppressed:
                raise ValueError("outer") from None
            raise ValueError("outer")  # noqa: B904 - this is what is tested

    with job_context(1):
        for suppressed in (False, True):
            try:
                fail(suppressed)
            except ValueError:
                log.exception("failed")
    whole, alone = (entry.exception or "" for entry in entries())
    assert "KeyError: 'inner'" in whole
    assert "During handling of the above exception, another exception occurred" in whole
    assert "KeyError: " not in alone
    assert alone.endswith("ValueError: outer")


def test_groups_of_groups_are_kept_in_part() -> None:
    """Each level has twenty times as many exceptions as the one above it, or the same one twenty times."""
    configure()
    wide: Exception = ValueError("at the bottom")
    for _ in range(9):
        wide = ExceptionGroup("group", [wide] * 20)
    many = ExceptionGroup("top", [ExceptionGroup("inner", [ValueError("x") for _ in range(20)]) for _ in range(20)])
    with job_context(1):
        for error in (wide, many):
            log.error("failed", exc_info=error)
    texts = [entry.exception or "" for entry in entries()]
    assert "at the bottom" in texts[0]
    assert texts[0].count("ValueError") == 1
    assert texts[1].count("ValueError: x") > 90
    assert all(len(text) < 100_000 for text in texts)


def test_exceptions_that_are_too_many_are_told_of() -> None:
    """How many of a group are missing; and of what is nested or chained too deep, the root."""
    configure()
    deep: Exception = ValueError("root of the group")
    chained: Exception = ValueError("root of the chain")
    for level in range(14):
        deep = ExceptionGroup(f"level {level}", [deep, KeyError("beside")])
        above = RuntimeError(f"level {level}")
        above.__cause__ = chained
        chained = above
    many = [ExceptionGroup("inner", [ValueError("x") for _ in range(20)]) for _ in range(20)]
    errors = [ExceptionGroup("tasks", [ValueError(f"task {n}.") for n in range(25)]), deep, chained]
    with job_context(1):
        for error in (*errors, ExceptionGroup("top", many)):
            log.error("failed", exc_info=error)
    wide, nested, chain, top = (entry.exception or "" for entry in entries())
    assert [number for number in range(25) if f"task {number}." not in wide] == list(range(20, 25))
    assert "[5 more of this group, not shown]" in wide
    assert "the innermost is:]" in nested
    assert "ValueError: root of the group" in nested
    assert "[1 more of this group, not shown]" in nested
    assert chain.startswith("[some exceptions are not shown; the innermost is:]\nValueError: root of the chain\n")
    assert "RuntimeError: level 4" in chain
    assert "RuntimeError: level 2" not in chain
    assert "[15 more of this group, not shown]" in top


def test_other_handlers_see_the_record_unchanged() -> None:
    """A handler behind ours finds the message, arguments and exception it would have found without us."""
    seen: list[dict[str, Any]] = []

    class Looks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(dict(record.__dict__))

    configure()
    logging.getLogger().addHandler(Looks())
    with job_context(1, stage="x"):
        log.info("hello %s", "you", extra={"k": 1})
    before = logging.LogRecord("", 0, "", 0, "", (), None).__dict__
    assert set(seen[0]) - set(before) == {"k", "_joblog"}
    assert seen[0]["msg"] == "hello %s"
    assert seen[0]["args"] == ("you",)


def test_json_formatters_do_not_print_the_private_stamp(capfd: pytest.CaptureFixture[str]) -> None:
    """python-json-logger writes job id and fields as keys, and nothing of ours besides."""
    import json
    import logging.config

    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"job_context": {"()": "joblog_router.JobContextFilter"}},
            "formatters": {"json": {"()": "pythonjsonlogger.json.JsonFormatter"}},
            "handlers": {
                "job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "memory"},
                "console": {"class": "logging.StreamHandler", "filters": ["job_context"], "formatter": "json"},
            },
            "root": {"level": "INFO", "handlers": ["job", "console"]},
        }
    )
    log.info("outside")
    with job_context(7, stage="queue"):
        log.info("inside", extra={"images": 3})
    outside, inside = (json.loads(line) for line in capfd.readouterr().err.splitlines())
    outside.pop("taskName", None)
    assert outside == {"message": "outside", "job_id": None}
    inside.pop("taskName", None)
    assert inside == {"message": "inside", "job_id": "7", "stage": "queue", "images": 3}


def test_a_sink_that_logs_does_not_feed_itself() -> None:
    """What a sink logs while it writes is about no job, on the writer thread and in a drain on the caller's."""
    written: list[Entry] = []

    class Chatty:
        def write(self, entries: Any) -> None:
            written.extend(entries)
            logging.getLogger("sink.backend").warning("INSERT of %d rows", len(entries))

        def close(self) -> None:
            pass

    handler = JobLogHandler(fold=False, sink=Chatty())
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)
    with job_context(1):
        log.info("one")
        assert flush(5)
        log.info("two")
        assert flush(5)
    assert [entry.message for entry in written] == ["one", "two"]


def test_a_logging_call_does_not_wait_for_a_stuck_sink() -> None:
    """While a sink hangs, logging goes on; the lines arrive when it comes back."""
    release = threading.Event()
    reached = threading.Event()
    written: list[Entry] = []

    class Stuck:
        def write(self, entries: Any) -> None:
            reached.set()
            assert release.wait(20)
            written.extend(entries)

        def close(self) -> None:
            pass

    logging.getLogger().addHandler(JobLogHandler(fold=False, sink=Stuck()))
    logging.getLogger().setLevel(logging.INFO)
    with job_context(1):
        log.info("first")
        assert reached.wait(10)
        for number in range(1000):
            log.info("line %d", number)
        assert flush(0.05) is False
        release.set()
    assert flush(10)
    assert len(written) == 1001


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    """A full buffer drops the newest lines and counts them exactly; nothing raises or blocks."""
    release = threading.Event()
    reached = threading.Event()
    written: list[Entry] = []

    class Stuck:
        def write(self, entries: Any) -> None:
            reached.set()
            assert release.wait(20)
            written.extend(entries)

        def close(self) -> None:
            pass

    before = stats()
    logging.getLogger().addHandler(JobLogHandler(fold=False, sink=Stuck(), capacity=100))
    logging.getLogger().setLevel(logging.INFO)
    with job_context(1):
        log.info("first")
        assert reached.wait(10)
        for number in range(1000):
            log.info("line %d", number)
    release.set()
    assert flush(10)
    after = {key: value - before[key] for key, value in stats().items()}
    kept = [entry for entry in written if entry.logger == "app"]
    assert after["captured"] == 1001
    assert after["stored"] == len(kept)
    assert after["dropped"] == 1001 - len(kept) > 800
    assert after["waiting"] == 0
    assert [entry.n for entry in kept] == list(range(1, len(kept) + 1))


def test_exactly_as_many_lines_wait_as_may_of_each_level() -> None:
    """With room for a hundred DEBUG has 80, INFO 10 more, what is above the rest; not a line more."""
    release = threading.Event()
    reached = threading.Event()

    class Stuck:
        def write(self, entries: Any) -> None:
            reached.set()
            assert release.wait(20)

        def close(self) -> None:
            pass

    logging.getLogger().addHandler(JobLogHandler(fold=False, sink=Stuck(), capacity=100))
    logging.getLogger().setLevel(logging.DEBUG)
    waiting = []
    with job_context(1):
        log.debug("first")
        assert reached.wait(10)
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.DEBUG):
            for number in range(100):
                log.log(level, "line %d", number)
            waiting.append(completeness(1)["Stuck"]["waiting"])
    release.set()
    assert flush(10)
    assert waiting == [80, 90, 100, 100]


def test_flush_on_the_writer_thread_returns_at_once() -> None:
    """A sink that flushes does not wait for itself."""
    answers: list[bool] = []

    class Flushes:
        def write(self, entries: Any) -> None:
            answers.append(flush(5))

        def close(self) -> None:
            pass

    logging.getLogger().addHandler(JobLogHandler(fold=False, sink=Flushes()))
    with job_context(1):
        log.warning("x")
    assert flush(10)
    assert answers == [False]


async def test_aflush_leaves_the_loop_running() -> None:
    """`aflush` waits without blocking the loop, and gives up at its time."""
    import asyncio

    release = threading.Event()

    class Stuck:
        def write(self, entries: Any) -> None:
            assert release.wait(20)

        def close(self) -> None:
            pass

    logging.getLogger().addHandler(JobLogHandler(fold=False, sink=Stuck()))
    with job_context(1):
        log.warning("x")
    assert await aflush(0.05) is False
    waiting = asyncio.create_task(aflush(10))
    await asyncio.sleep(0)
    release.set()
    assert await waiting is True


def test_lines_are_stored_when_the_interpreter_ends(tmp_path: Any) -> None:
    """Normal exit, an exception and sys.exit store what was logged, also from atexit functions and other threads."""
    code = """
        import atexit, logging, logging.config, sys, threading
        log = logging.getLogger("x")
        import joblog_router
        def at_exit():
            with joblog_router.job_context(1):
                log.info("from atexit")
        atexit.register(at_exit)
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
            "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                                 "options": {"directory": sys.argv[1]}}},
            "root": {"level": "INFO", "handlers": ["job"]}})
        def work():
            with joblog_router.job_context(1):
                for number in range(500):
                    log.info("line %d", number)
        threading.Thread(target=work).start()
        work()
        how = sys.argv[2]
        if how == "raise":
            raise SystemError("the application's own")
        if how == "exit":
            sys.exit(3)
        """
    for how, status in (("end", 0), ("raise", 1), ("exit", 3)):
        directory = tmp_path / how
        result = run_python(code, str(directory), how)
        assert result.returncode == status
        assert "joblog" not in result.stderr
        lines = (directory / "1.jsonl").read_text().splitlines()
        assert len(lines) == 1001, (how, result.stderr)


def test_an_application_that_only_logs_at_exit_loses_nothing(tmp_path: Any) -> None:
    """The very first line of a job comes from an atexit function: it is stored although no thread can start."""
    result = run_python(
        """
        import atexit, logging, logging.config, sys
        import joblog_router
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
            "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                                 "options": {"directory": sys.argv[1]}}},
            "root": {"level": "INFO", "handlers": ["job"]}})
        def at_exit():
            with joblog_router.job_context(1):
                logging.getLogger("x").info("from atexit")
        atexit.register(at_exit)
        """,
        str(tmp_path),
    )
    assert result.returncode == 0
    assert result.stderr == ""
    assert len((tmp_path / "1.jsonl").read_text().splitlines()) == 1


@pytest.mark.timeout(60)
def test_a_full_stderr_that_nobody_reads_holds_nothing_back(tmp_path: Any) -> None:
    """What there is to say waits; lines are stored, flush returns, and the process ends."""
    script = tmp_path / "full.py"
    script.write_text(
        """
import fcntl, logging, os
from joblog_router import JobLogHandler, flush, job_context
fcntl.fcntl(2, fcntl.F_SETFL, os.O_NONBLOCK)
for size in (4096, 1):
    try:
        while True:
            os.write(2, b"x" * size)
    except BlockingIOError:
        pass
fcntl.fcntl(2, fcntl.F_SETFL, 0)
handler = JobLogHandler(sink="memory", fold=False)
logging.getLogger().addHandler(handler)
with job_context(7):
    logging.warning("a reason to speak", extra={"job_id": 8})
    for number in range(5):
        logging.warning("line %d", number)
print(flush(10), len(handler.sink.entries()), flush=True)
"""
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.read().split() == ["True", "5"]
        assert process.wait(20) == 0


def test_a_proxy_in_extra_is_not_woken() -> None:
    """Naming a value's type asks the type, not the value: a lazy object would query the database."""
    woken: list[str] = []

    class Lazy:
        @property
        def __class__(self) -> Any:
            woken.append("woken")
            return str

        @__class__.setter
        def __class__(self, value: Any) -> None:
            raise AttributeError

    configure()
    with job_context(1, user=Lazy()):
        log.info("x", extra={"owner": Lazy(), "list": [Lazy()]})
    assert woken == []
    (entry,) = entries()
    assert entry.fields["owner"].endswith("Lazy>")


@pytest.mark.timeout(20)
def test_a_huge_extra_is_cut_before_it_is_copied() -> None:
    """Nested containers share one budget, and what is not shown is not looked at. The timeout tells."""
    rows: Any = "x"
    for _ in range(4):
        rows = [rows] * 100
    huge = {str(number): number for number in range(1_000_000)}
    configure()
    with job_context(1):
        for _ in range(500):
            log.info("x", extra={"rows": rows, "huge": huge})
    fields = entries()[0].fields
    assert len(str(fields)) < 30_000
    assert fields["huge"]["…"] == "999900 more"


def test_odd_names_of_extra_are_stored() -> None:
    """Keys with NUL, surrogates, or of other types cost nothing but their look."""
    configure()
    with job_context(1):
        log.info("x", extra={"r\udce9sum\x00": 1, 5: "five"})  # type: ignore[dict-item]
    (entry,) = entries()
    assert entry.fields == {"r\\udce9sum\u2400": 1, "5": "five"}


def test_pickled_records_need_nothing_of_this_library() -> None:
    """A receiver without joblog_router reads records that were stamped here: the stamp is plain data."""
    import pickle

    from joblog_router import JobContextFilter

    handler = configure()
    with job_context(1, stage="x"):
        for stamp in (JobContextFilter().filter, handler.handle):
            record = log.makeRecord("x", 20, "f", 1, "m", (), None)
            stamp(record)
            stamped = pickle.loads(pickle.dumps(record.__dict__["_joblog"]))
            assert type(stamped) is dict
            assert b"joblog_router" not in pickle.dumps(record.__dict__["_joblog"])
    record = log.makeRecord("x", 20, "f", 1, "m", (), None)
    JobContextFilter().filter(record)
    assert pickle.loads(pickle.dumps(record.__dict__["_joblog"])) == {}


def test_counters_may_be_read_by_a_signal_handler_that_interrupts_reading() -> None:
    """A thread that is reading a counter may be interrupted and read it again."""
    from joblog_router._pipeline.stats import Counter

    counter = Counter()
    counter.add()
    with counter._lock:
        assert counter.value() == 1


def test_tracebacks_are_cut_in_the_middle() -> None:
    """A deep recursion keeps where it came from and where it broke."""
    configure()

    def one(left: int) -> None:
        if not left:
            raise ValueError("bottom")
        other(left - 1)

    def other(left: int) -> None:
        one(left)

    with job_context(1):
        try:
            one(300)
        except ValueError:
            log.exception("failed")
    (entry,) = entries()
    assert entry.exception is not None
    assert "frames not shown" in entry.exception
    assert len(entry.exception) < 20_000
    assert "ValueError: bottom" in entry.exception


def test_a_slow_store_gets_all_lines_at_exit(tmp_path: Any) -> None:
    """The end of the process is held up as long as lines are being stored."""
    result = run_python(
        """
        import logging, sys, time, joblog_router
        class Slow:
            def write(self, entries):
                time.sleep(0.25)
                with open(sys.argv[1], "a") as file:
                    file.write("x" * len(entries))
            def close(self):
                pass
        logging.getLogger().addHandler(joblog_router.JobLogHandler(sink=Slow(), fold=False))
        logging.getLogger().setLevel(logging.INFO)
        with joblog_router.job_context(1):
            for number in range(8_000):
                logging.info("line %d", number)
        """,
        str(tmp_path / "file"),
    )
    assert result.stderr == ""
    assert len((tmp_path / "file").read_text()) == 8000
