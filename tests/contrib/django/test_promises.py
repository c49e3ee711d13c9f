from __future__ import annotations

import json

import pytest

from tests.contrib.django.project import PREAMBLE, Project


def test_lines_survive_the_rollback_of_the_transaction_that_logged_them(any_project: Project) -> None:
    """Five of five lines are stored although the transaction around them is rolled back."""
    any_project.run(
        """
        from django.db import transaction
        from shop.models import Job
        try:
            with transaction.atomic():
                job = Job.objects.create(name="doomed")
                with job_context(job.pk):
                    for number in range(5):
                        logger.error("line %d", number)
                raise RuntimeError
        except RuntimeError:
            pass
        assert not Job.objects.exists()
        """
    )
    assert any_project.rows() == [f"line {number}" for number in range(5)]


def test_lines_logged_by_a_coroutine_are_stored(any_project: Project) -> None:
    """Logging on a running event loop raises nothing and every line arrives."""
    result = any_project.run(
        """
        import asyncio
        from joblog_router import aflush
        async def work(number):
            async with job_context(number):
                logger.info("before")
                await asyncio.sleep(0)
                logger.info("after")
        async def main():
            await asyncio.gather(*(work(number) for number in range(20)))
            assert await aflush(10)
        asyncio.run(main())
        """
    )
    assert result.stderr == ""
    found = any_project.rows("job_id, message")
    assert sorted(found) == sorted((str(n), m) for n in range(20) for m in ("before", "after"))


def test_a_line_is_visible_before_its_jobs_row_is_committed(any_project: Project) -> None:
    """The lines of a job are stored while its row is uncommitted, and stay when the row is deleted."""
    result = any_project.run(
        """
        from django.db import transaction
        from shop.models import Job
        from joblog_router.contrib.django.models import JobLogEntry
        with transaction.atomic():
            job = Job.objects.create(name="new")
            with job_context(job.pk):
                logger.info("created")
                assert flush(10)
            print(JobLogEntry.objects.for_job(job.pk).count())
        with job_context(job.pk):
            logger.info("deleting")
            job.delete()
            logger.info("deleted")
        """
    )
    assert result.stdout.split() == ["1"]
    assert any_project.rows() == ["created", "deleting", "deleted"]


def test_what_waits_at_exit_is_stored(any_project: Project) -> None:
    """A process that ends right after its last line loses none, also after an exception, and says nothing."""
    result = any_project.run(
        """
        with job_context(1):
            for number in range(2000):
                logger.warning("line %d", number)
        """
    )
    assert result.stderr == ""
    assert len(any_project.rows()) == 2000


def test_ten_thousand_lines_are_stored_exactly_once_and_in_order(any_project: Project) -> None:
    """Every line of a burst is there, once, in the order it was logged, with its fields and traceback."""
    any_project.run(
        """
        with job_context(1, stage="pack"):
            for number in range(10_000):
                logger.warning("line %d", number, extra={"number": number})
            try:
                1 / 0
            except ZeroDivisionError:
                logger.exception("failed")
        assert flush(30)
        assert stats()["stored"] == 10_001, stats()
        """
    )
    found = any_project.rows("message, fields, n, seq, exception")
    assert [row[0] for row in found] == [*(f"line {number}" for number in range(10_000)), "failed"]
    assert [row[2] for row in found] == list(range(1, 10_002))
    assert json.loads(found[41][1]) == {"stage": "pack", "number": 41}
    assert found[0][4] == ""
    assert found[-1][4].endswith("ZeroDivisionError: division by zero")


def test_three_processes_share_one_database(any_project: Project) -> None:
    """Three processes that write at the same time lose no line and mix no job."""
    code = PREAMBLE + (
        "import os\n"
        "with job_context(os.getpid()):\n"
        "    for number in range(1000):\n"
        "        logger.warning('line %d', number)\n"
        "assert flush(30)\n"
    )
    processes = [any_project.start("-c", code) for _ in range(3)]
    for process in processes:
        any_project.finish(process)
    for process in processes:
        assert any_project.rows(where=f"job_id = '{process.pid}'") == [f"line {n}" for n in range(1000)]
    assert len(any_project.rows()) == 3000
    assert len(set(any_project.rows("origin"))) == 3


CONTENTION = """
    import threading, time
    from django.db import OperationalError, transaction
    from shop.models import Job
    job = Job.objects.create(name="counter")
    stop = threading.Event()
    def log():
        with job_context(job.pk):
            while not stop.is_set():
                logger.warning("busy")
                time.sleep(0.0005)
    thread = threading.Thread(target=log)
    thread.start()
    failed = tried = 0
    while tried < 300 and failed < 3:
        tried += 1
        try:
            with transaction.atomic():
                done = Job.objects.get(pk=job.pk).done
                time.sleep(0.003)
                Job.objects.filter(pk=job.pk).update(done=done + 1)
        except OperationalError as error:
            assert "database is locked" in str(error)
            failed += 1
    stop.set()
    thread.join()
    assert flush(30)
    assert Job.objects.get(pk=job.pk).done == tried - failed
    print(tried, failed, stats()["captured"] - stats()["stored"])
"""


def test_the_projects_own_transactions_do_not_fail_beside_a_busy_log(any_project: Project) -> None:
    """None of 300 transactions that read before they write fails while the log is written to its own file."""
    assert any_project.run(CONTENTION).stdout.split() == ["300", "0", "0"]


def test_a_shared_file_makes_the_projects_transactions_fail(bare_project: Project) -> None:
    """What W002 warns of is true: on a shared file some of those transactions fail at once, `timeout` or not."""
    bare_project.settings("del DATABASES['joblog']\nDATABASES['default']['OPTIONS'] = {'timeout': 20}")
    bare_project.manage("migrate", "--run-syncdb", "--verbosity=0")
    _, failed, lost = map(int, bare_project.run(CONTENTION).stdout.split())
    assert failed == 3  # the script stops there; measured without that: a tenth of them, and more
    assert lost == 0
    assert "joblog_router.W002" in bare_project.manage("check").stderr


def test_a_missing_table_costs_one_line_on_stderr(bare_project: Project) -> None:
    """Without the table the application works, stderr has the command once, and the lines come after `migrate`."""
    result = bare_project.run(
        """
        import time
        from django.core.management import call_command
        call_command("migrate", run_syncdb=True, verbosity=0)
        from shop.models import Job
        with job_context(1):
            for number in range(100):
                logger.warning("line %d", number)
                if number == 50:
                    assert not flush(0.5)
        Job.objects.create(name="works")
        assert not flush(1)
        assert stats()["waiting"] == 100
        call_command("migrate", database="joblog", verbosity=0)
        assert flush(10)
        """
    )
    told = [line for line in result.stderr.splitlines() if "migrate" in line]
    assert len(told) == 1, result.stderr
    assert "Run: manage.py migrate --database joblog." in told[0]
    assert bare_project.rows() == [f"line {number}" for number in range(100)]


@pytest.mark.parametrize(
    ("spool", "place", "end"),
    [
        ("True", "in the spool", "they are in the spool, for the next process"),
        ("BASE_DIR / 'settings.py'", "in memory", "they are lost"),  # which cannot be used
    ],
)
def test_a_missing_table_in_the_default_database_names_the_plain_command(
    bare_project: Project, spool: str, place: str, end: str
) -> None:
    """Without an alias of its own the advice is `manage.py migrate`, and the process ends all the same.

    Where the lines are is said as it is, then and at the end.
    """
    bare_project.settings(f"del DATABASES['joblog']; JOBLOG_ROUTER['SPOOL'] = {spool}")
    result = bare_project.run("with job_context(1): logger.info('kept in vain')")
    assert (
        f"Run: manage.py migrate. Job log lines are kept {place} (at most 50000) and are tried again" in result.stderr
    )
    assert f"the process ends with 1 job log lines that could not be stored; {end}" in result.stderr


def test_a_path_that_cannot_be_written_is_said_once(bare_project: Project) -> None:
    """A file in a missing folder breaks nothing: stderr has its path and the advice, once."""
    bare_project.settings("DATABASES['joblog']['NAME'] = BASE_DIR / 'nowhere' / 'joblog.sqlite3'")
    result = bare_project.run(
        """
        with job_context(1):
            logger.info("one")
            assert not flush(0.7)
            logger.info("two")
        assert stats()["waiting"] == 2
        import os
        os._exit(0)  # without the seconds a process waits for its last lines
        """
    )
    told = [line for line in result.stderr.splitlines() if "unable to open database file" in line]
    assert len(told) == 1, result.stderr
    assert str(bare_project.root / "nowhere" / "joblog.sqlite3") in told[0]
    assert "make the file and its folder writable" in told[0]


def test_lines_logged_before_the_apps_are_loaded_are_stored(project: Project) -> None:
    """A line of a module that is imported by `django.setup()` itself waits, silently, until the apps are loaded."""
    (project.root / "shop" / "apps.py").write_text(
        "import logging, time\n"
        "from django.apps import AppConfig\n"
        "from joblog_router import flush, job_context\n"
        "with job_context('import'):\n"
        "    logging.getLogger('shop').warning('while apps load')\n"
        "assert not flush(0.3)\n"
        "class ShopConfig(AppConfig):\n"
        "    name = 'shop'\n"
        "    def ready(self):\n"
        "        with job_context('ready'):\n"
        "            logging.getLogger('shop').warning('in ready')\n"
    )
    result = project.run("assert flush(10)")
    assert result.stderr == ""
    assert project.rows("job_id, message") == [("import", "while apps load"), ("ready", "in ready")]


def test_a_process_without_django_setup_is_told_so(project: Project) -> None:
    """In a process that never loads the apps the lines wait and stderr says what is missing."""
    process = project.start(
        "-c",
        "import logging, logging.config\n"
        "from joblog_router import job_context, flush\n"
        "logging.config.dictConfig({'version': 1, 'root': {'level': 'INFO', 'handlers': ['job']}, 'handlers':\n"
        "    {'job': {'class': 'joblog_router.JobLogHandler', 'sink': 'django'}}})\n"
        "with job_context(1):\n"
        "    logging.info('nobody set Django up')\n"
        "assert not flush(3)\n"
        "import os; os._exit(0)\n",
    )
    assert "call django.setup() when it starts" in project.finish(process).stderr


def test_an_app_that_is_not_installed_is_said_and_found_by_a_check(project: Project) -> None:
    """Without the app in INSTALLED_APPS the project works; stderr and the check E001 say what to add."""
    project.settings("INSTALLED_APPS = ['shop']\ndel JOBLOG_ROUTER, DATABASE_ROUTERS")
    result = project.run(
        """
        with job_context(1):
            logger.info("x")
        assert not flush(1)
        import os
        os._exit(0)
        """
    )
    assert "add 'joblog_router.contrib.django' to INSTALLED_APPS" in result.stderr
    check = project.manage("check", status=1)
    assert "(joblog_router.E001)" in check.stderr
    assert "Add 'joblog_router.contrib.django' to INSTALLED_APPS" in check.stderr


def test_logging_the_queries_of_debug_mode_is_no_loop(any_project: Project) -> None:
    """With DEBUG on and queries logged to all handlers, the log's own INSERTs are logged nowhere."""
    any_project.settings(
        """
        DEBUG = True
        LOGGING["root"]["level"] = "DEBUG"
        LOGGING["handlers"]["file"] = {"class": "logging.FileHandler", "filename": BASE_DIR / "all.log"}
        LOGGING["root"]["handlers"].append("file")
        LOGGING["loggers"] = {"django.db.backends": {"level": "DEBUG"}}
        """
    )
    any_project.run(
        """
        from shop.models import Job
        with job_context(1):
            Job.objects.count()
            logger.info("counted")
        for _ in range(5):  # what the storing of lines has logged would be stored by the next
            assert flush(10)
        assert stats()["captured"] == 2, stats()
        """
    )
    assert any_project.rows("logger") == ["django.db.backends", "shop.work"]
    everything = (any_project.root / "all.log").read_text()
    assert "SELECT COUNT(*)" in everything
    assert not [word for word in ("BEGIN", "set_config", "INSERT INTO") if word in everything]


def test_nothing_is_lost_or_left_open_when_logging_is_configured_twice(project: Project) -> None:
    """A second dictConfig keeps what waits, and the connection of the first sink is not left behind."""
    project.run(
        """
        import logging.config, os
        from django.conf import settings
        for number in range(5):
            with job_context(1):
                logger.warning("line %d", number)
                assert number % 2 or flush(10)
            logging.config.dictConfig(settings.LOGGING)
        assert flush(10)
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        files = [os.readlink(link) for link in links if os.path.lexists(link)]
        assert sum(name.endswith("joblog.sqlite3") for name in files) == 1, files
        """
    )
    assert project.rows() == [f"line {number}" for number in range(5)]


@pytest.mark.parametrize("option", ["", "LOGGING['handlers']['job']['options'] = {'database': 'default'}"])
def test_an_option_of_the_handler_names_another_database(bare_project: Project, option: str) -> None:
    """`options={"database": ...}` beats the setting; without it the alias "joblog" is used because it is there."""
    bare_project.settings("DATABASE_ROUTERS = []\n" + option)
    for alias in ("default", "joblog"):
        bare_project.manage("migrate", "joblog_router", f"--database={alias}", "--verbosity=0")
    bare_project.run("with job_context(1): logger.info('here')")
    used, unused = ("project", "joblog") if option else ("joblog", "project")
    assert bare_project.rows(file=f"{used}.sqlite3") == ["here"]
    assert bare_project.rows(file=f"{unused}.sqlite3") == []


def test_a_forked_process_writes_over_a_connection_of_its_own(any_project: Project) -> None:
    """Parent and child go on writing after a fork; neither uses the connection the other has."""
    any_project.run(
        """
        import os
        from joblog_router import Entry
        from joblog_router.contrib.django.sink import DjangoSink
        def entry(seq, message):
            return Entry("1", 0.0, 20, "shop", message, None, {}, "", 0, "test", seq, seq)
        sink = DjangoSink(tests="database")
        sink.write([entry(1, "before")])
        inherited = sink._connection._wrapper.connection
        child = os.fork()
        if child == 0:
            sink.write([entry(2, "child")])
            assert sink._connection._wrapper.connection is not inherited
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        sink.write([entry(3, "parent")])
        """
    )
    assert any_project.rows() == ["before", "child", "parent"]


def test_the_connection_closes_after_a_second_of_rest(project: Project) -> None:
    """A database is not kept in use by a log nobody writes to; the next line opens the connection again."""
    result = project.run(
        """
        import os, time
        def is_open():
            links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
            return any(os.readlink(link).endswith("joblog.sqlite3") for link in links if os.path.lexists(link))
        for number in range(2):
            with job_context(1):
                logger.warning("line %d", number)
            assert flush(10)
            assert is_open()
            deadline = time.monotonic() + 10
            while is_open() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not is_open()
        """
    )
    assert result.stderr == ""
    assert project.rows() == ["line 0", "line 1"]
