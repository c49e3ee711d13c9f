"""Fixtures of the fault laboratory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.contrib.celery.valkey import ValkeyServer
from tests.faults.laboratory import Laboratory, table
from tests.servers import NatsServer


@pytest.fixture
def jobs(transactional_db: None) -> Iterator[None]:
    """The table of jobs, seen by all threads."""
    with table():
        yield


@pytest_asyncio.fixture
async def lab(jobs: None, nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Laboratory]:
    """A job on the shared server."""
    lab = Laboratory(nats_server.url, tmp_path / "logs")
    await lab.connect()
    yield lab
    await lab.close()


@pytest_asyncio.fixture
async def own_lab(jobs: None, own_nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Laboratory]:
    """A job on a server of its own, to be killed."""
    lab = Laboratory(own_nats_server.url, tmp_path / "logs")
    await lab.connect()
    yield lab
    await lab.close()


@pytest.fixture(scope="session")
def valkey() -> Iterator[ValkeyServer]:
    """The Valkey that all faults share; each has keys of its own."""
    with ValkeyServer(tcp=True) as server:
        yield server


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey to be killed."""
    with ValkeyServer(tcp=True) as server:
        yield server
