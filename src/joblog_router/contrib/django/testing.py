"""Job logs in the tables of a test database, for tests of code that reads them. For the marks of the pytest plugin.

Called on the test's own thread; `InlineSink.write` on the writer thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from logging import LogRecord

from django.db import DatabaseError, connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from ..._pipeline.public import flush
from ..._pipeline.report import report_once
from ...entry import Entry
from ...handlers import JobLogHandler
from . import conf
from .columns import rows_of
from .rows import READ_COLUMNS, entry_of
from .sink import DjangoSink, add_objects

__all__ = ["inline_handler", "rows", "thread_handler"]


def thread_handler() -> JobLogHandler:
    """A handler whose lines the writer's thread stores in the test database, over its own connection.

    They survive a rollback, so the test must be one that truncates tables (`transaction=True`, with the log's alias
    among its databases).
    """
    return JobLogHandler(sink=DjangoSink(tests="database"), fold=False)


def inline_handler() -> JobLogHandler:
    """A handler whose lines are stored over the test's own connection, in its transaction, and roll back with it."""
    return InlineHandler()


def rows(job_id: object = None) -> list[Entry]:
    """The lines in the test database, in the order of one job's log; of one job only if `job_id` is given."""
    from .models import JobLogEntry

    found = JobLogEntry.objects.using(conf.database_alias())
    ordered = found.order_by("created", "origin", "seq") if job_id is None else found.for_job(job_id)
    whose = ordered.values_list("job_id", "namespace", *READ_COLUMNS)
    return [entry_of(tuple(row), job, namespace) for job, namespace, *row in whose]


class InlineSink:
    """Takes lines from the writer and keeps them until the test's thread stores them."""

    def __init__(self) -> None:
        self.waiting: deque[Entry] = deque()

    def write(self, entries: Sequence[Entry]) -> None:
        """Keep them; called by the writer."""
        self.waiting.extend(entries)

    def close(self) -> None:
        """Nothing to close."""


class InlineHandler(JobLogHandler):
    """Stores each line before the logging call returns, where that is the test's own thread outside of a loop.

    Lines of other threads and of coroutines, and those of a transaction that is broken, are stored with the next line
    that can be, or by `store()`. The queries are in nobody's `assertNumQueries`.
    """

    def __init__(self) -> None:
        self._inline = InlineSink()
        self._thread = threading.get_ident()
        self._is_storing = False
        super().__init__(sink=self._inline, fold=False)

    def handle(self, record: LogRecord) -> bool:
        """Capture and store."""
        if self._is_storing and threading.get_ident() == self._thread:
            return False  # what the database's own logger says of our queries
        captured = super().handle(record)
        if captured:
            self.store()
        return captured

    def store(self) -> None:
        """Store what waits, if this is the place for it."""
        if self._is_storing or threading.get_ident() != self._thread or asyncio._get_running_loop() is not None:
            return
        from .models import JobLogEntry

        self._is_storing = True
        try:
            flush()
            alias = conf.database_alias()
            entries = list(self._inline.waiting)
            with _uncounted(connections[alias]), transaction.atomic(using=alias):
                add_objects(alias, JobLogEntry, rows_of(entries))
            for _ in entries:
                self._inline.waiting.popleft()
        except (DatabaseError, RuntimeError) as error:
            # RuntimeError: a test without the mark django_db. The logging call must not fail for it.
            report_once(("inline", type(error).__name__), f"job log lines of a test are not in its database: {error}")
        finally:
            self._is_storing = False


class _uncounted:  # noqa: N801 - a context manager, named like contextlib's
    """Keep queries out of `connection.queries`, which `assertNumQueries` counts."""

    def __init__(self, connection: BaseDatabaseWrapper) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        self._before = len(self._connection.queries_log)

    def __exit__(self, *exc_info: object) -> None:
        while len(self._connection.queries_log) > self._before:
            self._connection.queries_log.pop()
