"""`max_lines`: the first and the last lines of a job, a marker that counts the rest exactly, bounded memory."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from joblog_router import ConfigurationError, Entry, JobLogHandler, flush, job_context, stats
from joblog_router._pipeline import capping
from joblog_router._pipeline.capping import Cap
from joblog_router._pipeline.rules import Rules
from joblog_router.context import JobScope
from joblog_router.sinks import MemorySink
from tests.helpers import configure, entries, run_python, use_rules

log = logging.getLogger("app")


def in_order(rows: list[Entry]) -> list[Entry]:
    """As readers show them: by time, then as the process wrote them; of a marker the newest only."""
    rows = sorted(rows, key=lambda row: (row.created, row.seq))
    newest = max((row.seq for row in rows if "left_out" in row.fields), default=0)
    return [row for row in rows if "left_out" not in row.fields or row.seq == newest]


def test_head_marker_and_tail() -> None:
    """Ten thousand lines: the first five hundred, one row that counts, the last five hundred, in this order."""
    handler = configure(max_lines=1000)
    before = stats()
    with job_context(1):
        for number in range(10_000):
            log.log(logging.DEBUG if number % 10 == 3 else logging.INFO, "line %d", number)
    rows = in_order(entries(1))
    assert [row.message for row in rows[:500]] == [f"line {number}" for number in range(500)]
    assert [row.message for row in rows[501:]] == [f"line {number}" for number in range(9500, 10_000)]
    marker = rows[500]
    assert marker.fields["folded"] == 9000
    assert marker.fields["left_out"] == {"DEBUG": 900, "INFO": 8100}
    assert marker.message.startswith("9,000 lines left out between ")
    assert "DEBUG 900, INFO 8,100" in marker.message
    assert marker.level == logging.INFO
    after = {key: value - before[key] for key, value in stats().items()}
    assert (after["captured"], after["stored"], after["folded"], after["waiting"]) == (10_000, 1000, 9000, 0)
    counts = handler._channel.delivery.completeness("", "1")
    assert (counts["emitted"], counts["stored"], counts["folded"]) == (10_000, 1000, 9000)
    assert len({(row.origin, row.seq) for row in entries(1)}) == len(entries(1))


def test_a_job_within_its_limit_is_kept_whole_and_in_order() -> None:
    """Exactly as many lines as the limit: no marker."""
    configure(max_lines=100)
    with job_context(1):
        for number in range(100):
            log.info("line %d", number)
    assert [row.message for row in entries(1)] == [f"line {number}" for number in range(100)]


def test_by_default_nothing_is_left_out() -> None:
    """Neither handler nor settings say anything: all is stored; the project's setting counts, 0 turns it off."""
    configure()
    with job_context(1):
        for _ in range(3000):
            log.info("line")
    assert len(entries(1)) == 3000
    use_rules(Rules.of(None, None, 10))
    try:
        with job_context(2):
            for _ in range(100):
                log.info("line")
        assert len(entries(2)) < 20
        configure(max_lines=0)
        with job_context(3):
            for _ in range(100):
                log.info("line")
        assert len(entries(3)) == 100
    finally:
        use_rules(Rules())


def test_warnings_are_kept_longer() -> None:
    """As many warnings and worse as the limit are stored on top; then they are left out, too, and the marker warns."""
    configure(max_lines=100)
    with job_context(1):
        for number in range(1000):
            log.info("info %d", number)
            if number % 20 == 0:
                log.error("error %d", number)
    assert sum(row.level == logging.ERROR for row in entries(1)) == 50
    with job_context(2):
        for number in range(1000):
            log.error("error %d", number)
    rows = in_order(entries(2))
    marker = next(row for row in rows if "left_out" in row.fields)
    assert len(rows) == 50 + 100 + 50 + 1
    assert marker.level == logging.WARNING
    assert marker.fields["left_out"] == {"ERROR": 800}
    assert rows[-1].message == "error 999"


def test_a_summary_counts_the_lines_left_out_by_their_levels() -> None:
    """The marker itself is a warning; what it stands for mostly is not."""
    handler = configure(max_lines=10)
    logging.addLevelName(25, "NOTICE")
    with job_context(1):
        for number in range(40):
            log.error("boom %d", number)
        for number in range(1000):
            log.info("line %d", number)
        for number in range(30):
            log.log(25 if number % 2 else 26, "notice %d", number)
    assert flush(10)
    assert isinstance(handler.sink, MemorySink)
    assert handler.sink.summary("1").levels == {20: 1000, 25: 15, 26: 15, 40: 40}


def test_jobs_are_counted_apart_and_folded_lines_do_not_count() -> None:
    """One noisy job takes nothing from another; what is folded anyway does not use up the limit."""
    configure(max_lines=20, fold=True)
    with job_context(1):
        for number in range(1000):
            log.info("Published image %d", number)
        log.info("all published")
    with job_context(2):
        log.info("quiet")
    assert [row.message for row in entries(2)] == ["quiet"]
    assert "all published" in [row.message for row in entries(1)]
    assert not [row for row in entries(1) if "left_out" in row.fields]


def test_the_end_is_stored_without_a_flush_when_the_scope_closes() -> None:
    """Nobody has to ask: a second after the last line of a closed scope the held lines are there."""
    stored: list[str] = []
    is_there = threading.Event()

    class Sink:
        def write(self, batch: Sequence[Entry]) -> None:
            stored.extend(entry.message for entry in batch)
            if stored[-1] == "line 99":
                is_there.set()

        def close(self) -> None:
            pass

    configure(sink=Sink(), max_lines=20)
    with job_context(1):
        for number in range(100):
            log.info("line %d", number)
    assert is_there.wait(15)
    assert stored[-10:] == [f"line {number}" for number in range(90, 100)]


def test_the_end_is_stored_when_the_process_ends(tmp_path: Path) -> None:
    """At exit the held lines and the exact count are written, in a child without a flush of its own."""
    done = run_python(
        """
        import logging, sys
        from joblog_router import JobLogHandler, job_context
        logging.getLogger().addHandler(
            JobLogHandler(sink="jsonl", options={"directory": sys.argv[1]}, max_lines=20, fold=False)
        )
        logging.getLogger().setLevel(logging.INFO)
        job_context(1).__enter__()
        for number in range(1000):
            logging.info("line %d", number)
        """,
        str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = [json.loads(line) for line in (tmp_path / "1.jsonl").read_text().splitlines()]
    assert [line["message"] for line in lines[-10:]] == [f"line {number}" for number in range(990, 1000)]
    assert [line["fields"]["folded"] for line in lines if "left_out" in line["fields"]][-1] == 980


def test_flushes_again_and_again_do_not_get_around_the_limit() -> None:
    """A worker that flushes after each task: what is stored grows with the logarithm, the count stays exact."""
    configure(max_lines=100)
    stored = {}
    with job_context(1):
        for number in range(1, 6401):
            log.info("line %d", number)
            if number % 20 == 0:
                assert flush(10)
            if number in (100, 800, 6400):
                rows = entries(1)
                lines = sum("left_out" not in row.fields for row in rows)
                newest = in_order(rows)
                left_out = next((row.fields["folded"] for row in newest if "left_out" in row.fields), 0)
                assert lines + left_out == number
                stored[number] = lines
    assert stored[100] == 100
    assert stored[800] <= 100 + 3 * 50
    assert stored[6400] <= 100 + 6 * 50


def test_a_job_that_is_twice_as_long_keeps_half_as_many_lines_more() -> None:
    """Where it is flushed all the time: 5 at the beginning, 5 behind them, and 5 more whenever its length doubled."""
    configure(max_lines=10)
    with job_context(1):
        for number in range(1, 101):
            log.info("line %d", number)
            if number % 10 == 0:
                assert flush(10)
    assert sum("left_out" not in row.fields for row in entries(1)) == 5 + 5 + 3 * 5


def test_the_marker_shows_nothing_of_the_lines_it_stands_for() -> None:
    """Neither their texts nor their fields: some may have been for staff."""
    configure(max_lines=10)
    with job_context(1, tenant="acme"):
        for _ in range(100):
            log.info("password-like contents", extra={"job_log": "staff", "k": "value"})
    marker = next(row for row in entries(1) if "left_out" in row.fields)
    assert "contents" not in repr(tuple(marker))
    assert "value" not in repr(tuple(marker))
    assert marker.audience == "all"
    assert marker.logger == "joblog_router"


def entry_of(number: int, job: str = "1") -> Entry:
    """An entry that was not logged."""
    return Entry(job, float(number), logging.INFO, "app", f"{number}", None, {}, "", 0, "here", number, number)


def test_memory_is_bounded_over_jobs_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred thousand jobs: what is kept about them stays within its bounds; the silent ones go first."""
    monkeypatch.setattr(capping, "_MAX_JOBS", 100)
    monkeypatch.setattr(capping, "_FORGET", 0.0)  # an hour, in reality
    cap = Cap()
    scope = JobScope("1")
    kept = 0
    for number in range(100_000):
        kept += cap.take(entry_of(number, f"job {number}"), scope, 10) is not None
        if number % 1000 == 0:
            list(cap.due())
    list(cap.due())
    assert kept == 100_000
    assert len(cap._jobs) <= 100


def test_held_lines_are_bounded_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the held lines are stored at once instead of kept."""
    monkeypatch.setattr(capping, "_MAX_HELD", 50)
    cap = Cap()
    for job in range(20):
        scope = JobScope(str(job))
        for number in range(9):
            cap.take(entry_of(number, str(job)), scope, 10)
    assert cap.held == 20 * 4
    assert len(list(cap.due())) >= 30
    assert cap.held <= 50


@pytest.mark.parametrize("max_lines", [5, -1, True, "many", 2.5])
def test_a_wrong_limit_is_an_error_at_start(max_lines: object) -> None:
    """At least ten lines, or 0."""
    with pytest.raises(ConfigurationError, match="max_lines must be a whole number of at least 10"):
        JobLogHandler(sink="memory", max_lines=max_lines)  # type: ignore[arg-type]
