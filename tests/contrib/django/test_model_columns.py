"""The sink "model" fills the columns that a project has, of whatever type and width, and says what it cannot fill."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contrib.django.project import MODELS, Project

TABLES = """
class Wide(models.Model):
    job = models.CharField(max_length=20)
    level = models.IntegerField()
    at = models.FloatField()
    message = models.CharField(max_length=12)
    exception = models.TextField()
    extra = models.JSONField()

class Counted(models.Model):
    job = models.UUIDField()
    micros = models.BigIntegerField()
    text = models.TextField()

class Bound(models.Model):
    job = models.ForeignKey(Job, on_delete=models.CASCADE)
    at = models.DateTimeField()
    message = models.TextField(unique=True)
    context = models.JSONField(default=dict)
"""

ENTRIES = """
import time
from itertools import count
import pytest
from django.db import connections
from joblog_router import Entry, JobLogError
from joblog_router.contrib.django import model_parking
from joblog_router.contrib.django.model_store import ModelStore
from joblog_router.exceptions import ConfigurationError, EntryRefusedError, SinkUnavailableError
from shop.models import Bound, Counted, Job, Wide
number = count(1)
def entry(job="7", message="packed", **more):
    n = next(number)
    values = {"created": 1_700_000_000.25 + n, "level": 30, "logger": "shop", "exception": None, "fields": {}}
    place = {"path": "w.py", "line": 3, "origin": "o", "seq": n, "n": n}
    return Entry(job_id=str(job), message=message, **{**values, **place, **more})
"""
BOUND = 'ModelStore("shop.Bound", {"job": "job_id", "at": "created", "message": "message", "context": "context"})'


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """With such tables, and LOGGING without a job handler."""
    project = Project(tmp_path)
    (tmp_path / "shop" / "models.py").write_text(MODELS + TABLES)
    project.settings("LOGGING = {'version': 1, 'disable_existing_loggers': False}")
    project.migrate()
    return project


def test_a_text_that_is_too_long_is_cut_and_none_is_nothing(project: Project) -> None:
    """Times as seconds, levels as numbers, fields as JSON; a column that must not be NULL gets an empty text."""
    project.run(
        ENTRIES
        + """
own = {name: name for name in ("level", "message", "exception")}
store = ModelStore("shop.Wide", {"job": "job_id", "at": "created", "extra": "fields", **own})
assert store.not_stored([]) == [] and not store.lacks_job("7")
store.write([entry(message="a line that is longer than that", fields={"step": 1}), entry(exception="Traceback")])
first, second = Wide.objects.order_by("pk")
assert (first.message, first.exception) == ("a line that…", ""), first.message
assert (first.extra, first.level) == ({"step": 1}, 30)
assert (first.at, second.exception) == (1_700_000_001.25, "Traceback")
assert [one.created for one in store.newest("7").entries] == [1_700_000_001.25, 1_700_000_002.25]
"""
    )


def test_ids_and_times_take_the_columns_type(project: Project) -> None:
    """UUIDs, microseconds; an id that can be none is refused and not shown. Without a place for it, one line is two."""
    project.run(
        ENTRIES
        + """
import uuid
store = ModelStore("shop.Counted", {"job": "job_id", "micros": "created", "text": "text"})
job = uuid.uuid4()
store.write([entry(job, exception="Traceback")])
row = Counted.objects.get()
assert (row.job, row.micros, row.text) == (job, 1_700_000_001_250_000, "packed\\nTraceback")
(one,) = store.newest(str(job)).entries
assert one.created == 1_700_000_001.25
with pytest.raises(EntryRefusedError, match="job 'seven' is no id for shop.Counted.job"):
    store.write([entry("seven")])
assert store.newest("seven").entries == []
"""
    )


@pytest.mark.parametrize("use_tz", [True, False])
def test_times_are_dates_with_and_without_a_zone(project: Project, use_tz: bool) -> None:
    """USE_TZ = False makes them naive, in the project's own zone; read again they are the same moments."""
    project.settings(
        f"LOGGING = {{'version': 1, 'disable_existing_loggers': False}}\nUSE_TZ = {use_tz}\nTIME_ZONE = 'Asia/Kolkata'"
    )
    project.run(
        ENTRIES
        + f"""
store = {BOUND}
job = Job.objects.create(name="x")
store.write([entry(job.pk, "one", exception="Traceback", fields={{"step": 2}})])
(one,) = store.newest(str(job.pk)).entries
assert (one.created, one.level, one.exception, one.fields) == (1_700_000_001.25, 30, "Traceback", {{"step": 2}}), one
assert store.newest(str(job.pk)).entries[0].logger == "shop"
"""
    )


def test_places_that_are_none_and_wishes_that_cannot_be_met_are_errors_with_words(project: Project) -> None:
    """Cursors of another store, `--keep`, a model or a field that is not there."""
    project.run(
        ENTRIES
        + f"""
store = {BOUND}
for bad in ("x", "", store.newest("1").cursor[:-4], "AAAA"):
    if bad:
        with pytest.raises(ValueError, match="is not a cursor of this store"):
            store.after("1", bad)
    with pytest.raises(ValueError, match="is not a cursor of this store"):
        store.before("1", bad)
with pytest.raises(JobLogError, match="leave --keep out"):
    store.prune(time.time(), keep=3)
assert store.prune(time.time(), dry_run=True) == 0
for model, fields in (("shop.Nothing", {{}}), ("shop.Bound", {{"nowhere": "logger"}})):
    wrong = ModelStore(model, {{"job": "job_id", "at": "created", "message": "message", **fields}}, database="default")
    with pytest.raises(SinkUnavailableError, match="sink 'model': .*") as caught:
        wrong.write([entry()])
    assert caught.value.advice == "correct the handler's options"
"""
    )


def test_a_database_that_is_away_is_said_to_be(project: Project) -> None:
    """By reads of recovery and by writes; the rows go on where they were as soon as it is back."""
    project.run(
        ENTRIES
        + f"""
store = {BOUND}
job = Job.objects.create(name="x")
store.write([entry(job.pk, "one")])
with connections["default"].cursor() as cursor:
    cursor.execute("ALTER TABLE shop_bound RENAME TO elsewhere")
    cursor.execute("ALTER TABLE shop_job RENAME TO no_jobs")
for action in (lambda: store.write([entry(job.pk, "two")]), lambda: store.not_stored([entry(job.pk, "two")]),
               lambda: store.lacks_job("99")):
    with pytest.raises(SinkUnavailableError, match="shop.Bound"):
        action()
with connections["default"].cursor() as cursor:
    cursor.execute("ALTER TABLE elsewhere RENAME TO shop_bound")
    cursor.execute("ALTER TABLE no_jobs RENAME TO shop_job")
assert not store.lacks_job(str(job.pk)) and store.lacks_job("99") and store.lacks_job("no id")
store.write([entry(job.pk, "two")])
assert [one.message for one in store.newest(str(job.pk)).entries] == ["one", "two"]
from django.db import IntegrityError
with pytest.raises(IntegrityError):  # of the project's own making: the router drops that line, and says why
    store.write([entry(job.pk, "two")])
"""
    )


def test_more_jobs_than_are_remembered_are_looked_up_again(project: Project) -> None:
    """What a job's row has said is kept for so many; ids that cannot be are among them and end nothing."""
    project.run(
        ENTRIES
        + f"""
model_parking._KNOWN_JOBS = 5
store = {BOUND}
jobs = [Job.objects.create(name=str(n)) for n in range(12)]
for start in (0, 4, 8):
    store.write([entry(job.pk, f"line of {{job.pk}}") for job in jobs[start:start + 4]] + [entry("no id", "x")])
assert len(store._jobs._seen) <= 8, store._jobs._seen
assert Bound.objects.count() == 12 and store.parked == 3
assert all(len(store.newest(str(job.pk)).entries) == 1 for job in jobs)
"""
    )


def test_in_a_test_run_lines_stay_in_memory(project: Project) -> None:
    """Writing, reading and what recovery asks, without a table."""
    project.finish(
        project.start(
            "-c",
            "import joblog_router.pytest_plugin, django\ndjango.setup()\n"
            + ENTRIES
            + f"""
store = {BOUND}
assert store.is_in_memory() and not store.lacks_job("99")
lines = [entry("99", "kept")]
store.write(lines)
assert [one.message for one in store.newest("99").entries] == ["kept"]
assert store.not_stored(lines) == lines and Bound.objects.count() == 0
""",
        )
    )
