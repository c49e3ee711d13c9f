"""Route, not mirror: DEBUG and INFO of chosen loggers to the job's log alone; what is not there is on the console."""

from __future__ import annotations

import io
import logging
import logging.config
import logging.handlers
from queue import Queue
from typing import Any

import pytest

from joblog_router import ConfigurationError, JobContextFilter, JobOnlyFilter, flush, job_context
from joblog_router._pipeline import switch
from joblog_router.sinks import MemorySink
from tests.helpers import configure, job_handler, messages


def console(**options: Any) -> io.StringIO:
    """Configure a console that is to keep quiet about jobs, by dictConfig, and give what it writes to."""
    stream = io.StringIO()
    job = options.pop("job", {})
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {
                "job_context": {"()": "joblog_router.JobContextFilter"},
                "job_only": {"()": "joblog_router.JobOnlyFilter", **options},
            },
            "formatters": {"plain": {"format": "%(levelname)s %(name)s %(job_id)s %(message)s"}},
            "handlers": {
                "console": {
                    "class": "logging.StreamHandler",
                    "stream": stream,
                    "formatter": "plain",
                    "filters": ["job_context", "job_only"],
                },
                "job": {"class": "joblog_router.JobLogHandler", "sink": "memory", "fold": False, **job},
            },
            "root": {"level": "DEBUG", "handlers": ["console", "job"]},
        }
    )
    return stream


queue = logging.getLogger("app.queue")
other = logging.getLogger("app.other")


def speak() -> None:
    """The same lines inside a job and outside."""
    for logger in (queue, other):
        logger.debug("debug")
        logger.info("info")
        logger.warning("warning")
        logger.error("error")


def test_info_of_chosen_loggers_goes_to_the_jobs_log_only() -> None:
    """WARNING and above go to both, other loggers to both, and outside a job everything to the console."""
    stream = console(loggers=["app.queue"])
    with job_context(7):
        speak()
    assert stream.getvalue().split("\n")[:-1] == [
        "WARNING app.queue 7 warning",
        "ERROR app.queue 7 error",
        *[f"{level.upper()} app.other 7 {level}" for level in ("debug", "info", "warning", "error")],
    ]
    assert messages(7) == ["debug", "info", "warning", "error"] * 2
    stream.truncate(0)
    stream.seek(0)
    speak()
    assert stream.getvalue().count("\n") == 8


def test_a_line_that_no_job_log_takes_stays_on_the_console() -> None:
    """The job handler's level and loggers count, and a line that is kept out of the job's log by the call."""
    stream = console(job={"level": "INFO", "exclude": ["app.other"]})
    with job_context(7):
        queue.debug("below the job handler's level")
        queue.info("in the job's log")
        other.info("excluded there")
        queue.info("kept out", extra={"job_log": False})
        queue.info("another's", extra={"job_id": 8})
    assert [line.split(" ", 3)[3] for line in stream.getvalue().splitlines()] == [
        "below the job handler's level",
        "excluded there",
        "kept out",
        "another's",
    ]
    assert messages(7) == ["in the job's log"]


def test_without_any_job_handler_nothing_is_withheld() -> None:
    """A console that is configured before, or instead of, the job handler shows all."""
    passes = JobOnlyFilter()
    with job_context(7):
        record = logging.makeLogRecord({"msg": "x", "name": "app", "levelno": logging.INFO})
        assert passes.filter(record)
        configure()
        assert not passes.filter(record)
        logging.config.dictConfig({"version": 1, "root": {"handlers": []}})
        logging.getLogger().handlers.clear()
        logging.shutdown([])
    configure(level="DEBUG").close()
    with job_context(7):
        assert passes.filter(logging.makeLogRecord({"msg": "x", "name": "app", "levelno": logging.INFO}))


class Every(logging.Filter):
    """Lets each second line of those that it is asked for pass: it must not be asked twice for one."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Not the first, the second, not the third."""
        self.asked += 1
        return self.asked % 2 == 0


def test_a_line_that_a_filter_of_the_job_handler_rejects_stays_on_the_console() -> None:
    """It is in no job's log; one that the filter lets pass is withheld, also by a filter that answers only once so."""
    stream = console()
    job_handler().addFilter(lambda record: "secret" not in record.getMessage())
    with job_context(7):
        queue.info("a secret")
        queue.info("plain")
    assert stream.getvalue() == "INFO app.queue 7 a secret\n"
    assert messages(7) == ["plain"]
    job_handler().addFilter(Every())
    stream.truncate(0)
    stream.seek(0)
    with job_context(7):
        for number in range(20):
            queue.info("line %d", number)
    shown = [line.rpartition("line ")[2] for line in stream.getvalue().splitlines()]
    kept = [message.rpartition("line ")[2] for message in messages(7)[1:]]
    assert {*shown, *kept} == set(map(str, range(20)))
    assert len(kept) == len(set(kept)) > 5


def test_a_filter_of_the_job_handler_that_raises_withholds_nothing() -> None:
    """The console has the line; the error is the handler's own affair, as with every other handler."""
    stream = console()

    def raises(record: logging.LogRecord) -> bool:
        raise RuntimeError("filter")

    job_handler().addFilter(raises)
    with job_context(7), pytest.raises(RuntimeError, match="filter"):
        queue.info("shown")
    assert stream.getvalue() == "INFO app.queue 7 shown\n"


def test_a_line_whose_logger_does_not_reach_the_job_handler_stays_on_the_console() -> None:
    """The job handler is on another logger, or one in between does not propagate."""
    stream = console()
    handler, aside = job_handler(), logging.getLogger("app.aside")
    shown = logging.getLogger().handlers[0]
    logging.getLogger().removeHandler(handler)
    queue.addHandler(handler)
    aside.addHandler(shown)
    aside.propagate = False
    try:
        with job_context(7):
            queue.info("of its logger")
            logging.getLogger("app.queue.deep.below").info("and below")
            other.info("beside it")
            aside.info("apart")
        assert [line.split(" ", 3)[3] for line in stream.getvalue().splitlines()] == ["beside it", "apart"]
        assert flush(5)
        assert isinstance(handler.sink, MemorySink)
        assert [entry.message for entry in handler.sink.entries(7)] == ["of its logger", "and below"]
    finally:
        queue.removeHandler(handler)
        aside.removeHandler(shown)
        aside.propagate = True


def test_behind_a_queue_lines_are_withheld_as_before() -> None:
    """Console and job handler are a listener's, on no logger: the queue's handler hands them everything."""
    stream = console()
    handler, shown = job_handler(), logging.getLogger().handlers[0]
    lines: Queue[Any] = Queue()
    before = logging.handlers.QueueHandler(lines)
    before.addFilter(JobContextFilter())
    root = logging.getLogger()
    root.handlers[:] = [before]
    try:
        with job_context(7):
            queue.info("withheld")
            queue.warning("shown")
        listener = logging.handlers.QueueListener(lines, shown, handler)
        listener.start()
        listener.stop()
    finally:
        root.handlers[:] = [shown, handler]
    assert stream.getvalue() == "WARNING app.queue 7 shown\n"
    assert messages(7) == ["withheld", "shown"]


def test_the_order_of_the_handlers_does_not_matter() -> None:
    """Behind the job handler the stamp tells that the line was captured, even by one that is closed by now."""
    handler = configure()
    record = logging.makeLogRecord({"msg": "x", "name": "app", "levelno": logging.INFO})
    with job_context(7):
        assert handler.handle(record)
        handler.close()
        assert not JobOnlyFilter().filter(record)


def test_an_addressed_line_outside_a_scope_is_the_jobs() -> None:
    """`extra={"job_log_id": 7}` goes to job 7's log, so not to this console."""
    stream = console()
    queue.info("addressed", extra={"job_log_id": 7})
    assert stream.getvalue() == ""
    assert messages(7) == ["addressed"]


def test_a_hostile_record_passes() -> None:
    """What cannot be judged is shown; nothing is raised."""

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    class Odd(logging.LogRecord):
        def __getattribute__(self, name: str) -> Any:
            if name == "name":
                raise RuntimeError
            return super().__getattribute__(name)

    record = Odd("x", logging.INFO, "", 0, "x", (), None)
    assert JobOnlyFilter(loggers=["a"]).filter(record)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"loggers": "app"}, "JobOnlyFilter: loggers must be a list"),
        ({"exclude": ["a..b"]}, "JobOnlyFilter: exclude holds"),
        ({"level": "LOUD"}, "JobOnlyFilter: level 'LOUD'"),
        ({"level": True}, "JobOnlyFilter: level True"),
    ],
)
def test_a_wrong_setting_is_an_error_at_start(settings: dict[str, Any], says: str) -> None:
    """The message names the filter and the setting."""
    with pytest.raises(ConfigurationError, match=says):
        JobOnlyFilter(**settings)


def test_while_the_kill_switch_is_off_the_console_shows_all() -> None:
    """Nothing goes into job logs then, so nothing is withheld."""
    stream = console()
    switch.use(False)
    try:
        with job_context(7):
            queue.info("shown")
    finally:
        switch.use(True)
    with job_context(7):
        queue.info("withheld")
    assert stream.getvalue() == "INFO app.queue 7 shown\n"
