"""The commands in a Django project of their own: settings, wiring, exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contrib.django.project import Project
from tests.servers import NatsServer

SETTINGS = """
JOBLOG_ROUTER = {{
    "NATS": False, "CELERY": False, "JOB_MODEL": "shop.Job",
    "DOCTOR": {{
        "NATS": {{"servers": {url!r}}},
        "JOB": {{"fields": {{"status": "name"}}, "statuses": {{"packing": "running"}}}},
    }},
}}
"""


@pytest.fixture
def project(tmp_path: Path, nats_server: NatsServer) -> Project:
    """Two jobs, one of them at work since it was made."""
    project = Project(tmp_path)
    project.settings(SETTINGS.format(url=nats_server.url))
    project.migrate()
    project.run(
        """
        from shop.models import Job
        Job.objects.create(id=901, name="packing", done=3)
        Job.objects.create(id=902, name="success", done=9)
        with job_context(901):
            logger.info("three are packed")
        assert flush(5)
        """
    )
    return project


def test_doctor_and_status(project: Project) -> None:
    """The row by JOB_MODEL, the log, NATS; `--all-active` leaves out what has ended."""
    ran = project.manage("joblog", "doctor", "901", "902", "--json")
    first, second = (json.loads(line) for line in ran.stdout.splitlines())
    assert (first["cause"], second["cause"]) == ("too_early", "finished"), ran.stdout
    assert not first["failures"]
    assert first["probes"]["job"]["facts"]["phase"] == "running"
    ran = project.manage("joblog", "status", "--all-active")
    assert "job 901: It is too early to say whether the job gets on: something moved" in ran.stdout
    assert "902" not in ran.stdout
    assert "three are packed" in ran.stdout


def test_a_process_that_was_killed_in_the_middle_of_its_job(project: Project) -> None:
    """Named as soon as one asks, though its last line is recent and is stored only when the doctor's process starts."""
    project.run(
        """
        import os
        with job_context(901):
            logger.info("four are packed")
            assert flush(5)
            logger.info("five are packed")
            print(os.getpid(), flush=True)
            os.kill(os.getpid(), 9)
        """,
        status=-9,
    )
    ran = project.manage("joblog", "doctor", "901", "--json", status=1)
    verdict = json.loads(ran.stdout)
    assert (verdict["cause"], verdict["sure"]) == ("process_gone", "likely"), ran.stdout
    last = verdict["probes"]["processes"]["facts"]["last"]
    assert f"(pid {last['pid']}), which logged last, has ended without ending the job; " in verdict["sentence"]
    assert (last["state"], last["spool"] in {"waits", "recovered"}) == ("gone", True)
    ran = project.manage("joblog", "status", "901", status=1)
    assert "has ended without ending the job" in ran.stdout


def test_a_finding_is_told_to_the_log(project: Project) -> None:
    """`--tell` writes it as a line of the job; exit status 1."""
    project.run('from shop.models import Job; Job.objects.filter(id=901).update(name="failed")')
    for _ in range(2):
        project.manage("joblog", "doctor", "901", "--tell", status=1)
    assert project.rows(where="logger = 'joblog_router.doctor'") == ["The job failed."]
