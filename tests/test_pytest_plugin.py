"""The pytest plugin, in pytest runs of their own: what it gives, and that it does nothing unasked."""

from __future__ import annotations

import pytest

from tests.contrib.django.project import Project

pytest_plugins = ["pytester"]

QUIET = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider")


ALONE = ("-p", "joblog_router.pytest_plugin", "-p", "no:cacheprovider")


def run(pytester: pytest.Pytester, code: str, *options: str) -> pytest.RunResult:
    """Run tests in a process of their own, with no plugin but this one."""
    pytester.makepyfile(code)
    pytester._monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester.runpytest_subprocess(*ALONE, *options)


def test_the_fixture_has_the_lines_of_each_job_and_asserts_on_them(pytester: pytest.Pytester) -> None:
    """Entries, messages, assert_logged and assert_no_foreign_lines; levels by caplog; nothing is folded."""
    result = run(
        pytester,
        """
        import logging, re
        import pytest
        from joblog_router import job_context
        log = logging.getLogger("app")

        def test_lines(joblog, caplog):
            caplog.set_level("INFO")
            log.info("nobody's")
            with job_context(7, stage="queue"):
                for number in range(50):
                    log.info("packed %d", number)
                log.warning("slow")
            assert len(joblog.entries(7)) == 51
            assert joblog.messages(7)[0] == "packed 0"
            assert joblog.assert_logged(7, "packed 49").fields["stage"] == "queue"
            joblog.assert_logged(7, re.compile("^pack.* 4$"), level="INFO")
            joblog.assert_logged("7", "slow", level=logging.WARNING)
            joblog.assert_no_foreign_lines(7)
            with job_context(8):
                log.warning("elsewhere")
            joblog.assert_no_foreign_lines(7, 8)
            with pytest.raises(AssertionError, match=r"(?s)other jobs than \\['7'\\].*8 WARNING elsewhere"):
                joblog.assert_no_foreign_lines(7)
            with pytest.raises(AssertionError, match="(?s)job '7' logged no 'elsewhere'.*in the log of job '8'"):
                joblog.assert_logged(7, "elsewhere")
            with pytest.raises(AssertionError, match="logged no 'slow' at level ERROR"):
                joblog.assert_logged(7, "slow", level="ERROR")
            with pytest.raises(AssertionError, match="its lines: none"):
                joblog.assert_logged(9, "anything")
            with pytest.raises(ValueError, match="not the name of a level"):
                joblog.assert_logged(7, "slow", level="LOUD")

        def test_no_line_of_another_test_is_there(joblog):
            assert joblog.entries() == []
            assert logging.getLogger().handlers.count(None) == 0
        """,
    )
    result.assert_outcomes(passed=2)


def test_no_handler_and_no_thread_outlives_a_test(pytester: pytest.Pytester) -> None:
    """The writer's thread is gone when the next test begins, and comes back when it is needed."""
    result = run(
        pytester,
        """
        import logging, threading
        import pytest
        from joblog_router import JobLogHandler, job_context
        log = logging.getLogger("app")

        @pytest.mark.parametrize("number", range(3))
        def test_it(number, request):
            assert not [thread for thread in threading.enumerate() if thread.name.startswith("joblog")]
            assert not [one for one in logging.getLogger().handlers if isinstance(one, JobLogHandler)]
            joblog = request.getfixturevalue("joblog")
            with job_context(number):
                log.warning("line %d", number)
            assert joblog.messages() == [f"line {number}"]
            assert [thread for thread in threading.enumerate() if thread.name.startswith("joblog")]
        """,
    )
    result.assert_outcomes(passed=3)


def test_records_of_caplog_carry_the_job(pytester: pytest.Pytester) -> None:
    """Without any fixture of ours; a failure's report can show it, too."""
    result = run(
        pytester,
        """
        import logging
        from joblog_router import job_context

        def test_caplog(caplog):
            logging.getLogger("app").warning("nobody's")
            with job_context(7, stage="queue"):
                logging.getLogger("app").warning("of seven")
            assert [record.job_id for record in caplog.records] == [None, "7"]
            assert caplog.records[1].stage == "queue"

        def test_fails():
            with job_context(7):
                logging.getLogger("app").warning("of seven")
            assert False
        """,
        "--log-format=%(job_id)s says %(message)s",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*7 says of seven*"])


LEAKS = """
    import logging
    import pytest
    from joblog_router import job_context
    log = logging.getLogger("app")

    def late():
        with job_context(1):
            import contextvars
            context = contextvars.copy_context()
        context.run(log.warning, "late")

    def test_clean():
        with job_context(1):
            log.warning("fine")

    def test_late(joblog):
        late()

    def test_conflict(joblog):
        with job_context(1):
            log.warning("x", extra={"job_id": 2})

    def test_left_open():
        job_context(3).__enter__()

    def test_inherits_what_the_last_left_open_and_is_not_blamed():
        pass

    @pytest.mark.joblog(leaks=True)
    def test_allowed(joblog):
        late()
"""


def test_leaks_fail_a_test_where_the_ini_option_says_so(pytester: pytest.Pytester) -> None:
    """Late lines, conflicts and scopes that were left open; a mark excepts a test."""
    pytester.makeini("[pytest]\njoblog_no_leaks = true\n")
    result = run(pytester, LEAKS)
    result.assert_outcomes(passed=6, errors=3)
    result.stdout.fnmatch_lines_random(
        [
            "*ERROR at teardown of test_late*",
            "*1 record(s) logged in the scope of a job that had closed*",
            "*test_leaks_fail_a_test_where_the_ini_option_says_so.py:* (app)*",
            "*ERROR at teardown of test_conflict*",
            "*1 record(s) that named another job than the one open*",
            "*ERROR at teardown of test_left_open*",
            "*job '3' is still open: a job_context was entered and not left*",
        ]
    )


def test_without_the_option_leaks_fail_only_tests_that_ask(pytester: pytest.Pytester) -> None:
    """By the fixture."""
    result = run(pytester, LEAKS + "\n    def test_asks(no_job_leaks):\n        late()\n")
    result.assert_outcomes(passed=7, errors=1)


def test_it_is_inert_without_django(pytester: pytest.Pytester) -> None:
    """No import of it, no thread, no handler, no level changed; a mark that needs it says so."""
    pytester.makeconftest(
        """
        import logging, sys, threading
        def pytest_sessionstart(session):
            assert not [name for name in sys.modules if name.split(".")[0] == "django"]
            assert not logging.getLogger("joblog_router").handlers
            assert threading.active_count() == 1
            sys.modules["django"] = None
        """
    )
    # By its entry point, as a project gets it.
    pytester.makepyfile(
        """
        import logging, sys
        import pytest

        def test_nothing(joblog):
            assert sys.modules["django"] is None
            assert "joblog_router.contrib" not in sys.modules

        @pytest.mark.joblog("inline")
        def test_inline(joblog):
            pass

        @pytest.mark.joblog("nowhere")
        def test_nowhere(joblog):
            pass
        """
    )
    result = pytester.runpytest_subprocess(*QUIET, "-p", "no:django", "--strict-markers")
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines_random(["*this store is in Django's test database*", "*no store 'nowhere'*"])


DJANGO = """
import logging, threading
import pytest
from django.db import connection, connections, transaction
from joblog_router import JobLogHandler, job_context
from joblog_router.context import use_namespace
from joblog_router.contrib.django.models import JobLogEntry
from shop.models import Job
log = logging.getLogger("shop.work")

def messages(job=1):
    return [row.message for row in JobLogEntry.objects.for_job(job)]

@pytest.mark.django_db
def test_memory(joblog, django_assert_num_queries):
    with django_assert_num_queries(1), job_context(1):
        Job.objects.create(name="x")
        log.info("in memory")
    assert joblog.messages(1) == ["in memory"]

def test_memory_needs_no_database(joblog):
    with job_context(1):
        log.info("in memory")
    joblog.assert_logged(1, "in memory")

@pytest.mark.joblog("inline")
@pytest.mark.django_db(databases=["default", "joblog"])
@pytest.mark.parametrize("number", range(2))
def test_inline(joblog, number, django_assert_num_queries, request):
    use_namespace("shop")
    request.addfinalizer(lambda: use_namespace(""))
    assert messages() == []
    with django_assert_num_queries(1), django_assert_num_queries(0, connection=connections["joblog"]), job_context(1):
        Job.objects.create(name="x")
        log.info("inline %d", number, extra={"number": number, "job_log": "staff"})
    assert messages() == [f"inline {number}"]
    assert [(entry.audience, entry.namespace) for entry in joblog.entries()] == [("staff", "shop")]
    assert joblog.entries(1)[0].fields == {"number": number}
    thread = threading.Thread(target=lambda: log.info("of a thread", extra={"job_log_id": 1}))
    thread.start()
    thread.join()
    assert joblog.messages(1)[-1] == "of a thread"
    joblog.assert_no_foreign_lines(1)

@pytest.mark.joblog("inline")
@pytest.mark.django_db(databases=["default", "joblog"])
def test_inline_after_an_error(joblog):
    with pytest.raises(ValueError), transaction.atomic(using="joblog"), job_context(1):
        log.info("rolled back")
        raise ValueError
    with job_context(1):
        log.info("after")
    assert messages() == ["after"]

@pytest.mark.joblog("inline")
def test_inline_without_a_database_harms_nobody(joblog):
    with job_context(1):
        log.info("nowhere")

@pytest.mark.joblog("inline")
@pytest.mark.django_db(databases=["default", "joblog"])
async def test_inline_in_a_coroutine(joblog):
    from asgiref.sync import sync_to_async
    async with job_context(1):
        log.info("of a coroutine")
    assert await sync_to_async(messages)() == []

@pytest.mark.joblog("thread")
@pytest.mark.django_db(transaction=True, databases=["default", "joblog"])
@pytest.mark.parametrize("number", range(2))
def test_thread(joblog, number, django_assert_num_queries):
    with django_assert_num_queries(0), job_context(1):
        log.info("by the thread %d", number)
    with pytest.raises(ValueError), transaction.atomic(using="joblog"):
        raise ValueError
    assert joblog.messages(1) == [f"by the thread {number}"]
    assert messages() == [f"by the thread {number}"]

def test_no_thread_is_left():
    assert [thread.name for thread in threading.enumerate() if "joblog" in thread.name] == []
"""


@pytest.mark.timeout(90)
def test_with_django_lines_can_be_in_the_test_database(project: Project) -> None:
    """Memory unless marked; inline rolls back with the test; by the thread it survives; queries are not counted."""
    project.settings("LOGGING['handlers']['job'] = {'class': 'logging.NullHandler'}")
    (project.root / "test_shop.py").write_text(DJANGO)
    (project.root / "pytest.ini").write_text(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\nfilterwarnings = error\n"
    )
    process = project.start("-m", "pytest", *QUIET, "--create-db", "-W", "error")
    result = project.finish(process)
    assert "10 passed" in result.stdout, result.stdout


@pytest.fixture
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A Django project on disk; its test databases are made by its own run."""
    return Project(tmp_path_factory.mktemp("project"))
