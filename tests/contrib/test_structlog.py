"""Structlog by way of the standard library: its events in the job of the calling code."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from joblog_router import JobLogHandler, flush, job_context
from joblog_router.contrib.structlog import StructlogJobLogHandler
from joblog_router.sinks import MemorySink
from tests.helpers import configure, entries, messages

HANDLER = "joblog_router.JobLogHandler"
COMMON: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
]
LAST: dict[str, list[Any]] = {
    "kwargs": [structlog.stdlib.render_to_log_kwargs],
    "formatter": [structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
    "json": [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
}


@pytest.fixture(autouse=True)
def _structlog_as_it_was() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def structured(how: str) -> Any:
    """A logger of structlog that hands over to the standard library in that way, the job handler on root."""
    structlog.configure(
        processors=[*COMMON, *LAST[how]],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    kind = "joblog_router.contrib.structlog.StructlogJobLogHandler" if how == "formatter" else HANDLER
    configure(level="INFO", **{"class": kind})
    return structlog.get_logger("shop.structured")


@pytest.mark.parametrize("how", ["kwargs", "formatter"])
def test_events_are_messages_and_their_values_are_fields(how: str) -> None:
    """By `render_to_log_kwargs`, and by the ProcessorFormatter that structlog's documentation recommends."""
    log = structured(how)
    log.info("nobody's")
    with job_context(1, stage="queue"):
        log.bind(image="a.jpg").info("packed %d", 5, size=3)
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("failed")
    packed, failed = entries(1)
    assert (packed.message, packed.level, packed.logger) == ("packed 5", logging.INFO, "shop.structured")
    assert {"stage": "queue", "image": "a.jpg", "size": 3}.items() <= packed.fields.items()
    assert failed.message == "failed"
    assert "ValueError: boom" in (failed.exception or "")
    assert len(entries()) == 2


def test_other_handlers_and_other_records_see_no_difference() -> None:
    """A console with structlog's formatter prints the event; plain records pass; a second handler stores none twice."""
    log = structured("formatter")
    out = io.StringIO()
    console = logging.StreamHandler(out)
    console.setFormatter(structlog.stdlib.ProcessorFormatter(processor=structlog.processors.JSONRenderer()))
    sink = MemorySink()
    handlers = [StructlogJobLogHandler(sink=sink, fold=False), console, JobLogHandler(sink=sink, fold=False)]
    for before in logging.getLogger().handlers:
        before.close()
    logging.getLogger().handlers[:] = handlers
    with job_context(1):
        log.info("packed", name="a.jpg", exc_info=KeyError("given"))
        logging.getLogger("plain").info("a plain record")
    assert flush(10)
    packed, plain = sink.entries(1)
    assert (packed.message, plain.message) == ("packed", "a plain record")
    assert "KeyError: 'given'" in (packed.exception or "")
    for handler in handlers:
        handler.close()
    assert json.loads(out.getvalue().splitlines()[0])["event"] == "packed"


def test_rendered_text_is_the_message() -> None:
    """A JSONRenderer at the end: the message is that text."""
    log = structured("json")
    with job_context(1):
        log.info("packed", image="a.jpg")
    (entry,) = entries(1)
    assert json.loads(entry.message) == {"event": "packed", "image": "a.jpg", "level": "info"}


async def test_the_async_methods_log_in_the_callers_job() -> None:
    """`ainfo` logs in a thread of the loop's pool, with the caller's context."""
    log = structured("kwargs")

    async def work(job: int) -> None:
        with job_context(job):
            for _ in range(10):
                await log.ainfo("line %d", job)

    await asyncio.gather(*(work(job) for job in range(4)))
    for job in range(4):
        assert messages(job) == [f"line {job}"] * 10


def test_a_job_in_structlogs_own_context_is_evidence() -> None:
    """`bind_contextvars(job_id=...)` left over from another job: no job, as for any `extra`."""
    log = structured("kwargs")
    structlog.contextvars.bind_contextvars(job_id=2)
    with job_context(1):
        log.info("contradicts")
    with job_context(2):
        log.info("agrees")
    assert [(entry.job_id, entry.message) for entry in entries()] == [("2", "agrees")]
