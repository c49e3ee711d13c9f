"""Django settings of the test suite: two temporary SQLite files, the log's own beside the project's.

With JOBLOG_TEST_DATABASE=postgresql there are two databases of a PostgreSQL server instead. Tests of both kinds of
databases, or of projects in processes of their own, choose for themselves.
"""

from __future__ import annotations

import atexit
import os
import tempfile
from pathlib import Path
from uuid import uuid4

from joblog_router.contrib.django.db import sqlite_alias

# Only names: the files come to be with the first connection. The type checker reads this module too, and ends
# without running exit handlers.
_files = Path(tempfile.gettempdir()) / f"joblog-tests-{uuid4().hex}"
_owner = os.getpid()


@atexit.register
def _remove_files() -> None:
    if os.getpid() == _owner:  # a forked child leaves its parent's files alone
        for path in _files.parent.glob(_files.name + "-*"):
            path.unlink(missing_ok=True)


SECRET_KEY = "tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "joblog_router.contrib.django",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "tests.contrib.django.urls"
STATIC_URL = "/static/"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# Files for the test databases too: in memory, other processes see nothing and other threads meet table locks.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{_files}-default.sqlite3",
        "TEST": {"NAME": f"{_files}-test-default.sqlite3"},
    },
    "joblog": {
        **sqlite_alias(f"{_files}-joblog.sqlite3"),
        "TEST": {"NAME": f"{_files}-test-joblog.sqlite3"},
    },
}
if os.environ.get("JOBLOG_TEST_DATABASE") == "postgresql":
    from tests.postgres import USER, PostgresServer

    _server = PostgresServer()
    for _alias in DATABASES:
        DATABASES[_alias] = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": _server.host,
            "USER": USER,
            "NAME": f"tests_{_alias}",
        }
DATABASE_ROUTERS = ["joblog_router.contrib.django.db.JobLogRouter"]

# Tests of nats-py, Celery and Django's tasks instrument them themselves.
JOBLOG_ROUTER = {"NATS": False, "CELERY": False, "TASKS": False}
