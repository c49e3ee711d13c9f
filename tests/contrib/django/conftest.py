"""Fixtures: a project on disk, and a sink of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.db import connections

from joblog_router import Entry
from joblog_router.contrib.django import figures, streaming, views
from joblog_router.contrib.django.columns import rows_of
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.contrib.django.sink import DjangoSink, add_objects
from joblog_router.contrib.django.store import DjangoStore
from tests.contrib.django.project import Project
from tests.postgres import USER, PostgresServer

_seq = count(1)


@pytest.fixture
def bare_project(tmp_path: Path) -> Project:
    """A Django project without any table."""
    return Project(tmp_path)


@pytest.fixture
def project(bare_project: Project) -> Project:
    """A Django project with all its tables."""
    bare_project.migrate()
    return bare_project


@pytest.fixture(scope="session")
def migrated(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a database with the tables of a project and of the log, to be copied."""
    name = postgres.create_database()
    Project(tmp_path_factory.mktemp("migrated"), postgres, name).migrate()
    return name


@pytest.fixture
def postgres_project(postgres: PostgresServer, migrated: str, tmp_path: Path) -> Iterator[Project]:
    """A Django project on PostgreSQL with all its tables."""
    name = postgres.create_database(migrated)
    yield Project(tmp_path, postgres, name)
    postgres.drop_database(name)


ON_POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.postgresql)


@pytest.fixture(params=["sqlite", ON_POSTGRESQL])
def any_project(request: pytest.FixtureRequest) -> Project:
    """A Django project with all its tables, on SQLite and on PostgreSQL."""
    name = "postgres_project" if request.param == "postgresql" else "project"
    found: Project = request.getfixturevalue(name)
    return found


@pytest.fixture(scope="session")
def log_database(postgres: PostgresServer, migrated: str) -> str:
    """The name of a database for `log_on_postgresql`."""
    return postgres.create_database(migrated)


@pytest.fixture
def log_on_postgresql(transactional_db: None, postgres: PostgresServer, log_database: str) -> Iterator[str]:
    """The alias "joblog" of this process is a PostgreSQL database with an empty table; its name."""
    before, connection = connections.settings["joblog"], connections["joblog"]
    place = {"ENGINE": "django.db.backends.postgresql", "HOST": postgres.host, "USER": USER, "NAME": log_database}
    connections.settings["joblog"] = {**before, "OPTIONS": {}, **place}
    connections["joblog"] = connections.create_connection("joblog")
    yield log_database
    connections["joblog"].close()
    connections.settings["joblog"] = before
    connections["joblog"] = connection
    postgres.execute("TRUNCATE joblog_router_joblogentry, joblog_router_joblogsum RESTART IDENTITY", log_database)


@pytest.fixture(params=["sqlite", ON_POSTGRESQL])
def sink(request: pytest.FixtureRequest, transactional_db: None) -> Iterator[DjangoSink]:
    """A sink that writes to the test database of the alias "joblog": a SQLite file, and a PostgreSQL database."""
    if request.param == "postgresql":
        request.getfixturevalue("log_on_postgresql")
    sink = DjangoSink(tests="database")
    yield sink
    sink.close()


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    """Make entries, each with a number of its own."""

    def make(**given: Any) -> Entry:
        values: dict[str, Any] = {
            "job_id": "1",
            "created": 1_700_000_000.5,
            "level": 20,
            "logger": "shop.work",
            "message": "packed",
            "exception": None,
            "fields": {},
            "path": "/srv/shop/work.py",
            "line": 7,
            "origin": "test",
            "seq": next(_seq),
            "n": 1,
        }
        return Entry(**{**values, **given})

    return make


@pytest.fixture
def log(db: None, make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Entry]:
    """Store one line of a job's log, inside the test's transaction, from where the views read."""
    monkeypatch.setattr(views, "store", DjangoStore)
    monkeypatch.setattr(streaming.hub, "_store", DjangoStore)
    figures._found.clear()  # sums of another test's job of that id

    def write(job_id: str, message: str = "packed", **more: Any) -> Entry:
        entry = make_entry(job_id=job_id, message=message, **more)
        store_all([entry])
        return entry

    return write


def store_all(entries: Sequence[Entry]) -> None:
    """Store lines inside the test's transaction, where the sink's own connection does not reach."""
    add_objects("joblog", JobLogEntry, rows_of(entries))
