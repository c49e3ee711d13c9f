from __future__ import annotations

import pytest

from tests.contrib.django.project import PREAMBLE, Project

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
        (said,) = [line for line in result.stderr.splitlines() if line.startswith("joblog_router:")]
        assert "this is a test run (python -m django test): job log lines stay in memory" in said
        assert "joblog_router.I021" in result.stderr + result.stdout
    assert ("stored 1" if tests == "database" else "stored 0") in result.stdout
    assert project.rows() == ["real"]


IS_IN_MEMORY = """
assert flush(10)
(handler,) = logging.getLogger().handlers
print(handler.sink.is_in_memory())
"""
NO_TEST_RUNS = {
    "an argument": "import sys; sys.argv[:] = ['work.py', 'test']",
    "pytest is imported": "import pytest",
    "a test started it": "import os; os.environ['PYTEST_VERSION'] = '8.4'",
}


def run_with(project: Project, sign: str, code: str) -> tuple[str, str]:
    """Run `code` in a process that does `sign` before Django is set up: what it printed, and what it said."""
    result = project.finish(project.start("-c", f"{sign}\n{PREAMBLE}\n{code}\n{IS_IN_MEMORY}"))
    return result.stdout.strip(), result.stderr


def test_a_program_that_only_looks_like_a_test_run_stores_its_lines(project: Project) -> None:
    """Its first argument is "test", it imports pytest for something, or it is a program that a test starts."""
    for name, sign in NO_TEST_RUNS.items():
        said = run_with(project, sign, f"with job_context(1): logger.info({name!r})")
        assert said[0] == "False", name
        assert "test run" not in said[1]
    assert sorted(project.rows()) == sorted(NO_TEST_RUNS)


TEST_RUNS = {
    "manage.py": "import sys; sys.argv[:] = ['./manage.py', 'test', 'shop']",
    "django-admin": "import sys; sys.argv[:] = ['/usr/bin/django-admin', 'test']",
    "python -m django": "import sys; sys.argv[:] = ['/lib/django/__main__.py', 'test']",
    "another name": "import sys; sys.argv[:] = ['run', 'test']; import django.core.management.commands.test",
    "pytest": "import os, pytest; os.environ['PYTEST_VERSION'] = '8.4'",
    "an older pytest": "import os, pytest; os.environ['PYTEST_CURRENT_TEST'] = 'test_x.py::test_x (call)'",
    "its plugin": "import joblog_router.pytest_plugin",
}


def test_a_test_run_stays_one_to_the_end_of_the_process(project: Project) -> None:
    """Lines stay in memory, also those that are stored when the signs are gone, and one line on stderr says so."""
    code = """
import os, sys
for name in ('PYTEST_VERSION', 'PYTEST_CURRENT_TEST'): os.environ.pop(name, None)
del sys.argv[1:]
with job_context(1): logger.info('not kept')
"""
    for name, sign in TEST_RUNS.items():
        said = run_with(project, sign, code)
        assert said[0] == "True", name
        assert said[1].count("this is a test run (") == 1, name
    assert project.rows() == []
