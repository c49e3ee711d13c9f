"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from joblog_router import flush
from joblog_router._pipeline import report
from tests.isolation import preserved_logging
from tests.servers import NatsServer


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """No test sees the logging configuration of another, its waiting lines, or that a cause was reported before."""
    report.forget()
    with preserved_logging():
        yield
    flush(5)


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """The server that all tests share: use stream and subject names of your own, and leave it running."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def own_nats_server() -> Iterator[NatsServer]:
    """A server of the test's own, to be killed, paused and restarted."""
    with NatsServer() as server:
        yield server
