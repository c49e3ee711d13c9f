from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from django.db import IntegrityError, connections
from django.test import override_settings

from joblog_router import ConfigurationError, Entry, SinkUnavailableError
from joblog_router.contrib.django.connection import PrivateConnection
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.contrib.django.sink import DjangoSink

Make = Callable[..., Entry]

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "joblog"])
ON_SQLITE = pytest.mark.parametrize("sink", [pytest.param("sqlite", marks=pytest.mark.sqlite)], indirect=True)


def test_every_field_of_an_entry_is_stored(sink: DjangoSink, make_entry: Make) -> None:
    """A row holds all of an entry: time to the microsecond, JSON fields, traceback, origin and numbers."""
    entry = make_entry(
        namespace="acme",
        created=1_700_000_000.123456,
        level=30,
        message="päckt 🦋",
        exception="Traceback …",
        fields={"a": [1, {"b": None}], "c": "é"},
        audience="staff",
        n=3,
    )
    sink.write([entry])
    row = JobLogEntry.objects.get()
    assert (row.namespace, row.job_id, row.level, row.logger) == ("acme", "1", 30, "shop.work")
    assert row.created == 1_700_000_000_123_456
    assert row.created_at.isoformat() == "2023-11-14T22:13:20.123456+00:00"
    assert row.level_name == "WARNING"
    assert (row.message, row.exception) == ("päckt 🦋", "Traceback …")
    assert row.fields == {"a": [1, {"b": None}], "c": "é"}
    assert (row.path, row.line, row.audience) == ("/srv/shop/work.py", 7, "staff")
    assert (row.origin, row.seq, row.n) == ("test", entry.seq, 3)
    assert str(row) == "2023-11-14 22:13:20 WARNING päckt 🦋"


def test_an_entry_that_comes_twice_is_stored_once(sink: DjangoSink, make_entry: Make) -> None:
    """Delivery may be repeated: the second copy changes nothing, and new ones beside it are stored."""
    first, second = make_entry(message="first"), make_entry(message="second")
    sink.write([first])
    sink.write([first._replace(message="again"), second, second])
    assert list(JobLogEntry.objects.for_job(1).values_list("message", flat=True)) == ["first", "second"]


def test_another_origin_may_use_the_same_number(sink: DjangoSink, make_entry: Make) -> None:
    """Two processes count on their own: equal numbers are no copies."""
    sink.write([make_entry(origin="a", seq=1), make_entry(origin="b", seq=1)])
    assert JobLogEntry.objects.count() == 2


def test_values_json_does_not_know_are_stored_as_text(sink: DjangoSink, make_entry: Make) -> None:
    """NaN, infinity and objects in fields, which are no JSON, become text; the column is valid JSON."""
    fields = {"nan": float("nan"), "deep": [float("-inf")], "object": object(), "fine": 1}
    sink.write([make_entry(fields=fields)])
    with connections["joblog"].cursor() as cursor:
        cursor.execute("SELECT fields FROM joblog_router_joblogentry")
        text = cursor.fetchone()[0]

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == {
        "nan": "nan",
        "deep": ["-inf"],
        "object": "<object>",
        "fine": 1,
    }


def test_a_row_the_database_refuses_is_an_error_and_not_ignored(sink: DjangoSink, make_entry: Make) -> None:
    """A broken row is raised to the writer, which sets it aside; it neither counts as stored nor costs others."""
    good, bad = make_entry(), make_entry(message=None)
    with pytest.raises(IntegrityError):
        sink.write([good, bad])
    assert not JobLogEntry.objects.exists()
    sink.write([good])
    assert JobLogEntry.objects.count() == 1


def test_numbers_too_large_for_their_columns_are_clamped(sink: DjangoSink, make_entry: Make) -> None:
    """A level or line beyond its column does not cost the message."""
    sink.write([make_entry(level=10**6, line=2**40), make_entry(level=-(10**6), line=-1)])
    assert list(JobLogEntry.objects.order_by("seq").values_list("level", "line")) == [
        (32_767, 2**31 - 1),
        (-32_768, 0),
    ]


def test_jobs_with_very_long_ids_have_logs_of_their_own(sink: DjangoSink, make_entry: Make) -> None:
    """Ids over the column's 255 characters keep apart, also where they only differ at the end."""
    one, other = "x" * 5000 + "1", "x" * 5000 + "2"
    sink.write([make_entry(job_id=one, message="one"), make_entry(job_id=other, message="other")])
    assert [row.message for row in JobLogEntry.objects.for_job(one)] == ["one"]
    assert [row.message for row in JobLogEntry.objects.for_job(other)] == ["other"]
    assert max(len(row.job_id) for row in JobLogEntry.objects.all()) == 255


def test_for_job_gives_one_jobs_lines_oldest_first(sink: DjangoSink, make_entry: Make) -> None:
    """Order is by time, then origin and number; other jobs and namespaces are not in it."""
    sink.write(
        [
            make_entry(message="third", created=3.0, origin="a"),
            make_entry(message="second", created=2.0, origin="b", seq=2),
            make_entry(message="first", created=2.0, origin="b", seq=1),
            make_entry(message="other job", job_id="11"),
            make_entry(message="other tenant", namespace="acme"),
        ]
    )
    assert [row.message for row in JobLogEntry.objects.for_job(1)] == ["first", "second", "third"]
    assert [row.message for row in JobLogEntry.objects.for_job("1", namespace="acme")] == ["other tenant"]


def test_the_connection_is_nobody_elses(sink: DjangoSink, make_entry: Make) -> None:
    """Writing neither opens, uses nor replaces the calling thread's connection."""
    before = connections["joblog"]
    before.close()
    sink.write([make_entry()])
    assert connections["joblog"] is before
    assert before.connection is None
    assert JobLogEntry.objects.count() == 1


def test_a_thread_without_a_connection_has_none_afterwards(
    sink: DjangoSink, make_entry: Make, transactional_db: None
) -> None:
    """The writer thread's own slot stays empty: other code on that thread opens its own connection."""
    left: list[object] = []

    def write() -> None:
        sink.write([make_entry()])
        left.extend(connections.all(initialized_only=True))

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert left == []
    assert JobLogEntry.objects.count() == 1


@override_settings(DEBUG=True)
def test_debug_mode_keeps_no_queries(transactional_db: None) -> None:
    """With DEBUG on, the private connection remembers and logs no query."""
    private = PrivateConnection("joblog")
    with private.in_place() as own, own.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert not own.queries_logged
        assert len(own.queries_log) == 0
    private.close()


def test_the_connection_closes_when_idle_and_opens_again(sink: DjangoSink, make_entry: Make) -> None:
    """`idle()` closes the connection; the next write opens it again."""
    sink.write([make_entry()])
    private = sink._connection
    assert private is not None
    assert private._wrapper is not None
    assert private._wrapper.connection is not None
    sink.idle()
    assert private._wrapper.connection is None
    sink.write([make_entry()])
    assert JobLogEntry.objects.count() == 2


def test_a_connection_of_an_alias_with_a_pool_or_without_autocommit_is_plain(transactional_db: None) -> None:
    """Pool options and transaction settings of the alias do not apply to the private connection."""
    settings = connections.settings["joblog"]
    settings["OPTIONS"]["pool"] = True
    settings["AUTOCOMMIT"] = False
    settings["ATOMIC_REQUESTS"] = True
    private = PrivateConnection("joblog")
    try:
        with private.in_place() as own:
            assert "pool" not in own.settings_dict["OPTIONS"]
            assert own.settings_dict["AUTOCOMMIT"] is True
            assert own.settings_dict["ATOMIC_REQUESTS"] is False
            assert own.settings_dict["CONN_MAX_AGE"] is None
    finally:
        private.close()
        del settings["OPTIONS"]["pool"]
        settings["AUTOCOMMIT"] = True
        settings["ATOMIC_REQUESTS"] = False


@ON_SQLITE
def test_an_alias_that_changes_its_database_is_opened_anew(
    sink: DjangoSink, make_entry: Make, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A test runner renames the database of an alias: the next write goes to the new one."""
    sink.write([make_entry()])
    settings = connections.settings["joblog"]
    name = settings["NAME"]
    settings["NAME"] = str(tmp_path_factory.mktemp("empty") / "other.sqlite3")
    try:
        with pytest.raises(SinkUnavailableError, match="table of the job logs is missing"):
            sink.write([make_entry()])
    finally:
        settings["NAME"] = name
    sink.write([make_entry()])
    assert JobLogEntry.objects.count() == 2


def test_an_unknown_alias_is_unavailable_not_fatal(transactional_db: None, make_entry: Make) -> None:
    """An alias that is not in DATABASES keeps the lines waiting and says so."""
    with pytest.raises(SinkUnavailableError, match="DATABASES has no alias 'nowhere'"):
        DjangoSink(database="nowhere", tests="database").write([make_entry()])


@pytest.mark.parametrize("database", ["", 1, ["joblog"]])
def test_a_wrong_option_is_refused_at_configuration(database: object) -> None:
    """`database` must be an alias."""
    with pytest.raises(ConfigurationError, match="database must be an alias"):
        DjangoSink(database=database)  # type: ignore[arg-type]


@ON_SQLITE
def test_any_other_database_is_written_by_bulk_create(
    sink: DjangoSink, make_entry: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The path of all vendors but SQLite stores the same rows and skips copies.

    SQLite under another name stands in for them here: a server is not part of these tests.
    """
    connection = PrivateConnection("joblog")
    with connection.in_place() as own:
        monkeypatch.setattr(type(own), "vendor", "other")
    sink._connection = connection
    entry = make_entry(fields={"nan": float("nan"), "a": 1}, message="bulk")
    sink.write([entry])
    sink.write([entry, make_entry(message="next")])
    rows = JobLogEntry.objects.for_job(1)
    assert [(row.message, row.fields) for row in rows] == [("bulk", {"nan": "nan", "a": 1}), ("next", {})]


def test_entries_are_never_changed(sink: DjangoSink, make_entry: Make) -> None:
    """The model adds and deletes rows; changing one is refused."""
    sink.write([make_entry()])
    row = JobLogEntry.objects.get()
    row.message = "forged"
    with pytest.raises(Exception, match="append-only"):
        row.save()
    with pytest.raises(Exception, match="append-only"):
        JobLogEntry.objects.for_job(1).update(message="forged")
    assert JobLogEntry.objects.get().message == "packed"
    assert JobLogEntry.objects.for_job(1).delete()[0] == 1
