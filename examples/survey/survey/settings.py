"""Settings of the survey project. What has to do with job logs is marked with (joblog)."""

from __future__ import annotations

import os
from pathlib import Path

from joblog_router.contrib.django.db import sqlite_alias  # (joblog)

from .database import from_url

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(os.environ.get("SURVEY_DATA_DIR", BASE_DIR / "var"))

SECRET_KEY = "only-a-demo"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "jobs",
    "images",
    "joblog_router.contrib.django",  # (joblog) the table of job logs, and NATS events
]

MIDDLEWARE = ["joblog_router.contrib.django.middleware.JobContextMiddleware"]  # (joblog) requests about a job
ROOT_URLCONF = "survey.urls"
ALLOWED_HOSTS = ["127.0.0.1"]

JOBLOG_ROUTER = {  # (joblog)
    "URLS": {f"job-{name}": "pk" for name in ("run", "tasks", "result", "cancel")},
    "SPOOL": DATA_DIR / "spool",
    "FOLD": os.environ.get("SURVEY_FOLD", "1") == "1",
}

SURVEY_URL = os.environ.get("SURVEY_URL", "http://127.0.0.1:8000")
VALKEY_URL = os.environ.get("VALKEY_URL", "redis://127.0.0.1:6379/0")
CELERY_BROKER_URL = os.environ.get("CELERY_BROKER_URL", VALKEY_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False  # logging is what LOGGING says

doctor: dict[str, object] = {  # (joblog) what `manage.py joblog doctor 7` looks at
    "NATS": {"servers": os.environ.get("NATS_URL", "nats://127.0.0.1:4222")},
    "JOB": {
        "model": "jobs.Job",
        "fields": {"total": "images_total", "done": "images_done", "failed": "images_failed"},
    },
    "SETTINGS": {
        "ttr": {"env": "NATS_TASK_TTR", "code": "pipeline.queue.ACK_WAIT"},
        "max_ack_pending": {"env": "NATS_MAX_ACK_PENDING", "code": "pipeline.queue.MAX_ACK_PENDING"},
        "max_deliver": {"code": "pipeline.queue.MAX_DELIVER"},
        "retention": {"code": "pipeline.queue.MAX_AGE"},
    },
}
if "VALKEY_URL" in os.environ:  # (joblog) with workers elsewhere there is more to look at
    doctor |= {
        "REDIS": {
            "url": VALKEY_URL,
            "keys": {
                "process": "job:{job_id}:process:pending",
                "results": "job:{job_id}:results:pending",
                "total": "job:{job_id}:results:total",
            },
            "expected": ["total"],
        },
        "CELERY": {"app": "survey.celery.app", "queues": ["celery"]},
        "REST": {"url": f"{SURVEY_URL}/jobs/{{job_id}}/"},
        "TASKS": {"url": f"{SURVEY_URL}/jobs/{{job_id}}/tasks/"},
    }
JOBLOG_ROUTER["DOCTOR"] = doctor

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": DATA_DIR / "survey.sqlite3",
        "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"},
    },
    "joblog": sqlite_alias(DATA_DIR / "joblog.sqlite3"),  # (joblog) a SQLite file of its own
}
if os.environ.get("DATABASE_URL"):
    # (joblog) PostgreSQL: the log's table is in the project's own database
    DATABASES = {"default": from_url(os.environ["DATABASE_URL"], os.environ.get("SURVEY_SCHEMA", ""))}
DATABASE_ROUTERS = ["joblog_router.contrib.django.db.JobLogRouter"]  # (joblog)

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "job_context": {"()": "joblog_router.JobContextFilter"},  # (joblog) job_id on every record
    },
    "formatters": {
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
            "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
        },
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "filters": ["job_context"], "formatter": "json"},
        "job": {"class": "joblog_router.JobLogHandler", "sink": "django"},  # (joblog)
    },
    "loggers": {"celery.app.trace": {"level": "WARNING"}},  # a line for each task is too much
    "root": {"level": "INFO", "handlers": ["console", "job"]},
}

MEDIA_ROOT = DATA_DIR / "pictures"
