from __future__ import annotations

import pytest

from tests.contrib.django.project import Project

TESTS = """
import logging
from django.test import TestCase, TransactionTestCase
from joblog_router import JobLogHandler, flush, job_context
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.testing import capture_job_logs
from shop.models import Job

logger = logging.getLogger("shop.work")


class InATest(TestCase):
    def test_a_job_logs(self):
        job = Job.objects.create(name="first")
        with capture_job_logs() as logs, job_context(job.pk):
            logger.info("from a test")
        self.assertEqual(logs.messages(job.pk), ["from a test"])


class WithTheDatabase(TransactionTestCase):
    databases = {"default", "joblog"}

    def test_rows(self):
        (handler,) = [one for one in logging.getLogger().handlers if isinstance(one, JobLogHandler)]
        with job_context(1):
            logger.info("from a transaction test")
        self.assertTrue(flush())
        stored = JobLogEntry.objects.filter(message="from a transaction test").count()
        kept = [entry.message for entry in handler.sink.entries(1)]
        self.assertEqual(stored + kept.count("from a transaction test"), 1)
        print("stored", stored)


class AtTheEnd(TestCase):
    def tearDown(self):
        with job_context(1):
            logger.info("last words of a test")
"""


@pytest.mark.parametrize("tests", ["memory", "database"])
def test_lines_of_a_projects_tests_never_reach_its_real_log(project: Project, tests: str) -> None:
    """`manage.py test` leaves the real table as it was, whatever the tests log and whenever it would be stored."""
    project.settings(f"LOGGING['handlers']['job']['options'] = {{'tests': {tests!r}}}")
    project.run("with job_context(1): logger.info('real')")
    (project.root / "shop" / "tests.py").write_text(TESTS)
    result = project.manage("test", "shop")
    assert "OK" in result.stderr
    if tests == "memory":
        assert "joblog_router:" not in result.stderr
    assert ("stored 1" if tests == "database" else "stored 0") in result.stdout
    assert project.rows() == ["real"]
