"""From the logging call to the commit: lines a second, as a ratio to what could be had at best.

    python benchmarks/call_to_commit.py [--rounds 9] [--lines 20000] [--postgresql]

The reference makes the same logging calls into a deque in one thread, while another writes rows that are ready made
with the same statement, in batches of the same size, to SQLite, or by COPY to a PostgreSQL server that waits for its
disk. Ours is JobLogHandler with the Django app's sink. Both run in one process on two threads; in each round each case
stands between two references, in changing order; what is told is the median of the rounds' ratios. Three more cases
tell how far the run is to be believed (the reference against itself), what the sink's own statements make of the
reference (on SQLite many rows in one, on PostgreSQL COPY of ready text), and what one INSERT a line would cost.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import logging
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django
import django.db
from django.conf import settings

from tests.postgres import USER, PostgresServer

BATCH = 500


class Durable(PostgresServer):
    """The tests' server, but one that waits for its disk, as a real one does."""

    def arguments(self) -> list[str]:
        """Without the option that turns fsync off, and with whole pages."""
        return [argument.replace("full_page_writes=off", "full_page_writes=on") for argument in super().arguments()
                if argument != "-F"]  # fmt: skip


def set_up(folder: str, server: PostgresServer | None) -> None:
    """Django with the app and a SQLite file, or a database of the server, for the log."""
    from joblog_router.contrib.django.db import sqlite_alias

    log: dict[str, Any] = sqlite_alias(f"{folder}/joblog.sqlite3")
    if server is not None:
        log = {"ENGINE": "django.db.backends.postgresql", "HOST": server.host, "USER": USER}
        log["NAME"] = server.create_database()
    settings.configure(
        INSTALLED_APPS=["joblog_router.contrib.django"],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/default.sqlite3"},
            "joblog": log,
        },
        DATABASE_ROUTERS=["joblog_router.contrib.django.db.JobLogRouter"],
        LOGGING_CONFIG=None,
        USE_TZ=True,
        JOBLOG_ROUTER={"NATS": False, "CELERY": False},
    )
    django.setup()
    from django.core.management import call_command

    call_command("migrate", database="joblog", verbosity=0)


class Collect(logging.Handler):
    """The reference's handler: the record into a deque."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[logging.LogRecord] = deque()
        self.handle = self.lines.append  # type: ignore[assignment, method-assign]


def log_lines(logger: logging.Logger, count: int) -> None:
    """The calls that both make."""
    for number in range(count):
        logger.info("user %s processed item %d of %s", "alice", number, "the batch")


def reference(count: int, run: int, as_ours: bool = False) -> float:
    """Seconds until `count` lines are committed; `as_ours` with the statements of the sink."""
    from joblog_router.contrib.django import columns, postgresql, sqlite
    from joblog_router.contrib.django.connection import PrivateConnection
    from joblog_router.contrib.django.models import JobLogEntry

    handler = Collect()
    logger = _logger("reference", handler)
    rows = [
        ("", "7", 1_700_000_000_000_000, 20, "bench", f"user alice processed item {number} of the batch", "", "{}",
         __file__, 60, "all", f"reference-{run}", number, number)
        for number in range(count)
    ]  # fmt: skip
    done = threading.Event()

    def write() -> None:
        connection = PrivateConnection("joblog")
        written = 0
        with connection.in_place() as own:
            names = ", ".join(f'"{name}"' for name in columns.COLUMNS)
            places = ", ".join(["%s"] * len(columns.COLUMNS))
            sql = f'INSERT INTO "{JobLogEntry._meta.db_table}" ({names}) VALUES ({places}) ON CONFLICT DO NOTHING'
            copy = f'COPY "{JobLogEntry._meta.db_table}" ({names}) FROM STDIN'
            from django.db import transaction

            while written < count:
                ready = min(BATCH, len(handler.lines))
                if ready < BATCH and written + ready < count:
                    time.sleep(0.001)
                    continue
                for _ in range(ready):
                    handler.lines.popleft()
                batch = rows[written : written + ready]
                written += ready
                if as_ours:
                    target = (own, JobLogEntry._meta.db_table, columns.COLUMNS, columns.UNIQUE, batch)
                    if own.vendor == "postgresql":
                        postgresql.add_rows(*target, are_plain=True)
                    else:
                        sqlite.add_rows(*target)
                    continue
                with transaction.atomic(using=connection.alias), own.cursor() as cursor:
                    if own.vendor == "postgresql":
                        with cursor.copy(copy) as target:
                            for row in batch:
                                target.write_row(row)
                    else:
                        cursor.executemany(sql, batch)
        connection.close()
        done.set()

    gc.collect()
    start = time.perf_counter()
    thread = threading.Thread(target=write)
    thread.start()
    log_lines(logger, count)
    done.wait()
    taken = time.perf_counter() - start
    thread.join()
    return taken


def ours(count: int, **options: Any) -> float:
    """Seconds until `count` lines are stored."""
    from joblog_router import JobLogHandler, flush, job_context

    handler = JobLogHandler(sink="django", capacity=200_000, **options)
    logger = _logger("ours", handler)
    gc.collect()
    start = time.perf_counter()
    with job_context(7):
        log_lines(logger, count)
    if not flush(120):
        raise RuntimeError("not all lines were stored")
    taken = time.perf_counter() - start
    handler.close()
    return taken


def ours_of(count: int, options: dict[str, Any], run: int) -> float:
    """As a case of `main`."""
    return ours(count, **options)


def _logger(name: str, handler: logging.Handler) -> logging.Logger:
    logger = logging.getLogger(f"bench.{name}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [handler]
    return logger


CASES: dict[str, dict[str, Any]] = {
    "all as by default": {},
    "without the spool": {"spool": None},
    "without redaction": {"redact": False},
    "without folding": {"fold": False},
    "without folding, redaction, spool": {"fold": False, "redact": False, "spool": None},
}


SAME = "the reference, with our statements"


class OneInsert(logging.Handler):
    """What many projects have: a row of the log's model for each line, at once."""

    def emit(self, record: logging.LogRecord) -> None:
        """Made and saved in the logging call."""
        from joblog_router.contrib.django.models import JobLogEntry

        JobLogEntry._base_manager.using("joblog").create(
            namespace="", job_id="7", created=int(record.created * 1e6), level=record.levelno, logger=record.name,
            message=record.getMessage(), exception="", fields={}, path=record.pathname, line=record.lineno,
            audience="all", origin=self.name or "", seq=next(self.numbers), n=0,
        )  # fmt: skip

    numbers = itertools.count()


def one_by_one(count: int, run: int) -> float:
    """Seconds for `count` lines, measured on a fiftieth of them."""
    handler = OneInsert()
    handler.name = f"single-{run}"
    logger = _logger("single", handler)
    start = time.perf_counter()
    log_lines(logger, count // 50)
    return (time.perf_counter() - start) * 50


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--lines", type=int, default=20_000)
    parser.add_argument("--postgresql", action="store_true")
    arguments = parser.parse_args()
    order = random.Random(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        set_up(folder, stack.enter_context(Durable()) if arguments.postgresql else None)
        count = arguments.lines
        cases: dict[str, Callable[[int], float]] = {
            "the reference itself": lambda run: reference(count, run),
            SAME: lambda run: reference(count, run, as_ours=True),
            **{name: functools.partial(ours_of, count, options) for name, options in CASES.items()},
            "one INSERT a line, in the call": lambda run: one_by_one(count, run),
        }
        ratios: dict[str, list[float]] = {name: [] for name in cases}
        speeds: list[float] = []
        numbers = itertools.count()
        reference(count, next(numbers))
        for _ in range(arguments.rounds):
            names = list(cases)
            order.shuffle(names)
            before = reference(count, next(numbers))
            for name in names:
                taken = cases[name](next(numbers))
                after = reference(count, next(numbers))
                if abs(before - after) <= 0.15 * (before + after) / 2:  # else something else ran meanwhile
                    ratios[name].append((before + after) / 2 / taken)
                speeds.append(count / after)
                before = after
        kind = "PostgreSQL, with fsync" if arguments.postgresql else "SQLite"
        print(f"Python {sys.version.split()[0]}, {kind}, {count} lines, reference = 1 "
              f"({statistics.median(speeds):,.0f} lines/s here)")  # fmt: skip
        for name, found in ratios.items():
            if len(found) < 3:
                print(f"{name:<40}     inconclusive: {len(found)} of {arguments.rounds} rounds were quiet")
                continue
            print(f"{name:<40}{statistics.median(found):>8.3f}   {min(found):.3f} to {max(found):.3f}  ({len(found)})")
        if len(ratios[SAME]) >= 3:
            best = statistics.median(ratios[SAME])
            for name in CASES:
                if len(ratios[name]) >= 3:
                    print(f"{name}, {SAME} = 1    {statistics.median(ratios[name]) / best:>8.3f}")
        if len(ratios["one INSERT a line, in the call"]) >= 3:
            ours_now = statistics.median(ratios["all as by default"])
            single = statistics.median(ratios["one INSERT a line, in the call"])
            print(f"as by default, one INSERT a line = 1    {ours_now / single:>8.1f}")
        django.db.connections.close_all()
    return 0


if __name__ == "__main__":
    sys.exit(main())
