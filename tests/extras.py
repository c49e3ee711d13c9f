"""What each extra promises, tried in an environment that has this one alone: python extras.py EXTRA (or "core").

For .ci/run, which installs the built wheel with each extra. Prints one line; raises where a promise is not kept.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import json
import logging
import logging.config
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblog_router
from joblog_router import JobLogHandler, MissingExtraError, flush, job_context
from joblog_router.testing import capture_job_logs


def configure(**handlers: Any) -> None:
    """A console and a job's log in memory, as in the README."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"job_context": {"()": "joblog_router.JobContextFilter"}},
            "formatters": {"json": {"()": "pythonjsonlogger.json.JsonFormatter"}} if handlers else {},
            "handlers": {"job": {"class": "joblog_router.JobLogHandler", "sink": "memory"}, **handlers},
            "root": {"level": "INFO", "handlers": ["job", *handlers]},
        }
    )


def core() -> None:
    """Scopes, files, the commands; what an extra would bring is named with its pip line."""
    with tempfile.TemporaryDirectory() as directory:
        handler = JobLogHandler(sink="jsonl", options={"directory": directory})
        logging.getLogger().addHandler(handler)
        with job_context(7):
            logging.getLogger("app").warning("kept")
        assert flush(10)
        logging.getLogger().removeHandler(handler)
        for program in ([str(Path(sys.executable).parent / "joblog")], [sys.executable, "-m", "joblog_router"]):
            done = subprocess.run(
                [*program, "show", "--store", f"jsonl:{directory}", "7"], capture_output=True, text=True, check=True
            )
            assert "kept" in done.stdout, done
    for name in ("nats", "celery"):
        if importlib.util.find_spec(name) is None:
            said = ""
            try:
                importlib.import_module(f"joblog_router.contrib.{name}").instrument()
            except MissingExtraError as error:
                said = str(error)
            assert f"joblog-router[{name}]" in said, f"without {name} it says: {said!r}"
    if importlib.util.find_spec("redis") is None:
        said = ""
        try:
            importlib.import_module("joblog_router.contrib.redis").RedisProbe("redis://127.0.0.1", {"x": "{job_id}"})
        except MissingExtraError as error:
            said = str(error)
        assert "joblog-router[redis]" in said, f"without redis it says: {said!r}"


def django() -> None:
    """A project whose log is in a file of its own, written and read."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "own.py").write_text(
            "from joblog_router.contrib.django.db import sqlite_alias\n"
            "SECRET_KEY = 'x'\nUSE_TZ = True\nDEFAULT_AUTO_FIELD = 'django.db.models.BigAutoField'\n"
            "INSTALLED_APPS = ['joblog_router.contrib.django']\n"
            "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'},\n"
            f"    'joblog': sqlite_alias({directory!r} + '/joblog.sqlite3')}}\n"
            "DATABASE_ROUTERS = ['joblog_router.contrib.django.db.JobLogRouter']\n"
            f"JOBLOG_ROUTER = {{'SPOOL': {directory!r} + '/spool'}}\n"
            "LOGGING = {'version': 1, 'disable_existing_loggers': False,\n"
            "    'handlers': {'job': {'class': 'joblog_router.JobLogHandler', 'sink': 'django'}},\n"
            "    'root': {'level': 'INFO', 'handlers': ['job']}}\n"
        )
        environment = {**os.environ, "PYTHONPATH": directory, "DJANGO_SETTINGS_MODULE": "own"}
        code = (
            "import django, logging; django.setup()\nfrom joblog_router import flush, job_context\n"
            "with job_context(7): logging.getLogger('app').info('kept')\nassert flush(10)\n"
        )
        for arguments in (
            ["-m", "django", "migrate", "--database", "joblog", "--verbosity", "0"],
            ["-c", code],
        ):
            subprocess.run([sys.executable, *arguments], env=environment, check=True)
        shown = subprocess.run(
            [sys.executable, "-m", "django", "joblog", "show", "7"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "kept" in shown.stdout, shown


def nats() -> None:
    """nats-py is instrumented, and as it was afterwards."""
    from nats.js.client import JetStreamContext

    from joblog_router.contrib.nats import instrument, uninstrument

    before = JetStreamContext.publish
    instrument()
    assert JetStreamContext.publish is not before
    uninstrument()
    assert JetStreamContext.publish is before


def loguru() -> None:
    """Loguru's records are in their jobs."""
    from loguru import logger

    from joblog_router.contrib.loguru import add_job_handler

    with capture_job_logs() as logs:
        add_job_handler(next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler)))
        with job_context(7):
            logger.info("kept")
        assert logs.messages(7) == ["kept"]


def json_lines() -> None:
    """The console's JSON has the job's id."""
    stream = io.StringIO()
    handler = {"class": "logging.StreamHandler", "stream": stream, "formatter": "json", "filters": ["job_context"]}
    configure(console=handler)
    with job_context(7):
        logging.getLogger("app").info("kept")
    assert json.loads(stream.getvalue())["job_id"] == "7"


def celery() -> None:
    """A task runs in the job that its argument names."""
    from celery import Celery

    from joblog_router.contrib.celery import instrument

    app = Celery("extras", set_as_current=False)
    app.conf.task_always_eager = True
    instrument()

    @app.task  # type: ignore[untyped-decorator]
    def work(job_id: int) -> None:
        logging.getLogger("app").warning("kept")

    with capture_job_logs() as logs:
        work.delay(job_id=7)
        assert "kept" in logs.messages(7)


def redis() -> None:
    """The doctor asks Redis, and says that it cannot be reached where there is none."""
    import asyncio
    import socket

    from joblog_router.contrib.redis import RedisProbe

    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        probe = RedisProbe(f"redis://127.0.0.1:{taken.getsockname()[1]}", {"left": "job:{job_id}"})
        assert asyncio.run(probe.probe("7")).facts["unreachable"]


def cli() -> None:
    """The screen of `joblog watch` is drawn by rich."""
    assert importlib.util.find_spec("rich.live") is not None
    core()


def postgres() -> None:
    """psycopg 3, new enough for COPY. It needs libpq, which is the system's affair."""
    major, minor, *_ = importlib.metadata.version("psycopg").split(".")
    assert (int(major), int(minor)) >= (3, 1)


def tasks() -> None:
    """A task of django-tasks runs in the job that its argument names."""
    from django.conf import settings

    settings.configure(
        SECRET_KEY="x",
        INSTALLED_APPS=["django_tasks"],
        LOGGING_CONFIG=None,
    )
    import django as framework

    framework.setup()
    from joblog_router.contrib.tasks import instrument

    instrument()
    with tempfile.TemporaryDirectory() as directory, capture_job_logs() as logs:
        Path(directory, "own_tasks.py").write_text(
            "import logging\nfrom django_tasks import task\n\n"
            "@task()\ndef work(job_id):\n    logging.getLogger('app').warning('kept')\n"
        )
        sys.path.insert(0, directory)
        importlib.import_module("own_tasks").work.enqueue(job_id=7)
        assert "kept" in logs.messages(7)


def every() -> None:
    """What `all` brings, one after the other."""
    for extra in (core, django, nats, loguru, json_lines, celery, redis):
        extra()


EXTRAS: dict[str, Callable[[], None]] = {
    "core": core,
    "django": django,
    "nats": nats,
    "loguru": loguru,
    "json": json_lines,
    "celery": celery,
    "redis": redis,
    "cli": cli,
    "postgres": postgres,
    "tasks": tasks,
    "all": every,
}

if __name__ == "__main__":
    assert Path(joblog_router.__file__).is_relative_to(sys.prefix), (
        f"not the installed package: {joblog_router.__file__}"
    )
    EXTRAS[sys.argv[1]]()
    print(f"{sys.argv[1]}: kept")
