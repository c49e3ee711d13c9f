"""What a PostgreSQL server, a pool and pgbouncer do to a process that logs: nothing is lost, nothing comes twice."""

from __future__ import annotations

import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from tests.contrib.django.project import PREAMBLE, Project
from tests.helpers import until
from tests.postgres import PgBouncer, PostgresServer

pytestmark = pytest.mark.postgresql

# Logs about a line in a millisecond until there is a file named "stop"; prints how many, and now and then into a file,
# too. It asks for them to be stored all the time, so that the writer does not rest for long after a failure.
LOGGING = """
    import os, time
    number = 0
    with job_context(1):
        while not os.path.exists("stop"):
            logger.warning("line %d", number)
            number += 1
            time.sleep(0.001)
            if number % 50 == 0:
                flush(0.02)
                with open("logged", "w") as file:
                    print(number, file=file)
    assert flush(30)
    print(number)
"""


def logging_in(project: Project) -> subprocess.Popen[str]:
    """A process that logs."""
    return project.start("-c", PREAMBLE + textwrap.dedent(LOGGING))


def logged(project: Project) -> int:
    """About how many lines it has logged so far."""
    path = project.root / "logged"
    return int(path.read_text() or 0) if path.exists() else 0


def stop(project: Project, process: subprocess.Popen[str]) -> int:
    """Let it come to its end; how many lines it logged."""
    (project.root / "stop").touch()
    return int(project.finish(process).stdout)


@pytest.fixture
def own_project(own_postgres: PostgresServer, tmp_path: Path) -> Project:
    """A project on a server of its own."""
    project = Project(tmp_path, own_postgres, own_postgres.create_database())
    project.migrate()
    return project


@pytest.fixture
def bounced_project(pgbouncer: PgBouncer, postgres: PostgresServer, migrated: str, tmp_path: Path) -> Iterator[Project]:
    """A project that reaches its database through pgbouncer in transaction mode."""
    name = postgres.create_database(migrated)
    yield Project(tmp_path, pgbouncer, name)
    postgres.drop_database(name)


def test_twenty_killed_backends_cost_nothing(postgres_project: Project, postgres: PostgresServer) -> None:
    """Whoever is connected is thrown out twenty times while lines are written: all are there, once."""
    process = logging_in(postgres_project)
    for _ in range(20):
        until(lambda: postgres.kill_backends(postgres_project.name))
    count = stop(postgres_project, process)
    assert count > 100
    assert postgres_project.rows() == [f"line {number}" for number in range(count)]


@pytest.mark.parametrize("way", ["stop", "kill"])
def test_a_server_that_goes_away_and_comes_back_costs_nothing(
    own_project: Project, own_postgres: PostgresServer, way: str
) -> None:
    """Lines that are logged while the server is down, in order or by SIGKILL, come when it is back."""
    process = logging_in(own_project)
    until(own_project.rows)
    getattr(own_postgres, way)()
    before = logged(own_project)
    until(lambda: logged(own_project) >= before + 200)
    own_postgres.start()
    count = stop(own_project, process)
    assert count > 100
    assert own_project.rows() == [f"line {number}" for number in range(count)]


@pytest.mark.skipif(django.VERSION < (5, 1), reason="Django has pools since 5.1")
def test_a_pool_of_one_is_left_to_the_application(postgres_project: Project) -> None:
    """With the only connection of Django's pool in use, lines are stored all the same."""
    postgres_project.settings(
        "DATABASES['default']['OPTIONS'] = {'pool': {'min_size': 1, 'max_size': 1, 'timeout': 3}}"
    )
    result = postgres_project.run(
        """
        from django.db import connection, transaction
        from shop.models import Job
        with transaction.atomic():
            job = Job.objects.create(name="busy")
            with job_context(job.pk):
                for number in range(1000):
                    logger.warning("line %d", number)
                assert flush(10), stats()
        connection.close()
        connection.close_pool()
        """
    )
    assert result.stderr == ""
    assert postgres_project.rows() == [f"line {number}" for number in range(1000)]


def test_connections_that_the_application_closes_or_keeps_are_its_own(postgres_project: Project) -> None:
    """CONN_MAX_AGE, the end of a request and close_all() concern the application's connections alone."""
    postgres_project.settings("DATABASES['default'].update(CONN_MAX_AGE=60, CONN_HEALTH_CHECKS=True)")
    result = postgres_project.run(
        """
        from django.core.signals import request_finished, request_started
        from django.db import connections
        from shop.models import Job
        for number in range(300):
            request_started.send(None)
            assert Job.objects.count() == 0
            with job_context(1):
                logger.warning("line %d", number)
            request_finished.send(None)
            if number % 50 == 0:
                connections.close_all()
        assert flush(10)
        """
    )
    assert result.stderr == ""
    assert postgres_project.rows() == [f"line {number}" for number in range(300)]


def test_a_transaction_that_holds_or_broke_everything_keeps_no_line_back(postgres_project: Project) -> None:
    """The job's row locked FOR UPDATE, deleted but not committed, or the transaction broken: lines are stored."""
    result = postgres_project.run(
        """
        from django.db import DataError, connection, transaction
        from shop.models import Job
        from joblog_router.contrib.django.models import JobLogEntry
        job = Job.objects.create(name="locked")
        with job_context(job.pk):
            with transaction.atomic():
                Job.objects.select_for_update().get(pk=job.pk)
                logger.info("locked")
                assert flush(10), stats()
                print(JobLogEntry.objects.count())
            with transaction.atomic():
                Job.objects.filter(pk=job.pk).delete()
                logger.info("deleted")
                assert flush(10), stats()
                print(JobLogEntry.objects.count())
            try:
                with transaction.atomic(), connection.cursor() as cursor:
                    try:
                        cursor.execute("SELECT 1 / 0")
                    except DataError:
                        logger.exception("broken")
                    logger.info("and on")
                    assert flush(10), stats()
                    cursor.execute("SELECT 1")
            except Exception as error:
                logger.info("%s", type(error).__name__)
        """
    )
    assert result.stdout.split() == ["1", "2"]
    assert postgres_project.rows() == ["locked", "deleted", "broken", "and on", "InternalError"]


def test_lines_outwait_a_migration_of_their_table(postgres_project: Project) -> None:
    """While the table is altered, lines wait without holding up others, and a new column does not disturb them."""
    result = postgres_project.run(
        """
        import time
        from django.db import connection, transaction
        with job_context(1):
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute("ALTER TABLE joblog_router_joblogentry ADD COLUMN later int NOT NULL DEFAULT 0")
                for number in range(1000):
                    logger.warning("line %d", number)
                assert not flush(4)
                assert stats()["waiting"] == 1000, stats()
            begin = time.monotonic()
            assert flush(10)
            assert time.monotonic() - begin < 3
        """
    )
    assert "lock timeout" in result.stderr
    assert "perhaps a migration" in result.stderr
    assert postgres_project.rows() == [f"line {number}" for number in range(1000)]


@pytest.mark.pgbouncer
def test_pgbouncer_in_transaction_mode(bounced_project: Project) -> None:
    """Three processes share two sessions, with a transaction open: every line is there and no limit stays behind."""
    code = """
        import os
        from django.db import connection, transaction
        from shop.models import Job
        with job_context(os.getpid()):
            for number in range(500):
                logger.warning("line %d", number)
                if number % 100 == 0:
                    with transaction.atomic():
                        Job.objects.create(name="busy")
                        logger.warning("in a transaction")
            assert flush(20), stats()
        found = set()
        for _ in range(20):
            with connection.cursor() as cursor:
                cursor.execute("SELECT current_setting('lock_timeout'), current_setting('statement_timeout')")
                found.add(cursor.fetchone())
        print(found)
    """
    processes = [bounced_project.start("-c", PREAMBLE + textwrap.dedent(code)) for _ in range(3)]
    for process in processes:
        result = bounced_project.finish(process)
        assert result.stdout.strip() == "{('0', '0')}"
        assert result.stderr == ""
        rows = bounced_project.rows(where=f"job_id = '{process.pid}' AND message LIKE 'line %'")
        assert rows == [f"line {number}" for number in range(500)]
    assert len(bounced_project.rows()) == 3 * 505


@pytest.mark.pgbouncer
def test_backends_killed_behind_pgbouncer_cost_nothing(bounced_project: Project, postgres: PostgresServer) -> None:
    """The sessions behind pgbouncer are killed ten times while lines are written: all are there, once."""
    process = logging_in(bounced_project)
    for _ in range(10):
        until(lambda: postgres.kill_backends(bounced_project.name))
    count = stop(bounced_project, process)
    assert bounced_project.rows() == [f"line {number}" for number in range(count)]


def test_psycopg_2_stores_the_same(postgres_project: Project) -> None:
    """Without psycopg 3, rows are inserted: the same lines, fields and tracebacks, once."""
    postgres_project.settings("import sys\nsys.modules['psycopg'] = None")
    result = postgres_project.run(
        r"""
        from django.db import connection
        assert connection.Database.__name__ == "psycopg2"
        from joblog_router import Entry
        from joblog_router.contrib.django.models import JobLogEntry
        from joblog_router.contrib.django.ordering import settled_floor
        from joblog_router.contrib.django.sink import DjangoSink
        with job_context(1, stage="pack"):
            for number in range(3000):
                logger.warning("line %d 100 %% \\N", number)
        assert flush(20), stats()
        sink = DjangoSink()
        sink.write([Entry("1", 0.0, 20, "x", "again", None, {}, "", 0, row.origin, row.seq, 1)
            for row in JobLogEntry.objects.all()[:10]])
        assert settled_floor(connection, "joblog_router_joblogentry") >= 3000
        """
    )
    assert result.stderr == ""
    assert postgres_project.rows("message, fields") == [
        (f"line {number} 100 % \\N", '{"stage": "pack"}') for number in range(3000)
    ]


def test_hostile_text_is_stored_on_the_way_through_logging(postgres_project: Project) -> None:
    """NUL, lone surrogates and numbers that are no JSON cost neither their line nor others."""
    result = postgres_project.run(
        r"""
        with job_context("j\0\udcff", bad="x\0\udcff", number=float("nan")):
            logger.warning("a\0b\udcff%s", "\0", extra={"k\0": {"deep\0": "\0"}})
            try:
                raise ValueError("v\0\udcff")
            except ValueError:
                logger.exception("failed")
        assert flush(10)
        assert stats()["quarantined"] == 0, stats()
        """
    )
    assert result.stderr == ""
    assert len(postgres_project.rows()) == 2
