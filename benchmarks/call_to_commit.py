"""From the logging call to the commit: lines a second, as a ratio to what could be had at best.

    python benchmarks/call_to_commit.py [--rounds 9] [--lines 20000]

The reference makes the same logging calls into a deque in one thread, while another writes rows that are ready made
with the same statement, in batches of the same size, to SQLite. Ours is JobLogHandler with the Django app's sink. Both
run in one process on two threads, one after the other in each round, in changing order; what is told is the median of
the rounds' ratios.
"""

from __future__ import annotations

import argparse
import logging
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import deque
from typing import Any

import django
from django.conf import settings

BATCH = 500


def set_up(folder: str) -> None:
    """Django with the app and a SQLite file for the log."""
    from joblog_router.contrib.django.db import sqlite_alias

    settings.configure(
        INSTALLED_APPS=["joblog_router.contrib.django"],
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/default.sqlite3"},
            "joblog": sqlite_alias(f"{folder}/joblog.sqlite3"),
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


def reference(count: int, run: int) -> float:
    """Seconds until `count` lines are committed."""
    from joblog_router.contrib.django import sink as django_sink
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
            names = ", ".join(f'"{name}"' for name in django_sink._COLUMNS)
            places = ", ".join(["%s"] * len(django_sink._COLUMNS))
            sql = f'INSERT INTO "{JobLogEntry._meta.db_table}" ({names}) VALUES ({places}) ON CONFLICT DO NOTHING'
            from django.db import transaction

            while written < count:
                ready = min(BATCH, len(handler.lines))
                if ready < BATCH and written + ready < count:
                    time.sleep(0.001)
                    continue
                for _ in range(ready):
                    handler.lines.popleft()
                with transaction.atomic(using=connection.alias), own.cursor() as cursor:
                    cursor.executemany(sql, rows[written : written + ready])
                written += ready
        connection.close()
        done.set()

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
    start = time.perf_counter()
    with job_context(7):
        log_lines(logger, count)
    if not flush(120):
        raise RuntimeError("not all lines were stored")
    taken = time.perf_counter() - start
    handler.close()
    return taken


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


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--lines", type=int, default=20_000)
    arguments = parser.parse_args()
    order = random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        set_up(folder)
        ratios: dict[str, list[float]] = {name: [] for name in CASES}
        speeds: list[float] = []
        for run in range(arguments.rounds):
            names = list(CASES)
            order.shuffle(names)
            for position, name in enumerate(names):
                before = reference(arguments.lines, run * 100 + position)
                taken = ours(arguments.lines, **CASES[name])
                ratios[name].append(before / taken)
                speeds.append(arguments.lines / before)
        print(f"Python {sys.version.split()[0]}, SQLite, {arguments.lines} lines, reference = 1 "
              f"({statistics.median(speeds):,.0f} lines/s here)")  # fmt: skip
        for name, found in ratios.items():
            print(f"{name:<40}{statistics.median(found):>8.2f}   {min(found):.2f} to {max(found):.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
