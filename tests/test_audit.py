"""The logging audit: a sentence with the fix for everything that keeps lines out of job logs."""

from __future__ import annotations

import json
import logging
import logging.config
import logging.handlers
import platform
import queue
import sys
from collections.abc import Callable

import pytest

from joblog_router import JobContextFilter, JobLogHandler, job_context
from joblog_router._inspection.audit import audit_logging
from joblog_router._inspection.snapshot import snapshot
from tests.helpers import configure, entries, job_handler


def findings() -> list[tuple[str, str]]:
    """Kind and logger of every finding about loggers of these tests or root."""
    return [
        (finding.kind, finding.logger)
        for finding in audit_logging(made=[job_handler()] if logging.getLogger().handlers else [])
        if not finding.logger or finding.logger.startswith("audited")
    ]


@pytest.fixture(autouse=True)
def _only_ours() -> None:
    configure()
    logging.getLogger("audited")


def test_a_sound_configuration_has_no_findings() -> None:
    """What the README shows."""
    assert findings() == []


def _no_propagation(child: logging.Logger) -> None:
    child.propagate = False
    child.addHandler(logging.NullHandler())


def _level(child: logging.Logger) -> None:
    child.setLevel(logging.WARNING)


def _disabled(child: logging.Logger) -> None:
    child.disabled = True


def _twice(child: logging.Logger) -> None:
    child.addHandler(job_handler())


def _filter(child: logging.Logger) -> None:
    child.addFilter(JobContextFilter())


def _memory(child: logging.Logger) -> None:
    child.addHandler(logging.handlers.MemoryHandler(10, target=job_handler()))


@pytest.mark.parametrize(
    ("spoil", "kind", "fix"),
    [
        (_no_propagation, "propagate", "Let it propagate, or add the job handler to it"),
        (_level, "level", "Set its level to INFO"),
        (_disabled, "disabled", "'disable_existing_loggers': False"),
        (_twice, "twice", "Take it off the one below"),
        (_filter, "filter", "Put it on the handlers instead"),
        (_memory, "buffer", "they get the job of whoever makes it flush. Add 'filters': ['job_context']"),
    ],
)
def test_what_is_wrong_with_a_logger(spoil: Callable[[logging.Logger], None], kind: str, fix: str) -> None:
    """One finding, for that logger, with what to do."""
    spoil(logging.getLogger("audited"))
    assert findings() == [(kind, "audited")]
    (text,) = [finding.text for finding in audit_logging() if finding.logger == "audited"]
    assert "'audited'" in text
    assert fix in text


def test_the_right_way_is_no_finding() -> None:
    """A buffer with the filter, a quiet logger with the job handler, a level below INFO."""
    child = logging.getLogger("audited")
    buffer = logging.handlers.MemoryHandler(10, target=job_handler())
    buffer.addFilter(JobContextFilter())
    child.addHandler(buffer)
    child.propagate = False
    child.setLevel(logging.DEBUG)
    assert findings() == []


def test_a_buffer_without_the_filter_really_takes_the_flushers_job() -> None:
    """What the audit warns of, and that its fix is one."""
    child = logging.getLogger("audited")
    child.propagate = False
    for filters in ([], [JobContextFilter()]):
        buffer = logging.handlers.MemoryHandler(10, flushLevel=logging.ERROR, target=job_handler())
        for item in filters:
            buffer.addFilter(item)
        child.handlers[:] = [buffer]
        with job_context("A"):
            child.info("of A")
        with job_context("B"):
            child.error("of B")
        buffer.close()
    assert [(entry.job_id, entry.message) for entry in entries()] == [
        ("B", "of A"),
        ("B", "of B"),
        ("A", "of A"),
        ("B", "of B"),
    ]


def test_levels_for_everybody() -> None:
    """Root's level, the handler's, and `logging.disable`."""
    logging.getLogger().setLevel(logging.WARNING)
    job_handler().setLevel(logging.ERROR)
    logging.disable(logging.INFO)
    assert findings() == [("level", ""), ("level", ""), ("level", "")]


def test_a_hijacked_root_logger() -> None:
    """A job handler exists and no logger has it: somebody replaced root's handlers."""
    handler = job_handler()
    logging.getLogger().handlers.clear()
    texts = [finding.text for finding in audit_logging(made=[handler]) if finding.kind == "root"]
    assert len(texts) == 1
    assert "worker_hijack_root_logger" in texts[0]
    assert [finding.kind for finding in audit_logging() if not finding.logger] == ["root"]


def test_a_queue_in_front_of_the_job_handler() -> None:
    """Without the filter the job is lost on the way; a listener with the job handler is what one sees."""
    handler = logging.handlers.QueueHandler(queue.SimpleQueue())
    handler.listener = logging.handlers.QueueListener(handler.queue, job_handler())
    logging.getLogger().handlers[:] = [handler]
    found = [finding for finding in audit_logging() if not finding.logger]
    assert [finding.kind for finding in found] == ["buffer"]
    assert "'filters': ['job_context']" in found[0].text
    handler.addFilter(JobContextFilter())
    assert [finding for finding in audit_logging() if not finding.logger] == []


def test_the_snapshot_is_plain_data() -> None:
    """It can be written as JSON, and tells counters, audit, leaks and who speaks."""
    logging.getLogger("audited").disabled = True
    told = json.loads(json.dumps(snapshot()))
    assert {"pid", "origin", "started", "time", "python", "program", "stats", "audit", "leaks"} <= set(told)
    assert told["started"] <= told["time"]
    assert "captured" in told["stats"]
    assert ("disabled", "audited") in {(finding["kind"], finding["logger"]) for finding in told["audit"]}
    assert isinstance(job_handler(), JobLogHandler)


def test_the_snapshot_says_of_which_format_program_and_python_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program by the name of its file; an interpreter inside another program may have no arguments."""
    monkeypatch.setattr(sys, "argv", ["/srv/shop/manage.py", "runserver"])
    told = snapshot()
    assert (told["version"], told["program"], told["python"]) == (1, "manage.py", platform.python_version())
    monkeypatch.setattr(sys, "argv", [])
    assert snapshot()["program"] == ""


async def test_the_doctors_probe_quotes_the_sentences() -> None:
    """Text for people, not data."""
    from joblog_router.doctor.builtin import PipelineProbe

    configure()
    logging.disable(logging.INFO)
    try:
        result = await PipelineProbe().probe("1")
    finally:
        logging.disable(logging.NOTSET)
    assert any(text.startswith("logging.disable(INFO) was called") for text in result.facts["audit"])
