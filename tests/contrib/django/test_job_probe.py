"""What the doctor reads from a job's own row, and from the settings that say which row that is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.db import connections
from django.test import override_settings

from joblog_router import Entry
from joblog_router.contrib.django import diagnosis
from joblog_router.contrib.django.diagnosis import JobProbe
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.contrib.django.sink import DjangoSink
from joblog_router.exceptions import ConfigurationError
from tests.postgres import PostgresServer

STATUS = {"status": "username"}


def by_hook(row: Any) -> dict[str, Any]:
    """A fact of the project's own."""
    return {"total": len(row.username)}


async def test_a_row_is_found_by_its_id_and_its_facts_where_the_settings_say(transactional_db: None) -> None:
    """A field by path, a status by meaning, a hook by its path, which beats all; an id that cannot be is none."""
    user = await User.objects.acreate(username="packing")
    await sync_to_async(connections.close_all)()  # the loop's thread would keep it after the test
    probe = JobProbe("auth.User", fields=STATUS, statuses={"packing": "running"}, hook=f"{__name__}.by_hook")
    facts = (await probe.probe(str(user.pk))).facts
    assert (facts["exists"], facts["status"], facts["phase"], facts["total"]) == (True, "packing", "running", 7)
    assert facts["refuses_writes"] == ""
    for none in (str(user.pk + 1), "no number", ""):
        assert (await probe.probe(none)).facts == {"exists": False, "model": "auth.User"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"model": "auth.User", "fields": {"sum": "x"}},
            r"DOCTOR\['JOB'\]\['fields'\] has no fact 'sum'. Known",
        ),
        (
            {"model": "auth.User", "fields": {"status": "usrname"}},
            r"DOCTOR\['JOB'\]\['fields'\]\['status'\]: auth.User has no field 'usrname'. Did you mean 'username'",
        ),
        ({"model": "auth.User", "fields": {"status": "nothing.at.all"}}, "auth.User has no field 'nothing'"),
        ({"model": "auth.User", "fields": {"status": 3}}, "must be the name of a field or a dotted path, not 3"),
        ({"model": "auth.User", "statuses": {"BUSY": "runing"}}, "must be one of created, queued, running"),
        ({"model": "auth.Nobody"}, "there is no model 'auth.Nobody'"),
        ({"model": "nonsense"}, "there is no model 'nonsense'"),
        ({}, r"JOBLOG_ROUTER\['JOB_MODEL'\] must name the model of the jobs"),
    ],
)
def test_a_wrong_setting_is_told_with_its_name(options: dict[str, Any], words: str) -> None:
    """When the doctor is set up, not when it is needed."""
    with pytest.raises(ConfigurationError, match=words):
        JobProbe(**options)


@pytest.mark.parametrize("path", ["username.x", "pk", "is_anonymous", "get_username", "groups", "id"])
def test_what_a_row_may_have_is_no_mistake(path: str) -> None:
    """Properties, methods, relations and what lies in a field count, too."""
    JobProbe("auth.User", fields={"status": path})


def test_active_jobs_are_those_that_have_not_ended(transactional_db: None) -> None:
    """The newest first, by what their statuses mean; none where no field says how a job is."""
    for name in ("STARTED", "SUCCESS", "PENDING", "who knows"):
        User.objects.create(username=name)
    jobs = {"model": "auth.User", "fields": STATUS}
    with override_settings(JOBLOG_ROUTER={"DOCTOR": {"JOB": jobs}}):
        found = diagnosis.active_jobs()
    assert [User.objects.get(pk=pk).username for pk in found] == ["PENDING", "STARTED"]
    with override_settings(JOBLOG_ROUTER={"JOB_MODEL": "auth.User"}):
        assert diagnosis.active_jobs() == []


def test_what_other_settings_say_need_not_be_said_twice() -> None:
    """The model of the jobs, and how streams are named."""
    given = {
        "JOB_MODEL": "auth.User",
        "NATS": {"patterns": ["j-{job_id}"]},
        "DOCTOR": {"NATS": {"servers": "nats://x"}},
    }
    with override_settings(JOBLOG_ROUTER=given):
        found = diagnosis.configuration()
    assert found.JOB is True
    assert found.NATS == {"servers": "nats://x", "patterns": ["j-{job_id}"]}


@pytest.mark.postgresql
@pytest.mark.django_db(databases=["default", "joblog"], transaction=True)
async def test_a_postgresql_that_takes_no_writes_is_told(
    log_on_postgresql: str, postgres: PostgresServer, make_entry: Callable[..., Entry]
) -> None:
    """Transactions are read-only by the server's own settings. The table of lines stands for that of jobs."""
    sink = DjangoSink(tests="database")
    await sync_to_async(sink.write)([make_entry()])
    await sync_to_async(sink.close)()
    row = str((await JobLogEntry.objects.aget()).pk)
    probe = JobProbe(JobLogEntry, fields={"status": "message"})
    assert (await probe.probe(row)).facts["refuses_writes"] == ""
    postgres.execute(f'ALTER DATABASE "{log_on_postgresql}" SET default_transaction_read_only = on')
    try:
        facts = (await probe.probe(row)).facts
    finally:
        postgres.execute(f'ALTER DATABASE "{log_on_postgresql}" RESET default_transaction_read_only')
    assert facts["refuses_writes"] == "transactions of 'joblog' are read-only"


@pytest.mark.sqlite
async def test_a_sqlite_file_that_cannot_be_written_is_told(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stands in for a full disk and for a file of another user's: tests have no disk to fill, and may run as root."""
    row = str((await User.objects.acreate(username="STARTED")).pk)
    probe = JobProbe("auth.User", fields=STATUS)
    assert (await probe.probe(row)).facts["refuses_writes"] == ""
    usage = shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(diagnosis.shutil, "disk_usage", lambda path: usage._replace(free=4096))
        assert (await probe.probe(row)).facts["refuses_writes"].endswith(" is full")
        patch.setattr(diagnosis.os, "access", lambda path, mode: False)
        assert "is not writable for this user" in (await probe.probe(row)).facts["refuses_writes"]

        def away(path: object) -> None:
            raise OSError("away")

        patch.undo()
        patch.setattr(diagnosis.shutil, "disk_usage", away)
        assert (await probe.probe(row)).facts["refuses_writes"] == ""


def test_a_verdict_for_a_page_is_kept_for_a_while_and_not_for_ever(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that is loaded again asks no server again; a thousand jobs are kept; what cannot be had is no error."""
    user = User.objects.create(username="STARTED")
    with override_settings(JOBLOG_ROUTER={"DOCTOR": {"JOB": {"model": "auth.User", "fields": STATUS}}}):
        first = diagnosis.panel(str(user.pk))
        assert first is not None
        assert diagnosis.panel(str(user.pk)) is first
        for number in range(2 * diagnosis._MAX_PANELS):
            diagnosis._panels["other", str(number)] = (0.0, None)
        diagnosis.panel(str(user.pk + 1))
        assert len(diagnosis._panels) == diagnosis._MAX_PANELS
    with override_settings(JOBLOG_ROUTER={"DOCTOR": {"PATIENCE": "much"}}):
        assert diagnosis.panel("another") is None
