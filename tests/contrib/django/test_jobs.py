"""JOB_MODEL, NAMESPACE and the command in a project."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from django.test import override_settings

from joblog_router import ConfigurationError, Entry
from joblog_router.contrib.django import jobs
from joblog_router.contrib.django.sink import DjangoSink
from joblog_router.sinks import JsonLinesSink, MemorySink, open_store
from tests.contrib.django.project import MODELS, SOURCE, Project

Make = Callable[..., Entry]

WITH_TIMES = (
    MODELS
    + """
    created_at = models.DateTimeField(auto_now_add=True)
    started = models.DateTimeField(null=True)

class Express(Job):
    class Meta:
        proxy = True
"""
)


@pytest.fixture
def job_project(any_project: Project) -> Project:
    """A project whose jobs are `shop.Job`, some with a time and some through a proxy."""
    (any_project.root / "shop" / "models.py").write_text(WITH_TIMES)
    any_project.settings("JOBLOG_ROUTER['JOB_MODEL'] = 'shop.Job'")
    alias = "default"
    any_project.run(
        f"""
        from django.db import connections
        from shop.models import Job
        with connections[{alias!r}].schema_editor() as editor:
            editor.delete_model(Job)
            editor.create_model(Job)
        """
    )
    return any_project


def test_a_finished_job_is_not_called_live(bare_project: Project) -> None:
    """Without HEADER the page is told by the status in the job's row, in the words of DOCTOR, and shows no more."""
    (bare_project.root / "shop" / "models.py").write_text(MODELS + "    status = models.CharField(max_length=20)\n")
    bare_project.settings(
        """
        JOBLOG_ROUTER |= {
            "JOB_MODEL": "shop.Job",
            "PERMISSION": "shop.urls.everybody",
            "DOCTOR": {"JOB": {"statuses": {"ZU": "done"}}},
        }
        ROOT_URLCONF = "shop.urls"
        ALLOWED_HOSTS = ["*"]
        """
    )
    (bare_project.root / "shop" / "urls.py").write_text(
        "from django.urls import include, path\n"
        "everybody = lambda request, job_id: True\n"
        "urlpatterns = [path('jobs/', include('joblog_router.contrib.django.urls'))]\n"
    )
    bare_project.migrate()
    bare_project.run(
        """
        from django.test import Client
        from shop.models import Job

        def said(job):
            return Client().get(f"/jobs/{job}/summary/").json()["job"]

        for status, done in [("RUNNING", False), ("SUCCESS", True), ("Failed", True), ("revoked", True), ("ZU", True)]:
            found = said(Job.objects.create(status=status).pk)
            assert found["done"] is done, (status, found)
            assert not (found["failed"] or found["status"] or found["stages"] or found["verdict"]), found
        assert said(Job.objects.create(status="odd").pk) is None
        assert said(10**30) is None
        assert said("x") is None
        """
    )


def test_deleting_a_job_deletes_its_log_after_the_commit(job_project: Project) -> None:
    """One job, many at once, through a proxy; not where the transaction or a savepoint is rolled back."""
    job_project.run(
        """
        from django.db import transaction
        from joblog_router.sinks import Selection, open_store
        from shop.models import Express, Job
        store = open_store()

        def make(count=1):
            made = [Job.objects.create(name="x") for _ in range(count)]
            for job in made:
                with job_context(job.pk):
                    logger.info("of a job")
            assert flush()
            return made

        def lines(job):
            return len(store.newest(job).entries)

        # one, with a line that waits in this process
        (one, other) = make(2)
        pk = one.pk
        with transaction.atomic():
            one.delete()
            assert lines(pk) == 1, "before the commit"
            with job_context(pk):
                logger.info("last words")
        assert lines(pk) == 0
        assert flush() and lines(pk) == 0
        assert lines(other.pk) == 1

        # many, in one statement
        pks = [job.pk for job in make(40)]
        Job.objects.filter(pk__in=pks).delete()
        assert [lines(pk) for pk in pks] == [0] * 40
        assert lines(other.pk) == 1

        # through a proxy
        (job,) = make()
        pk = job.pk
        Express.objects.get(pk=pk).delete()
        assert lines(pk) == 0

        # rolled back
        (job,) = make()
        pk = job.pk
        try:
            with transaction.atomic():
                job.delete()
                raise RuntimeError
        except RuntimeError:
            pass
        assert lines(pk) == 1

        # a savepoint rolled back, what is around it committed
        first, second, third = make(3)
        pks = [first.pk, second.pk, third.pk]
        with transaction.atomic():
            first.delete()
            try:
                with transaction.atomic():
                    second.delete()
                    raise RuntimeError
            except RuntimeError:
                pass
            third.delete()
        assert [lines(pk) for pk in pks] == [0, 1, 0]

        # in a transaction after one that was rolled back
        with transaction.atomic():
            Job.objects.get(pk=pks[1]).delete()
        assert lines(pks[1]) == 0
        """
    )


def test_a_log_that_cannot_be_deleted_breaks_no_deletion(job_project: Project) -> None:
    """The job goes; standard error says what is left and which command removes it."""
    result = job_project.run(
        """
        from django.db import connections
        from joblog_router.contrib.django.conf import database_alias
        from shop.models import Job
        job = Job.objects.create(name="x")
        with connections[database_alias()].cursor() as cursor:
            cursor.execute("DROP TABLE joblog_router_joblogentry")
        job.delete()
        assert not Job.objects.exists()
        """
    )
    assert "manage.py joblog delete 1" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_that_deletes_what_is_left_can_be_pasted(job_project: Project, tmp_path: Path) -> None:
    """It names the tenants that the jobs were of, which no command knows, and a store that readers do not read."""
    directory = tmp_path / "job logs"
    job_project.settings(
        f"""
        class Tenant:
            name = "public"

        JOBLOG_ROUTER.update(JOB_MODEL="shop.Job", NAMESPACE=lambda: Tenant.name)
        LOGGING["handlers"]["file"] = {{
            "class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {{"directory": {str(directory)!r}}}
        }}
        LOGGING["root"]["handlers"].append("file")
        """
    )
    result = job_project.run(
        f"""
        from pathlib import Path
        from django.db import connections, transaction
        from joblog_router.contrib.django.conf import database_alias
        from settings import Tenant
        from shop.models import Job

        def rename(before, after):
            with connections[database_alias()].cursor() as cursor:
                cursor.execute(f"ALTER TABLE {{before}} RENAME TO {{after}}")

        names = ("the mill's", "")
        files = []
        for name in names:
            Tenant.name = name
            with job_context(7):
                logger.info("a line")
        assert flush()
        files = sorted(Path({str(directory)!r}).rglob("7.jsonl"))
        assert len(files) == 2
        for file in files:
            file.rename(file.with_suffix(".kept"))
            file.mkdir()  # a log that cannot be deleted
        rename("joblog_router_joblogentry", "away")
        with transaction.atomic():
            for name in names:
                Tenant.name = name
                Job.objects.create(pk=7, name="x").delete()
        rename("away", "joblog_router_joblogentry")
        for file in files:
            file.rmdir()
            file.with_suffix(".kept").rename(file)
        """
    )
    found = [line.partition(" Run: ")[2].split("; ") for line in result.stderr.splitlines() if " Run: " in line]
    assert len(found) == 2, result.stderr
    for commands in found:
        assert len(commands) == 2
        for command in commands:
            name, *arguments = shlex.split(command)
            assert name == "manage.py"
            assert job_project.manage(*arguments).stdout == "job 7: 1 lines deleted\n"
    assert job_project.rows("namespace") == []


def test_lines_that_are_older_than_the_job_are_not_shown(job_project: Project) -> None:
    """A new job with an old id begins with an empty log, in every way of reading; a job without a row shows all."""
    job_project.run(
        """
        from joblog_router.sinks import Selection, open_store
        from shop.models import Job
        store = open_store()
        for number in range(3):
            with job_context(7):
                logger.error("of the old job")
        assert flush()
        assert len(store.newest("7").entries) == 3
        job = Job.objects.create(pk=7, name="new")
        assert store.newest("7").entries == []
        assert store.after("7", "").entries == []
        assert store.summary("7").lines == 0 and store.summary("7").first_error is None
        with job_context(job.pk):
            logger.info("of the new one")
        assert flush()
        page = store.newest("7", limit=1)
        assert [entry.message for entry in page.entries] == ["of the new one"]
        if page.earlier:
            assert store.before("7", page.earlier).entries == []
        assert store.newest("no number").entries == []
        """
    )


def test_they_are_not_shown_where_the_tenant_is_gone_when_the_answer_is_sent(job_project: Project) -> None:
    """A stream is read on the hub's thread, a download when middleware has set the tenant back."""
    job_project.settings(
        """
        import contextvars

        tenant = contextvars.ContextVar("tenant", default="public")

        def middleware(get_response):
            def answer(request):
                token = tenant.set("acme")
                try:
                    return get_response(request)
                finally:
                    tenant.reset(token)
            return answer

        def may_see(request, job_id):
            return True

        ALLOWED_HOSTS = ["*"]
        ROOT_URLCONF = "joblog_router.contrib.django.urls"
        MIDDLEWARE = ["settings.middleware"]
        JOBLOG_ROUTER.update(NAMESPACE=tenant.get, JOB_MODEL="shop.Job", PERMISSION="settings.may_see", STREAMS=5)
        """
    )
    job_project.run(
        """
        import json
        from django.test import Client
        from joblog_router.contrib.django import streaming
        from settings import tenant
        from shop.models import Job
        tenant.set("acme")
        with job_context(7):
            logger.info("of the old job")
        assert flush()
        Job.objects.create(pk=7, name="new")
        with job_context(7):
            logger.info("of the new one")
        assert flush()
        tenant.set("public")
        client = Client(**{"wsgi.multithread": True})
        lines = json.loads(client.get("/7/entries/").content)["entries"]
        assert [line["message"] for line in lines] == ["of the new one"]
        text = client.get("/7/download/").getvalue().decode()
        assert "of the new one" in text and "of the old job" not in text, text
        streaming._SHORTEST = streaming._LONGEST = 20.0
        streamed = ""
        answer = client.get("/7/stream/")
        for part in answer.streaming_content:
            streamed += part.decode()
            if "of the new one" in streamed or "event: end" in streamed:
                break
        answer.close()
        assert "of the new one" in streamed and "of the old job" not in streamed, streamed
        """
    )


def test_it_holds_for_files_and_memory_and_without_time_zones(job_project: Project, tmp_path: Path) -> None:
    """Whatever store is read; a job's time without a zone is one of TIME_ZONE."""
    job_project.settings(
        f"""
        USE_TZ = False
        TIME_ZONE = "Asia/Tokyo"
        JOBLOG_ROUTER["JOB_MODEL"] = "shop.Job"
        LOGGING["handlers"]["job"] = {{
            "class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {{"directory": {str(tmp_path / "l")!r}}}
        }}
        """
    )
    job_project.run(
        """
        from joblog_router.sinks import open_store
        from shop.models import Job
        store = open_store()
        assert type(store).__name__ == "JsonLinesSink"
        with job_context(7):
            logger.info("old")
        assert flush()
        job = Job.objects.create(pk=7, name="new")
        with job_context(7):
            logger.info("new")
        assert flush()
        assert [entry.message for entry in store.newest("7").entries] == ["new"]
        job.delete()
        import pathlib
        assert not list(pathlib.Path(store.place).glob("*.jsonl"))
        """
    )


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"JOB_MODEL": "auth.Usre"}, "'JOB_MODEL'"),
        ({"JOB_MODEL": "auth"}, "'JOB_MODEL'"),
        ({"JOB_MODEL": "auth.User", "JOB_CREATED": "joined"}, "no field 'joined'"),
        ({"JOB_MODEL": "auth.User", "JOB_CREATED": "email"}, "no DateTimeField"),
        ({"JOB_MODEL": 3}, "JOB_MODEL"),
        ({"NAMESPACE": 3}, "text or a callable"),
    ],
)
def test_what_the_settings_alone_show_is_an_error_at_start(settings: dict[str, object], wrong: str) -> None:
    """A model or field that does not exist."""
    with override_settings(JOBLOG_ROUTER=settings), pytest.raises(ConfigurationError, match=wrong):
        jobs.apply()


def test_the_field_that_tells_when_a_job_began() -> None:
    """Named, found by its name, or none."""
    with override_settings(JOBLOG_ROUTER={"JOB_MODEL": "auth.User", "JOB_CREATED": "date_joined"}):
        assert jobs._field == "date_joined"
    with override_settings(JOBLOG_ROUTER={"JOB_MODEL": "auth.User"}):
        assert jobs._field == ""
    with override_settings(JOBLOG_ROUTER={"JOB_MODEL": "auth.User", "JOB_CREATED": False}):
        assert jobs._field == ""
    assert jobs._model is None


def test_a_namespace_is_part_of_every_key(project: Project) -> None:
    """Two tenants have a job 1 each: lines, folds, readers and deletion are apart, in the table."""
    project.settings(
        """
        class Tenant:
            name = "a"

        def tenant():
            return Tenant.name

        JOBLOG_ROUTER["NAMESPACE"] = tenant
        """
    )
    project.run(
        """
        from settings import Tenant
        from joblog_router.sinks import open_store
        store = open_store()
        with job_context(1) as scope:
            assert scope.namespace == "a"
            logger.info("of a")
            Tenant.name = "b"
            logger.info("of a, later")
            logger.info("of a, addressed", extra={"job_log_id": 2})
            with job_context(1) as inner:
                assert inner.namespace == "b"
                logger.info("of b")
        assert flush()
        assert [entry.message for entry in store.newest("1").entries] == ["of b"]
        assert [entry.message for entry in store.newest("1", namespace="a").entries] == ["of a", "of a, later"]
        assert [entry.message for entry in store.newest("2", namespace="a").entries] == ["of a, addressed"]
        from joblog_router.contrib.django.models import JobLogEntry
        assert JobLogEntry.objects.for_job(1).get().message == "of b"
        assert JobLogEntry.objects.for_job(1, namespace="a").count() == 2
        assert store.delete("1") == 1
        Tenant.name = "a"
        assert len(store.newest("1").entries) == 2
        """
    )
    assert set(project.rows("namespace")) == {"a"}


def test_which_store_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is named, else the environment's, else the setting's, else the first handler's, else the table."""
    named = f"jsonl:{tmp_path / 'named'}"
    setting = {"STORE": {"sink": "jsonl", "options": {"directory": str(tmp_path / "set")}}}

    def place(given: object = None) -> str:
        return Path(str(getattr(open_store(given), "place", ""))).name

    assert isinstance(open_store(), DjangoSink | MemorySink | JsonLinesSink)
    assert isinstance(open_store("django:joblog"), DjangoSink)
    memory = MemorySink()
    assert open_store(memory) is memory
    with override_settings(JOBLOG_ROUTER=setting):
        assert place() == "set"
        monkeypatch.setenv("JOBLOG_STORE", f"jsonl:{tmp_path / 'environment'}")
        assert place() == "environment"
        assert place(named) == "named"


# --- the command ---------------------------------------------------------------------------------------------


def test_the_command_in_a_project(project: Project) -> None:
    """`manage.py joblog` reads the project's table, with the exit status of the command and Django's own options."""
    project.run(
        """
        for number in range(3):
            with job_context(number):
                logger.warning("line of %d", number)
        """
    )
    result = project.manage("joblog", "tail", "1", "--settings", "settings")
    assert "WARNING  shop.work: line of 1" in result.stdout
    found = json.loads(project.manage("joblog", "stats", "1", "--json", "--settings=settings").stdout)
    assert found["levels"] == {"WARNING": 1}
    assert project.manage("joblog", "prune", "--keep", "0", "--dry-run").stdout == "3 lines would be deleted\n"
    project.manage("joblog", "delete", "1", "7", status=1)
    project.manage("joblog", "nonsense", status=2)
    result = project.run(
        """
        from django.core.management import call_command
        call_command("joblog", "show", "2", "--json")
        try:
            call_command("joblog", "show", "1")
        except SystemExit as end:
            print("status", end.code)
        """
    )
    assert '"line of 2"' in result.stdout
    assert "status 1" in result.stdout


def test_the_command_outside_manage_py(project: Project) -> None:
    """`python -m joblog_router` sets up the project that DJANGO_SETTINGS_MODULE names, or says why it cannot."""
    project.run("with job_context(1): logger.info('from a project')")
    assert "from a project" in project.finish(project.start("-m", "joblog_router", "show", "1")).stdout
    result = subprocess.run(
        [sys.executable, "-m", "joblog_router", "show", "1"],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(SOURCE), "DJANGO_SETTINGS_MODULE": "nowhere.settings"},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert result.returncode == 2
    assert "DJANGO_SETTINGS_MODULE=nowhere.settings" in result.stderr
    assert "Traceback" not in result.stderr


def test_logs_of_jobs_that_are_gone_are_pruned_on_request(job_project: Project) -> None:
    """Not those that are new, nor those of ids that the model cannot have; a dry run deletes nothing."""
    job_project.run(
        """
        import time
        from django.core.management import call_command
        from joblog_router.contrib.django.jobs import prune_orphans
        from joblog_router.sinks import open_store
        from shop.models import Job
        kept = Job.objects.create(name="x")
        gone = Job.objects.create(name="y")
        for job in (kept.pk, gone.pk, "nightly import"):
            with job_context(job):
                logger.info("one")
                logger.info("two")
        assert flush()
        pk = gone.pk
        Job.objects.filter(pk=pk)._raw_delete("default")
        store = open_store()
        def lines():
            return [len(store.newest(str(job)).entries) for job in (kept.pk, pk, "nightly import")]
        assert prune_orphans(time.time() - 60) == 0
        assert prune_orphans(time.time() + 1, dry_run=True) == 2
        assert lines() == [2, 2, 2]
        assert prune_orphans(time.time() + 1) == 2
        assert lines() == [2, 0, 2]
        """
    )
    assert job_project.manage("joblog", "prune", "--orphans").stdout == "0 lines were deleted\n"
    job_project.manage("joblog", "prune", "--orphans", "--keep", "3", status=2)
    job_project.settings()
    job_project.manage("joblog", "prune", "--orphans", status=2)
