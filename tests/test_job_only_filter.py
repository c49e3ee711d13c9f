"""Route, not mirror: DEBUG and INFO of chosen loggers to the job's log alone; what is not there is on the console."""

from __future__ import annotations

import io
import logging
import logging.config
from typing import Any

import pytest

from joblog_router import ConfigurationError, JobOnlyFilter, job_context
from joblog_router._pipeline import switch
from tests.helpers import configure, messages


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
