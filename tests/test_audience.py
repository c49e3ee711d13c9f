"""Lines for staff only: marked by the call, by the scope, or by their logger; the mark arrives in every sink."""

from __future__ import annotations

import json
import logging
import logging.handlers
import pickle
import queue
from collections.abc import Iterator
from pathlib import Path

import pytest

from joblog_router import ConfigurationError, Entry, JobLogHandler, flush, job_context
from joblog_router._pipeline import report
from joblog_router._pipeline.rules import Rules
from tests.helpers import configure, entries, job_handler, use_rules

log = logging.getLogger("app")
taken: list[Entry] = []


def take(batch: list[Entry]) -> None:
    """The target of the sink 'callable'."""
    taken.extend(batch)


@pytest.fixture(autouse=True)
def _nothing_taken() -> Iterator[None]:
    taken.clear()
    yield
    use_rules(Rules())


def speak() -> None:
    """One line for everybody, one for staff."""
    with job_context(1):
        log.info("for all", extra={"k": 1})
        log.info("for staff", extra={"job_log": "staff", "k": 2})


def audiences(rows: list[Entry]) -> dict[str, str]:
    """Messages with their audience."""
    return {row.message: row.audience for row in rows}


def test_lines_for_staff_and_for_all_are_never_counted_in_one_row() -> None:
    """One call site through which loggers of both speak: folding shows neither in the tally of the other."""
    configure(fold=True, staff=["app.billing"])

    def done(logger: str, what: str) -> None:
        logging.getLogger(logger).info("done with %r", what)

    with job_context(1):
        for number in range(7):
            done("app.shop", f"basket {number}")
        for number in range(7):
            done("app.billing", f"card of Mrs. Smith, {number}")
        done("app.shop", "basket 99")
    found = [(entry.audience, entry.logger, str(entry.message), str(dict(entry.fields))) for entry in entries(1)]
    assert len([each for each in found if "folded" in each[3]]) == 2
    for audience, logger, *texts in found:
        assert (audience == "staff") == (logger == "app.billing") == ("Smith" in "".join(texts)), found


EXPECTED = {"for all": "all", "for staff": "staff"}


def test_a_call_marks_its_line_for_staff() -> None:
    """The mark is the entry's audience and no field."""
    configure()
    speak()
    assert audiences(entries(1)) == EXPECTED
    assert [dict(entry.fields) for entry in entries(1)] == [{"k": 1}, {"k": 2}]


def test_the_mark_arrives_in_files_callables_and_loggers(tmp_path: Path) -> None:
    """Every sink of the core is told the audience."""
    configure(sink="jsonl", options={"directory": tmp_path})
    speak()
    assert flush(10)
    lines = [json.loads(line) for line in (tmp_path / "1.jsonl").read_text().splitlines()]
    assert {line["message"]: line.get("audience", "all") for line in lines} == EXPECTED
    configure(sink="callable", options={"target": f"{__name__}.take"})
    speak()
    assert flush(10)
    assert audiences(taken) == EXPECTED
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    out = logging.getLogger("jobs.out.audience")
    out.propagate = False
    handler = logging.handlers.QueueHandler(records)
    out.addHandler(handler)
    try:
        configure(sink="logger", options={"name": "jobs.out.audience"})
        speak()
        assert flush(10)
    finally:
        out.removeHandler(handler)
        out.propagate = True
    found = [records.get_nowait() for _ in range(2)]
    assert {record.getMessage(): record.__dict__["audience"] for record in found} == EXPECTED


def test_a_scope_may_be_for_staff() -> None:
    """`job_context(job.pk, job_log="staff")` marks what is logged in it, also in scopes below it."""
    configure()
    with job_context(1, job_log="staff"):
        log.info("inner")
        with job_context(1, stage="x"):
            log.info("innermost")
    with job_context(1):
        log.info("outer")
    assert audiences(entries(1)) == {"inner": "staff", "innermost": "staff", "outer": "all"}


def test_whole_loggers_may_be_for_staff() -> None:
    """By the handler's setting or the project's; the handler's beats it; whole segments of names."""
    configure(staff=["app.billing"])
    with job_context(1):
        for name in ("app.billing", "app.billing.cards", "app.billings", "app"):
            logging.getLogger(name).info(name)
    assert audiences(entries(1)) == {
        "app.billing": "staff",
        "app.billing.cards": "staff",
        "app.billings": "all",
        "app": "all",
    }
    use_rules(Rules.of(None, ["app"], None))
    configure()
    speak()
    assert set(audiences(entries(1)).values()) == {"staff"}
    configure(staff=[])
    speak()
    assert audiences(entries(1)) == EXPECTED


def test_a_misspelled_audience_is_taken_for_staff_and_told(capfd: pytest.CaptureFixture[str]) -> None:
    """Rather too few readers than too many."""
    configure()
    with job_context(1):
        log.info("x", extra={"job_log": "stuff"})
        log.info("y", extra={"job_log": "all"})
        log.info("z", extra={"job_log": True})
    assert audiences(entries(1)) == {"x": "staff", "y": "all", "z": "all"}
    report.print_waiting()
    assert "'stuff'" in capfd.readouterr().err


def test_folded_staff_lines_are_for_staff() -> None:
    """A tally of staff lines shows their texts, so it is for staff, too; and never counts lines of the other kind."""
    configure(fold=True)
    with job_context(1):
        for number in range(40):
            log.info("line %d", number, extra={"job_log": "staff"} if number % 2 else {})
    rows = entries(1)
    tallies = [row for row in rows if "fold" in row.fields]
    assert {row.audience for row in tallies} == {"all", "staff"}
    for row in rows:
        assert (int(row.message.split()[1]) % 2 == 1) == (row.audience == "staff")


def test_the_mark_survives_a_queue() -> None:
    """A record that was pickled on its way keeps its mark."""
    configure()
    handler = job_handler()
    record = logging.LogRecord("app", logging.INFO, "app.py", 1, "far", (), None)
    record.__dict__.update(job_log_id="1", job_log="staff")
    kept = pickle.loads(pickle.dumps(record))
    handler.handle(kept)
    assert audiences(entries(1)) == {"far": "staff"}


@pytest.mark.parametrize("staff", ["app", ["app.*"], 5])
def test_a_wrong_list_is_an_error_at_start(staff: object) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigurationError, match="JobLogHandler: staff"):
        JobLogHandler(sink="memory", staff=staff)  # type: ignore[arg-type]
