"""Loguru beside the standard library: both kinds of records in the job's log, none twice."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
from loguru import logger as loguru

from joblog_router import JobLogHandler, flush, job_context
from joblog_router.sinks import MemorySink
from tests.helpers import configure, entries

log = logging.getLogger("stdlib.module")


class InterceptHandler(logging.Handler):
    """Standard library to loguru, as loguru's documentation has it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record over with its level and the depth of its caller."""
        try:
            level: str | int = loguru.level(record.levelname).name
        except ValueError:
            level = record.levelno
        frame: FrameType | None = logging.currentframe()
        depth = 0
        while frame and (depth == 0 or frame.f_code.co_filename == logging.__file__):
            frame = frame.f_back
            depth += 1
        loguru.opt(depth=depth, exception=record.exc_info).log(level, record.getMessage())


@pytest.fixture(autouse=True)
def _no_other_loguru_sinks() -> Iterator[None]:
    loguru.remove()
    yield
    loguru.remove()


def test_the_handler_is_a_loguru_sink_and_intercepted_records_come_once() -> None:
    """InterceptHandler on root, JobLogHandler added to loguru: every line of both libraries, once, in its job."""
    sink = MemorySink()
    handler = JobLogHandler(sink=sink, fold=False)
    loguru.add(handler, format="{message}", level="INFO")
    logging.basicConfig(handlers=[InterceptHandler()], level=logging.INFO, force=True)
    loguru.info("nobody")
    for job in (1, 2):
        with job_context(job, stage="x"):
            log.info("stdlib of %d", job)
            loguru.bind(image=job).info("loguru of {}", job)
            try:
                raise ValueError("boom")
            except ValueError:
                log.exception("failed of %d", job)
                loguru.exception("loguru failed of {}", job)
    assert flush(10)
    kept = sink.entries()
    handler.close()
    assert [(entry.job_id, entry.message.split("\n")[0]) for entry in kept] == [
        (str(job), text.format(job))
        for job in (1, 2)
        for text in ("stdlib of {}", "loguru of {}", "failed of {}", "loguru failed of {}")
    ]
    assert all("ValueError: boom" in (entry.exception or entry.message) for entry in kept if "failed" in entry.message)
    assert all(entry.fields["stage"] == "x" for entry in kept)
    assert kept[1].fields["extra"] == {"image": 1}


def test_loguru_handed_to_the_standard_library_comes_once_too() -> None:
    """The other way round: loguru propagates to logging, where the job handler is on root."""

    class Propagate(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logging.getLogger(record.name).handle(record)

    configure(level="INFO")
    loguru.add(Propagate(), format="{message}")
    with job_context(1):
        log.info("stdlib")
        loguru.info("loguru")
    assert [entry.message for entry in entries(1)] == ["stdlib", "loguru"]


def test_a_named_logger_gets_every_entry_with_its_job() -> None:
    """The sink "logger" hands entries to a logger of its own, from where they do not come back."""
    got: list[logging.LogRecord] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            got.append(record)

    target = logging.getLogger("jobs.out")
    target.addHandler(Keeps())
    configure(sink="logger", options={"name": "jobs.out"})
    with job_context(7, stage="queue"):
        log.info("hello %s", "you", extra={"k": 1})
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("failed")
    assert flush(10)
    seen: list[Any] = [(record.job_id, record.source, record.getMessage(), record.stage) for record in got]  # type: ignore[attr-defined]
    assert seen == [("7", "stdlib.module", "hello you", "queue"), ("7", "stdlib.module", "failed", "queue")]
    assert got[0].k == 1  # type: ignore[attr-defined]
    assert "ValueError: boom" in logging.Formatter("%(message)s").format(got[1])
    assert flush(10)
    assert len(got) == 2, "the job handler on root must not take them again"
