"""Settings of the site that the browser tests look at; runs in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

from joblog_router.contrib.django.db import sqlite_alias

BASE_DIR = Path(os.environ["JOBLOG_TEST_SITE"])
SECRET_KEY = "tests"
DEBUG = True  # runserver and the static files' handler serve them with it only
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "joblog_router.contrib.django",
    "tests.browser",
]
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",  # it must not keep parts of a stream back
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
ROOT_URLCONF = "tests.browser.urls"
ASGI_APPLICATION = "tests.browser.asgi.application"
STATIC_URL = "/static/"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "site.sqlite3"},
    "joblog": sqlite_alias(BASE_DIR / "joblog.sqlite3"),
}
DATABASE_ROUTERS = ["joblog_router.contrib.django.db.JobLogRouter"]
JOBLOG_ROUTER = {
    "NATS": False,
    "CELERY": False,
    "PERMISSION": "tests.browser.rules.may_see",
    "HEADER": "tests.browser.rules.header",
    "STREAMS": int(os.environ.get("JOBLOG_TEST_STREAMS", "100")),
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {
        "job": {"class": "joblog_router.JobLogHandler", "sink": "django"},
    },
    "root": {"level": "INFO", "handlers": ["job"]},
}
