"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from joblog_router import flush
from joblog_router._pipeline import report, scopes
from joblog_router._pipeline.router import router
from tests.isolation import preserved_logging
from tests.postgres import PgBouncer, PostgresServer, find_pgbouncer, find_postgres
from tests.servers import NatsServer
from tests.strangers import as_nobody

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background by a shell; what the tests start must not inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _open_handlers() -> int:
    return sum(len(channel.uses) for channel in router._snapshot())


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """No test sees the logging configuration of another, its waiting lines, or that a cause was reported before."""
    report.forget()
    spools = router.recovery.directories()
    open_before = _open_handlers()
    with preserved_logging():
        yield
    if scopes.variable.get(None) is not None:
        scopes.variable.set(None)  # of a scope that is left elsewhere, on purpose
    assert _open_handlers() <= open_before, "the test leaves a handler open, whose settings count on"
    assert flush(5), "the test leaves lines that cannot be stored, for which every later flush waits"
    # The writer lets go of closed handlers' spools right after it answered.
    until = time.monotonic() + 1
    while not router.recovery.directories() <= spools and time.monotonic() < until:
        time.sleep(0.001)


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


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The cluster that all tests share: use a database of your own, and leave it running."""
    with PostgresServer() as server:
        yield server


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A cluster of the test's own, to be killed and restarted."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer) -> Iterator[PgBouncer]:
    """A pgbouncer in transaction mode before the shared cluster."""
    with PgBouncer(postgres) as bouncer:
        yield bouncer


def _missing() -> dict[str, str]:
    """Marks of tests that cannot run here, and what is missing."""
    missing = {}
    if find_postgres() is None:
        missing["postgresql"] = "no PostgreSQL server was found (apt-get install -y postgresql, or set POSTGRES_BIN)"
    elif find_spec("psycopg") is None:
        missing["postgresql"] = "psycopg is not installed"
    if find_pgbouncer() is None:
        missing["pgbouncer"] = "no pgbouncer was found (apt-get install -y pgbouncer, or set PGBOUNCER_BIN)"
    if not as_nobody():
        missing["other_user"] = "only root with setpriv can run a worker as another user, by a Python that it may run"
    if os.environ.get("JOBLOG_TEST_DATABASE") == "postgresql":
        missing["sqlite"] = "JOBLOG_TEST_DATABASE=postgresql"
    return missing


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs a server that is not there, and remember it for the end."""
    missing = _missing()
    if missing.keys() - {"sqlite", "other_user"} and os.environ.get("JOBLOG_TEST_SERVERS") == "require":
        raise pytest.UsageError(f"JOBLOG_TEST_SERVERS=require: {'; '.join(missing.values())}")
    left_out = {mark: [item for item in items if item.get_closest_marker(mark)] for mark in missing}
    config.stash[_LEFT_OUT] = [
        f"NOT RUN: {len(found)} tests marked {mark}: {missing[mark]}" for mark, found in left_out.items() if found
    ]
    gone = {item for found in left_out.values() for item in found}
    if gone:
        config.hook.pytest_deselected(items=list(gone))
        items[:] = [item for item in items if item not in gone]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what was left out. With pytest-xdist only the workers know how much that was."""
    is_distributed = bool(getattr(config.option, "numprocesses", None))
    for line in config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(line, yellow=True)
    if is_distributed:
        for mark, reason in _missing().items():
            terminalreporter.write_line(f"NOT RUN: tests marked {mark}: {reason}", yellow=True)


_LEFT_OUT = pytest.StashKey[list[str]]()
