"""Loguru in full: the job of the calling code, also where loguru's sinks run elsewhere."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger as loguru

from joblog_router import Entry, JobLogHandler, flush, job_context, stats
from joblog_router.contrib.loguru import add_job_handler, job_patcher
from joblog_router.sinks import MemorySink
from tests.helpers import run_python


@pytest.fixture(autouse=True)
def _loguru_as_it_was() -> Iterator[None]:
    loguru.remove()
    yield
    loguru.remove()
    loguru.configure(extra={}, patcher=lambda record: None)


@pytest.fixture
def sink() -> MemorySink:
    """A memory sink that loguru's records go to."""
    sink = MemorySink()
    add_job_handler(JobLogHandler(sink=sink, fold=False))
    return sink


def kept(sink: MemorySink, job: object = None) -> list[Entry]:
    """What the sink has."""
    assert flush(10)
    return sink.entries(job)


def test_records_keep_text_level_place_and_what_was_bound(sink: MemorySink) -> None:
    """As fields, beside the scope's; text without colours; nothing where no job is open."""
    loguru.info("nobody")
    with job_context(1, stage="queue"):
        loguru.bind(image="a.jpg").success("packed {} of {total}", 1, total=9)
        with loguru.contextualize(request="r1"):
            loguru.opt(colors=True).warning("<red>slow</red>")
    one, two = kept(sink)
    assert (one.message, one.level, one.logger) == ("packed 1 of 9", 25, __name__)
    assert (one.path, one.line > 0) == (__file__, True)
    assert one.fields == {"stage": "queue", "image": "a.jpg", "total": 9}
    assert (two.message, two.level, two.fields["request"]) == ("slow", logging.WARNING, "r1")


def test_exceptions_come_with_their_traceback_also_from_catch(sink: MemorySink) -> None:
    """`exception()`, `opt(exception=...)` and the decorator."""

    @loguru.catch
    def breaks() -> None:
        raise ValueError("from catch")

    with job_context(1):
        breaks()
        try:
            raise KeyError("from exception")
        except KeyError as error:
            loguru.exception("failed")
            loguru.opt(exception=error).info("the same")
    caught, failed, same = kept(sink, 1)
    assert "ValueError: from catch" in (caught.exception or "")
    assert ".breaks" in (caught.exception or "")
    assert "KeyError: 'from exception'" in (failed.exception or "")
    assert same.exception == failed.exception


def test_the_rules_of_extra_hold_for_what_is_bound(sink: MemorySink) -> None:
    """`job_log_id` addresses, a plain `job_id` is evidence, `job_log=False` keeps out."""
    before = stats()["conflicts"]
    with job_context(1):
        loguru.bind(job_log_id=2).info("addressed")
        loguru.bind(job_id=3).info("contradicts")
        loguru.bind(job_id=1).info("agrees")
        loguru.bind(job_log=False).info("kept out")
    assert [(entry.job_id, entry.message) for entry in kept(sink)] == [("2", "addressed"), ("1", "agrees")]
    assert stats()["conflicts"] == before + 1


def test_threads_see_their_own_jobs_whatever_the_other_sinks_do(sink: MemorySink, tmp_path: Path) -> None:
    """Beside a sink behind loguru's queue, whose thread was born in job 0: its records name their own jobs, too."""
    loguru.configure(patcher=job_patcher)
    path = tmp_path / "all.jsonl"
    with job_context(0):
        loguru.add(path, serialize=True, enqueue=True, format="{message}")
        loguru.info("line 0")

    def work(job: int) -> None:
        for number in range(50):
            with job_context(job, part=number):
                loguru.info("line {}", job)
            loguru.info("between")

    threads = [threading.Thread(target=work, args=(job,)) for job in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loguru.complete()
    for job in range(1, 5):
        assert [entry.message for entry in kept(sink, job)] == [f"line {job}"] * 50
    records = [json.loads(line)["record"] for line in path.read_text().splitlines()]
    assert len(records) == 401
    for record in records:
        job_id = record["extra"]["job_id"]
        assert record["message"] == ("between" if job_id is None else f"line {job_id}")
    assert {record["extra"].get("part") for record in records if record["extra"]["job_id"] == "3"} == set(range(50))


def test_the_patcher_leaves_what_the_call_said(tmp_path: Path) -> None:
    """What was bound wins over the scope's fields."""
    loguru.configure(patcher=job_patcher)
    seen: list[dict[str, Any]] = []
    loguru.add(lambda message: seen.append(message.record["extra"]), format="{message}")
    with job_context(1, stage="queue"):
        loguru.bind(stage="pack").info("x")
    assert seen == [{"stage": "pack", "job_id": "1"}]


def test_levels_hold_and_removing_ends_it(sink: MemorySink) -> None:
    """The handler's own level and that of adding it."""
    errors, warnings = MemorySink(), MemorySink()
    add_job_handler(JobLogHandler(level="ERROR", sink=errors))
    number = add_job_handler(JobLogHandler(sink=warnings), level="WARNING")
    with job_context(1):
        for level in ("info", "warning", "error"):
            getattr(loguru, level)(level)
        loguru.remove(number)
        loguru.error("after")
    assert flush(10)
    assert [entry.message for entry in errors.entries()] == ["error", "after"]
    assert [entry.message for entry in warnings.entries()] == ["warning", "error"]
    assert [entry.message for entry in kept(sink)] == ["info", "warning", "error", "after"]


def test_a_record_that_cannot_be_taken_over_harms_nobody(sink: MemorySink) -> None:
    """What is bound may be hostile, and another patcher may spoil the record."""

    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

        def __eq__(self, other: object) -> bool:
            raise RuntimeError("no comparing")

        __hash__ = None  # type: ignore[assignment]

    with job_context(1):
        loguru.bind(thing=Hostile(), job_id=Hostile()).info("hostile")
        loguru.patch(lambda record: record.update(file=None)).info("spoiled")
        loguru.info("fine")
    assert [entry.message for entry in kept(sink)] == ["fine"]


def test_a_logging_call_in_a_finalizer_inside_a_loguru_sink_is_kept(tmp_path: Path) -> None:
    """Loguru refuses to log inside of its own sink ("deadlock avoided"); the job's log does not depend on its lock."""
    sink = MemorySink()
    add_job_handler(JobLogHandler(sink=sink))

    def logs_itself(message: Any) -> None:
        if "inside" not in message:
            loguru.info("inside")

    loguru.add(logs_itself, format="{message}", catch=True)
    with job_context(1):
        loguru.info("outside")
    assert [entry.message for entry in kept(sink)] == ["outside", "inside"]


def test_without_loguru_the_extra_is_named() -> None:
    """Importing works; adding says what to install."""
    result = run_python(
        """
        import sys
        sys.modules["loguru"] = None
        from joblog_router import JobLogHandler, MissingExtraError
        from joblog_router.contrib.loguru import add_job_handler
        try:
            add_job_handler(JobLogHandler(sink="memory"))
        except MissingExtraError as error:
            print(error)
        """
    )
    assert "joblog-router[loguru]" in result.stdout, result.stderr
