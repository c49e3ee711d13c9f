"""Resolvers: whose record is it where no scope is open?"""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from joblog_router import ConfigurationError, JobContextFilter, JobLogHandler, detached, job_context, stats
from tests.helpers import configure, entries, job_handler, messages

log = logging.getLogger("third_party.module")
answer: Any = None
asked = 0


def current(record: logging.LogRecord) -> Any:
    """The job of a framework that has its own idea of what is being worked on."""
    global asked
    asked += 1
    return answer


@pytest.fixture(autouse=True)
def _reset() -> None:
    global answer, asked
    answer, asked = None, 0


def test_a_resolver_answers_where_no_scope_is_open() -> None:
    """Its answer is the job; None leaves the record to nobody; open scopes, `detached` and addresses do not ask it."""
    global answer
    configure(resolvers=[current])
    log.info("nobody")
    answer = 7
    log.info("of seven")
    log.info("addressed", extra={"job_log_id": 8})
    log.info("kept out", extra={"job_log": False})
    asked_before = asked
    with job_context(1):
        log.info("of one")
        with detached():
            log.info("detached")
    assert asked == asked_before == 2
    assert [(entry.job_id, entry.message) for entry in entries()] == [
        ("7", "of seven"),
        ("8", "addressed"),
        ("1", "of one"),
    ]


def test_by_its_dotted_name_and_asked_once_a_record() -> None:
    """The filter asks, and the handler behind it finds the answer on the record."""
    global answer
    configure(resolvers=[f"{__name__}.current"])
    answer = "x"
    record = log.makeRecord(log.name, logging.INFO, "f.py", 1, "m", (), None)
    JobContextFilter().filter(record)
    job_handler().handle(record)
    assert record.job_id == "x"  # type: ignore[attr-defined]
    assert (asked, messages("x")) == (1, ["m"])


def test_a_closed_scope_asks_nobody() -> None:
    """A late record is nobody's: what the thread works for now is no answer to whose it is."""
    global answer
    configure(resolvers=[current])
    answer = 7
    scope = job_context(1)
    scope.__enter__()
    thread_scope = scope

    def close_elsewhere() -> None:
        thread_scope.__exit__(None, None, None)

    thread = threading.Thread(target=close_elsewhere)
    thread.start()
    thread.join(10)
    before = stats()["late"]
    log.info("late")
    assert (messages(), stats()["late"] - before) == ([], 1)
    scope.__exit__(None, None, None)


def test_evidence_counts_against_a_resolver_too() -> None:
    """A record that names another job than the resolver is nobody's, and a conflict."""
    global answer
    configure(resolvers=[current])
    answer = 7
    before = stats()["conflicts"]
    log.info("of eight", extra={"job_id": 8})
    log.info("of seven", extra={"job_id": 7})
    assert (messages(), stats()["conflicts"] - before) == (["of seven"], 1)


def test_resolvers_that_fail_or_log_harm_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    """A failure is reported once and the next one asked; what a resolver logs asks none."""

    def fails(record: logging.LogRecord) -> None:
        raise ValueError("no such thing")

    def logs(record: logging.LogRecord) -> str:
        log.info("asking")
        return "7"

    configure(resolvers=[fails, logs])
    log.info("one")
    log.info("two")
    assert [(entry.job_id, entry.message) for entry in entries()] == [("7", "one"), ("7", "two")]
    assert capfd.readouterr().err.count("ValueError('no such thing')") == 1


def test_who_asks_in_one_thread_keeps_nobody_from_asking_in_another() -> None:
    """While a resolver runs (and logs) in one thread, records of others find their job all the same."""
    asking, go_on = threading.Event(), threading.Event()

    def slow(record: logging.LogRecord) -> str:
        if record.getMessage() == "slow":
            log.info("by the resolver")
            asking.set()
            go_on.wait(10)
        return record.getMessage()

    configure(resolvers=[slow])
    thread = threading.Thread(target=log.info, args=("slow",))
    thread.start()
    assert asking.wait(10)
    log.info("quick")
    go_on.set()
    thread.join(10)
    assert sorted(entry.job_id for entry in entries()) == ["quick", "slow"]


def test_they_end_with_their_handler() -> None:
    """A later configuration without resolvers asks none."""
    global answer
    configure(resolvers=[current])
    configure()
    answer = 7
    log.info("nobody")
    assert (asked, messages()) == (0, [])


@pytest.mark.parametrize("value", ["x.y", [1], ["nowhere.to.be.found"], [f"{__name__}.nothing"]])
def test_what_cannot_be_called_is_refused(value: Any) -> None:
    """At configuration, with the name of the keyword."""
    with pytest.raises(ConfigurationError, match="resolvers"):
        JobLogHandler(sink="memory", resolvers=value)


def test_asyncios_own_records_are_nobodys_behind_the_filter_too() -> None:
    """The filter left the resolver's answer on a record that was judged to be nobody's; the handler went by it."""
    global answer
    configure(resolvers=[current])
    job_handler().addFilter(JobContextFilter())
    answer = 7
    record = logging.getLogger("asyncio").makeRecord("asyncio", logging.INFO, "f.py", 1, "m", (), None)
    assert JobContextFilter().filter(record)
    assert not job_handler().handle(record)
    assert messages() == []
