"""Figures about a long log come from sums that are kept of it, and are those of its lines whatever happened."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from joblog_router import Entry
from joblog_router._pipeline import reading, report
from joblog_router.contrib.django import sink as sinks
from joblog_router.contrib.django import store as stores
from joblog_router.contrib.django import sums, windows
from joblog_router.contrib.django.models import JobLogEntry, JobLogQuerySet, JobLogSum
from joblog_router.contrib.django.sink import DjangoSink
from joblog_router.contrib.django.store import DjangoStore, read_rows
from joblog_router.sinks.store import Selection
from tests.postgres import PostgresServer

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "joblog"])

Make = Callable[..., Entry]
TABLE = JobLogEntry._meta.db_table
SUMS = JobLogSum._meta.db_table


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of fifty rows."""
    monkeypatch.setattr(sums, "ROWS", 50)
    monkeypatch.setattr(sinks, "_ROWS_OF_SUMS", 50)


def story(make_entry: Make, count: int, start: int = 0) -> list[Entry]:
    """Lines of job 7 of all kinds, two processes and some tallies, roughly in the order of time; those of others."""
    chance = random.Random(start)
    found = []
    for number in range(start, start + count):
        level = chance.choice([10, 20, 20, 20, 20, 30, 40] if number > 120 else [10, 20, 30])
        fields: dict[str, Any] = {"image": number}
        if number % 9 == 0:
            fold = f"fold{number // 180}"
            fields = {"fold": fold, "folded": number % 180, "first": 1.0, "last": 2.0}
            level = 20
        found.append(
            make_entry(
                job_id="7" if number % 11 else "8",
                created=1000.0 + number - chance.choice([0, 0, 0, 1.5, 20]),
                level=level,
                message=f"line {number}",
                fields=fields,
                audience="staff" if level == 40 and number % 2 else "all",
                origin=f"process {number % 2}",
                seq=number,
            )
        )
    return found


def write(sink: DjangoSink, entries: Iterable[Entry], size: int = 40) -> None:
    """In batches."""
    entries = list(entries)
    for start in range(0, len(entries), size):
        sink.write(entries[start : start + size])


def stored(job_id: str = "7") -> list[Entry]:
    """All that is in the table, read line by line."""
    store = DjangoStore()
    with store.opened(job_id, None) as log:
        rows = log.selected(Selection(audience="staff")).order_by("created", "id")
        return [log.entry_of(row) for row in read_rows(rows, 1_000_000)]


def is_right(job_id: str = "7") -> bool:
    """Whether the summary is that of the lines, for everybody and for staff, asked twice."""
    lines = stored(job_id)
    for audience in ("all", "staff", "staff"):
        found = DjangoStore().summary(job_id, audience)
        seen = [entry for entry in lines if audience == "staff" or entry.audience == "all"]
        expected = reading.summarize(job_id, seen)
        same = found._replace(first_error=None) == expected._replace(first_error=None)
        errors = [one and one.message for one in (found.first_error, expected.first_error)]
        assert same, (audience, found, expected)
        assert errors[0] == errors[1], audience
    return True


def test_sums_are_those_of_the_lines(sink: DjangoSink, make_entry: Make) -> None:
    """With levels, audiences, processes, tallies and lines that come late; the writer keeps them."""
    write(sink, story(make_entry, 1234))
    blocks = JobLogSum.objects.filter(job_id="7").order_by("after")
    assert blocks.count() >= 20
    assert all(one.until == other.after for one, other in pairwise(blocks))
    assert is_right()
    assert is_right("8")
    write(sink, story(make_entry, 77, 1234))
    assert is_right()


def test_old_rows_are_not_looked_at(sink: DjangoSink, make_entry: Make) -> None:
    """Rows that sums are kept of may say what they like: figures and chart read the new ones only."""
    write(sink, story(make_entry, 600))
    before = DjangoStore().summary("7", "staff")
    chart = windows.histogram(DjangoStore(), "7", (before.first or 0, before.last or 0), "staff", 10)
    assert sum(sum(part.values()) for part in chart) == len(stored())
    newest = JobLogSum.objects.filter(job_id="7").order_by("-until")[0].until
    with connections["joblog"].cursor() as cursor:
        oldest = "SELECT oldest_id FROM " + SUMS
        cursor.execute(f"UPDATE {TABLE} SET level = 50 WHERE id <= {newest} AND id NOT IN ({oldest})")
    assert DjangoStore().summary("7", "staff")._replace(first_error=None) == before._replace(first_error=None)
    assert chart == windows.histogram(DjangoStore(), "7", (before.first or 0, before.last or 0), "staff", 10)


@pytest.mark.parametrize("deletion", ["age", "keep", "one", "rows", "others", "job", "some of an old version"])
def test_deletion_keeps_them_right(sink: DjangoSink, make_entry: Make, deletion: str) -> None:
    """However rows go: by age, by number, one by one, by a version that knows of no sums; and lines come after."""
    write(sink, story(make_entry, 700))
    is_right()
    store = DjangoStore()
    if deletion == "age":
        assert store.prune(1300.0) > 100
    elif deletion == "keep":
        assert store.prune(0, keep=222) > 100
    elif deletion == "one":
        JobLogEntry.objects.filter(message="line 333").get().delete()
        assert not JobLogSum.objects.filter(job_id="7").exists()
    elif deletion == "rows":
        assert JobLogEntry.objects.filter(message__contains="5").delete()[0] > 50
    elif deletion == "others":
        store.delete("8")
        assert not JobLogSum.objects.filter(job_id="8").exists()
        assert JobLogSum.objects.filter(job_id="7").exists()
    elif deletion == "job":
        store.delete("7")
        assert not JobLogSum.objects.filter(job_id="7").exists()
    else:
        with connections["joblog"].cursor() as cursor:
            cursor.execute(f"DELETE FROM {TABLE} WHERE created < 1300000000")
    assert is_right()
    assert is_right("8")
    write(sink, story(make_entry, 300, 700))
    assert is_right()


@pytest.mark.parametrize("change", ["gone", "error", "late"])
def test_rows_that_change_by_other_ways_are_noticed(
    sink: DjangoSink, make_entry: Make, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Somebody's SQL takes a row out of the midst, or a row comes late among those that sums are kept of."""
    monkeypatch.setattr(sums, "_CHECKED", 50)
    write(sink, story(make_entry, 400))
    assert is_right()
    lines = JobLogEntry.objects.using("joblog").filter(job_id="7").order_by("created")
    middle = lines.filter(level=20)[150] if change == "gone" else lines.filter(level=40).order_by("created", "id")[0]
    place = middle.id
    with connections["joblog"].cursor() as cursor:
        cursor.execute(f"DELETE FROM {TABLE} WHERE id = {place}")
    if change == "late":
        assert is_right()
        JobLogEntry.objects.using("joblog").create(
            id=place, job_id="7", created=1_200_000_000, level=50, logger="x", message="late", origin="late", seq=1
        )
    assert is_right()
    assert JobLogSum.objects.filter(job_id="7", after__lt=place, until__gte=place).count() == 1, "made anew"


def test_of_a_long_log_they_are_checked_in_turn(
    sink: DjangoSink, make_entry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some with each look, all when it is pruned, and where the first error is not there."""
    monkeypatch.setattr(sums, "_CHECKED", 2)
    write(sink, story(make_entry, 800))
    blocks = JobLogSum.objects.filter(job_id="7").count()
    assert blocks >= 14
    store = DjangoStore()

    def take_one(**which: object) -> None:
        row = JobLogEntry.objects.using("joblog").filter(job_id="7", **which).order_by("created", "id")[20]
        with connections["joblog"].cursor() as cursor:
            cursor.execute(f"DELETE FROM {TABLE} WHERE id = {row.id}")

    take_one(level=20)
    looks = 0
    while store.summary("7", "staff").lines != reading.summarize("7", stored()).lines:
        looks += 1
        assert looks <= blocks / 2 + 1
    take_one(level=30)
    store.prune(0.0)
    assert store.summary("7", "staff").lines == reading.summarize("7", stored()).lines
    first = store.summary("7", "staff").first_error
    assert first is not None
    with connections["joblog"].cursor() as cursor:
        cursor.execute(f"DELETE FROM {TABLE} WHERE seq = {first.seq}")
    assert is_right()


@pytest.mark.postgresql
def test_a_row_deleted_in_a_transaction_that_began_before_its_sums(
    log_on_postgresql: str, make_entry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not see the sums that it has to delete: they are deleted after the commit."""
    monkeypatch.setattr(sums, "_CHECKED", 0)
    sink = DjangoSink(tests="database")
    connection = connections["joblog"]

    def fill(start: int, count: int) -> None:
        write(sink, [make_entry(job_id="7", created=1000.0 + n, seq=n) for n in range(start, start + count)])
        connections["joblog"].close()

    thread = threading.Thread(target=fill, args=(49, 60))
    try:
        fill(0, 49)
        with transaction.atomic("joblog"):
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            row = JobLogEntry.objects.using("joblog").filter(job_id="7", seq=30).get()
            thread.start()
            thread.join(20)
            row.delete()
        assert DjangoStore().summary("7").lines == 108
    finally:
        sink.close()


def test_a_prune_that_is_interrupted(sink: DjangoSink, make_entry: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a block's oldest line has a late id it is deleted last. The interruption is an exception of the test's."""
    monkeypatch.setattr(sums, "_CHECKED", 0)
    monkeypatch.setattr(stores, "_CHUNK", 20)
    write(sink, [make_entry(job_id="7", created=1.0 if n == 40 else 1000.0 + n) for n in range(120)])
    assert is_right()
    delete, calls = JobLogQuerySet.delete_oldest, []

    def once(self: JobLogQuerySet) -> int:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return delete(self)

    with monkeypatch.context() as patch:
        patch.setattr(JobLogQuerySet, "delete_oldest", once)
        with pytest.raises(KeyboardInterrupt):
            DjangoStore().prune(1100.0)
    assert len(stored()) == 100
    assert is_right()


def test_without_their_table(sink: DjangoSink, make_entry: Make) -> None:
    """The code may be ahead of the migrations: everything is as before, and sums are kept once the table is there."""
    connection = connections["joblog"]
    with connection.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {SUMS} RENAME TO away")
    try:
        write(sink, story(make_entry, 300))
        assert is_right()
        JobLogEntry.objects.filter(message="line 33").delete()
        DjangoStore().prune(1050.0)
        DjangoStore().delete("8")
        assert is_right()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER TABLE away RENAME TO {SUMS}")
    assert is_right()
    assert JobLogSum.objects.filter(job_id="7").count() >= 4


@pytest.mark.postgresql
@pytest.mark.parametrize("rights", ["", "SELECT", "SELECT, INSERT"])
def test_without_rights_on_their_table(
    *,
    log_on_postgresql: str,
    postgres: PostgresServer,
    make_entry: Make,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    rights: str,
) -> None:
    """After a migration roles have rights on the old table only: as if there were none, which is said once."""
    role = f"role_{len(rights)}"
    grant = f"GRANT {rights} ON {SUMS} TO {role};" if rights else ""
    postgres.execute(
        f"CREATE ROLE {role} LOGIN; GRANT SELECT, INSERT, DELETE ON {TABLE} TO {role}; {grant}"
        f"GRANT USAGE, SELECT ON SEQUENCE {TABLE}_id_seq TO {role}",
        log_on_postgresql,
    )
    owner = DjangoSink(tests="database")
    write(owner, story(make_entry, 300))
    owner.close()
    settings = connections["joblog"].settings_dict
    user = settings["USER"]
    connections["joblog"].close()
    monkeypatch.setattr(sums, "_CHECKED", 50)
    monkeypatch.setattr(report, "_seen", set())
    settings["USER"] = role
    sink = DjangoSink(tests="database")
    try:
        assert is_right()
        write(sink, story(make_entry, 300, 300))
        assert is_right()
        JobLogEntry.objects.using("joblog").filter(message="line 33").get().delete()
        assert JobLogEntry.objects.using("joblog").filter(message="line 34").delete()[0] == 1
        assert DjangoStore().prune(1100.0) > 50
        assert is_right()
        assert DjangoStore().delete("8") > 20
        assert is_right()
    finally:
        sink.close()
        connections["joblog"].close()
        settings["USER"] = user
        postgres.execute(f"DROP OWNED BY {role}; DROP ROLE {role}", log_on_postgresql)
    said = capfd.readouterr().err
    assert said.count("no sums over long logs are kept") == 1
    assert f"GRANT SELECT, INSERT, DELETE ON {SUMS} TO {role}" in said


def test_a_reader_makes_them_outside_of_transactions(sink: DjangoSink, make_entry: Make) -> None:
    """Of rows whose writer kept none; in a transaction of the caller's nothing is written."""
    entries = story(make_entry, 400)
    with sink._connection_to(sink.alias).in_place() as own:
        sinks._add(own, JobLogEntry, entries)
    sink.close()
    with transaction.atomic("joblog"):
        assert is_right()
    assert not JobLogSum.objects.exists()
    assert is_right()
    assert JobLogSum.objects.filter(job_id="7").count() == 7


def test_many_make_them_at_a_time(sink: DjangoSink, make_entry: Make) -> None:
    """Four readers while lines are written: the sums are those of the lines."""
    faults: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                DjangoStore().summary("7", "staff")
        except BaseException as error:
            faults.append(error)
        finally:
            connections["joblog"].close()

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for start in range(0, 1000, 100):
        write(sink, story(make_entry, 100, start))
    done.set()
    for reader in readers:
        reader.join(30)
    assert faults == []
    assert is_right()
    assert JobLogSum.objects.filter(job_id="7").count() >= 15


def test_lines_of_an_earlier_job_do_not_count(
    sink: DjangoSink, make_entry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a block that has some of them the rows are looked at."""
    write(sink, story(make_entry, 700))
    monkeypatch.setattr(reading, "shown_since", lambda job_id, namespace: 1333.0)
    assert all(entry.created >= 1333.0 for entry in stored())
    assert is_right()


def test_the_chart_is_nearly_that_of_the_lines(sink: DjangoSink, make_entry: Make) -> None:
    """A row counts in its part or the one beside it."""
    write(sink, [make_entry(job_id="7", created=1000.0 + n) for n in range(1000)])
    found = windows.histogram(DjangoStore(), "7", (1000.0, 1999.0), "all", 10)
    assert [part[20] for part in found] == pytest.approx([100] * 10, abs=3)
    assert sum(part[20] for part in found) == 1000


@pytest.mark.parametrize("buckets", [80, 500])
def test_the_chart_of_a_steady_log_is_even(
    sink: DjangoSink, make_entry: Make, monkeypatch: pytest.MonkeyPatch, buckets: int
) -> None:
    """Also where a block fills more bars than it has parts: none is empty, or twice as high as the others."""
    monkeypatch.setattr(sums, "ROWS", 2000)
    write(sink, [make_entry(job_id="7", created=1000.0 + n) for n in range(2400)], 800)
    DjangoStore().summary("7")
    assert JobLogSum.objects.count() == 1
    found = windows.histogram(DjangoStore(), "7", (1000.0, 3399.0), "all", buckets)
    heights = [part.get(20, 0) for part in found]
    assert sum(heights) == 2400
    mean = 2400 / buckets
    assert min(heights[:-1]) >= int(mean) - 2
    assert max(heights) <= mean + 2


def test_rows_are_spread_in_whole_numbers() -> None:
    """None is lost, whatever the widths; one row stays one."""
    chance = random.Random(1)
    for _ in range(500):
        count, first, width = chance.randrange(1, 400), chance.randrange(-50, 5000), chance.randrange(1, 900)
        last = first + chance.randrange(0, 3000)
        parts = chance.choice([1, 3, 20, 10_000])
        found = list(sums._spread(count, first, last, width, parts))
        assert sum(share for _, share in found) == count
        within = [min(parts - 1, max(0, at // width)) for at in (first, last)]
        assert all(share > 0 and within[0] <= part <= within[1] for part, share in found)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("away", [2e11, -6e10], ids=["future", "past"])
def test_a_line_far_away_that_is_not_shown_costs_no_time(sink: DjangoSink, make_entry: Make, away: float) -> None:
    """The bars are of a minute's lines, a block of which reaches over thousands of years for a line for staff."""
    lines = [make_entry(job_id="7", created=1000.0 + n) for n in range(60)]
    lines[20] = lines[20]._replace(created=away, audience="staff")
    write(sink, lines)
    summary = DjangoStore().summary("7")
    assert (summary.first, summary.last) == (1000.0, 1059.0)
    assert JobLogSum.objects.count() == 1
    found = windows.histogram(DjangoStore(), "7", (1000.0, 1059.0), "all", 20)
    assert sum(part.get(20, 0) for part in found) == 59


def test_all_that_a_page_asks_for_goes_by_an_index(sink: DjangoSink, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40,000 rows, a few hundred of them this job's newest ones: no query of the page goes through the table."""
    monkeypatch.setattr(sums, "ROWS", 10_000)
    connection = connections["joblog"]
    numbers = {
        "postgresql": "SELECT generate_series(1, 40000) AS x",
        "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 40000) SELECT x FROM n",
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {TABLE} (namespace, job_id, created, level, logger, message, exception, fields, path, line,"
            " audience, origin, seq, n) SELECT '', CASE WHEN x < 39000 THEN '7' ELSE '8' END,"
            " 1000000 * CAST(x AS BIGINT), CASE WHEN x % 1000 = 0 THEN 40 ELSE 20 END, 'shop.work', 'packed', '', '{}',"
            " '', 0, 'all', 'one', x, 1"
            f" FROM ({numbers}) AS numbers"
        )
        cursor.execute("ANALYZE")
    store = DjangoStore()
    assert store.summary("7").lines == 38_999
    page = store.newest("7")
    with CaptureQueriesContext(connection) as asked:
        store.summary("7")
        windows.histogram(store, "7", (1.0, 40_000.0), "all", 80)
        store.after("7", page.cursor)
        store.before("7", page.earlier or "")
        store.newest("7")
        windows.since(store, "7", 20_000.0, Selection(), 500)
        windows.until(store, "7", 20_000.0, Selection(), 500)
    queries = [query["sql"] for query in asked.captured_queries if f'FROM "{TABLE}"' in query["sql"]]
    assert len(queries) > 10
    explain = "EXPLAIN" if connection.vendor == "postgresql" else "EXPLAIN QUERY PLAN"
    for query in queries:
        with connection.cursor() as cursor:
            cursor.execute(f"{explain} {query.replace('%', '%%')}")
            plan = "\n".join(str(row[-1]) for row in cursor.fetchall())
        assert f"Seq Scan on {TABLE}" not in plan, (query, plan)
        assert f"SCAN {TABLE}" not in plan, (query, plan)
        # The oldest row that is looked at is one of the newest ten thousand, or near where the page wants to be.
        if "COUNT" in query:
            assert '"id" >' in query, query
