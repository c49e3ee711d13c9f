"""What the logging module does between the call and the handler: the answer is the call's, or none."""

from __future__ import annotations

import logging
import logging.handlers
import pickle
import queue
import warnings
from typing import Any

import pytest

from joblog_router import JobContextFilter, carry, current_job, detached, flush, job_context
from tests.helpers import configure, job_handler

from .lines import Counted, lines, log


def test_a_filter_on_a_handler_sees_every_record_and_one_on_a_logger_does_not() -> None:
    """Records of child loggers pass a logger's filters by: JobContextFilter belongs on handlers."""
    seen: dict[str, list[Any]] = {"logger": [], "handler": []}

    class Keep(JobContextFilter):
        def __init__(self, where: str) -> None:
            super().__init__()
            self.where = where

        def filter(self, record: logging.LogRecord) -> bool:
            super().filter(record)
            seen[self.where].append(record.job_id)  # type: ignore[attr-defined]
            return True

    parent = logging.getLogger("third_party")
    parent.addFilter(Keep("logger"))
    handler = logging.NullHandler()
    handler.handle = handler.filter = Keep("handler").filter  # type: ignore[method-assign, assignment]
    logging.getLogger().addHandler(handler)
    with job_context("A"):
        log.info("of a child")
    assert seen == {"logger": [], "handler": ["A"]}


@pytest.mark.parametrize("has_filter", [True, False])
def test_a_queue_keeps_the_job_with_the_filter_and_loses_it_without(has_filter: bool) -> None:
    """Read when the record is made, the job is B's; in the listener's thread there is none."""
    handler = logging.handlers.QueueHandler(queue.SimpleQueue())
    if has_filter:
        handler.addFilter(JobContextFilter())
    listener = logging.handlers.QueueListener(handler.queue, job_handler())
    logging.getLogger().handlers[:] = [handler, *[h for h in logging.getLogger().handlers if h is not job_handler()]]
    with job_context("A"):
        listener.start()
    with job_context("B"):
        log.info("of B")
    listener.stop()
    ours = listener.handlers[0]
    assert flush(10)
    found = [(entry.job_id, entry.message) for entry in ours.sink.entries()]  # type: ignore[attr-defined]
    assert found == ([("B", "of B")] if has_filter else [])


def test_a_memory_handler_with_the_filter_keeps_the_job() -> None:
    """A's record that B flushes is A's; without the filter it is the flusher's, which the logging audit tells."""
    buffer = logging.handlers.MemoryHandler(10, flushLevel=logging.ERROR, target=job_handler())
    buffer.addFilter(JobContextFilter())
    log.addHandler(buffer)
    log.propagate = False
    with job_context("A"):
        log.info("of A")
    with job_context("B"):
        log.error("of B")
    buffer.close()
    assert lines() == [("A", "of A"), ("B", "of B")]


def test_a_pickled_record_names_its_job() -> None:
    """Through a socket or a multiprocessing queue the stamp goes along, into a process where no job is open."""
    record = log.makeRecord(log.name, logging.INFO, "f.py", 1, "m", (), None)
    with job_context("A"):
        JobContextFilter().filter(record)
    with job_context("B"):
        job_handler().handle(pickle.loads(pickle.dumps(record)))
    assert lines() == [("A", "m")]


def test_a_record_that_was_about_nobody_stays_so() -> None:
    """Stamped outside a job and handled inside one: no job."""
    record = log.makeRecord(log.name, logging.INFO, "f.py", 1, "m", (), None)
    JobContextFilter().filter(record)
    with job_context("A"):
        job_handler().handle(record)
    assert lines() == []


def test_a_record_made_by_hand_is_its_handlers() -> None:
    """`makeRecord` and `handle` inside A, as bridges from other logging libraries do: A's line."""
    record = logging.LogRecord("bridge", logging.INFO, "f.py", 1, "bridged", (), None)
    with job_context("A"):
        logging.getLogger("bridge").handle(record)
    assert lines() == [("A", "bridged")]


def test_an_adapters_record_is_its_callers() -> None:
    """A LoggerAdapter made in A and used in B: B's line."""
    with job_context("A"):
        adapter = logging.LoggerAdapter(log, {"customer": 3})
    with job_context("B"):
        adapter.info("adapted")
    assert lines() == [("B", "adapted")]


def test_warnings_are_in_the_job_that_causes_them() -> None:
    """`captureWarnings` logs where the warning is given."""
    logging.captureWarnings(True)
    try:
        with job_context("A"), warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("careful", stacklevel=1)
    finally:
        logging.captureWarnings(False)
    found = lines()
    assert [job for job, _ in found] == ["A"]
    assert "careful" in found[0][1]


def test_a_record_inside_the_formatting_of_another_one() -> None:
    """An argument whose `__str__` logs, and opens a job for that: each line has its own."""

    class Chatty:
        def __str__(self) -> str:
            with job_context("B"):
                log.info("inner")
            return "chatty"

    with job_context("A"):
        log.info("outer %s", Chatty())
    assert set(lines()) == {("B", "inner"), ("A", "outer chatty")}  # other handlers format it too


def test_an_address_in_extra_wins_over_everything() -> None:
    """`job_log_id` beats scope, generator and mask; `job_log: False` beats that."""

    def items() -> Any:
        with job_context("G"):
            yield
            log.info("addressed", extra={"job_log_id": "X"})
            yield

    generator = items()
    with job_context("A"):
        next(generator)
        next(generator)
        with detached():
            log.info("addressed too", extra={"job_log_id": "X"})
        log.info("kept out", extra={"job_log": False, "job_log_id": "X"})
    assert lines() == [("X", "addressed"), ("X", "addressed too")]


def test_evidence_against_a_generators_job_is_a_conflict() -> None:
    """A generator's own line that names another job: none, also where the generator is found on the stack."""
    conflicts = Counted("conflicts")

    def items() -> Any:
        with job_context("G"):
            yield
            log.info("of another", extra={"job_id": "X"})
            log.info("of G", extra={"job_id": "G"})
            yield

    generator = items()
    with job_context("A"):
        next(generator)
        next(generator)
        log.info("of A", extra={"job_id": "A"})
    assert lines() == [("G", "of G"), ("A", "of A")]
    assert conflicts.more() == 1


def test_a_nested_job_and_the_way_back() -> None:
    """Inner job, `detached`, and out again: each line is that of the innermost open block."""
    with job_context("A"):
        log.info("1")
        with job_context("B"):
            log.info("2")
            with detached():
                log.info("nobody")
                assert current_job() is None
            log.info("3")
        log.info("4")
    log.info("nobody")
    assert lines() == [("A", "1"), ("B", "2"), ("B", "3"), ("A", "4")]


def test_a_closed_inner_scope_of_the_same_job_falls_back_to_the_outer_one() -> None:
    """What was started in a step of A's that is over is still A's while A's outer scope is open."""
    with job_context("A"):
        with job_context("A", stage="step"):
            later = carry(log.info)
        later("still A's")
        with job_context("B"):
            with job_context("A"):
                inside_b = carry(log.info)
            inside_b("nobody's: the open job around is B")
        inside_b("A's again")
    assert lines() == [("A", "still A's"), ("A", "A's again")]


def test_a_second_configuration_keeps_the_answer() -> None:
    """`dictConfig` inside a job changes nothing about whose lines come next."""
    with job_context("A"):
        configure()
        log.info("of A")
    assert lines() == [("A", "of A")]


def test_the_event_loops_logger_is_nobodys() -> None:
    """Whatever job is open: its records come in whatever context the loop or the collector happens to be in."""
    with job_context("A"):
        logging.getLogger("asyncio").error("Task exception was never retrieved")
    assert lines() == []
