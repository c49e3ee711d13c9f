"""Fixtures of the Celery tests: a broker for all, a worker for those that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contrib.celery.valkey import ValkeyServer
from tests.contrib.celery.worker import Worker
from tests.contrib.django.project import Project


@pytest.fixture(scope="session")
def broker() -> Iterator[ValkeyServer]:
    """The broker that all tests share; each worker has a database or queue of its own."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="module")
def worker(broker: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A prefork worker with two processes. Use job ids of your own."""
    with Worker(broker.database(), tmp_path_factory.mktemp("worker"), "-P", "prefork", "-c", "2") as worker:
        yield worker


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A Django project with all its tables."""
    project = Project(tmp_path)
    project.migrate()
    return project
