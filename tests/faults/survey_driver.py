"""Runs inside the example project `examples/survey`, with its own settings: does what it is told, line by line.

Started by `tests.faults.survey`; reads `{"do": name, ...}` as JSON and answers the result, or what was raised.
"""

# ruff: noqa: E402 - Django first

from __future__ import annotations

import json
import os
import sys
import traceback
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import django
from django.conf import settings

django.setup()

from demo import SITES, make_jobs
from django.core.management import call_command
from django.db import connection, transaction
from django.utils import timezone
from jobs.models import Job
from pipeline.worker import classify

from joblog_router.contrib.django.diagnosis import configuration
from joblog_router.doctor import examine_now

_open: list[Any] = []


def migrate() -> None:
    """The tables, of the log too."""
    call_command("migrate", verbosity=0)
    if "joblog" in settings.DATABASES:
        call_command("migrate", database="joblog", verbosity=0)


def make(pictures: int) -> int:
    """A job of a site of its own."""
    SITES[:] = [(f"S{uuid4().hex[:8]}", "a site")]
    (job,) = make_jobs(1, pictures)
    return int(job.pk)


def change(job: int, age: float | None = None, **fields: Any) -> None:
    """Write the job's row; `age`: made and started so many seconds ago."""
    if age is not None:
        at = timezone.now() - timedelta(seconds=age)
        fields |= {"created_at": at, "started_at": at if fields.get("status") != "CREATED" else None}
        if fields.get("status") in {"SUCCESS", "FAILURE", "REVOKED"}:
            fields["finished_at"] = at
    Job.objects.filter(pk=job).update(**fields)


def row(job: int) -> dict[str, Any]:
    """What the row says."""
    return dict(Job.objects.filter(pk=job).values("status", "images_total", "images_done", "images_failed")[0])


def answers(tasks: list[dict[str, str]]) -> list[dict[str, Any]]:
    """What a worker's model finds in these pictures."""
    return [{**task, **classify(task["image"], 1)} for task in tasks]


def sql(statement: str) -> None:
    """Something that somebody does to the database."""
    with connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def lock() -> None:
    """Hold what Celery's tasks want to write, as a long migration does."""
    block = transaction.atomic()
    block.__enter__()
    _open.append(block)
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("LOCK TABLE images_sourceimage IN ACCESS EXCLUSIVE MODE")
        else:
            cursor.execute("UPDATE images_sourceimage SET path = path WHERE id < 0")


def unlock() -> None:
    """Let go of it."""
    _open.pop().__exit__(None, None, None)
    connection.close()


def doctor(job: int, patience: float, window: float = 0.3) -> dict[str, Any]:
    """The verdict by the project's settings, but for the times to wait."""
    given = configuration()
    assert isinstance(given.NATS, dict)
    assert isinstance(given.CELERY, dict)
    given = replace(
        given, PATIENCE=patience, NATS={**given.NATS, "window": window}, CELERY={**given.CELERY, "timeout": 0.4}
    )
    return examine_now(str(job), configuration=given).as_dict()


CALLS = {one.__name__: one for one in (migrate, make, change, row, answers, sql, lock, unlock, doctor)}


def main() -> None:
    """Until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the project prints is no answer
    for line in sys.stdin:
        told = json.loads(line)
        try:
            answer = {"result": CALLS[told.pop("do")](**told)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        out.write(json.dumps(answer, default=str) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
