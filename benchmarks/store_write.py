"""How long PostgreSQL and this process take to store lines, by the way they are written, as ratios of one run.

    python benchmarks/store_write.py

Needs a PostgreSQL server (see tests/postgres.py) and psycopg 3. Each round writes a batch in every way, in another
order. The server does not wait for its disk, which flatters one INSERT for each line: with fsync each one waits.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django
from django.conf import settings

from tests.postgres import USER, PostgresServer

BATCH = 500
ONE_BY_ONE = 50
ROUNDS = 60

Rows = list[tuple[Any, ...]]


def main() -> int:
    with PostgresServer() as server:
        settings.configure(
            INSTALLED_APPS=["joblog_router.contrib.django"],
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "HOST": server.host,
                    "USER": USER,
                    "NAME": server.create_database(),
                }
            },
            JOBLOG_ROUTER={"NATS": False, "CELERY": False},
        )
        django.setup()
        from django.core.management import call_command
        from django.db import connection

        call_command("migrate", verbosity=0)
        samples = measure()
        connection.close()
    copy = statistics.median(wall for wall, _ in samples["COPY"])
    copy_cpu = statistics.median(cpu for _, cpu in samples["COPY"])
    print(f"{'':34}{'time':>8}{'CPU here':>10}   (COPY = 1; {copy / BATCH * 1e6:.1f} us a line)")
    for name, taken in samples.items():
        wall = statistics.median(wall for wall, _ in taken) / copy
        cpu = statistics.median(cpu for _, cpu in taken) / copy_cpu
        print(f"{name:34}{wall:8.2f}{cpu:10.2f}")
    return 0


def measure() -> dict[str, list[tuple[float, float]]]:
    """Seconds for a batch, of the clock and of this process's CPU, by the way it was written."""
    from django.db import connection, transaction

    from joblog_router import Entry
    from joblog_router.contrib.django import postgresql
    from joblog_router.contrib.django.columns import COLUMNS, UNIQUE, rows_of
    from joblog_router.contrib.django.models import JobLogEntry

    table = JobLogEntry._meta.db_table
    names = ", ".join(f'"{name}"' for name in COLUMNS)
    target = f'"{table}" ({names})'
    places = "(" + ", ".join(["%s"] * len(COLUMNS)) + ")"
    passing = "ON CONFLICT (origin, seq) DO NOTHING"
    seq = 0

    def entries(count: int) -> list[Entry]:
        nonlocal seq
        seq += count
        return [
            Entry(
                job_id="17",
                created=1_700_000_000.5 + number,
                level=20,
                logger="survey.pipeline.results",
                message=f"saved the results of picture NR-{number:04}.jpg in 0.35 s",
                exception=None,
                fields={"job": 17, "stage": "results", "picture": f"NR-{number:04}.jpg"},
                path="/srv/survey/pipeline/results.py",
                line=71,
                origin="bench",
                seq=number,
                n=number,
            )
            for number in range(seq - count, seq)
        ]

    def rows(some: Sequence[Entry]) -> Rows:
        return rows_of(some)

    def copy(some: list[Entry]) -> None:
        postgresql.add_rows(connection, table, COLUMNS, UNIQUE, rows(some), are_plain=True)

    def copy_with_one_there(some: list[Entry]) -> None:
        postgresql.add_rows(connection, table, COLUMNS, UNIQUE, rows([*some, some[0]]))

    def one_insert(some: list[Entry]) -> None:
        with postgresql._transaction(connection, table) as cursor:
            postgresql._insert(cursor, target, "origin, seq", rows(some))

    def unnested(some: list[Entry]) -> None:
        types = ["text", "text", "bigint", "smallint", *["text"] * 5, "int", "text", "text", "bigint", "bigint"]
        arrays = ", ".join(f"%s::{kind}[]" for kind in types)
        columns = [f"c{number}" for number in range(len(types))]
        values = ", ".join(f"{column}::jsonb" if column == "c7" else column for column in columns)
        with postgresql._transaction(connection, table) as cursor:
            cursor.execute(
                f"INSERT INTO {target} SELECT {values} FROM unnest({arrays}) AS t({', '.join(columns)}) {passing}",
                [list(column) for column in zip(*rows(some), strict=True)],
            )

    def copied_twice(some: list[Entry]) -> None:
        with postgresql._transaction(connection, table) as cursor:
            cursor.execute(f"CREATE TEMP TABLE incoming ON COMMIT DROP AS SELECT {names} FROM {table} LIMIT 0")
            postgresql._copy(connection, cursor, f"incoming ({names})", rows(some), True)
            cursor.execute(f"INSERT INTO {target} SELECT {names} FROM incoming {passing}")

    def executemany(some: list[Entry]) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.executemany(f"INSERT INTO {target} VALUES {places} {passing}", rows(some))

    def bulk_create(some: list[Entry]) -> None:
        made = []
        for row in rows(some):
            values = dict(zip(COLUMNS, row, strict=True))
            made.append(JobLogEntry(**{**values, "fields": json.loads(values["fields"])}))
        JobLogEntry._base_manager.bulk_create(made, ignore_conflicts=True)

    def one_by_one(some: list[Entry]) -> None:
        for row in rows(some[:ONE_BY_ONE]):
            with connection.cursor() as cursor:
                cursor.execute(f"INSERT INTO {target} VALUES {places} {passing}", row)

    ways: dict[str, Callable[[list[Entry]], None]] = {
        "COPY": copy,
        "COPY, one row is there already": copy_with_one_there,
        "COPY to a temporary table, INSERT": copied_twice,
        "INSERT from arrays (unnest)": unnested,
        "one INSERT with all rows": one_insert,
        "executemany": executemany,
        "bulk_create": bulk_create,
        "one INSERT for each line": one_by_one,
    }
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    order = random.Random(1)
    for number in range(ROUNDS + 3):
        for name in order.sample(list(ways), len(ways)):
            some = entries(BATCH)
            wall, cpu = time.perf_counter(), time.process_time()
            ways[name](some)
            factor = BATCH / ONE_BY_ONE if name == "one INSERT for each line" else 1
            if number >= 3:  # the first ones warm up
                samples[name].append(((time.perf_counter() - wall) * factor, (time.process_time() - cpu) * factor))
    return samples


if __name__ == "__main__":
    sys.exit(main())
