"""What is true on PostgreSQL alone: COPY, the order of commits, and what a server does to its clients."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import DataError, connections, transaction

from joblog_router import Entry, JobLogError, SinkUnavailableError
from joblog_router.contrib.django import postgresql
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.contrib.django.ordering import WRITERS_LOCK, floor_from_marks, settled_floor
from joblog_router.contrib.django.postgresql import LIMITS
from joblog_router.contrib.django.sink import DjangoSink
from tests.contrib.django.project import Project
from tests.postgres import USER, PostgresServer

Make = Callable[..., Entry]
TABLE = "joblog_router_joblogentry"

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True, databases=["default", "joblog"])]


@pytest.fixture
def sink(log_on_postgresql: str) -> Iterator[DjangoSink]:
    """A sink on the PostgreSQL database that is the alias "joblog" for the test."""
    sink = DjangoSink(tests="database")
    yield sink
    sink.close()


@contextmanager
def statements(sink: DjangoSink) -> Iterator[list[str]]:
    """The SQL that the sink's own connection runs inside the block, COPY too."""
    seen: list[str] = []
    private = sink._connection_to("joblog")
    with private.in_place() as own:
        kind = type(own)
        before = kind.create_cursor

        def create_cursor(self: Any, name: str | None = None) -> Any:
            cursor = before(self, name)
            execute, copy = cursor.execute, cursor.copy

            def executed(sql: Any, *rest: Any, **named: Any) -> Any:
                seen.append(str(sql))
                return execute(sql, *rest, **named)

            def copied(sql: Any, *rest: Any, **named: Any) -> Any:
                seen.append(str(sql))
                return copy(sql, *rest, **named)

            cursor.execute, cursor.copy = executed, copied
            return cursor

        kind.create_cursor = create_cursor
    try:
        yield seen
    finally:
        kind.create_cursor = before


# --- writing ----------------------------------------------------------------------------------------------------


def test_a_batch_is_one_copy(sink: DjangoSink, make_entry: Make) -> None:
    """Psycopg 3 takes one COPY for a batch, after one statement that sets limits and marks the writer."""
    sink.write([make_entry()])
    with statements(sink) as seen:
        sink.write([make_entry(message=f"line {number}") for number in range(500)])
    assert len(seen) == 2, seen
    assert seen[1].startswith("COPY ")
    assert JobLogEntry.objects.count() == 501


def test_text_that_looks_like_the_format_of_copy_stays_text(sink: DjangoSink, make_entry: Make) -> None:
    r"""Tabs, newlines, backslashes and \N are stored as they are."""
    messages = ["a\tb", "a\nb\r\n", "\\N", "\\.", "a\\tb", "", "\\", "é🦋\u2028", "\x01\x7f", '{"a": "\\u0041"}']
    sink.write([make_entry(message=message, fields={"text": message}) for message in messages])
    rows = JobLogEntry.objects.order_by("seq")
    assert [row.message for row in rows] == messages
    assert [row.fields["text"] for row in rows] == messages


def test_copies_among_new_lines_cost_an_insert(sink: DjangoSink, make_entry: Make) -> None:
    """A batch with a row that is there is written by INSERT, without that row; the first one is kept."""
    first = make_entry(message="first")
    sink.write([first])
    new = [make_entry(message=f"new {number}") for number in range(2500)]
    with statements(sink) as seen:
        sink.write([first._replace(message="again"), *new, new[7]])
    assert [sql.split()[0] for sql in seen] == ["SELECT", "COPY", "SELECT", "INSERT", "INSERT", "INSERT"]
    messages = list(JobLogEntry.objects.order_by("seq").values_list("message", flat=True))
    assert messages == ["first", *(entry.message for entry in new)]


@pytest.mark.parametrize(
    "broken",
    [{"message": "nul \x00"}, {"origin": "x" * 101}, {"fields": {"a": "nul \x00"}}, {"created": 1e15}],
    ids=["nul", "too long", "nul in json", "number too large"],
)
def test_a_poison_row_is_about_values(sink: DjangoSink, make_entry: Make, broken: dict[str, Any]) -> None:
    """What PostgreSQL cannot hold is raised as such, for the writer to find the row; others are not harmed."""
    good = make_entry()
    with pytest.raises((DataError, ValueError)):
        sink.write([good, make_entry(**broken)])
    assert not JobLogEntry.objects.exists()
    sink.write([good])
    assert JobLogEntry.objects.count() == 1


def test_a_lone_surrogate_is_about_values(sink: DjangoSink, make_entry: Make) -> None:
    """Text that is no Unicode fails before it leaves the process, and the connection goes on."""
    with pytest.raises((UnicodeEncodeError, DataError)):
        sink.write([make_entry(), make_entry(message="\udcff")])
    sink.write([make_entry()])
    assert JobLogEntry.objects.count() == 1


def test_an_id_that_is_in_use_is_no_copy_of_a_line(sink: DjangoSink, make_entry: Make) -> None:
    """With a sequence that is behind its table (after a restore), no line counts as stored and is not: it waits."""
    sink.write([make_entry(), make_entry()])
    with connections["joblog"].cursor() as cursor:
        cursor.execute(f"SELECT setval(pg_get_serial_sequence('{TABLE}', 'id'), 1, false)")
    late = make_entry(message="late")
    with pytest.raises(SinkUnavailableError, match="joblog_router_joblogentry_pkey"):
        sink.write([late])
    sink.write([late])
    assert JobLogEntry.objects.filter(message="late").count() == 1


def test_limits_are_the_transactions_own(sink: DjangoSink, make_entry: Make) -> None:
    """Timeouts hold inside the sink's transaction and are gone after it: behind pgbouncer the session is shared."""
    sink.write([make_entry()])
    private = sink._connection_to("joblog")

    def limits(cursor: Any) -> dict[str, str]:
        found = {}
        for name in LIMITS:
            cursor.execute(f"SHOW {name}")
            found[name] = cursor.fetchone()[0]
        return found

    inside: list[dict[str, str]] = []
    with private.in_place() as own, own.cursor() as cursor:
        before = limits(cursor)
        with postgresql._transaction(own, TABLE) as in_transaction:
            inside.append(limits(in_transaction))
        assert limits(cursor) == before
    assert inside == [LIMITS]
    assert before != LIMITS


def test_a_lock_on_the_table_makes_lines_wait_not_the_table(sink: DjangoSink, make_entry: Make) -> None:
    """While a migration holds the table, the sink gives up after seconds and says why; then it goes on."""
    entry = make_entry()
    with transaction.atomic(using="joblog"):
        with connections["joblog"].cursor() as cursor:
            cursor.execute(f"LOCK TABLE {TABLE} IN ACCESS EXCLUSIVE MODE")
        begin = time.monotonic()
        with pytest.raises(SinkUnavailableError, match="lock timeout") as caught:
            sink.write([entry])
        assert time.monotonic() - begin < 10
        assert "perhaps a migration" in caught.value.advice
    sink.write([entry])
    assert JobLogEntry.objects.count() == 1


def test_a_user_without_rights_is_told_which(
    sink: DjangoSink, make_entry: Make, postgres: PostgresServer, log_on_postgresql: str
) -> None:
    """A role that may not write is told what it needs; with those rights alone it writes and reads."""
    role = f"limited_{log_on_postgresql[-8:]}"
    postgres.execute(f"CREATE ROLE {role} LOGIN", log_on_postgresql)
    settings = connections.settings["joblog"]
    settings["USER"] = role
    try:
        with pytest.raises(SinkUnavailableError, match="permission denied") as caught:
            sink.write([make_entry()])
        assert caught.value.advice == "allow this user INSERT and SELECT on the table and USAGE on its sequence"
        postgres.execute(f"GRANT INSERT, SELECT ON {TABLE} TO {role}", log_on_postgresql)
        postgres.execute(f"GRANT USAGE ON SEQUENCE {TABLE}_id_seq TO {role}", log_on_postgresql)
        entry = make_entry()
        sink.write([entry])
        sink.write([entry, make_entry()])
        with sink._connection_to("joblog").in_place() as own:
            assert settled_floor(own, TABLE) >= 2
        assert JobLogEntry.objects.count() == 2
    finally:
        settings["USER"] = USER
        sink.close()
        postgres.execute(f"DROP OWNED BY {role}; DROP ROLE {role}", log_on_postgresql)


def test_into_a_table_with_row_level_security_lines_are_inserted(
    sink: DjangoSink, make_entry: Make, postgres: PostgresServer, log_on_postgresql: str
) -> None:
    """PostgreSQL refuses the COPY of whoever is not the owner: the connection tries that once."""
    role = f"tenant_{log_on_postgresql[-8:]}"
    postgres.execute(
        f"CREATE ROLE {role} LOGIN; GRANT INSERT, SELECT ON {TABLE} TO {role}; "
        f"GRANT USAGE ON SEQUENCE {TABLE}_id_seq TO {role}; ALTER TABLE {TABLE} ENABLE ROW LEVEL SECURITY; "
        f"CREATE POLICY everything ON {TABLE} USING (true) WITH CHECK (message <> 'forbidden')",
        log_on_postgresql,
    )
    settings = connections.settings["joblog"]
    settings["USER"] = role
    entries = [make_entry(message=f"line {number}") for number in range(3)]
    try:
        with statements(sink) as seen:
            sink.write(entries[:2])
            assert [sql.split()[0] for sql in seen] == ["SELECT", "COPY", "SELECT", "INSERT"]
            seen.clear()
            sink.write(entries[1:])
            sink.close()
            sink.write(entries)
            assert [sql.split()[0] for sql in seen if "COPY" in sql or "INSERT" in sql] == ["INSERT", "INSERT"]
        assert list(JobLogEntry.objects.order_by("id").values_list("message", flat=True)) == [
            "line 0",
            "line 1",
            "line 2",
        ]
        with pytest.raises(SinkUnavailableError, match="row-level security"):
            sink.write([make_entry(message="forbidden")])
    finally:
        settings["USER"] = USER
        sink.close()
        postgres.execute(
            f"DROP POLICY everything ON {TABLE}; ALTER TABLE {TABLE} DISABLE ROW LEVEL SECURITY; "
            f"DROP OWNED BY {role}; DROP ROLE {role}",
            log_on_postgresql,
        )


@pytest.mark.parametrize(
    "options",
    [{"server_side_binding": True}, {"isolation_level": 4}, {"options": "-c search_path=elsewhere,public"}],
    ids=["bound by the server", "serializable", "search path"],
)
def test_the_options_of_the_alias_change_nothing(sink: DjangoSink, make_entry: Make, options: dict[str, Any]) -> None:
    """However the project configures its connections: lines are copied, inserted and followed."""
    connections.settings["joblog"]["OPTIONS"] = options
    first = make_entry()
    sink.write([first])
    sink.write([first, *(make_entry(fields={"a": [number]}) for number in range(20))])
    assert JobLogEntry.objects.count() == 21
    with sink._connection_to("joblog").in_place() as own:
        assert settled_floor(own, TABLE) >= 21


def test_a_transaction_that_sees_nothing_new_has_no_floor(sink: DjangoSink) -> None:
    """Where a reader's snapshot is older than the floor it would skip lines: that is refused."""
    with transaction.atomic(using="joblog"):
        with connections["joblog"].cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(JobLogError, match="'repeatable read', which sees no new rows"):
            settled_floor(connections["joblog"], TABLE)


# --- the order of commits ---------------------------------------------------------------------------------------


def test_an_empty_table_is_settled_up_to_nothing(sink: DjangoSink) -> None:
    """No row was ever written: the floor is 0, not the sequence's start."""
    assert settled_floor(connections["joblog"], TABLE) == 0


def test_the_floor_stays_below_what_is_not_committed(sink: DjangoSink, make_entry: Make) -> None:
    """A transaction that took an id holds the floor down until it ends, whoever commits meanwhile."""
    sink.write([make_entry()])
    reader = connections["joblog"]
    assert settled_floor(reader, TABLE) == 1
    other = DjangoSink(tests="database")
    private = other._connection_to("joblog")
    with private.in_place() as own, postgresql._transaction(own, TABLE) as cursor:
        cursor.execute(f"SELECT nextval(pg_get_serial_sequence('{TABLE}', 'id'))")
        sink.write([make_entry(), make_entry()])
        assert settled_floor(reader, TABLE) == 1
    other.close()
    assert settled_floor(reader, TABLE) == 4


def test_a_renamed_sequence_is_found(sink: DjangoSink, make_entry: Make) -> None:
    """The sequence is looked up by its table."""
    with connections["joblog"].cursor() as cursor:
        cursor.execute(f"ALTER SEQUENCE {TABLE}_id_seq RENAME TO another")
        try:
            sink.write([make_entry(), make_entry()])
            assert settled_floor(connections["joblog"], TABLE) == 2
        finally:
            cursor.execute(f"ALTER SEQUENCE another RENAME TO {TABLE}_id_seq")


def test_other_advisory_locks_do_not_count(sink: DjangoSink, make_entry: Make) -> None:
    """Locks of the project, with one key or with another first key, hold nothing down."""
    sink.write([make_entry(), make_entry()])
    with transaction.atomic(using="joblog"), connections["joblog"].cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(1)")
        cursor.execute(f"SELECT pg_advisory_xact_lock(({WRITERS_LOCK}::bigint << 32) | 1)")
        cursor.execute("SELECT pg_advisory_xact_lock(77, 1)")
        assert settled_floor(connections["joblog"], TABLE) == 2


def test_ids_from_elsewhere_are_refused_not_guessed(sink: DjangoSink) -> None:
    """Without a sequence that belongs to the table there is no floor, and the message says what to do."""
    with connections["joblog"].cursor() as cursor:
        cursor.execute("CREATE TABLE elsewhere (id bigint)")
        try:
            with pytest.raises(JobLogError, match=r"OWNED BY elsewhere\.id"):
                settled_floor(connections["joblog"], "elsewhere")
        finally:
            cursor.execute("DROP TABLE elsewhere")


@pytest.mark.parametrize(
    ("last", "marks", "floor"),
    [
        (10, [], 10),
        (10, [7, 9], 7),
        (10, [12], 10),
        (2**31 + 5, [2**31 - 3], 2**31 - 3),
        (2**31 + 5, [2], 2**31 + 2),
        (2**33 + 1, [2**31 - 1], 2**33 - 1),
        (3, [2**31 - 1], 3),
    ],
)
def test_marks_are_31_bits_of_an_id(last: int, marks: list[int], floor: int) -> None:
    """The smallest id behind the last one counts, also where the low bits began anew in between."""
    assert floor_from_marks(last, marks) == floor


UNORDERED = """
    import random, sys, time
    import django
    django.setup()
    from joblog_router import Entry
    from joblog_router.contrib.django import postgresql, sink as module
    number, rounds = int(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(number)
    copy = postgresql._copy
    def slow(*arguments):  # ids are taken, and the commit is held back
        copy(*arguments)
        time.sleep(chance.choice([0, 0, 0.001, 0.02, 0.05]))
    postgresql._copy = slow
    one = module.DjangoSink(tests="database")
    seq = 0
    for _ in range(rounds):
        batch = []
        for _ in range(chance.randint(1, 40)):
            seq += 1
            batch.append(Entry("1", 0.0, 20, "x", "m", None, {}, "", 0, f"p{number}", seq, seq))
        one.write(batch)
    print(seq)
"""


def test_no_row_appears_below_the_floor(postgres_project: Project, log_on_postgresql: str) -> None:
    """Eight processes commit out of order: a reader that goes on from the floor sees every row once."""
    code = textwrap.dedent(UNORDERED)
    processes = [postgres_project.start("-c", code, str(number), "25") for number in range(8)]
    reader = connections["joblog"]
    reader.close()
    reader.settings_dict["NAME"] = postgres_project.name
    seen: list[int] = []
    position = overtaken = 0
    while True:
        is_over = all(process.poll() is not None for process in processes)
        floor = settled_floor(reader, TABLE)
        with reader.cursor() as cursor:
            cursor.execute(f"SELECT id FROM {TABLE} WHERE id > %s AND id <= %s ORDER BY id", [position, floor])
            seen += [found for (found,) in cursor.fetchall()]
            cursor.execute(f"SELECT count(*) FROM {TABLE} WHERE id > %s", [max(position, floor)])
            overtaken += cursor.fetchone()[0] > 0
        position = max(position, floor)
        if is_over:
            break
    written = sum(int(postgres_project.finish(process).stdout) for process in processes)
    with reader.cursor() as cursor:
        cursor.execute(f"SELECT id FROM {TABLE} ORDER BY id")
        stored = [found for (found,) in cursor.fetchall()]
    assert len(stored) == written
    assert seen == stored
    assert overtaken > 0, "nothing was committed out of order: this run proves nothing"
