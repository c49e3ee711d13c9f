"""`job.logger`: the job's log, no logger per job for ever, no echo, `assertLogs` by name."""

from __future__ import annotations

import gc
import logging
import unittest
import weakref

import pytest

from joblog_router import detached, job_context
from joblog_router.job_logger import JobLogger
from tests.helpers import configure, entries, messages


class Job:
    logger = JobLogger("tests.jobs")

    def __init__(self, pk: int | None) -> None:
        self.pk = pk


def test_it_logs_into_its_own_jobs_log_wherever_it_is_used() -> None:
    """Outside of scopes, inside its own and inside another job's; the place of the call is right."""
    configure()
    job = Job(7)
    job.logger.info("outside %d", 1)
    with job_context(7, step="x"):
        job.logger.warning("inside")
    with job_context(8):
        job.logger.info("from another")
        logging.getLogger("tests").info("of 8")
    found = entries("7")
    assert [entry.message for entry in found] == ["outside 1", "inside", "from another"]
    assert {entry.logger for entry in found} == {"tests.jobs.7"}
    assert found[1].fields == {"step": "x"}
    assert found[0].path == __file__
    assert messages("8") == ["of 8"]


def test_an_old_handlers_echo_is_not_a_second_line() -> None:
    """A handler that logs each line again under its module's name: once in the job's log, still on the console."""
    configure()
    seen: list[str] = []

    class Old(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name != "tests.models":
                logging.getLogger("tests.models").log(record.levelno, record.getMessage())

    class Console(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.name)

    logger = logging.getLogger("tests.jobs")
    logging.getLogger().addHandler(Console())
    logger.addHandler(Old())
    with job_context(7):
        Job(7).logger.error("once")
        logging.getLogger("tests.models").info("a line of its own")
    assert messages("7") == ["once", "a line of its own"]
    assert sorted(seen) == ["tests.jobs.7", "tests.models", "tests.models"]


def test_no_logger_and_no_instance_is_kept() -> None:
    """A thousand jobs leave `logging` as it was, and can be collected."""
    configure()
    jobs = [Job(pk) for pk in range(1000)]
    jobs[0].logger.info("first")
    before = len(logging.Logger.manager.loggerDict)
    for job in jobs:
        job.logger.info("x")
    assert len(logging.Logger.manager.loggerDict) == before
    last = weakref.ref(jobs[-1])
    del jobs, job
    gc.collect()
    assert last() is None


def test_assert_logs_by_name_works(request: pytest.FixtureRequest) -> None:
    """`assertLogs("tests.jobs.9")` sees the lines, also through a logger that was taken before."""
    configure()
    request.addfinalizer(lambda: logging.Logger.manager.loggerDict.pop("tests.jobs.9", None))
    taken = Job(9).logger
    with unittest.TestCase().assertLogs("tests.jobs.9", "INFO") as seen:
        taken.info("held")
        Job(9).logger.debug("too low")
        Job(9).logger.info("new")
    assert seen.output == ["INFO:tests.jobs.9:held", "INFO:tests.jobs.9:new"]
    taken.info("afterwards")
    assert messages("9") == ["afterwards"]


def test_levels_are_followed_and_an_unsaved_job_has_none() -> None:
    """A level that changes counts at once; a job without an id logs as a module logger does."""
    configure("INFO")
    log = Job(7).logger
    log.debug("no")
    logging.getLogger("tests.jobs").setLevel("DEBUG")
    log.debug("yes")
    with job_context(8):
        Job(None).logger.info("unsaved")
    with detached():
        Job(None).logger.info("nobody's")
    assert messages("7") == ["yes"]
    assert messages("8") == ["unsaved"]
    assert isinstance(Job.logger, JobLogger)


def test_a_level_and_a_handler_of_its_own_count() -> None:
    """A logger kept by the job may be set up like any other; `emit` called past `handle` captures, too."""
    handler = configure("WARNING")
    kept = Job(7).logger
    assert (kept.getEffectiveLevel(), kept.isEnabledFor(logging.INFO), kept.hasHandlers()) == (30, False, True)
    kept.setLevel(logging.INFO)
    assert (kept.getEffectiveLevel(), kept.isEnabledFor(logging.INFO), kept.isEnabledFor(logging.DEBUG)) == (
        20,
        True,
        False,
    )
    seen: list[str] = []

    class Own(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())

    own = Own(logging.ERROR)
    kept.addHandler(own)
    kept.info("low")
    kept.error("high")
    kept.disabled = True
    kept.error("never")
    assert seen == ["high"]
    record = logging.getLogger("x").makeRecord("x", 40, "f", 1, "past handle", (), None, extra={"job_log_id": "7"})
    handler.emit(record)
    assert messages("7") == ["low", "high", "past handle"]
