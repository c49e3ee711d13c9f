"""A Django project with Celery: nothing to call, and the lines of its tasks are in the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contrib.celery.valkey import ValkeyServer
from tests.contrib.celery.worker import TaskFailedError, Worker
from tests.contrib.django.project import Project

APP = """
from celery import Celery

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""

TASKS = """
import logging

from celery import shared_task
from celery.utils.log import get_task_logger
from django.db import transaction

from shop.models import Job

logger = logging.getLogger("shop.work")
task_logger = get_task_logger("shop.tasks")

@shared_task(name="celery_app.pack")
def pack(job_id, number):
    logger.info("packing %s", number)
    with transaction.atomic():
        Job.objects.create(name=f"{job_id}.{number}")
        task_logger.info("packed %s", number)

@shared_task(name="celery_app.fail")
def fail(job_id):
    with transaction.atomic():
        logger.info("before the rollback")
        raise ValueError("no such parcel")
"""


@pytest.mark.timeout(120)
def test_tasks_of_a_project_are_in_the_table(broker: ValkeyServer, project: Project, tmp_path: Path) -> None:
    """The app instruments Celery by itself; processes of three tasks each lose no line."""
    project.settings(
        """
        import os
        del JOBLOG_ROUTER
        CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ.get("BROKER", "memory://")
        """
    )
    (project.root / "celery_app.py").write_text(APP)
    (project.root / "shop" / "tasks.py").write_text(TASKS)
    arguments = ("-c", "2", "--max-tasks-per-child=3")
    with Worker(
        broker.database(), project.root, *arguments, app="celery_app", DJANGO_SETTINGS_MODULE="settings"
    ) as worker:
        sent = [worker.send("pack", number % 4, number) for number in range(40)]
        for result in sent:
            result.get(timeout=40)
        with pytest.raises(TaskFailedError, match="no such parcel"):
            worker.run("fail", job_id="failing")
        # With Celery 5.4 a process that has done its three tasks can wait half a minute for a worker that is ending.
        assert "joblog_router:" not in worker.stop(60)
    for job in range(4):
        texts = project.rows("message", f"job_id = '{job}' AND logger LIKE 'shop.%'")
        wanted = [text for number in range(job, 40, 4) for text in (f"packing {number}", f"packed {number}")]
        assert sorted(texts) == sorted(wanted)
    rows = project.rows("logger, message, exception", "job_id = 'failing'")
    assert ("shop.work", "before the rollback", "") in rows
    assert [row[2].rstrip().endswith("ValueError: no such parcel") for row in rows if row[0] == "celery.app.trace"] == [
        True
    ]
