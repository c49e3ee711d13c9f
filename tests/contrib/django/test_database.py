from __future__ import annotations

import ast
import inspect
from pathlib import Path

import django
import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, connections
from django.db.migrations.loader import MigrationLoader
from django.test import override_settings

from joblog_router import ConfigurationError
from joblog_router.contrib.django import db
from joblog_router.contrib.django.db import JobLogRouter, sqlite_alias
from joblog_router.contrib.django.models import JobLogEntry
from tests.contrib.django.project import Project

router = JobLogRouter()


def test_the_module_for_settings_imports_neither_models_nor_settings() -> None:
    """A settings module imports it: at its own import it may only touch what needs no settings."""
    imported = set()
    for node in ast.parse(inspect.getsource(db)).body:
        if isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or ""))
    assert imported == {"__future__", "os", "typing", "django", "...exceptions"}


def test_an_alias_of_its_own_waits_for_the_lock_and_reads_beside_the_writer(tmp_path: Path) -> None:
    """The alias has WAL, takes the write lock when a transaction begins and waits for it; Django 4.2 only waits."""
    alias = sqlite_alias(tmp_path / "joblog.sqlite3")
    assert alias["ENGINE"] == "django.db.backends.sqlite3"
    assert alias["NAME"] == str(tmp_path / "joblog.sqlite3")
    expected: dict[str, object] = {"timeout": 20}
    if django.VERSION >= (5, 1):
        expected["transaction_mode"] = "IMMEDIATE"
        expected["init_command"] = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
    assert alias["OPTIONS"] == expected


@pytest.mark.skipif(django.VERSION < (5, 1), reason="these options came with Django 5.1")
@pytest.mark.sqlite
@pytest.mark.django_db(databases=["joblog"])
def test_the_options_of_the_alias_arrive_in_sqlite() -> None:
    """SQLite says so itself."""
    with connections["joblog"].cursor() as cursor:
        answers = [
            cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    assert answers == ["wal", 1, 20_000]


@pytest.mark.parametrize("path", ["", ":memory:", None, 3])
def test_an_alias_must_be_a_file(path: object) -> None:
    """A database in memory, or no path at all, is refused where it is written down."""
    with pytest.raises(ConfigurationError, match="needs the path of a file"):
        sqlite_alias(path)  # type: ignore[arg-type]


def test_the_router_sends_job_logs_to_their_alias_and_has_no_opinion_about_others() -> None:
    """Reading and writing go to the alias the settings name, read when asked."""
    assert (router.db_for_read(JobLogEntry), router.db_for_write(JobLogEntry)) == ("joblog", "joblog")
    assert (router.db_for_read(User), router.db_for_write(User)) == (None, None)
    with override_settings(JOBLOG_ROUTER={"DATABASE": "default"}):
        assert router.db_for_write(JobLogEntry) == "default"


def test_the_router_migrates_each_table_to_its_place() -> None:
    """The log's table exists on its alias only, and "joblog" holds nothing else; a shared alias stays shared."""
    assert router.allow_migrate("joblog", "joblog_router") is True
    assert router.allow_migrate("default", "joblog_router") is False
    assert router.allow_migrate("joblog", "auth") is False
    assert router.allow_migrate("default", "auth") is None
    with override_settings(JOBLOG_ROUTER={"DATABASE": "default"}):
        assert router.allow_migrate("default", "joblog_router") is True
        assert router.allow_migrate("joblog", "joblog_router") is False
        assert router.allow_migrate("default", "auth") is None


def test_the_router_relates_rows_of_the_log_only_to_each_other() -> None:
    """There are no relations over the border of two databases."""
    assert router.allow_relation(JobLogEntry(), JobLogEntry()) is True
    assert router.allow_relation(JobLogEntry(), User()) is False
    assert router.allow_relation(User(), User()) is None


@pytest.mark.django_db(databases=["default", "joblog"])
def test_each_database_has_its_own_tables() -> None:
    """After `migrate` on both, the log's table is on "joblog" alone and the project's are not there."""
    table = JobLogEntry._meta.db_table
    assert table == "joblog_router_joblogentry"
    assert table in connections["joblog"].introspection.table_names()
    assert table not in connection.introspection.table_names()
    assert "auth_user" not in connections["joblog"].introspection.table_names()


@pytest.mark.django_db(databases=["joblog"])
def test_indexes_and_constraints_have_fixed_names() -> None:
    """What later migrations refer to: indexes for paging in a job's log and for following it, and against copies."""
    with connections["joblog"].cursor() as cursor:
        found = connections["joblog"].introspection.get_constraints(cursor, JobLogEntry._meta.db_table)
    named = {
        name: (entry["columns"], entry["unique"]) for name, entry in found.items() if name.startswith("joblog_entry")
    }
    assert named == {
        "joblog_entry_job_created": (["namespace", "job_id", "created", "id"], False),
        "joblog_entry_job_id": (["namespace", "job_id", "id"], False),
        "joblog_entry_origin_seq": (["origin", "seq"], True),
    }


@pytest.mark.django_db(databases=["default", "joblog"])
def test_models_and_migrations_agree() -> None:
    """`makemigrations` finds nothing to do on this version of Django."""
    call_command("makemigrations", "joblog_router", check=True, dry_run=True, verbosity=0)


def test_migrations_can_be_undone(project: Project) -> None:
    """`migrate joblog_router zero` drops the table and `migrate` makes it again."""
    project.manage("migrate", "joblog_router", "zero", "--database=joblog", "--verbosity=0")
    project.manage("migrate", "joblog_router", "--database=joblog", "--verbosity=0")
    assert project.rows() == []


def test_this_version_works_on_the_schema_before(bare_project: Project) -> None:
    """Code that is deployed before its migration is run: writing, reading, following and deleting all work."""
    bare_project.manage("migrate", "joblog_router", "0001", "--database=joblog", "--verbosity=0")
    bare_project.run(
        """
        from joblog_router.sinks import open_store
        store = open_store()
        cursor = store.newest("1").cursor
        with job_context(1):
            logger.info("on the old schema")
        assert flush()
        assert [entry.message for entry in store.after("1", cursor).entries] == ["on the old schema"]
        assert store.summary("1").lines == 1
        assert store.prune(0.0, 0) == 1
        """
    )


def test_migrations_after_the_first_only_add() -> None:
    """Code of the version before goes on writing and reading while a migration was run already."""
    loader = MigrationLoader(None, ignore_no_migrations=True)
    later = [
        migration
        for (app, name), migration in loader.disk_migrations.items()
        if app == "joblog_router" and name > "0002"
    ]
    assert later
    for migration in later:
        assert {type(operation).__name__ for operation in migration.operations} <= {"AddIndex", "CreateModel"}
