"""How the length of a job's log tells on what its page asks for, and what the sums that are kept of it cost its writer.

    python benchmarks/long_log.py [--rows 1000000] [--database sqlite|postgresql]

Each question is asked in turn of a job with 1,000 lines and of one with `--rows`, in one table. PostgreSQL needs a
server (see tests/postgres.py). The statistics of the table are up to date.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django
from django.conf import settings

from tests.postgres import USER, PostgresServer

ROUNDS = 30
SHORT = 1000
BATCH = 500
WRITTEN = 20_000


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    options = parser.parse_args()
    with ExitStack() as stack:
        databases: dict[str, Any] = {}
        if options.database == "postgresql":
            server = stack.enter_context(PostgresServer())
            place = {"HOST": server.host, "USER": USER, "NAME": server.create_database()}
            databases["default"] = {"ENGINE": "django.db.backends.postgresql", **place}
        else:
            from joblog_router.contrib.django.db import sqlite_alias

            folder = stack.enter_context(tempfile.TemporaryDirectory())
            databases["default"] = sqlite_alias(Path(folder) / "log.sqlite3")
        settings.configure(
            INSTALLED_APPS=["joblog_router.contrib.django"],
            DATABASES=databases,
            JOBLOG_ROUTER={"NATS": False, "CELERY": False},
        )
        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        stack.callback(connection.close)
        fill("short", SHORT)
        fill("long", options.rows)
        with connection.cursor() as cursor:
            cursor.execute("ANALYZE")
        print(f"{options.database}, {options.rows:,} lines against {SHORT:,}")
        ask()
        write()
    return 0


def fill(job_id: str, count: int) -> None:
    """Two weeks of lines, an error among 1,000."""
    from django.db import connection

    numbers = (
        f"SELECT generate_series(1, {count}) AS x"
        if connection.vendor == "postgresql"
        else f"WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < {count}) SELECT x FROM n"
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO joblog_router_joblogentry (namespace, job_id, created, level, logger, message, exception,"
            " fields, path, line, audience, origin, seq, n)"
            f" SELECT '', '{job_id}', 1700000000000000 + CAST(x AS BIGINT) * {1_209_600_000_000 // count},"
            " CASE WHEN x % 1000 = 500 THEN 40 WHEN x % 100 = 50 THEN 30 ELSE 20 END, 'survey.pipeline.results',"
            " 'saved the results of picture NR-' || x || '.jpg in 0.35 s', '', '{\"stage\": \"results\"}',"
            f" '/srv/survey/pipeline/results.py', 71, 'all', '{job_id}', x, x FROM ({numbers}) AS numbers"
        )


def ask() -> None:
    from joblog_router.contrib.django import windows
    from joblog_router.contrib.django.store import DjangoStore
    from joblog_router.sinks.store import Selection

    store = DjangoStore()
    pages = {job: store.newest(job) for job in ("short", "long")}
    for job in pages:
        began = time.perf_counter()
        store.summary(job)
        print(f"first summary of {job}, whose writer kept no sums: {(time.perf_counter() - began) * 1000:.1f} ms")
    middle, span = 1_700_604_800.0, (1_700_000_000.0, 1_701_209_600.0)
    errors = Selection(level=40)
    questions: dict[str, Callable[[str], Any]] = {
        "the newest 200 lines": lambda job: store.newest(job, limit=200),
        "what is new (a poll)": lambda job: store.after(job, pages[job].cursor),
        "1,000 earlier lines": lambda job: store.before(job, pages[job].earlier or pages[job].cursor),
        "200 lines from a time on": lambda job: windows.since(store, job, middle, Selection(), 200),
        "the next error": lambda job: windows.since(store, job, middle, errors, 1),
        "summary": store.summary,
        "chart": lambda job: windows.histogram(store, job, span, "all", 80),
    }
    pages["short"] = pages["short"]._replace(earlier=store.newest("short", limit=1).earlier)
    taken: dict[str, dict[str, list[float]]] = {name: {"short": [], "long": []} for name in questions}
    for _, (name, question), job in itertools.product(range(ROUNDS), questions.items(), ("short", "long")):
        began = time.perf_counter()
        question(job)
        taken[name][job].append(time.perf_counter() - began)
    for name, by_job in taken.items():
        short, long = (statistics.median(by_job[job]) * 1000 for job in ("short", "long"))
        print(f"{name:28}{short:8.2f} ms{long:9.2f} ms   {long / short:6.2f}")


def write() -> None:
    """The same lines stored with sums and without, in turn."""
    from joblog_router import Entry
    from joblog_router.contrib.django import sink as sinks

    rows = sinks._ROWS_OF_SUMS
    numbers = itertools.count(1)
    taken: dict[int, list[float]] = {rows: [], 2**60: []}
    written = {most: sinks.DjangoSink() for most in taken}
    for turn, most in itertools.product(range(8), taken):
        sinks._ROWS_OF_SUMS = most  # type: ignore[misc]
        took = 0.0
        for _ in range(WRITTEN // BATCH):
            batch = [
                Entry(
                    job_id=f"written {most}",
                    created=1_700_000_000.5 + number / 1000,
                    level=20,
                    logger="survey.pipeline.results",
                    message=f"saved the results of picture NR-{number:04}.jpg in 0.35 s",
                    exception=None,
                    fields={"job": 17, "stage": "results"},
                    path="/srv/survey/pipeline/results.py",
                    line=71,
                    origin="bench",
                    seq=number,
                    n=number,
                )
                for number in itertools.islice(numbers, BATCH)
            ]
            began = time.perf_counter()
            written[most].write(batch)
            took += time.perf_counter() - began
        if turn:
            taken[most].append(took)
    with_sums, without = (statistics.median(times) for times in taken.values())
    for sink in written.values():
        sink.close()
    print(f"storing lines with sums kept of them against without: {with_sums / without:.3f} times as long")


if __name__ == "__main__":
    sys.exit(main())
