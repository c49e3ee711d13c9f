"""Several handlers with one sink: a line is stored once, by the strictest of their settings, in whichever order."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from joblog_router import JobLogHandler, flush, job_context
from joblog_router._pipeline import policy, resolve
from joblog_router._pipeline.overflow import Bounds
from joblog_router._pipeline.router import router
from joblog_router._pipeline.rules import Rules
from joblog_router.sinks import MemorySink
from tests.helpers import until, use_rules

log = logging.getLogger("app")
STRICT: dict[str, Any] = {"redact": [r"PAT-\d+"], "staff": ["app.billing"], "max_lines": 20, "fold": False}


@pytest.fixture
def sink() -> Iterator[MemorySink]:
    """A sink for both handlers."""
    log.setLevel(logging.DEBUG)
    yield MemorySink()
    use_rules(Rules())


def speak(sink: MemorySink) -> dict[str, str]:
    """What is stored of two lines, with their audiences."""
    with job_context(1):
        log.info("key PAT-12345")
        logging.getLogger("app.billing").info("margin")
    assert flush(10)
    return {entry.message: entry.audience for entry in sink.entries("1")}


@pytest.mark.parametrize("is_first", [True, False])
def test_a_plain_handler_beside_a_strict_one_undoes_none_of_its_rules(sink: MemorySink, is_first: bool) -> None:
    """Masked, for staff, whole and limited; and not any more once the strict one is closed."""
    settings: list[dict[str, Any]] = [{"level": "ERROR"}, STRICT]
    handlers = [JobLogHandler(sink=sink, **one) for one in (reversed(settings) if is_first else settings)]
    for handler in handlers:
        log.addHandler(handler)
    strict, plain = handlers if is_first else reversed(handlers)
    assert speak(sink) == {"key [redacted]": "all", "margin": "staff"}
    with job_context(2):
        for number in range(100):
            log.info("line %d", number)
    assert flush(10)
    kept = [entry.message for entry in sink.entries("2")]
    assert kept[:10] == [f"line {number}" for number in range(10)]
    assert len(kept) < 40
    log.removeHandler(strict)
    strict.close()
    plain.setLevel(logging.DEBUG)
    assert speak(sink) == {"key [redacted]": "all", "key PAT-12345": "all", "margin": "all"}
    plain.close()
    log.removeHandler(plain)


def test_a_handler_that_says_nothing_brings_the_projects_rules_along(sink: MemorySink) -> None:
    """Where one handler has patterns of its own and the other leaves it to the settings both count."""
    use_rules(Rules.of([r"KEY-\d+"], ["app.payroll"], None))
    handlers = [JobLogHandler(sink=sink, **STRICT), JobLogHandler(sink=sink)]
    log.addHandler(handlers[0])
    with job_context(1):
        log.info("PAT-1 and KEY-2")
        logging.getLogger("app.payroll").info("salary")
    assert flush(10)
    assert [(e.message, e.audience) for e in sink.entries("1")] == [
        ("[redacted] and [redacted]", "all"),
        ("salary", "staff"),
    ]
    log.removeHandler(handlers[0])
    for handler in handlers:
        handler.close()


def test_the_largest_bounds_hold_and_what_one_keeps_whole_is_whole(sink: MemorySink) -> None:
    """Whichever handler came last."""
    large = JobLogHandler(sink=sink, capacity=9000, unfolded=["a"], block=1.0)
    small = JobLogHandler(sink=sink, capacity=100, capacity_bytes=10, unfolded=["b"])
    channel = small._channel
    assert channel.bounds == channel.overflow.bounds == Bounds(9000, 64 * 2**20, 1.0)
    assert channel.asked.unfolded is not None
    assert [channel.asked.unfolded.wants(name) for name in ("a.x", "b", "c")] == [True, True, False]
    large.close()
    assert channel.bounds == Bounds(100, 10, 0.0)
    assert not channel.asked.unfolded.wants("a.x")
    small.close()


def test_a_handler_that_is_dropped_without_being_closed_has_no_say_any_more(sink: MemorySink) -> None:
    """Neither in whose records are whose nor over the lines of the sink that it shared."""
    plain = JobLogHandler(sink=sink, fold=False)
    log.addHandler(plain)
    strict: JobLogHandler | None = JobLogHandler(sink=sink, **STRICT, evidence=["order"])
    assert speak(sink) == {"key [redacted]": "all", "margin": "staff"}
    assert resolve.evidence == {"order"}
    del strict
    gc.collect()
    until(lambda: resolve.evidence == {"job_id"})
    until(lambda: len(plain._channel.uses) == 1)
    with job_context(1):
        logging.getLogger("app.billing").info("PAT-1", extra={"order": 2})
    assert flush(10)
    assert (sink.entries("1")[-1].message, sink.entries("1")[-1].audience) == ("PAT-1", "all")


def test_the_next_handler_does_not_wait_for_the_writer_to_forget_a_dropped_one(
    sink: MemorySink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first line there is no writer yet, and the garbage collector must not start a thread."""
    monkeypatch.setattr(router._writer, "is_running", lambda: False)  # as in a process that has not logged
    started = threading.active_count()
    dropped: JobLogHandler | None = JobLogHandler(sink=sink, evidence=["order"])
    del dropped
    gc.collect()
    assert threading.active_count() == started
    JobLogHandler(sink=sink).close()
    assert resolve.evidence == {"job_id"}


def test_the_collector_may_come_while_a_policy_is_applied(sink: MemorySink, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it finds then is not taken back in the middle of that."""
    dropped: list[JobLogHandler] = [JobLogHandler(sink=sink, evidence=["order"])]

    def collect(*args: object) -> None:
        dropped.clear()
        gc.collect()

    monkeypatch.setattr(policy, "use_drivers", collect)  # the moment cannot be met otherwise
    JobLogHandler(sink=sink, evidence=["case"]).close()
    until(lambda: resolve.evidence == {"job_id"})
