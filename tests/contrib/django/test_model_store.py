"""The sink and store "model": an existing table of log lines goes on being written, and what reads it goes on."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from joblog_router import ConfigurationError
from joblog_router.contrib.django.model_store import ModelStore
from tests.contrib.django.conftest import ON_POSTGRESQL
from tests.contrib.django.project import MODELS, PREAMBLE, Project
from tests.postgres import PostgresServer

LINES = """
class Line(models.Model):
    job = models.ForeignKey(Job, on_delete=models.CASCADE)
    level = models.CharField(max_length=10)
    message = models.TextField()
    context = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

class Plain(models.Model):
    job = models.CharField(max_length=20)
    tenant = models.CharField(max_length=20, null=True)
    at = models.DateTimeField()
    text = models.TextField()

class Old(models.Model):
    logs = models.JSONField(null=True)
"""

SETTINGS = """
LOGGING["handlers"]["job"] = {
    "class": "joblog_router.JobLogHandler", "sink": "model", "fold": False, "options": {
        "model": "shop.Line", "park_seconds": 2, "fields": {
            "job": "job_id", "level": "level_name", "message": "text", "context": "context", "created_at": "created"}}}
"""

IMPORTS = """
import datetime, time
from django.db import transaction
from django.utils import timezone
from joblog_router.sinks import open_store
from shop.models import Job, Line
store = open_store()
def messages(job):
    return list(Line.objects.filter(job=job).order_by("created_at", "pk").values_list("message", flat=True))
"""


def make(root: Path, server: PostgresServer | None = None, name: str = "") -> Project:
    """A project with a table of lines of its own."""
    project = Project(root, server, name)
    (root / "shop" / "models.py").write_text(MODELS + LINES)
    project.settings(SETTINGS)
    project.migrate()
    return project


@pytest.fixture(params=["sqlite", ON_POSTGRESQL])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Such a project, on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        yield make(tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    name = server.create_database()
    yield make(tmp_path, server, name)
    server.drop_database(name)


def test_lines_are_rows_of_the_projects_table_and_read_from_it(project: Project) -> None:
    """Columns by the map at the time of the call, pages and cursors through the store, staff lines, one copy each."""
    project.run(
        IMPORTS
        + """
from joblog_router import Entry
job = Job.objects.create(name="x")
before = timezone.now()
with store._lock, job_context(job.pk, step="load"):  # nothing is written meanwhile
    logger.info("first %d", 1)
    try:
        1 / 0
    except ZeroDivisionError:
        logger.exception("failed")
    logger.info("for us", extra={"job_log": "staff"})
    after = timezone.now()
assert flush(10)
first, failed, staff = Line.objects.order_by("pk")
assert (first.level, first.message, first.job_id) == ("INFO", "first 1", job.pk)
assert first.context["step"] == "load" and first.context["joblog"]["logger"] == "shop.work", first.context
assert before <= first.created_at <= failed.created_at <= after, "the time of the call, not of writing"
assert failed.level == "ERROR" and "ZeroDivisionError" in failed.message
key = str(job.pk)
page = store.newest(key)
assert [entry.message.split("\\n")[0] for entry in page.entries] == ["first 1", "failed"]
assert store.summary(key, "staff").lines == 3 and store.summary(key).lines == 2
from joblog_router.sinks.store import Selection
assert [e.message for e in store.newest(key, Selection(audience="staff")).entries][2] == "for us"
assert page.entries[0].origin and page.entries[0].fields == {"step": "load"} and page.entries[1].level == 40
with job_context(job.pk):
    for number in range(5):
        logger.info("more %d", number)
assert flush(10)
news = store.after(key, page.cursor, limit=3)
assert [e.message for e in news.entries] == ["more 0", "more 1", "more 2"] and news.more
rest = store.after(key, news.cursor)
assert [e.message for e in rest.entries] == ["more 3", "more 4"] and not rest.more
last = store.newest(key, limit=3)
assert [e.message for e in store.before(key, last.earlier, limit=2).entries] == ["more 0", "more 1"]
# Delivered again, as after a crash between commit and acknowledgement: by a sink that never saw the origin.
again = type(store)("shop.Line", store.columns.fields)
again.write([*rest.entries, rest.entries[0]._replace(seq=10**6, message="new")])
assert sorted(messages(job)) == sorted(["first 1", failed.message, "for us", *(f"more {n}" for n in range(5)), "new"])
assert store.delete(key) == 9 and store.newest(key).entries == []
assert store.newest("no id").entries == []
"""
    )


def test_lines_wait_for_their_jobs_row_and_go_with_it(project: Project) -> None:
    """Uncommitted: parked and stored after the commit. Rolled back or deleted: dropped and counted. Others go on."""
    done = project.run(
        IMPORTS
        + """
with transaction.atomic():
    job = Job.objects.create(name="new")
    with job_context(job.pk):
        logger.info("before the commit")
        logger.info("still before")
    flush(10)
    assert store.parked == 2, store.parked
until = time.monotonic() + 10
while not messages(job):
    assert time.monotonic() < until
    time.sleep(0.02)  # the writer and recovery tell nobody when they are done
with job_context(job.pk):
    logger.info("after it")
assert flush(10)
assert messages(job) == ["before the commit", "still before", "after it"]
try:
    with transaction.atomic():
        gone = Job.objects.create(name="never")
        with job_context(gone.pk):
            logger.info("of a job that never was")
        raise KeyError
except KeyError:
    pass
with job_context(999_999):
    logger.info("of no job")
with job_context("not a number"):
    logger.info("of no id")
with job_context(job.pk):
    logger.info("others go on")
assert flush(10)
assert messages(job)[-1] == "others go on"
while store.parked:
    assert time.monotonic() < until + 10
    time.sleep(0.02)  # the writer and recovery tell nobody when they are done
assert store.dropped == 3, store.dropped
pk = job.pk
job.delete()
second = Job.objects.create(name="second")
with job_context(pk):
    logger.info("after the deletion")
with job_context(second.pk):
    logger.info("in the same batch")
assert flush(10)
assert messages(second) == ["in the same batch"]
assert store.dropped == 4 and store.parked == 0, (store.dropped, store.parked)
"""
    )
    assert "are dropped" in done.stderr
    assert "had no row for 2 seconds" in done.stderr
    assert "has been deleted" in done.stderr


def test_what_is_parked_when_the_process_ends_is_tried_once_more_and_told(tmp_path: Path) -> None:
    """The row came a moment before the end: stored. It did not: said on stderr. More than fit: dropped at once."""
    project = make(tmp_path)
    project.settings(SETTINGS.replace('"park_seconds": 2', '"park_lines": 2'))
    done = project.run(
        IMPORTS
        + """
from joblog_router.contrib.django import model_store
model_store._LOOK = 60
for number in range(3):
    with job_context(1):
        logger.info("early %d", number)
with job_context(55):
    logger.info("never")
flush(10)
assert (store.parked, store.dropped) == (2, 2)
Job.objects.create(pk=1, name="late")
"""
    )
    assert "lines wait for rows already" in done.stderr
    assert project.run(IMPORTS + "print(messages(1))").stdout.strip() == "['early 0', 'early 1']"


def test_a_write_that_fails_leaves_what_is_parked_as_it_was(tmp_path: Path) -> None:
    """The table is away for a moment: parked lines are not lost with it. A line is refused: none is parked twice."""
    project = make(tmp_path)
    project.run(
        IMPORTS
        + """
from django.db import connection
from joblog_router import Entry, EntryRefusedError, SinkUnavailableError
from joblog_router.contrib.django import model_store
model_store._LOOK = 60
columns = dict(store.columns.fields)
del columns["context"]
plain = type(store)("shop.Line", columns)
def entry(seq, job, audience="all"):
    return Entry(namespace="", job_id=job, created=time.time(), level=20, logger="x", message=f"line {seq}",
                 exception=None, fields={}, path="", line=0, audience=audience, origin="o", seq=seq, n=seq)
Job.objects.create(pk=1, name="there")
batch = [entry(1, "55"), entry(2, "1", "staff")]
for entries in (batch, batch[:1], batch[1:]):
    try:
        plain.write(entries)
    except EntryRefusedError:
        pass
assert plain.parked == 1, plain.parked
Job.objects.create(pk=55, name="late")
connection.cursor().execute("ALTER TABLE shop_line RENAME TO away")
for _ in range(2):
    try:
        plain.write([entry(3, "56"), entry(4, "1")])
    except SinkUnavailableError:
        pass
    else:
        raise AssertionError("the table is away")
connection.cursor().execute("ALTER TABLE away RENAME TO shop_line")
assert plain.parked == 1, plain.parked
plain.write([entry(3, "56"), entry(4, "1")])
assert messages(55) == ["line 1"] and messages(1) == ["line 4"], (messages(55), messages(1))
assert (plain.parked, plain.dropped) == (1, 0)
"""
    )


KILLED = """
import os, signal
with job_context(77):
    for number in range(3):
        logger.info("early %d", number)
    for number in range(20):
        logger.info("similar %d", number)
flush(10)
until = time.monotonic() + 10
while store.held_from(next(iter(store._parked._parked.values()))[1][0].origin) is None:
    assert time.monotonic() < until
with job_context(job.pk):
    for number in range(1_200):
        logger.warning("of a job with a row %d", number)
assert flush(20)
print(store.parked, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def spools(project: Project) -> list[Path]:
    """Segments that are left, of processes that are gone."""
    return list(project.root.glob("joblog-router-*/*.spool"))


def test_a_kill_loses_no_parked_line(project: Project) -> None:
    """What is parked stays in the spool: the next process stores it once the row is there, and nothing twice.

    Folded on SQLite, every line on PostgreSQL.
    """
    fold = project.server is None
    project.settings(SETTINGS.replace('"fold": False', f'"fold": {fold}'))
    killed = project.finish(
        project.start("-c", PREAMBLE + IMPORTS + 'job = Job.objects.create(name="x")' + KILLED), -signal.SIGKILL
    )
    assert int(killed.stdout) >= 8, killed.stderr
    assert len(spools(project)) == 1
    found = project.run(
        IMPORTS
        + """
Job.objects.create(pk=77, name="late")
with job_context(Job.objects.get(name="x").pk):
    logger.info("starts the writer")
until = time.monotonic() + 20
while len(messages(77)) < LINES or stats()["recovered"] == 0:
    assert time.monotonic() < until, (messages(77), stats())
    time.sleep(0.02)  # the writer and recovery tell nobody when they are done
import json
others = Line.objects.exclude(job=77).filter(message__startswith="of a job with a row").count()
last = Line.objects.filter(job=77).order_by("pk").last().context.get("folded")
print(json.dumps([messages(77), others, last]))
""".replace("LINES", "10" if fold else "23")
    )
    lines, others, folded = json.loads(found.stdout)
    assert lines[:3] == ["early 0", "early 1", "early 2"]
    assert lines[-1] == "similar 19"
    assert len(lines) == len(set(lines)) == (10 if fold else 23)
    assert folded == (15 if fold else None), "counted exactly"
    assert others == 1_200, "what was stored comes no second time"
    assert spools(project) == []


def test_parked_lines_of_a_killed_process_are_given_up_when_their_time_is_over(tmp_path: Path) -> None:
    """The row never comes: the next process drops and counts them, and their segment goes."""
    project = make(tmp_path)
    project.finish(
        project.start("-c", PREAMBLE + IMPORTS + 'job = Job.objects.create(name="x")' + KILLED), -signal.SIGKILL
    )
    done = project.run(
        IMPORTS
        + """
from pathlib import Path
until = time.monotonic() + 20
def left():
    return list(Path(".").glob("joblog-router-*/*.spool"))
with job_context(Job.objects.get(name="x").pk):
    logger.info("starts the writer")
while store.dropped < 23 or len(left()) > 1:
    assert time.monotonic() < until, (store.dropped, left())
    time.sleep(0.02)  # the writer and recovery tell nobody when they are done
"""
    )
    assert "23 lines of job '77' are dropped: the job had no row" in done.stderr
    assert spools(project) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "Line", "fields": {"job": "job_id"}}, "must be like 'app.Model'"),
        ({"model": "shop.Line", "fields": {}}, "fields must map"),
        ({"model": "shop.Line", "fields": {"job": "job"}}, "known are"),
        ({"model": "shop.Line", "fields": {"job": "job_id"}}, "no field takes 'created'"),
        ({"model": "shop.Line", "fields": {"job": "job_id", "at": "created"}}, "'message' or 'text'"),
        ({"model": "shop.Line", "fields": {}, "database": ""}, "sink 'model': database must be an alias"),
        ({"model": "shop.Line", "fields": {}, "tests": "off"}, "sink 'model': tests must be 'memory' or 'database'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    """What the options alone show raises where logging is configured."""
    with pytest.raises(ConfigurationError, match=message):
        ModelStore(**options)


def test_without_a_place_for_it_a_line_for_staff_is_refused(tmp_path: Path) -> None:
    """It must not be shown to everybody: set aside and counted, the others are stored."""
    project = make(tmp_path)
    project.settings(SETTINGS.replace('"context": "context",', ""))
    done = project.run(
        IMPORTS
        + """
job = Job.objects.create(name="x")
with job_context(job.pk):
    logger.info("for all")
    logger.info("for us", extra={"job_log": "staff"})
    logger.info("for all, too")
flush(10)
print(json.dumps([messages(job), stats()["quarantined"]]))
""".replace("print(json", "import json\nprint(json")
    )
    missing = "1 of 3 lines are not in this log: quarantined 1"
    assert json.loads(done.stdout) == [["for all", "for all, too", missing], 1]


TENANTS = """
TENANT = ["a"]
JOBLOG_ROUTER["NAMESPACE"] = lambda: TENANT[0]
"""
PLAIN = """
LOGGING["handlers"]["job"]["options"] = {
    "model": "shop.Plain", "fields": {"job": "job_id", "tenant": "namespace", "text": "text", "at": "created"}}
"""
IN_TURN = """
import settings
from shop.models import Plain
def at(tenant):
    settings.TENANT[0] = tenant
def found(tenant, **more):
    at(tenant)
    return [(e.namespace, e.message) for e in store.newest("7", **more).entries]
Job.objects.create(pk=7, name="x")
for tenant in ("a", "b", ""):
    at(tenant)
    with job_context(7):
        logger.info("of %s", tenant or "nobody")
        logger.error("second of %s", tenant or "nobody")
assert flush(10)
"""


@pytest.mark.parametrize("place", ["context", "column"])
def test_tenants_share_a_table_and_no_log(project: Project, place: str) -> None:
    """Every way of reading, deleting and pruning keeps to the namespace; a row that names none is in "" alone."""
    project.settings(SETTINGS + TENANTS + (PLAIN if place == "column" else ""))
    project.run(
        IMPORTS
        + IN_TURN
        + (
            'Plain.objects.create(job="7", at=timezone.now(), text="by others")'
            if place == "column"
            else 'Line.objects.create(job_id=7, level="INFO", message="by others", context={"own": 1})'
        )
        + """
assert found("a") == [("a", "of a"), ("a", "second of a")], found("a")
assert found("c") == []
assert found("a", namespace="b") == [("b", "of b"), ("b", "second of b")]
assert [message for _, message in found("")] == ["of nobody", "second of nobody", "by others"], found("")
at("b")
assert [e.message for e in store.after("7", "").entries] == ["of b", "second of b"]
last = store.newest("7", limit=1)
assert [e.message for e in store.before("7", last.earlier).entries] == ["of b"]
assert store.before("7", last.earlier, namespace="c").entries == []
summary = store.summary("7")
assert summary.lines == 2 and summary.first_error is None or summary.first_error.message == "second of b"
now = time.time() + 10
assert store.prune(now, dry_run=True) == 2 and store.prune(now, namespace="c") == 0
assert store.delete("7", "b") == 2 and found("b") == []
assert len(found("a")) == 2 and len(found("")) == 3
at("a")
assert store.prune(now) == 2
assert len(found("a")) == 0 and len(found("")) == 3
"""
    )


def test_without_a_place_for_the_tenant_nothing_is_shown_or_mixed(tmp_path: Path) -> None:
    """NAMESPACE and a table that cannot say whose a line is: lines wait, readers raise, a check says it before."""
    project = make(tmp_path)
    project.settings(SETTINGS + TENANTS + PLAIN.replace('"tenant": "namespace", ', ""))
    done = project.run(
        IMPORTS
        + IN_TURN.replace("assert flush(10)", "flush(1)")
        + """
from joblog_router import ConfigurationError
assert Plain.objects.count() == 0
for read in (store.newest, store.summary, store.delete, lambda job: store.after(job, ""), store.prune):
    at("b")
    try:
        read(7.0 if read == store.prune else "7")
    except ConfigurationError as error:
        assert "map one of its fields to 'namespace'" in str(error), error
    else:
        raise AssertionError(read)
"""
    )
    assert "shop.Plain has no place that says whose job a line is of" in done.stderr
    checked = project.manage("check", status=1).stderr
    assert "joblog_router.E007" in checked
    project.settings(SETTINGS + TENANTS + PLAIN)
    project.run(
        IMPORTS
        + """
from shop.models import Plain
import settings
settings.TENANT[0] = "a"
with job_context(8):
    logger.info("starts the writer")
until = time.monotonic() + 20
while Plain.objects.filter(job="7").count() < 6:
    assert time.monotonic() < until, list(Plain.objects.values())
    time.sleep(0.02)  # the writer and recovery tell nobody when they are done
assert [e.message for e in store.newest("7").entries] == ["of a", "second of a"]
"""
    )


def test_keys_are_stored_whole_or_not_at_all(tmp_path: Path) -> None:
    """Cut to the column's length, two jobs or tenants would be one."""
    project = make(tmp_path)
    project.settings(SETTINGS + TENANTS + PLAIN)
    done = project.run(
        IMPORTS
        + """
import settings
from shop.models import Plain
settings.TENANT[0] = "t" * 21
with job_context(1):
    logger.info("of a long tenant")
settings.TENANT[0] = "a"
for job in ("j" * 19 + "12", "j" * 19 + "13", "short"):
    with job_context(job):
        logger.info("of %s", job)
flush(10)
print(sorted({text for text in Plain.objects.values_list("text", flat=True)}), stats()["quarantined"] >= 3)
"""
    )
    assert done.stdout.strip() == "['of short'] True"
    assert "is too long for shop.Plain.tenant" in done.stderr  # said once for all that are refused


def test_lines_older_than_the_job_are_those_of_an_earlier_one(tmp_path: Path) -> None:
    """JOB_MODEL says since when the job exists; pages, news, sums and the pages before keep to it."""
    project = make(tmp_path)
    models = MODELS + "    created_at = models.DateTimeField(auto_now_add=True)\n" + LINES
    (project.root / "shop" / "models.py").write_text(models)
    (project.root / "project.sqlite3").unlink()
    project.settings(SETTINGS + PLAIN + 'JOBLOG_ROUTER["JOB_MODEL"] = "shop.Job"')
    project.run(
        """
from django.core.management import call_command
call_command("migrate", run_syncdb=True, verbosity=0)
"""
        + IMPORTS
        + """
from shop.models import Plain
job = Job.objects.create(name="x")
for text, seconds in (("earlier", -5), ("first", 5), ("second", 6)):
    Plain.objects.create(job=job.pk, at=job.created_at + datetime.timedelta(seconds=seconds), text=text)
key = str(job.pk)
assert [e.message for e in store.newest(key).entries] == ["first", "second"]
assert [e.message for e in store.after(key, "").entries] == ["first", "second"]
assert [e.message for e in store.before(key, store.newest(key, limit=1).earlier).entries] == ["first"]
assert store.summary(key).lines == 2
assert store.delete(key) == 3
"""
    )


OLD = """
from shop.models import Job, Line, Old
Job.objects.bulk_create([Job(pk=pk, name="x") for pk in (1, 2, 3)])
lines = ["[2025-01-31 10:00:01] ERROR second\\nline", "[2025-01-31 10:00:00] INFO first"]
objects = [{"message": "an object", "level": "WARNING", "created": 1738317600, "x": 1}]
for pk, found in ((1, lines), (2, objects), (3, "no list")):
    Old.objects.create(pk=pk, logs={"stdout": found})
Old.objects.create(pk=4, logs=None)
"""


@pytest.mark.parametrize("sink", ["model", "django"])
def test_old_lines_of_a_json_column_are_taken_over_once(tmp_path: Path, sink: str) -> None:
    """A dry run counts; a second run adds only what has come since; times, levels and order are the old ones."""
    project = make(tmp_path)
    project.settings(SETTINGS + "TIME_ZONE = 'UTC'")
    if sink == "django":
        project.settings("TIME_ZONE = 'UTC'")
        project.manage("migrate", "--database=joblog", "--verbosity=0")
    project.run(OLD)
    command = ("joblog", "backfill", "shop.Old", "logs", "--path", "stdout", "--newest-first")
    wanted = {"jobs": 2, "lines": 3, "unusable": 1, "dry_run": True}
    assert json.loads(project.manage(*command, "--dry-run", "--json", status=1).stdout) == wanted
    read = """
import json
from joblog_router.sinks import open_store
print(json.dumps([[(e.created, e.level, e.message, e.fields.get("x")) for e in open_store().newest(job).entries]
                  for job in ("1", "2")]))
"""
    assert json.loads(project.run(read).stdout) == [[], []]
    project.manage(*command, status=1)
    first = [[1738317600.0, 20, "first", None], [1738317601.0, 40, "second\nline", None]]
    assert json.loads(project.run(read).stdout) == [first, [[1738317600.0, 30, "an object", 1]]]
    project.run(
        "from shop.models import Old; o = Old.objects.get(pk=1); o.logs['stdout'].insert(0, 'no time'); o.save()"
    )
    project.manage(*command, status=1)
    third = [1738317601.0, 20, "no time", None]
    assert json.loads(project.run(read).stdout)[0] == [*first, third]
    project.manage("joblog", "backfill", "shop.Old", "nothing", status=2)


def test_two_lists_of_one_column_and_two_tenants_are_apart(tmp_path: Path) -> None:
    """`--path stderr` after `--path stdout`, and the job of the same id in another tenant's tables."""
    project = make(tmp_path)
    project.settings(
        """
        import os
        TIME_ZONE = "UTC"
        JOBLOG_ROUTER["NAMESPACE"] = lambda: os.environ.get("TENANT", "a")
        """
    )
    project.manage("migrate", "--database=joblog", "--verbosity=0")
    lists = "{'stdout': ['out 1', 'out 2'], 'stderr': ['err 1', 'err 2']}"
    project.run(f"from shop.models import Old; Old.objects.create(pk=7, logs={lists})")
    for _ in range(2):
        for path in ("stdout", "stderr"):
            project.manage("joblog", "backfill", "shop.Old", "logs", "--path", path)
    assert sorted(project.rows()) == ["err 1", "err 2", "out 1", "out 2"]
    project.run(
        """
        import os
        os.environ["TENANT"] = "b"
        from shop.models import Old
        Old.objects.update(logs={"stdout": ["of b"]})
        from joblog_router.contrib.django.backfill import backfill
        assert backfill("shop.Old", "logs", path="stdout").lines == 1
        """
    )
    assert max(project.rows("namespace, message")) == ("b", "of b")
    assert len(project.rows()) == 5
