"""The kill switch, JOBLOG_ROUTER["ENABLED"]."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from joblog_router import JobLogHandler, flush, job_context, stats
from joblog_router._pipeline import switch
from joblog_router.sinks import MemorySink
from tests.helpers import until

logger = logging.getLogger("tests.switch")


@pytest.fixture
def memory() -> Iterator[MemorySink]:
    """What the job logs hold, in this process."""
    sink = MemorySink()
    handler = JobLogHandler(sink=sink)
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield sink
    logger.removeHandler(handler)
    handler.close()


def enabled(value: object) -> Any:
    """JOBLOG_ROUTER with that switch."""
    return override_settings(JOBLOG_ROUTER={"NATS": False, "CELERY": False, "ENABLED": value})


def messages(sink: MemorySink) -> list[str]:
    """What was stored."""
    assert flush(5)
    return [entry.message for entry in sink.entries()]


def test_off_captures_nothing_and_leaves_the_other_handlers_alone(
    memory: MemorySink, caplog: pytest.LogCaptureFixture
) -> None:
    """Lines logged while it is off are in no job's log and in all others; back on it goes on in the same scope."""
    with job_context(1):
        logger.info("before")
        captured = stats()["captured"]
        with enabled(False):
            logger.info("off")
            logger.error("off, too", exc_info=ValueError())
            assert stats()["captured"] == captured
        logger.info("after")
    assert messages(memory) == ["before", "after"]
    assert [record.message for record in caplog.records] == ["before", "off", "off, too", "after"]


def test_a_handler_that_is_made_while_it_is_off_captures_later() -> None:
    """A new configuration does not turn it on, and its handlers work when it is."""
    sink = MemorySink()
    with enabled(False):
        handler = JobLogHandler(sink=sink)
        logger.addHandler(handler)
        with job_context(1):
            logger.warning("off")
    with job_context(1):
        logger.warning("on")
    assert messages(sink) == ["on"]
    logger.removeHandler(handler)
    handler.close()


def test_a_function_is_asked_off_the_thread_that_logs(memory: MemorySink, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer's thread asks again and again; the answer turns capturing off and on."""
    monkeypatch.setattr(switch, "INTERVAL", 0.01)
    answer = True
    threads: set[str] = set()

    def ask() -> bool:
        import threading

        threads.add(threading.current_thread().name)
        return answer

    with enabled(ask), job_context(1):
        logger.info("first")
        until(lambda: bool(threads))
        answer = False
        until(lambda: not switch.is_on)
        logger.info("off")
        answer = True
        until(lambda: switch.is_on)
        logger.info("last")
    assert messages(memory) == ["first", "last"]
    assert threads == {"joblog-writer"}


def test_a_function_that_fails_changes_nothing(
    memory: MemorySink, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error is said once, and capturing stays as it is."""
    monkeypatch.setattr(switch, "INTERVAL", 0.01)
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        raise RuntimeError("no table of flags")

    with enabled(ask), job_context(1):
        logger.info("first")
        until(lambda: asked > 3)
        logger.info("second")
    assert messages(memory) == ["first", "second"]
    assert capfd.readouterr().err.count("no table of flags") == 1


def test_a_child_of_a_fork_goes_on_asking(memory: MemorySink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is forked while it is off finds out that it is on again."""
    monkeypatch.setattr(switch, "INTERVAL", 0.01)
    parent = os.getpid()

    with enabled(lambda: os.getpid() != parent), job_context(1):
        logger.info("wakes the writer")
        until(lambda: not switch.is_on)
        child = os.fork()
        if not child:
            status = 1
            try:
                logger.info("wakes the writer of the child")
                until(lambda: switch.is_on)
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
