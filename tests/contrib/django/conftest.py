"""Fixtures: a project on disk, and a sink of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from joblog_router import Entry
from joblog_router.contrib.django.sink import DjangoSink
from tests.contrib.django.project import Project

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


@pytest.fixture
def sink(transactional_db: None) -> Iterator[DjangoSink]:
    """A sink that writes to the test database of the alias "joblog"."""
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
