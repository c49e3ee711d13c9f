"""What every store promises its readers: in memory, in files, in a SQLite file and in PostgreSQL."""

from __future__ import annotations

import fcntl
import json
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from django.db import connections, transaction

from joblog_router import Entry, SinkUnavailableError
from joblog_router._pipeline import reading
from joblog_router._pipeline.reading import decode, encode
from joblog_router.contrib.django import model_reader
from joblog_router.contrib.django import store as store_module
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.contrib.django.ordering import MARK_WRITER
from joblog_router.contrib.django.sink import DjangoSink
from joblog_router.contrib.django.store import DjangoStore
from joblog_router.contrib.django.tailing import Hub
from joblog_router.sinks import JsonLinesSink, MemorySink, Selection, Store, _jsonl_reader, memory
from tests.contrib.django.conftest import ON_POSTGRESQL
from tests.contrib.django.project import Project
from tests.contrib.django.test_following import Reader

Make = Callable[..., Entry]
STAFF = Selection(audience="staff")

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "joblog"])


@pytest.fixture(params=["memory", "jsonl", "sqlite", ON_POSTGRESQL])
def store(request: pytest.FixtureRequest, tmp_path: Path, transactional_db: None) -> Iterator[Any]:
    """A sink that is a store."""
    if request.param == "memory":
        yield MemorySink()
    elif request.param == "jsonl":
        yield JsonLinesSink(tmp_path / "logs")
    else:
        if request.param == "postgresql":
            request.getfixturevalue("log_on_postgresql")
        sink = DjangoSink(tests="database")
        yield sink
        sink.close()


def texts(entries: Any) -> list[str]:
    """The messages of entries."""
    return [entry.message for entry in entries]


def line(make: Make, number: int, **given: Any) -> Entry:
    """Line `number` of a job, a second after the one before."""
    return make(message=f"line {number}", created=1_700_000_000.0 + number, **given)


def test_the_sinks_are_stores_and_give_back_what_was_written(store: Any, make_entry: Make) -> None:
    """An entry comes back with all its fields, for the namespace and job it was written for."""
    assert isinstance(store, Store)
    entry = make_entry(
        message="päckt 🦋\nzweite Zeile",
        exception="Traceback …",
        level=25,
        fields={"a": [1, None], "c": "é"},
        namespace="Acme/x",
        audience="staff",
        created=1_700_000_000.123456,
        job_id="7/ß",
    )
    store.write([entry, make_entry(job_id="7/ß"), make_entry(job_id="8", namespace="Acme/x")])
    assert list(store.newest("7/ß", STAFF, namespace="Acme/x").entries) == [entry]


def test_a_job_without_lines_has_empty_pages(store: Any) -> None:
    """Nothing is there and nothing fails, also before anything was ever written."""
    page = store.newest("1")
    assert (list(page.entries), page.earlier, page.more) == ([], None, False)
    page = store.after("1", page.cursor)
    assert (list(page.entries), page.more) == ([], False)
    assert store.summary("1").lines == 0
    assert store.delete("1") == 0
    assert store.prune(older_than=2e9, keep=1) == 0


def test_pages_go_back_to_the_first_line(store: Any, make_entry: Make) -> None:
    """`newest` and `before` together give each line once, and say where there is nothing older."""
    store.write([line(make_entry, number) for number in range(25)] + [line(make_entry, 99, job_id="2")])
    page = store.newest("1", limit=10)
    seen = [texts(page.entries)]
    while page.earlier:
        page = store.before("1", page.earlier, limit=10)
        seen.append(texts(page.entries))
    expected = [f"line {number}" for number in range(25)]
    assert seen == [expected[15:], expected[5:15], expected[:5]]


def test_a_page_that_holds_everything_has_nothing_earlier(store: Any, make_entry: Make) -> None:
    """As many lines as asked for are no sign of more."""
    store.write([line(make_entry, number) for number in range(10)])
    assert store.newest("1", limit=10).earlier is None


def test_after_goes_on_where_the_page_ended(store: Any, make_entry: Make) -> None:
    """What came since is given once, in portions, and the last of them says that it is the last."""
    store.write([line(make_entry, 0)])
    cursor = store.newest("1").cursor
    store.write([line(make_entry, number) for number in range(1, 8)])
    seen = []
    more = True
    while more:
        page = store.after("1", cursor, limit=3)
        cursor, more = page.cursor, page.more
        seen.append(texts(page.entries))
    assert seen == [["line 1", "line 2", "line 3"], ["line 4", "line 5", "line 6"], ["line 7"]]
    assert texts(store.after("1", cursor).entries) == []


def test_an_empty_cursor_stands_before_the_first_line(store: Any, make_entry: Make) -> None:
    """A reader that wants all begins with it."""
    store.write([line(make_entry, number) for number in range(3)])
    page = store.after("1", "", limit=2)
    assert (texts(page.entries), page.more) == (["line 0", "line 1"], True)
    assert texts(store.after("1", page.cursor).entries) == ["line 2"]


def test_a_line_with_an_older_time_is_given_to_those_who_follow(store: Any, make_entry: Make) -> None:
    """A late writer's line is older than the page by time, and new by arrival: `after` gives it, `before` not again."""
    store.write([line(make_entry, number) for number in range(10, 20)])
    page = store.newest("1", limit=5)
    store.write([line(make_entry, 1, origin="late")])
    assert texts(store.after("1", page.cursor).entries) == ["line 1"]
    if not isinstance(store, MemorySink | JsonLinesSink):  # there the order of arrival is the order of pages
        assert "line 1" not in texts(store.before("1", page.earlier).entries)


def test_a_selection_chooses(store: Any, make_entry: Make) -> None:
    """By level, logger with those below, text in message and traceback, origin and audience."""
    lines = [
        make_entry(message="a", level=10, logger="shop"),
        make_entry(message="b", level=40, logger="shop.work", exception="Traceback: NEEDLE"),
        make_entry(message="c needle", level=20, logger="shopping", origin="other"),
        make_entry(message="100%_d", level=20, logger="shop.work.deep", audience="staff"),
    ]
    store.write(lines)

    def found(**criteria: Any) -> list[str]:
        return sorted(texts(store.newest("1", Selection(**criteria)).entries))

    assert found() == ["a", "b", "c needle"]
    assert found(audience="staff") == ["100%_d", "a", "b", "c needle"]
    assert found(level=20, audience="staff") == ["100%_d", "b", "c needle"]
    assert found(logger="shop", audience="staff") == ["100%_d", "a", "b"]
    assert found(text="Needle") == ["b", "c needle"]
    assert found(text="%_", audience="staff") == ["100%_d"]
    assert found(origin="other") == ["c needle"]


def test_lines_from_the_moment_on_in_which_the_job_was_made_are_shown(
    store: Any, make_entry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before it are of an earlier job of that id; the one of that very microsecond is not."""
    store.write([line(make_entry, number) for number in range(3)])
    monkeypatch.setattr(reading, "shown_since", lambda job_id, namespace: line(make_entry, 1).created)
    assert texts(store.newest("1").entries) == ["line 1", "line 2"]
    assert texts(store.after("1", "").entries) == ["line 1", "line 2"]


def test_the_cursor_moves_past_lines_that_are_left_out(store: Any, make_entry: Make) -> None:
    """Following only errors, a reader is given those that come later."""
    cursor = store.newest("1", Selection(level=40)).cursor
    store.write([line(make_entry, number) for number in range(5)])
    page = store.after("1", cursor, Selection(level=40))
    assert (texts(page.entries), page.more) == ([], False)
    store.write([line(make_entry, 6, level=40)])
    assert texts(store.after("1", page.cursor, Selection(level=40)).entries) == ["line 6"]


def test_of_a_run_only_the_newest_tally_is_shown(store: Any, make_entry: Make) -> None:
    """Also where the older ones are on other pages; who follows gets each as it comes."""
    written = []
    for number in range(30):
        fields = {"fold": "f1", "folded": number} if number % 5 == 0 else {}
        written.append(line(make_entry, number, fields=fields))
    store.write(written)
    page = store.newest("1", limit=8)
    shown = texts(page.entries)
    while page.earlier:
        page = store.before("1", page.earlier, limit=8)
        shown = texts(page.entries) + shown
    tallies = {f"line {number}" for number in range(0, 25, 5)}
    assert shown == [f"line {number}" for number in range(30) if f"line {number}" not in tallies]
    assert len(store.after("1", "").entries) == 30


def test_a_summary_counts_lines_left_out_by_their_levels(store: Any, make_entry: Make) -> None:
    """As the newest marker says; at the marker's own level where what it says cannot be right."""
    store.write(
        [
            line(make_entry, 1, level=40),
            line(make_entry, 2, level=30, fields={"fold": "f", "folded": 5, "left_out": {"INFO": 5}}),
            line(make_entry, 3, level=30, fields={"fold": "f", "folded": 12, "left_out": {"INFO": 9, "ERROR": 3}}),
            line(make_entry, 4, level=30, fields={"fold": "g", "folded": 4, "left_out": {"INFO": 9}}),
        ]
    )
    assert store.summary("1").levels == {20: 9, 30: 4, 40: 4}


def test_a_summary_counts_folded_lines(store: Any, make_entry: Make) -> None:
    """A run counts with its newest tally; levels, times, first error and origins are right."""
    store.write(
        [
            line(make_entry, 0),
            line(make_entry, 1, level=40),
            line(make_entry, 2, fields={"fold": "f", "folded": 10, "first": "x", "last": "y"}),
            line(make_entry, 3, fields={"fold": "f", "folded": 17}),
            line(make_entry, 4, level=50, origin="b"),
            line(make_entry, 5, audience="staff"),
        ]
    )
    found = store.summary("1")
    assert (found.job_id, found.lines, dict(found.levels)) == ("1", 20, {20: 18, 40: 1, 50: 1})
    assert (found.first, found.last) == (1_700_000_000.0, 1_700_000_004.0)
    assert found.first_error.message == "line 1"
    assert list(found.origins) == ["b", "test"]
    assert store.summary("1", audience="staff").lines == 21


def test_deleting_a_job_leaves_others(store: Any, make_entry: Make) -> None:
    """All its lines go, none of another job or namespace; a reader who follows goes on, and new lines come."""
    store.write(
        [line(make_entry, number) for number in range(3)]
        + [line(make_entry, 3, job_id="11"), line(make_entry, 4, namespace="n")]
    )
    cursor = store.newest("1").cursor
    assert store.delete("1") == 3
    assert texts(store.newest("1").entries) == []
    assert texts(store.newest("11").entries) == ["line 3"]
    assert texts(store.newest("1", namespace="n").entries) == ["line 4"]
    assert texts(store.after("1", cursor).entries) == []
    store.write([line(make_entry, 5)])
    assert texts(store.after("1", cursor).entries) == ["line 5"]


def test_pruning_by_age_and_by_number(store: Any, make_entry: Make) -> None:
    """What a dry run says is what goes; of each job the newest stay; another namespace is left alone."""
    store.write([line(make_entry, number) for number in range(10)])
    store.write([line(make_entry, number, job_id="2") for number in range(4, 6)])
    store.write([line(make_entry, number, namespace="n") for number in range(3)])
    store.write([line(make_entry, number, job_id="3") for number in range(2)])
    until = 1_700_000_003.0
    assert store.prune(until, 5, dry_run=True) == 7
    assert len(store.newest("1").entries) == 10
    assert store.prune(until, 5) == 7
    assert texts(store.newest("1").entries) == [f"line {number}" for number in range(5, 10)]
    assert texts(store.newest("2").entries) == ["line 4", "line 5"]
    assert texts(store.newest("3").entries) == []
    assert len(store.newest("1", namespace="n").entries) == 3
    assert store.prune(0.0, 0) == 7
    assert texts(store.newest("1").entries) == []


def test_who_follows_is_not_disturbed_by_pruning(store: Any, make_entry: Make) -> None:
    """Lines that stay are not given again, and those that come are not missed."""
    store.write([line(make_entry, number) for number in range(10)])
    kept = store.newest("1").cursor
    gone = store.after("1", "", limit=2).cursor
    store.prune(0.0, 3)
    store.write([line(make_entry, 10)])
    assert texts(store.after("1", kept).entries) == ["line 10"]
    assert texts(store.after("1", gone).entries) == [f"line {number}" for number in range(7, 11)]


def test_a_foreign_cursor_is_a_value_error(store: Any, make_entry: Make) -> None:
    """Whatever a URL holds, nothing else is raised."""
    store.write([make_entry()])
    marks = {"m1": ["t", -1], "l1": [3], "d1": [1, {"o": "x"}]}
    made = [encode(kind, *parts) for kind, parts in marks.items()]
    made += [encode(kind, 2**70, {}, *more) for kind in marks for more in ([], [1, 2, [3]], [1, -2, []])]
    for text in ["x", "1", "not a cursor", "é", "ajox", "j" * 30_000, "eJyLjgUAARUAuQ", "alsiZDEiLC0xLHt9XQ", *made]:
        with pytest.raises(ValueError, match="not a cursor of this store"):
            store.before("1", text)
        with pytest.raises(ValueError, match="not a cursor of this store"):
            store.after("1", text)
    with pytest.raises(ValueError, match="not a cursor of this store"):
        store.before("1", None)


def _far_ahead(cursor: str) -> str:
    """A cursor of the same store that says that its reader has all lines there will ever be."""
    kind = next(module._KIND for module in (memory, _jsonl_reader, store_module) if _is_of(cursor, module._KIND))
    far = {int: lambda part: 2**62, dict: lambda part: {**part, "test": 2**62}}
    return encode(kind, *(far.get(type(part), lambda part: part)(part) for part in decode(cursor, kind)))


def _is_of(cursor: str, kind: str) -> bool:
    try:
        decode(cursor, kind)
    except ValueError:
        return False
    return True


def test_a_cursor_that_is_ahead_of_the_log_is_read_as_now(store: Any, make_entry: Make) -> None:
    """Made up, or older than the database: what comes from now on is given."""
    store.write([line(make_entry, 0)])
    page = store.after("1", _far_ahead(store.newest("1").cursor))
    assert texts(page.entries) == []
    store.write([line(make_entry, 1)])
    assert texts(store.after("1", page.cursor).entries) == ["line 1"]
    store.delete("1")
    page = store.after("1", page.cursor)
    store.write([line(make_entry, 2)])
    assert texts(store.after("1", page.cursor).entries) == ["line 2"]


def test_a_viewer_with_a_made_up_cursor_changes_nothing_for_others(store: Any, make_entry: Make) -> None:
    """It comes first, as far ahead as can be or with what the store chokes on; the next one gets every line, once."""
    store.write([line(make_entry, 0)])
    cursor = store.newest("1").cursor
    hub = Hub(lambda: store, interval=0.02)
    forgers = [Reader(hub, made, "1") for made in (_far_ahead(cursor), _with_many_marks(6_000), "rubbish")]
    forgers[0].until(lambda _: hub._jobs["", "1"].current != [])
    honest = Reader(hub, cursor, "1")
    try:
        for number in range(1, 4):
            store.write([line(make_entry, number)])
            honest.until(lambda honest, number=number: f"line {number}" in honest.messages())
        assert honest.messages() == ["line 1", "line 2", "line 3"]
        assert texts(store.after("1", honest.cursor).entries) == []
        store.write([line(make_entry, 4)])
        assert texts(store.after("1", honest.cursor).entries) == ["line 4"]
    finally:
        thread = hub._thread
        for reader in (*forgers, honest):
            hub.unwatch("", "1", reader.viewer)
        if thread is not None:
            thread.join(10)


def _with_many_marks(count: int) -> str:
    return encode("d1", 0, {f"o{number}": 1 for number in range(count)})


@pytest.mark.parametrize(
    "marks",
    [{f"o{number}": 1 for number in range(101)}, {"o\x00": 1}, {"o\ud800": 1}],
    ids=["many", "NUL", "surrogate"],
)
def test_marks_that_no_cursor_has_are_refused(marks: dict[str, int]) -> None:
    """Each is a condition on every row, and a text the database must take: more than are ever given are made up."""
    with pytest.raises(ValueError, match="not a cursor of this store"):
        DjangoStore("joblog").after("1", encode("d1", 0, marks))
    with pytest.raises(ValueError, match="not a cursor of this store"):
        DjangoStore("joblog").before("1", encode("d1", 0, marks, 1, 1, []))


def test_an_earlier_with_more_runs_than_are_remembered_is_refused() -> None:
    """It holds a hundred at most."""
    with pytest.raises(ValueError, match="not a cursor of this store"):
        DjangoStore("joblog").before("1", encode("d1", 0, {}, 1, 1, [str(number) for number in range(101)]))


def test_a_cursor_names_its_store() -> None:
    """No two stores make cursors of one kind: what one takes, no other does."""
    kinds = [module._KIND for module in (memory, _jsonl_reader, store_module, model_reader)]
    assert len(set(kinds)) == len(kinds), kinds


def test_a_cursor_of_another_store_is_a_value_error(store: Any, make_entry: Make, tmp_path: Path) -> None:
    """Nor is one taken that belongs to another kind of store, or an `earlier` for a cursor."""
    others = [MemorySink(), JsonLinesSink(tmp_path / "others"), DjangoStore("joblog")]
    for other in others:
        if type(other) is type(store) or (isinstance(store, DjangoSink) and isinstance(other, DjangoStore)):
            continue
        if not isinstance(other, DjangoStore):
            other.write([make_entry()])
        with pytest.raises(ValueError, match="not a cursor"):
            store.after("1", other.newest("1").cursor)


def test_random_readers_and_writers_agree(store: Any, make_entry: Make) -> None:
    """Any mixture of writing, paging back and following gives each line exactly once."""
    chance = random.Random(4)
    written: list[str] = []
    origins = ["a", "b", "c"]
    seqs = dict.fromkeys(origins, 0)

    def write() -> None:
        batch = []
        origin = chance.choice(origins)
        for _ in range(chance.randrange(1, 5)):
            seqs[origin] += 1
            text = f"{origin} {seqs[origin]}"
            batch.append(make_entry(message=text, created=1e9 + chance.randrange(50), origin=origin, seq=seqs[origin]))
            written.append(text)
        store.write(batch)

    for _ in range(15):
        write()
    page = store.newest("1", limit=7)
    seen, cursor, earlier = texts(page.entries), page.cursor, page.earlier
    for _ in range(60):
        if chance.random() < 0.4:
            write()
        if chance.random() < 0.5:
            page = store.after("1", cursor, limit=chance.randrange(1, 6))
            seen += texts(page.entries)
            cursor = page.cursor
        elif earlier:
            page = store.before("1", earlier, limit=chance.randrange(1, 6))
            seen += texts(page.entries)
            earlier = page.earlier
    while earlier:
        page = store.before("1", earlier, limit=6)
        seen += texts(page.entries)
        earlier = page.earlier
    more = True
    while more:
        page = store.after("1", cursor, limit=6)
        seen += texts(page.entries)
        cursor, more = page.cursor, page.more
    assert len(seen) == len(set(seen))
    assert sorted(seen) == sorted(written)


# --- files ---------------------------------------------------------------------------------------------------


def test_the_newest_lines_of_a_large_file_are_read_from_its_end(tmp_path: Path, make_entry: Make) -> None:
    """Only some blocks at the end of the file are read, whatever its size: what is before them need not be lines."""
    sink = JsonLinesSink(tmp_path)
    sink.write([line(make_entry, number) for number in range(3_000)])
    path = tmp_path / "1.jsonl"
    whole = path.read_bytes()
    cut = len(whole) // 2
    path.write_bytes(b"\0" * cut + whole[cut:])
    assert texts(sink.newest("1", limit=100).entries) == [f"line {number}" for number in range(2_900, 3_000)]


def test_long_lines_are_read_backwards_whole(tmp_path: Path, make_entry: Make) -> None:
    """Lines longer than a block, and lines that end where a block ends."""
    sink = JsonLinesSink(tmp_path)
    lengths = [10, 200_000, 1, 65_536, 65_300, 65_301, 65_302, 131_072, 5]
    sink.write([make_entry(message="x" * length, created=float(at)) for at, length in enumerate(lengths)])
    assert [len(text) for text in texts(sink.newest("1").entries)] == lengths
    page = sink.newest("1", limit=4)
    assert [len(text) for text in texts(sink.before("1", page.earlier or "").entries)] == lengths[:5]


def test_a_torn_line_is_not_read_until_it_is_whole(tmp_path: Path, make_entry: Make) -> None:
    """What stands behind the last newline is being written; lines that are no entries are passed over."""
    sink = JsonLinesSink(tmp_path)
    sink.write([line(make_entry, 0)])
    path = tmp_path / "1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"no": "entry"}\n[1]\n\xff\xfe\n' + whole[:-20])
    page = sink.newest("1")
    assert texts(page.entries) == ["line 0"]
    with path.open("ab") as file:
        file.write(whole[-20:])
    assert texts(sink.after("1", page.cursor).entries) == ["line 0"]


def test_a_writer_that_waited_for_a_pruned_file_writes_into_the_new_one(tmp_path: Path, make_entry: Make) -> None:
    """No line goes into a file that was replaced meanwhile."""
    sink = JsonLinesSink(tmp_path)
    sink.write([line(make_entry, number) for number in range(4)])
    path = tmp_path / "1.jsonl"
    with path.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        writer = threading.Thread(target=sink.write, args=([line(make_entry, 4)],))
        writer.start()
        writer.join(0.3)
        assert writer.is_alive()
        new = tmp_path / "new"
        new.write_bytes(b"".join(held.readlines()[2:]))
        new.replace(path)
    writer.join(10)
    assert texts(sink.newest("1").entries) == ["line 2", "line 3", "line 4"]


def test_a_file_that_cannot_be_read_is_an_unavailable_store(tmp_path: Path) -> None:
    """The error names the file."""
    sink = JsonLinesSink(tmp_path)
    (tmp_path / "1.jsonl").mkdir()
    with pytest.raises(SinkUnavailableError, match=r"1\.jsonl"):
        sink.newest("1")


def test_a_level_without_a_name_comes_back(tmp_path: Path, make_entry: Make) -> None:
    """Also out of a file that was written before its number stood there."""
    sink = JsonLinesSink(tmp_path)
    sink.write([make_entry(level=25), make_entry(level=7)])
    path = tmp_path / "1.jsonl"
    lines = [{**json.loads(one), "levelno": 25} for one in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    assert [entry.level for entry in sink.newest("1").entries] == [25, 25]
    path.write_text(path.read_text().replace(', "levelno": 25', ""))
    assert [entry.level for entry in sink.newest("1").entries] == [25, 7]


# --- the table -----------------------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_ids_of_deleted_rows_are_never_given_again_on_sqlite(make_entry: Make) -> None:
    """Else a line that comes after a deletion could have an id that a cursor has passed."""
    sink = DjangoSink(tests="database")
    sink.write([line(make_entry, number) for number in range(3)])
    with connections["joblog"].cursor() as cursor:
        cursor.execute("SELECT sql FROM sqlite_master WHERE name = %s", [JobLogEntry._meta.db_table])
        assert "AUTOINCREMENT" in cursor.fetchone()[0]
    last = JobLogEntry.objects.latest("id").pk
    sink.delete("1")
    sink.write([line(make_entry, 3)])
    assert JobLogEntry.objects.get().pk == last + 1
    sink.close()


def test_a_table_that_is_missing_is_an_unavailable_store(sink: DjangoSink) -> None:
    """Readers are told what to run."""
    table = JobLogEntry._meta.db_table
    with connections["joblog"].cursor() as cursor:
        cursor.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
    try:
        with pytest.raises(SinkUnavailableError, match="is missing") as found:
            sink.newest("1")
        assert "migrate --database joblog" in found.value.advice
    finally:
        with connections["joblog"].cursor() as cursor:
            cursor.execute(f"ALTER TABLE elsewhere RENAME TO {table}")
    assert sink.newest("1").entries == []


@pytest.mark.postgresql
def test_a_row_that_is_committed_late_is_given_by_who_follows(log_on_postgresql: str, make_entry: Make) -> None:
    """An open transaction has small ids, others commit larger ones: a reader gets these at once and those later.

    And each once: after several polls in between, and in `newest` as in `after`.
    """
    sink = DjangoSink(tests="database")
    table = JobLogEntry._meta.db_table
    slow = connections.create_connection("joblog")
    slow.set_autocommit(False)
    try:
        with slow.cursor() as cursor:
            cursor.execute(f"SELECT {MARK_WRITER}", [f'"{table}"'])
            cursor.execute(
                f"INSERT INTO {table} (namespace, job_id, created, level, logger, message, exception, fields, path, "
                "line, audience, origin, seq, n) VALUES ('', '1', 1700000001000000, 20, 'x', 'slow', '', '{}', '', 0, "
                "'all', 'slow', 1, 1)"
            )
        sink.write([line(make_entry, 1, origin="a", seq=1), line(make_entry, 2, origin="b", seq=1)])
        page = sink.newest("1", limit=1)
        assert texts(page.entries) == ["line 2"]
        cursor, seen = page.cursor, []
        for seq in range(2, 6):
            sink.write([line(make_entry, seq + 1, origin="a", seq=seq)])
            page = sink.after("1", cursor)
            cursor = page.cursor
            seen += texts(page.entries)
        assert seen == ["line 3", "line 4", "line 5", "line 6"]
        slow.commit()
        page = sink.after("1", cursor)
        assert texts(page.entries) == ["slow"]
        assert texts(sink.after("1", page.cursor).entries) == []
        assert len(texts(sink.after("1", "").entries)) == 7
    finally:
        slow.close()
        sink.close()


@pytest.mark.postgresql
def test_more_writers_at_one_moment_than_a_cursor_holds(
    log_on_postgresql: str, make_entry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a transaction holds everything up, some origins' lines are given later: the cursor stays short."""
    monkeypatch.setattr(store_module, "_MAX_MARKS", 2)
    sink = DjangoSink(tests="database")
    table = JobLogEntry._meta.db_table
    slow = connections.create_connection("joblog")
    slow.set_autocommit(False)
    try:
        with slow.cursor() as cursor:
            cursor.execute(f"SELECT {MARK_WRITER}", [f'"{table}"'])
        sink.write([line(make_entry, at, origin=f"o{at % 5}") for at in range(20)])
        page = sink.newest("1")
        seen = texts(page.entries)
        assert len(seen) == 8
        page = sink.after("1", page.cursor)
        assert (texts(page.entries), page.more) == ([], False)
        sink.write([line(make_entry, 20, origin="o0"), line(make_entry, 21, origin="o1")])
        slow.rollback()
        more = True
        while more:
            page = sink.after("1", page.cursor, limit=5)
            seen += texts(page.entries)
            more = page.more
        assert sorted(seen) == sorted(f"line {at}" for at in range(22))
    finally:
        slow.close()
        sink.close()


@pytest.mark.postgresql
def test_a_reader_inside_an_older_snapshot_loses_nothing(log_on_postgresql: str, make_entry: Make) -> None:
    """In a REPEATABLE READ transaction of the application the store looks with a connection of its own."""
    sink = DjangoSink(tests="database")
    sink.write([line(make_entry, 1)])
    with transaction.atomic(using="joblog"):
        with connections["joblog"].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute(f"SELECT count(*) FROM {JobLogEntry._meta.db_table}")
        sink.write([line(make_entry, 2)])
        page = sink.newest("1")
        assert texts(page.entries) == ["line 1", "line 2"]
        sink.write([line(make_entry, 3)])
    assert texts(sink.after("1", page.cursor).entries) == ["line 3"]
    sink.close()


TAIL = """
import json, multiprocessing, random, sys, time
from joblog_router.sinks import open_store

PROCESSES, LINES = 8, {lines}

def work(number):
    chance = random.Random(number)
    begin.wait(30)
    with job_context(1):
        for at in range(LINES):
            logger.info("p%d line %d", number, at)
            if chance.random() < {flush}:
                flush(30)
    assert flush(60)

fork = multiprocessing.get_context("fork")
begin = fork.Barrier(PROCESSES + 1)
children = [fork.Process(target=work, args=(number,)) for number in range(PROCESSES)]
for child in children:
    child.start()
store = open_store()
begin.wait(30)
page = store.newest("1", limit=50)
seen, backwards, cursor, earlier, polls = [], [], page.cursor, page.earlier, 0
backwards += [entry.message for entry in page.entries]
chance = random.Random(9)
longest = len(cursor)
while True:
    alive = any(child.is_alive() for child in children)
    page = store.after("1", cursor, limit=chance.randrange(1, 400))
    cursor, polls = page.cursor, polls + 1
    longest = max(longest, len(cursor))
    seen += [entry.message for entry in page.entries]
    if not alive and not page.more and not page.entries:
        break
while earlier:
    page = store.before("1", earlier, limit=200)
    earlier = page.earlier
    backwards += [entry.message for entry in page.entries]
for child in children:
    child.join()
    assert child.exitcode == 0, child.exitcode
given = seen + backwards
print(json.dumps({{
    "given": len(given), "doubled": len(given) - len(set(given)),
    "missed": PROCESSES * LINES - len(set(given)), "followed": len(seen), "polls": polls, "longest": longest,
}}))
"""


def _follow(project: Project, lines: int, flushes: float) -> dict[str, int]:
    project.settings("LOGGING['handlers']['job']['fold'] = False")
    result = project.run(TAIL.format(lines=lines, flush=flushes))
    print(result.stdout)
    found: dict[str, int] = json.loads(result.stdout)
    return found


def test_following_eight_processes_misses_and_doubles_no_line(any_project: Project) -> None:
    """A tail over 2,000 lines of one job, written at once by eight processes that commit out of order."""
    found = _follow(any_project, 250, 0.2)
    assert (found["given"], found["missed"], found["doubled"]) == (2_000, 0, 0)
    assert found["followed"] > 300
    assert found["longest"] < 2_000


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_following_eight_processes_for_a_hundred_thousand_lines(any_project: Project) -> None:
    """The same over 100,000 lines."""
    found = _follow(any_project, 12_500, 0.01)
    assert (found["given"], found["missed"], found["doubled"]) == (100_000, 0, 0)
    assert found["longest"] < 2_000


def test_an_unknown_alias_is_an_unavailable_store() -> None:
    """As for the sink, which knows the alias first when it is used."""
    with pytest.raises(SinkUnavailableError, match="no alias 'nowhere'"):
        DjangoStore("nowhere").newest("1")


def test_pages_and_polls_read_the_index_and_no_more(sink: DjangoSink, make_entry: Make) -> None:
    """Neither sorts, and neither looks at more rows than it gives: on a job with many lines among others."""
    sink.write([make_entry(message="x", created=1e9 + number, job_id=str(number % 20)) for number in range(20_000)])
    connection = connections["joblog"]
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    page = sink.newest("1", limit=50)
    with CapturedQueries(connection) as captured:
        sink.newest("1", limit=50)
        sink.before("1", page.earlier or "", limit=50)
        sink.after("1", page.cursor)
    for sql, parameters in captured.selects():
        with connection.cursor() as cursor:
            explain = "EXPLAIN QUERY PLAN" if connection.vendor == "sqlite" else "EXPLAIN (ANALYZE, FORMAT TEXT)"
            cursor.execute(f"{explain} {sql}", parameters)
            plan = "\n".join(str(row[-1]) for row in cursor.fetchall())
        if "GROUP BY" in sql:
            assert "joblog_entry_job_id" in plan or "pkey" in plan or "PRIMARY KEY" in plan, f"{sql}\n{plan}"
            continue
        assert "Sort" not in plan, f"{sql}\n{plan}"
        assert "TEMP B-TREE" not in plan, f"{sql}\n{plan}"
        assert "Seq Scan" not in plan, f"{sql}\n{plan}"
        assert "SCAN joblog" not in plan, f"{sql}\n{plan}"


class CapturedQueries:
    """The SELECTs of this library's table that a connection is asked in the block."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._found: list[tuple[str, Any]] = []

    def __enter__(self) -> Self:
        self._wrapper = self._connection.execute_wrapper(self._note)
        self._wrapper.__enter__()
        return self

    def __exit__(self, *args: object) -> None:
        self._wrapper.__exit__(*args)

    def _note(self, execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        self._found.append((sql, parameters))
        return execute(sql, parameters, many, context)

    def selects(self) -> list[tuple[str, Any]]:
        """Of rows, not of the largest id or of locks."""
        found = [(sql, parameters) for sql, parameters in self._found if '"job_id"' in sql]
        assert len(found) >= 3
        return found
