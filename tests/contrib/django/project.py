"""A small Django project on disk, run in processes of its own: real settings, real `django.setup()`, real exit."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any, Protocol

from tests.postgres import USER

SOURCE = Path(__file__).parents[3] / "src"

SETTINGS = """
from pathlib import Path

from joblog_router.contrib.django.db import sqlite_alias

BASE_DIR = Path(__file__).parent
SECRET_KEY = "tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["shop", "joblog_router.contrib.django"]
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "project.sqlite3"},
    "joblog": sqlite_alias(BASE_DIR / "joblog.sqlite3"),
}
DATABASE_ROUTERS = ["joblog_router.contrib.django.db.JobLogRouter"]
JOBLOG_ROUTER = {"NATS": False, "CELERY": False}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"job": {"class": "joblog_router.JobLogHandler", "sink": "django"}},
    "root": {"level": "INFO", "handlers": ["job"]},
}
"""

POSTGRESQL = """
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql", "HOST": {host!r}, "USER": {user!r}, "NAME": {name!r},
    }}
}}
DATABASE_ROUTERS = []
"""

MODELS = """
from django.db import models

class Job(models.Model):
    name = models.CharField(max_length=50)
    done = models.IntegerField(default=0)
"""

PREAMBLE = """
import logging
import django
django.setup()
from joblog_router import flush, job_context, stats
logger = logging.getLogger("shop.work")
"""


# The files of projects whose tables were made in this run, by their settings and models.
_migrated: dict[tuple[str, str], dict[str, bytes]] = {}


class Server(Protocol):
    """A PostgreSQL server or what stands before it."""

    @property
    def host(self) -> str:
        """Where it is."""


class Project:
    """`root` holds the settings, an app `shop` with a model `Job`, and the SQLite files.

    With `server`, the project and its log are in its database `name` instead.
    """

    def __init__(self, root: Path, server: Server | None = None, name: str = "") -> None:
        self.root = root
        self.server = server
        self.name = name
        (root / "shop").mkdir()
        (root / "shop" / "__init__.py").touch()
        (root / "shop" / "models.py").write_text(MODELS)
        self.settings()

    def settings(self, more: str = "") -> None:
        """Write the settings, with `more` at their end."""
        (self.root / "settings.py").write_text(SETTINGS + self._database() + textwrap.dedent(more))

    def _database(self) -> str:
        if self.server is None:
            return ""
        return POSTGRESQL.format(host=self.server.host, user=USER, name=self.name)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start Python with `arguments` in this project."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env={
                **inherited,
                "PYTHONPATH": f"{SOURCE}{os.pathsep}{self.root}",
                "DJANGO_SETTINGS_MODULE": "settings",
                "PYTHONDONTWRITEBYTECODE": "1",
                "TMPDIR": str(self.root),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str], status: int = 0) -> subprocess.CompletedProcess[str]:
        """Wait for `process`, which must end with `status`."""
        try:
            out, err = process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == status, f"{process.args}\n{out}\n{err}"
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, code: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run `code` after `django.setup()`, with `logger`, `job_context`, `flush` and `stats` at hand."""
        return self.finish(self.start("-c", PREAMBLE + textwrap.dedent(code)), status)

    def manage(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a management command."""
        return self.finish(self.start("-m", "django", *arguments), status)

    def migrate(self) -> None:
        """Make all tables, the log's in its own file where there are files; once for all projects that are alike."""
        if self.server is not None:
            self.manage("migrate", "--run-syncdb", "--verbosity=0")
            return
        alike = (self.root / "settings.py").read_text(), (self.root / "shop" / "models.py").read_text()
        if alike not in _migrated:
            self._make_tables()
            files = self.root.glob("*.sqlite3*")
            _migrated[alike] = {path.name: path.read_bytes() for path in files}
        for name, data in _migrated[alike].items():
            (self.root / name).write_bytes(data)

    def _make_tables(self) -> None:
        self.run(
            """
            from django.core.management import call_command
            call_command("migrate", run_syncdb=True, verbosity=0)
            call_command("migrate", database="joblog", verbosity=0)
            """
        )

    def rows(self, columns: str = "message", where: str = "1=1", file: str = "joblog.sqlite3") -> list[Any]:
        """What the table of job logs holds, in the order it was written; single values where one column is named."""
        query = f"SELECT {columns} FROM joblog_router_joblogentry WHERE {where} ORDER BY origin, seq"
        connection = sqlite3.connect(self.root / file) if self.server is None else self._connect()
        try:
            found = connection.execute(query).fetchall()
        finally:
            connection.close()
        return found if "," in columns else [value for (value,) in found]

    def _connect(self) -> Any:
        import psycopg
        from psycopg.types.json import set_json_loads

        assert self.server is not None
        connection = psycopg.connect(host=self.server.host, user=USER, dbname=self.name)
        set_json_loads(lambda data: bytes(data).decode() if not isinstance(data, str) else data, connection)
        return connection
