"""Memory, JSON-lines and callable sinks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblog_router import Entry, flush, job_context
from joblog_router._pipeline.escaping import escape_job_id, unescape_job_id
from joblog_router.contrib.django.model_store import ModelStore
from joblog_router.contrib.django.sink import DjangoSink
from joblog_router.sinks import HoldingSink, IdleSink, JsonLinesSink, KnowingSink, MemorySink, PlacedSink
from tests.helpers import SRC, configure

log = logging.getLogger("app")


def entry(job_id: str = "1", seq: int = 1, message: str = "m", **values: object) -> Entry:
    """An entry as the writer makes it."""
    made = Entry(job_id, 1.5, 20, "app", message, None, {"k": 1}, "f.py", 3, "origin", seq, seq)
    return made._replace(**values)  # type: ignore[arg-type]


def lines(path: Path) -> list[dict[str, object]]:
    """The parsed lines of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_what_sinks_can_do_besides_writing_is_found_without_inheriting(tmp_path: Path) -> None:
    """The pipeline sees by their methods which sinks know what they have, hold lines back, or close when idle."""
    file = JsonLinesSink(str(tmp_path))
    assert isinstance(file, KnowingSink)
    assert isinstance(file, PlacedSink)
    assert not isinstance(file, IdleSink)
    table = DjangoSink()
    assert isinstance(table, IdleSink)
    assert isinstance(table, PlacedSink)
    assert isinstance(ModelStore.__new__(ModelStore), HoldingSink)
    assert not any(isinstance(MemorySink(), kind) for kind in (HoldingSink, IdleSink, KnowingSink, PlacedSink))


def test_json_lines_has_one_file_per_job_with_the_promised_keys(tmp_path: Path) -> None:
    """Each job's entries are in `<job id>.jsonl`, a line each, with the keys others rely on."""
    configure(sink="jsonl", options={"directory": str(tmp_path)})
    with job_context(1, stage="x"):
        log.info("one", extra={"k": 2})
    with job_context("b"):
        log.warning("two")
    assert flush(10)
    (one,) = lines(tmp_path / "1.jsonl")
    keys = {"job_id", "created", "level", "logger", "message", "exception", "fields", "origin", "seq", "n"}
    assert keys <= set(one)
    assert (one["job_id"], one["level"], one["logger"], one["message"]) == ("1", "INFO", "app", "one")
    assert one["fields"] == {"stage": "x", "k": 2}
    assert isinstance(one["created"], float)
    assert one["exception"] is None
    assert lines(tmp_path / "b.jsonl")[0]["level"] == "WARNING"


def test_the_files_are_for_their_owner_only(tmp_path: Path) -> None:
    """A directory made by us is 0700, its files 0600."""
    sink = JsonLinesSink(tmp_path / "new")
    sink.write([entry()])
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "1.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    """What a killed process left half written does not spoil the next line."""
    sink = JsonLinesSink(tmp_path)
    sink.write([entry(seq=1)])
    with (tmp_path / "1.jsonl").open("a") as file:
        file.write('{"job_id": "1", "mess')
    sink.write([entry(seq=2)])
    assert [line["seq"] for line in lines(tmp_path / "1.jsonl")] == [1, 2]
    (tmp_path / "1.jsonl").write_text("no newline at all")
    sink.write([entry(seq=3)])
    assert [line["seq"] for line in lines(tmp_path / "1.jsonl")] == [3]


def test_hostile_messages_stay_one_line(tmp_path: Path) -> None:
    """Line breaks and separators in a message cannot make a second line."""
    sink = JsonLinesSink(tmp_path)
    hostile = 'a\n{"job_id": "2"}\r\x85\u2028\x1b[31m'
    sink.write([entry(message=hostile)])
    raw = (tmp_path / "1.jsonl").read_bytes()
    assert raw.count(b"\n") == 1
    assert json.loads(raw)["message"] == hostile


def test_a_batch_that_failed_in_the_middle_is_not_doubled(tmp_path: Path) -> None:
    """One job's file cannot be written: the others of the batch are written once over all attempts."""
    from joblog_router import EntryRefusedError

    (tmp_path / "2.jsonl").mkdir()
    sink = JsonLinesSink(tmp_path)
    batch = [entry("1", 1), entry("2", 2), entry("3", 3)]
    for _ in range(3):
        with pytest.raises(EntryRefusedError, match="cannot write"):
            sink.write(batch)
    (tmp_path / "2.jsonl").rmdir()
    sink.write(batch)
    for job in "123":
        assert len(lines(tmp_path / f"{job}.jsonl")) == 1
    assert not sink._written


def test_three_processes_share_a_directory(tmp_path: Path) -> None:
    """Processes writing the same job's file at once tear no line and lose none."""
    code = """
import logging, logging.config, sys
import joblog_router
logging.config.dictConfig({"version": 1, "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False,
    "sink": "jsonl", "options": {"directory": sys.argv[1]}}}, "root": {"level": "INFO", "handlers": ["job"]}})
with joblog_router.job_context("shared"):
    for number in range(1000):
        logging.getLogger("x").info("line %d of %s", number, "x" * 200)
        if number % 50 == 0:
            joblog_router.flush()
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env={"PYTHONPATH": str(SRC)}) for _ in range(3)
    ]
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    found = lines(tmp_path / "shared.jsonl")
    assert len(found) == 3000
    assert len({(line["origin"], line["seq"]) for line in found}) == 3000
    for origin in {line["origin"] for line in found}:
        seqs = [line["seq"] for line in found if line["origin"] == origin]
        assert seqs == sorted(seqs)  # type: ignore[type-var]


@given(ids=st.lists(st.text(min_size=1), min_size=2, max_size=10, unique=True))
def test_escaped_ids_are_safe_and_never_collide(ids: list[str]) -> None:
    """Any two ids have two escapes, also where case does not count, and none leaves its directory."""
    escaped = [escape_job_id(job_id) for job_id in ids]
    assert len({name.lower() for name in escaped}) == len(ids)
    for name in escaped:
        assert name
        assert len(name) <= 200
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-~")


def test_an_id_is_readable_as_long_as_it_fits() -> None:
    """Up to 180 characters, or the bound that is asked for, an escape leads back; a longer one has just that length."""
    fits = "Ä" * 28 + "~ A/"
    assert len(escape_job_id(fits)) == 180
    assert unescape_job_id(escape_job_id(fits)) == fits
    for longest in (180, 100):
        escaped = escape_job_id(fits + "x", longest)
        assert len(escaped) == longest
        with pytest.raises(ValueError, match="is not an escaped job id"):
            unescape_job_id(escaped)


@pytest.mark.parametrize("job_id", ["../../etc/passwd", "a/b", "..", ".", "C:\\x", "nul\x00", "A" * 300, "\udcff"])
def test_hostile_ids_stay_inside_the_directory(tmp_path: Path, job_id: str) -> None:
    """A job id with path parts is one file in the directory and nothing outside it."""
    JsonLinesSink(tmp_path / "logs").write([entry(job_id)])
    assert [path.parent for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "logs"]


def test_memory_keeps_the_newest_and_refuses_a_second_copy() -> None:
    """The bound holds and an entry offered twice is kept once."""
    sink = MemorySink(max_entries=3)
    sink.write([entry(seq=number) for number in range(1, 6)])
    sink.write([entry(seq=5)])
    assert [kept.seq for kept in sink.entries()] == [3, 4, 5]
    assert sink.entries("2") == []
    sink.clear()
    assert sink.entries() == []


def test_a_callable_given_by_path_is_imported_when_entries_come(capfd: pytest.CaptureFixture[str]) -> None:
    """A path that cannot be imported yet does not stop the application from starting; it is retried."""
    configure(sink="callable", options={"target": "tests.nowhere.keep"})
    with job_context(1):
        log.info("x")
    assert flush(0.3) is False
    sys.modules["tests.nowhere"] = module = type(sys)("tests.nowhere")
    got: list[Entry] = []
    module.keep = got.extend  # type: ignore[attr-defined]
    try:
        assert flush(10)
    finally:
        del sys.modules["tests.nowhere"]
    assert [kept.message for kept in got] == ["x"]
    assert "tests.nowhere" in capfd.readouterr().err


def test_one_jobs_unwritable_file_does_not_hold_up_the_others(tmp_path: Path) -> None:
    """Lines of a job whose file cannot be written are counted; every other job's log goes on."""
    from joblog_router import stats

    (tmp_path / "7.jsonl").mkdir()
    configure(sink="jsonl", options={"directory": str(tmp_path)})
    before = stats()["quarantined"]
    with job_context(7):
        log.info("cannot be kept")
    for job in (8, 9):
        with job_context(job):
            for number in range(20):
                log.info("line %d", number)
    assert flush(10)
    assert [len(lines(tmp_path / f"{job}.jsonl")) for job in (8, 9)] == [20, 20]
    assert stats()["quarantined"] == before + 1


def test_the_same_directory_spelled_in_two_ways_is_one_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two handlers for one directory store a line once; a later chdir does not split a log."""
    monkeypatch.chdir(tmp_path)
    from joblog_router import JobLogHandler

    for directory in ("log", Path("log"), str(tmp_path / "log"), "log/"):
        logging.getLogger().addHandler(JobLogHandler(fold=False, sink="jsonl", options={"directory": directory}))
    logging.getLogger().setLevel(logging.INFO)
    with job_context(1):
        log.info("once")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        log.info("twice")
    assert flush(10)
    assert [line["message"] for line in lines(tmp_path / "log" / "1.jsonl")] == ["once", "twice"]
    assert not (tmp_path / "elsewhere" / "log").exists()


def test_a_failed_write_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk took of a batch is taken back. The full disk is simulated: filling one takes root's rights."""
    import errno
    import os

    from joblog_router import SinkUnavailableError

    sink = JsonLinesSink(tmp_path)
    sink.write([entry(seq=1)])
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 20:
            return real(descriptor, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SinkUnavailableError, match="No space"):
        sink.write([entry(seq=2, message="long enough to be cut")])
    monkeypatch.undo()
    assert (tmp_path / "1.jsonl").read_bytes().count(b"\n") == 1
    assert [line["seq"] for line in lines(tmp_path / "1.jsonl")] == [1]
