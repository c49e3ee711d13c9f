"""Django's tasks in the jobs that their arguments name: run at once, and by a real worker of django-tasks-db.

With Django 6.0 and newer they are Django's own, before those of the package django-tasks.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from joblog_router import ConfigurationError, MissingExtraError
from joblog_router.contrib import tasks
from tests.contrib.django.project import Project

PACKAGE = "django.tasks" if find_spec("django.tasks") else "django_tasks"

SETTINGS = """
INSTALLED_APPS += ["django_tasks_db"]
TASKS = {"default": {"BACKEND": "PACKAGE.backends.immediate.ImmediateBackend"},
         "queue": {"BACKEND": "django_tasks_db.DatabaseBackend"}}
JOBLOG_ROUTER = {"NATS": False, "CELERY": False}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                         "options": {"directory": str(BASE_DIR / "logs")}}},
    "root": {"level": "INFO", "handlers": ["job"]},
}
""".replace("PACKAGE", PACKAGE)

TASKS = """
import logging
from asgiref.sync import sync_to_async
from PACKAGE import task
from joblog_router import job_context
log = logging.getLogger("shop.tasks")

@task
def pack(job_id, lines=1):
    for line in range(lines):
        log.info("packed")

@task
async def pack_async(count, job_id):
    log.info("packed async")
    await sync_to_async(log.info)("and in a thread")

@task(takes_context=True)
def with_context(context, count, job_id=None):
    log.info("attempt %d", context.attempt)

@task
def fails(job_id):
    raise ValueError("no such survey")

@task
def interrupted(job_id):
    raise KeyboardInterrupt

@task
def nobodys():
    log.info("nobody's")

@task
def leaves_open(job_id):
    job_context("left").__enter__()
    log.info("in the scope that is left open")
""".replace("PACKAGE", PACKAGE)


@pytest.fixture
def shop(project: Project) -> Project:
    """A project with tasks, and logs in files."""
    project.settings(SETTINGS)
    (project.root / "shop" / "tasks.py").write_text(TASKS)
    return project


def logs(root: Path) -> dict[str, list[str]]:
    """The messages of the application's own logger, by job."""
    found: dict[str, list[str]] = {}
    for line in lines(root):
        if line["logger"] == "shop.tasks":
            found.setdefault(line["job_id"], []).append(line["message"])
    return found


def lines(root: Path) -> list[dict[str, Any]]:
    """All lines of all jobs."""
    return [json.loads(line) for path in (root / "logs").glob("*.jsonl") for line in path.read_text().splitlines()]


def test_tasks_run_at_once_are_in_their_jobs_and_the_callers_is_back(shop: Project) -> None:
    """By keyword, position and default; async; one that fails or is interrupted; one that has no job of its own."""
    result = shop.run(
        """
        import asyncio
        from joblog_router import current_job
        from shop import tasks
        with job_context("caller"):
            tasks.pack.enqueue(1)
            tasks.pack.enqueue(job_id=2, lines=2)
            tasks.pack_async.enqueue(5, 3)
            tasks.with_context.enqueue(7, job_id=4)
            tasks.with_context.enqueue(7)
            tasks.fails.enqueue(5)
            tasks.nobodys.enqueue()
            tasks.leaves_open.enqueue(6)
            try:
                tasks.interrupted.enqueue(7)
            except KeyboardInterrupt:
                pass
            print(current_job().job_id)
            asyncio.run(tasks.pack.acall(8))
            asyncio.run(tasks.pack.aenqueue(9))
        tasks.nobodys.enqueue()
        print(current_job(), flush(10))
        """
    )
    assert result.stdout.split() == ["caller", "None", "True"], result.stderr
    assert logs(shop.root) == {
        "1": ["packed"],
        "2": ["packed"] * 2,
        "3": ["packed async", "and in a thread"],
        "4": ["attempt 1"],
        "caller": ["attempt 1", "nobody's"],
        "left": ["in the scope that is left open"],
        "8": ["packed"],
        "9": ["packed"],
    }


def test_a_worker_runs_tasks_in_their_jobs_and_says_how_they_end(shop: Project) -> None:
    """A real worker process: the traceback of the one that fails is in its job's log, and nothing leaks to the next."""
    shop.migrate()
    shop.run(
        """
        from shop import tasks
        for number in range(20):
            tasks.pack.using(backend="queue").enqueue(job_id=number % 4)
        for task in (tasks.leaves_open, tasks.fails):
            task.using(backend="queue").enqueue(5)
        with job_context("caller"):
            tasks.nobodys.using(backend="queue").enqueue()
        """
    )
    shop.manage("db_worker", "--batch", "--interval", "0", "--backend", "queue", "--queue-name", "default")
    assert logs(shop.root) == {
        **{str(number): ["packed"] * 5 for number in range(4)},
        "left": ["in the scope that is left open"],
    }
    told = [line for line in lines(shop.root) if line["logger"] == PACKAGE]
    assert {line["job_id"] for line in told} == {"0", "1", "2", "3", "5"}
    (failed,) = [line for line in told if line["exception"]]
    assert failed["job_id"] == "5"
    assert "ValueError: no such survey" in failed["exception"]


def test_the_setting_turns_it_off_and_names_parameters(shop: Project) -> None:
    """`JOBLOG_ROUTER["TASKS"]`."""
    code = "from shop import tasks\ntasks.pack.enqueue(job_id=1, lines=2)\nassert flush(10)"
    shop.settings(SETTINGS + "\nJOBLOG_ROUTER = {'NATS': False, 'CELERY': False, 'TASKS': False}\n")
    shop.run(code)
    assert logs(shop.root) == {}
    shop.settings(SETTINGS + "\nJOBLOG_ROUTER = {'NATS': False, 'CELERY': False, 'TASKS': {'parameters': ['lines']}}\n")
    shop.run(code)
    assert logs(shop.root) == {"2": ["packed"] * 2}


def test_switching_off_takes_everything_back(shop: Project) -> None:
    """Methods and signals are as they were."""
    result = shop.run(
        f"""
        from joblog_router.contrib.tasks import instrument, uninstrument
        from {PACKAGE} import base, signals
        from shop import tasks
        instrument()
        uninstrument()
        uninstrument()
        print("send" in vars(signals.task_finished), hasattr(base.Task.call, "__wrapped__"))
        tasks.pack.enqueue(1)
        """
    )
    assert result.stdout.split() == ["False", "False"], result.stderr
    assert logs(shop.root) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameter": ["job"]}, "no option 'parameter'"),
        ({"parameters": "job_id"}, "must be a list of names"),
        ({"parameters": []}, "must be a list of names"),
        ({"parameters": ["job id"]}, "must be a list of names"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    """With the option and what is allowed."""
    with pytest.raises(ConfigurationError, match=words):
        tasks.instrument(**options)


def test_without_any_tasks_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django before 6.0 without django-tasks; simulated, as both cannot be taken away here."""
    monkeypatch.setattr(tasks, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="tasks"):
        tasks.instrument()
