"""More lines than may wait: which are kept, what is counted; and an outage costs the application nothing."""

from __future__ import annotations

import enum
import json
import logging
import math
import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from joblog_router import Entry, JobLogHandler, SinkUnavailableError, completeness, flush, job_context, stats
from joblog_router._pipeline import completeness as completeness_module
from joblog_router._pipeline import missing, overflow, quarantine
from joblog_router._pipeline.completeness import JobCounts
from joblog_router._pipeline.missing import Missing
from joblog_router._pipeline.overflow import Bounds, Overflow
from joblog_router._pipeline.text import MAX_MESSAGE
from joblog_router.cli import main
from tests import spool_trials
from tests.helpers import run_python
from tests.postgres import PORT, USER, PostgresServer
from tests.test_spool import KILLED, SETUP

log = logging.getLogger("app")


class Gate:
    """A sink that is away until it is opened. Real stores that are away are below."""

    def __init__(self) -> None:
        self.is_open = False
        self.tried = threading.Event()
        self.written: list[Entry] = []
        self.refuses = ""

    def write(self, entries: Sequence[Entry]) -> None:
        """Take, be away, or refuse."""
        if not self.is_open:
            self.tried.set()
            raise SinkUnavailableError("closed", "open it")
        if self.refuses and any(self.refuses in entry.message for entry in entries):
            raise ValueError("refused")
        self.written += entries

    def close(self) -> None:
        """Nothing."""

    def await_try(self) -> None:
        """Until the writer, which has seen all lines by then, has knocked in vain."""
        self.tried.clear()
        while not self.tried.is_set():
            flush(0.05)


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate behind the root logger, to which handlers are added with `add`."""
    sink = Gate()
    logging.getLogger().setLevel(logging.DEBUG)
    yield sink
    sink.is_open = True
    flush(5)


def add(sink: Gate, **settings: object) -> JobLogHandler:
    """A handler for `sink`."""
    handler = JobLogHandler(sink=sink, fold=False, **settings)  # type: ignore[arg-type]
    logging.getLogger().addHandler(handler)
    return handler


def test_debug_goes_first_then_info_and_warnings_last(gate: Gate) -> None:
    """With room for a hundred DEBUG stops at 80, INFO at 90; warnings take the rest, then the place of lower ones."""
    add(gate, capacity=100)
    with job_context(1):
        for level, count in ((logging.DEBUG, 100), (logging.INFO, 100), (logging.WARNING, 60)):
            for number in range(count):
                log.log(level, "%d", number)
            gate.await_try()
    gate.is_open = True
    assert flush(10)
    kept = [entry.level for entry in gate.written if entry.logger == "app"]
    assert kept.count(logging.WARNING) >= 20
    assert kept.count(logging.DEBUG) <= 80
    assert kept.count(logging.INFO) > 0
    # Not more where the writer comes to make room only after all of them were logged.
    assert kept.count(logging.WARNING) >= kept.count(logging.INFO)
    assert len(kept) <= 130


def test_the_jobs_own_log_tells_how_many_lines_were_dropped(gate: Gate) -> None:
    """One marker for each job, exact by level; what was stored and dropped adds up to what was logged."""
    add(gate, capacity=50)
    before = stats()["dropped"]
    for job, count in ((1, 300), (2, 200)):
        with job_context(job):
            for number in range(count):
                log.debug("%d", number)
                log.info("%d", number)
    gate.is_open = True
    assert flush(10)
    total = 0
    for job, count in ((1, 600), (2, 400)):
        lines = [entry for entry in gate.written if entry.job_id == str(job) and entry.logger == "app"]
        markers = [entry for entry in gate.written if entry.job_id == str(job) and "dropped" in entry.fields]
        assert 1 <= len(markers) <= 3
        for marker in markers:
            levels = marker.fields["dropped_by_level"]
            assert marker.level == logging.WARNING
            assert f"{marker.fields['dropped']:,} lines dropped between " in marker.message
            assert all(f"{name} {number:,}" in marker.message for name, number in levels.items())
        dropped = sum(marker.fields["dropped"] for marker in markers)
        assert dropped == count - len(lines)
        assert sum(marker.fields["dropped_by_level"].get("DEBUG", 0) for marker in markers) == count // 2 - sum(
            entry.level == logging.DEBUG for entry in lines
        )
        total += dropped
        assert completeness(job)["Gate"]["dropped"] == dropped
    assert stats()["dropped"] - before == total


def test_a_marker_names_the_times_of_the_first_and_the_last_line_it_stands_for(gate: Gate) -> None:
    """Also where older lines give way to more important ones after newer ones were dropped already."""
    add(gate, capacity=100)
    with job_context(1):
        start = time.time()
        for number in range(150):
            log.info("%d", number)
        assert not flush(0.05)
        for number in range(100):
            log.warning("%d", number)
            if number % 10 == 0:
                flush(0.01)
        end = time.time()
    gate.is_open = True
    assert flush(10)
    markers = [entry for entry in gate.written if "dropped" in entry.fields]
    assert markers
    for marker in markers:
        assert start <= marker.fields["first"] <= marker.fields["last"] <= end
    kept = {int(entry.message) for entry in gate.written if entry.level == logging.INFO}
    assert 0 not in kept, "the oldest gave way"
    assert min(marker.fields["first"] for marker in markers) < min(
        entry.created for entry in gate.written if entry.logger == "app"
    )


def test_markers_follow_one_another_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stands for what was dropped since the one before, and they come once a second at most: here a minute."""
    monkeypatch.setattr(overflow, "_TELL_EVERY", 60.0)
    bounds, jobs = Overflow(Bounds(10)), JobCounts()
    bounds.drop("", "1", logging.INFO, 1.0)
    bounds.drop("", "1", logging.INFO, 2.0)
    (first,) = bounds.rows("here", True, jobs)
    bounds.drop("", "1", logging.INFO, 3.0)
    assert list(bounds.rows("here", False, jobs)) == []
    due = bounds.next_due()
    assert due is not None
    assert due > time.monotonic()
    (second,) = bounds.rows("here", True, jobs)
    assert (first.fields["first"], first.fields["last"], first.fields["dropped"]) == (1.0, 2.0, 2)
    assert (second.fields["first"], second.fields["last"], second.fields["dropped"]) == (2.0, 3.0, 1)


def test_jobs_whose_dropped_lines_are_told_of_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand jobs at a time, here two, is told how many lines were dropped; of others the sum is counted."""
    monkeypatch.setattr(overflow, "_MOST_JOBS", 2)
    bounds, jobs = Overflow(Bounds(10)), JobCounts()

    def told(*dropped: str) -> list[str]:
        for job in dropped:
            bounds.drop("", job, logging.INFO, 1.0)
        return [row.job_id for row in bounds.rows("here", True, jobs)]

    assert told("1", "2", "3") == ["1", "2"]
    assert bounds.dropped.value() == 3
    assert told("1") == ["1"]
    assert told("1", "3") == ["1", "3"]


def test_the_account_of_a_job_that_goes_on_is_kept_however_many_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was touched longest ago is forgotten first: of five thousand, here of two."""
    monkeypatch.setattr(completeness_module, "_MOST_JOBS", 2)
    jobs = JobCounts()
    for number in range(10):
        jobs.at(("", "long")).stored += 1
        jobs.at(("", str(number))).stored += 1
    known = jobs.get(("", "long"))
    assert known is not None
    assert known.stored == 10
    assert [number for number in range(10) if jobs.get(("", str(number)))] == [9]


def test_a_job_is_told_what_it_lacks_once_and_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many jobs the newest, here two; of many scopes the last, here one: those of others are not waited for."""
    monkeypatch.setattr(missing, "_MOST_JOBS", 2)
    monkeypatch.setattr(missing, "_MOST_SCOPES", 1)
    lacking, jobs = Missing(), JobCounts()

    def told(*noted: str) -> list[str]:
        for job in noted:
            lacking.note(("", job))
        counts = {"emitted": 2, "stored": 1, "folded": 0, "dropped": 1, "quarantined": 0, "waiting": 0}
        rows = list(lacking.rows("here", True, jobs, lambda namespace, job_id: counts))
        assert all((row.path, row.line, row.seq, row.n) == ("", 0, 0, 0) for row in rows)
        return [row.job_id for row in rows]

    assert told("1", "2", "3") == ["2", "3"]
    assert not lacking.owes()
    assert lacking.next_due() is None
    assert told("2", "3") == [], "nothing more is missing"
    with job_context("4") as four, job_context("5") as five:
        for scope in (four, five):
            lacking.saw(scope)
        assert told("5") == []
        assert not lacking.owes(), "its scope is open"
        lacking.note(("", "4"))
        assert lacking.owes(), "its scope is not known any more"


def test_the_scope_of_a_job_that_goes_on_is_known_however_many_others_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was seen last, if not for the first time: its end is waited for."""
    monkeypatch.setattr(missing, "_MOST_SCOPES", 2)
    lacking = Missing()
    with job_context("long") as long:
        for number in range(10):
            lacking.saw(long)
            with job_context(number) as other:
                lacking.saw(other)
        lacking.note(("", "long"))
        assert not lacking.owes()
    assert lacking.owes()


def test_the_end_of_a_scope_tells_what_is_missing_and_only_then(gate: Gate) -> None:
    """One line with exact counts once the scope has closed; none for a job whose lines are all there."""
    gate.refuses = "poison"
    add(gate, capacity=50)
    with job_context(1):
        for number in range(300):
            log.info("%d", number)
        gate.is_open = True
        assert flush(10)
        log.info("poison")
        assert flush(10)
        with job_context(2):
            log.info("whole")
        assert flush(10)
        assert not [entry for entry in gate.written if "missing" in entry.fields]  # the scope is open
    assert flush(10)
    (told,) = [entry for entry in gate.written if "missing" in entry.fields]
    counts = completeness(1)["Gate"]
    assert (told.job_id, told.level) == ("1", logging.WARNING)
    assert told.fields["completeness"] == counts
    assert (counts["emitted"], counts["quarantined"], counts["waiting"]) == (301, 1, 0)
    assert counts["dropped"] == 300 - sum(entry.message.isdigit() for entry in gate.written)
    assert told.message == (
        f"{counts['dropped'] + 1:,} of 301 lines are not in this log: dropped {counts['dropped']:,}, quarantined 1"
    )
    with job_context(1):
        log.info("more")
    with job_context(3):
        log.info("poison")
    assert flush(10)
    # What was told is not told again, and a single line is told of.
    (again,) = [entry for entry in gate.written if "missing" in entry.fields and entry is not told]
    assert (again.job_id, again.message) == ("3", "1 of 1 lines are not in this log: quarantined 1")


def test_the_end_of_a_scope_is_told_without_a_flush(gate: Gate) -> None:
    """The writer finds out by itself, within two seconds."""
    gate.is_open, gate.refuses = True, "poison"
    add(gate)
    with job_context(1):
        log.info("poison")
        time.sleep(0.2)
        log.info("good")
    until = time.monotonic() + 10
    while not any("missing" in entry.fields for entry in gate.written) and time.monotonic() < until:
        time.sleep(0.02)
    (told,) = [entry for entry in gate.written if "missing" in entry.fields]
    assert told.message == "1 of 2 lines are not in this log: quarantined 1"


def test_what_becomes_of_a_jobs_lines_adds_up(gate: Gate) -> None:
    """emitted = stored + folded + dropped + quarantined + waiting, at rest and while lines wait."""
    sink = Gate()
    handler = JobLogHandler(sink=sink, capacity=100)
    logging.getLogger().addHandler(handler)
    sink.refuses = "poison"

    def counts() -> dict[str, int]:
        return handler._channel.delivery.completeness("", "7")

    with job_context(7):
        for number in range(60):
            log.info("folded %d", number)
        log.info("poison")
        for _ in range(200):
            log.warning("kept")
        assert counts()["emitted"] == 261
        assert counts()["waiting"] > 0
        sink.is_open = True
        assert flush(10)
        done = counts()
    assert done["emitted"] == 261 == sum(done[key] for key in ("stored", "folded", "dropped", "quarantined", "waiting"))
    assert done["folded"] > 0
    assert done["quarantined"] == 1
    assert done["dropped"] > 0
    assert done["waiting"] == 0
    assert done["stored"] == sum(entry.logger == "app" and "fold" not in entry.fields for entry in sink.written)


class Level(int, enum.Enum):
    """As some projects name their levels."""

    INFO = 20


@pytest.mark.parametrize(
    ("name", "value", "stored"),
    [
        ("levelno", Level.INFO, 20),
        ("levelno", True, 1),
        ("levelno", 20.5, 20),
        ("levelno", "INFO", 20),
        ("levelno", None, 20),
        ("lineno", "12", 12),
        ("lineno", None, 0),
        ("created", math.nan, None),
        ("created", math.inf, None),
        ("created", 1_764_000_000_000.0, None),
        ("created", 10**400, None),
        ("created", "2026-01-01", None),
        ("created", 1_764_000_000, 1_764_000_000.0),
    ],
)
def test_what_no_store_can_hold_in_a_record_is_made_into_what_each_can(
    gate: Gate, name: str, value: object, stored: object
) -> None:
    """A time that is none is that of storing; and all are of the types that an entry has."""
    handler = add(gate)
    gate.is_open = True
    record = log.makeRecord("app", logging.INFO, "f.py", 1, "odd", (), None)
    setattr(record, name, value)
    before = time.time()
    with job_context(1):
        handler.handle(record)
    assert flush(10)
    (entry,) = gate.written
    assert (type(entry.created), type(entry.level), type(entry.line)) == (float, int, int)
    found = {"levelno": entry.level, "lineno": entry.line, "created": entry.created}[name]
    assert before <= found <= time.time() if stored is None else found == stored


def test_a_text_that_is_too_long_is_cut_and_is_a_line_like_any_other(gate: Gate) -> None:
    """It says that it was cut; nothing tells of an error."""
    add(gate)
    gate.is_open = True
    with job_context(1):
        log.info("a%sz", "b" * 2 * MAX_MESSAGE)
    assert flush(10)
    (entry,) = gate.written
    assert len(entry.message) <= MAX_MESSAGE + 50
    assert entry.message.startswith("abb")
    assert not entry.fields


def test_long_texts_are_bounded_by_bytes(gate: Gate) -> None:
    """Few lines, but long ones: what waits stays within the bytes, whatever the number of lines says."""
    handler = add(gate, capacity=10_000, capacity_bytes=1_000_000)
    with job_context(1):
        for _ in range(100):
            log.info("x" * 50_000)
    until = time.monotonic() + 10
    while not 10 <= handler._channel.delivery.waiting() <= 25 and time.monotonic() < until:
        time.sleep(0.005)  # some are in the writer's hands for a moment, in no list
    assert 10 <= handler._channel.delivery.waiting() <= 25
    gate.is_open = True
    assert flush(10)
    with job_context(1):
        log.info("y" * 50_000)
    assert flush(10)
    assert gate.written[-1].message == "y" * 50_000
    assert handler._channel.overflow.ready_bytes == 0
    assert not handler._channel.overflow._heavy


def test_block_waits_for_room_and_not_for_ever(gate: Gate) -> None:
    """With `block` a logging call waits while the store catches up, then goes on without its line."""
    add(gate, capacity=20, block=0.2)
    with job_context(1):
        for _ in range(18):
            log.info("x")
        start = time.monotonic()
        log.info("too many")
        waited = time.monotonic() - start
    assert 0.15 < waited < 2
    gate.is_open = True
    assert flush(10)
    with job_context(1):
        for number in range(500):
            log.info("%d", number)
    assert flush(10)
    assert sum(entry.message.isdigit() for entry in gate.written) == 500


def test_a_refused_line_is_kept_beside_the_spool(gate: Gate, tmp_path: Path) -> None:
    """With its reason, readable by its owner only; every third line, and no other is touched."""
    add(gate, spool=tmp_path / "spool")
    gate.is_open, gate.refuses = True, "poison"
    with job_context(1):
        for number in range(30):
            log.info("poison %d" if number % 3 == 0 else "good %d", number)
    assert flush(20)
    assert sum(entry.message.startswith("good") for entry in gate.written) == 20
    (file,) = (tmp_path / "spool").glob("*.quarantine.jsonl")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["message"] for line in lines] == [f"poison {number}" for number in range(0, 30, 3)]
    assert {line["reason"] for line in lines} == {"ValueError: refused"}
    assert file.stat().st_mode & 0o777 == 0o600


def test_refused_lines_leave_no_file_open(gate: Gate, tmp_path: Path) -> None:
    """However many a store refuses: the application has its descriptors for itself."""
    add(gate, spool=tmp_path / "spool")
    gate.is_open, gate.refuses = True, "poison"

    def descriptors() -> int:
        with job_context(1):
            for number in range(20):
                log.info("poison %d" if number % 2 else "good %d", number)
        assert flush(20)
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - no files

    assert descriptors() + 5 > descriptors()


def test_that_no_more_refused_lines_are_kept_is_said(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Once, with the file that is full."""
    monkeypatch.setattr(quarantine, "_MOST_BYTES", 1000)
    add(gate, spool=tmp_path / "spool")
    gate.is_open, gate.refuses = True, "poison"
    with job_context(1):
        for number in range(30):
            log.info("poison %d", number)
    assert flush(20)
    (file,) = (tmp_path / "spool").glob("*.quarantine.jsonl")
    assert 1 <= len(file.read_text().splitlines()) < 30
    assert capfd.readouterr().err.count(f"{str(file)!r} has") == 1


# --- real stores that are away -------------------------------------------------------------------------------

# Logs at a pace while the store is taken away and comes back; prints the times that calls took.
OUTAGE = """
import sys, time
from tests.spool_trials import configure
configure(sys.argv[1], False)
import logging
from joblog_router import flush, job_context, stats
log = logging.getLogger("app")
took = []
print("ready", flush=True)
until = time.monotonic() + float(sys.argv[2])
with job_context("job-0"):
    number = 0
    while time.monotonic() < until:
        number += 1
        start = time.perf_counter_ns()
        log.info("line %d", number)
        took.append(time.perf_counter_ns() - start)
        time.sleep(0.001)
print(number, flush(30), stats()["dropped"], stats()["unspooled"])
print(*took)
"""


def outage(folder: Path, seconds: float, away: object) -> tuple[int, list[int]]:
    """Run the program for `seconds` and call `away` meanwhile; how many lines it logged and how long each took."""
    import subprocess
    import sys

    process = subprocess.Popen(
        [sys.executable, "-c", OUTAGE, str(folder), str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env=spool_trials._environment(),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    away()  # type: ignore[operator]
    out, _ = process.communicate(timeout=seconds + 60)
    assert process.returncode == 0
    first, second = out.splitlines()
    number, flushed, dropped, unspooled = first.split()
    assert (flushed, dropped, unspooled) == ("True", "0", "0")
    return int(number), [int(time) for time in second.split()]


def check(rows: list[tuple[str, int, str, dict[str, object]]], number: int, took: list[int], seconds: float) -> None:
    """Every line once; in a long run, calls took no longer while the store was away than while it was there."""
    assert sorted(int(row[2].split()[1]) for row in rows if row[2].startswith("line")) == list(range(1, number + 1))
    if seconds < 10:
        return  # beside other tests a time says nothing
    quarter = len(took) // 4
    here, away = took[-quarter:], took[quarter : 2 * quarter]
    assert statistics.median(away) < 2 * statistics.median(here), "a store that is away must not slow calls down"


def lock_sqlite(path: Path, seconds: float) -> None:
    """Hold a write transaction."""
    import sqlite3

    database = sqlite3.connect(path, timeout=20, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    time.sleep(seconds)  # the outage
    database.execute("ROLLBACK")
    database.close()


@pytest.mark.parametrize("seconds", [2, pytest.param(80, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_a_locked_sqlite_loses_nothing_and_slows_nobody(tmp_path: Path, seconds: float) -> None:
    """Another connection holds the log's file for three quarters of the time."""
    spool_trials.prepare(tmp_path, "sqlite")
    number, took = outage(tmp_path, seconds, lambda: lock_sqlite(tmp_path / "joblog.sqlite3", seconds * 0.75))
    check(spool_trials.rows(tmp_path, "sqlite"), number, took, seconds)


@pytest.mark.parametrize("seconds", [2, pytest.param(80, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_a_stopped_postgresql_loses_nothing_and_slows_nobody(
    tmp_path: Path, own_postgres: PostgresServer, seconds: float
) -> None:
    """The server is stopped and started again under load."""
    name = own_postgres.create_database()
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": name, "USER": USER, "HOST": own_postgres.host}
    kind = json.dumps({**database, "PORT": str(PORT)})
    spool_trials.prepare(tmp_path, kind)

    def away() -> None:
        own_postgres.stop()
        time.sleep(seconds * 0.75)  # the outage
        own_postgres.start()

    number, took = outage(tmp_path, seconds, away)
    check(spool_trials.rows(tmp_path, kind), number, took, seconds)


# --- the command ---------------------------------------------------------------------------------------------


def test_the_command_recovers_and_tells_what_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`joblog recover --spool DIR --store jsonl:DIR`: 0 when all is stored, 1 where something is left."""
    code = "configure()\nwith job_context(1):\n    for number in range(3): log.info('line %d', number)\n"
    assert run_python(SETUP + code + KILLED, str(tmp_path)).returncode == -9
    command = ["recover", "--spool", str(tmp_path / "spool"), "--store", f"jsonl:{tmp_path / 'logs'}", "--json"]
    before = stats()["recovered"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"lines": before + 3, "left": [], "spools": [str(tmp_path / "spool")]}
    assert len((tmp_path / "logs" / "1.jsonl").read_text().splitlines()) == 3
    assert run_python(SETUP + code.replace("configure()", "configure('memory', max_entries=5)") + KILLED, str(tmp_path))
    assert main(command) == 1
    assert len(json.loads(capsys.readouterr().out)["left"]) == 1


def test_the_command_says_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    """Misuse is 2, with words."""
    assert main(["recover", "--spool", "somewhere", "--store", "django"]) == 2
    assert "--store jsonl:DIRECTORY" in capsys.readouterr().err
