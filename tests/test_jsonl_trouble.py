"""Files of JSON lines that are in somebody's way, torn, or of another's making: said, or passed over, never a crash."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from joblog_router import Entry, SinkUnavailableError
from joblog_router.exceptions import EntryRefusedError
from joblog_router.sinks import JsonLinesSink


def entry(seq: int, message: str = "packed", job_id: str = "7") -> Entry:
    """A line."""
    return Entry(
        *(job_id, 1_700_000_000.0 + seq, 20, "shop", message, None, {}, "w.py", 3, "o", seq, seq),
    )


def test_what_stands_where_a_file_should_be_is_said(tmp_path: Path) -> None:
    """A folder of that name: reading, deleting and pruning say which, and what to do."""
    sink = JsonLinesSink(tmp_path)
    (tmp_path / "7.jsonl").mkdir()
    for ask in (lambda: sink.newest("7"), lambda: sink.after("7", ""), lambda: sink.summary("7")):
        with pytest.raises(SinkUnavailableError, match=r"cannot read '.*7\.jsonl': Is a directory") as caught:
            ask()
        assert caught.value.advice == "run this as the user who writes the logs, or make them readable"
    for change in (lambda: sink.delete("7"), lambda: sink.prune(2e9)):
        with pytest.raises(SinkUnavailableError, match=r"cannot change '.*7\.jsonl': Is a directory"):
            change()
    with pytest.raises(EntryRefusedError, match=r"cannot write '.*7\.jsonl': Is a directory"):
        sink.write([entry(1)])


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """Also where the folder is missing; deleting it deletes nothing."""
    for folder in (tmp_path, tmp_path / "nowhere"):
        sink = JsonLinesSink(folder)
        assert sink.newest("7").entries == []
        assert sink.summary("7").lines == 0
        assert sink.delete("7") == 0
        assert sink.prune(2e9) == 0


@pytest.mark.parametrize("size", [3, 100_000])
def test_a_torn_line_alone_is_no_line(tmp_path: Path, size: int) -> None:
    """The beginning of the only line, of whatever length: nothing to show, nothing to go on behind."""
    sink = JsonLinesSink(tmp_path)
    sink.write([entry(1, "whole")])
    whole = (tmp_path / "7.jsonl").read_bytes()
    (tmp_path / "7.jsonl").write_bytes(b"x" * size)
    page = sink.newest("7")
    assert page.entries == []
    (tmp_path / "7.jsonl").write_bytes(b"nonsense\n{}\n[1]\n\n" + whole + b"x" * size)
    assert [one.message for one in sink.newest("7").entries] == ["whole"]
    assert [one.message for one in sink.after("7", "").entries] == ["whole"]


def test_lines_that_are_longer_than_a_block_are_read_both_ways(tmp_path: Path) -> None:
    """Also between short ones, and a page at a time."""
    sink = JsonLinesSink(tmp_path)
    sizes = [10, 200_000, 10, 70_000, 65_536, 10]
    sink.write([entry(seq, f"{seq} " + "x" * size) for seq, size in enumerate(sizes, 1)])
    names = [one.message.split()[0] for one in sink.newest("7").entries]
    assert names == ["1", "2", "3", "4", "5", "6"]
    page, backwards = sink.newest("7", limit=1), []
    while True:
        backwards += [one.message.split()[0] for one in page.entries]
        if page.earlier is None:
            break
        page = sink.before("7", page.earlier, limit=1)
    assert backwards == names[::-1]
    cursor, forwards = "", []
    while True:
        page = sink.after("7", cursor, limit=1)
        forwards += [one.message.split()[0] for one in page.entries]
        cursor = page.cursor
        if not page.more:
            break
    assert forwards == names


@pytest.mark.parametrize("created", ["NaN", "-Infinity", "-1e13", "1e13"])
def test_a_time_that_is_no_date_is_read_as_the_nearest(tmp_path: Path, created: str) -> None:
    """A file may be anybody's: a line of it has a time that a date can be told of."""
    line = json.dumps({"job_id": "7", "level": "INFO", "logger": "x", "message": "odd", "origin": "o", "seq": 1})
    (tmp_path / "7.jsonl").write_text(f'{line[:-1]}, "created": {created}}}\n')
    (found,) = JsonLinesSink(tmp_path).newest("7").entries
    assert dt.datetime.fromtimestamp(found.created, dt.UTC).year in (1, 9999)
