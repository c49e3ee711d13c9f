"""The periodic look: what has changed is written into the job's own log, once."""

from __future__ import annotations

import logging

import pytest

from joblog_router import JobLogHandler, flush
from joblog_router.context import use_namespace
from joblog_router.contrib.django import diagnosis
from joblog_router.doctor import configuration, tell_changes
from joblog_router.doctor.configuration import Configuration
from joblog_router.sinks import JsonLinesSink
from joblog_router.sinks.store import Selection
from tests.faults.laboratory import Laboratory
from tests.faults.test_queue import settle


async def test_a_changed_verdict_is_told_once(lab: Laboratory) -> None:
    """A finding is a WARNING with cause and advice; the same again is none; that it is over is a line."""
    handler = JobLogHandler(sink="jsonl", options={"directory": str(lab.directory)}, spool=None)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    reader = JsonLinesSink(lab.directory)
    given = Configuration.of(lab.configuration)

    async def told() -> list[tuple[int, str]]:
        await tell_changes([lab.job_id], reader, given)
        assert flush(5)
        lines = reader.newest(lab.job_id, Selection(audience="staff")).entries
        assert all(line.fields["event"] == "doctor.verdict" and line.fields["advice"] for line in lines)
        return [(line.level, line.fields["cause"]) for line in lines]

    await lab.row(total=7)
    await lab.queue(7)
    await settle()
    assert await told() == [(30, "nobody_polls")]
    assert await told() == [(30, "nobody_polls")]
    await lab.work(7)
    await lab.row(total=7, done=7, status="SUCCESS")
    assert await told() == [(30, "nobody_polls"), (20, "finished")]
    assert await told() == [(30, "nobody_polls"), (20, "finished")]
    handler.close()


async def test_what_is_told_is_for_staff(lab: Laboratory) -> None:
    """A verdict quotes the log: the text of a line for staff must not come to everybody by it."""
    handler = JobLogHandler(sink="jsonl", options={"directory": str(lab.directory)}, spool=None)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    reader = JsonLinesSink(lab.directory)
    await lab.row(status="FAILURE")
    lab.log("card of Mrs Miller was refused", level=40, audience="staff")
    await tell_changes([lab.job_id], reader, Configuration.of(lab.configuration))
    assert flush(5)
    told = reader.newest(lab.job_id, Selection(logger="joblog_router.doctor", audience="staff")).entries
    assert [line.fields["cause"] for line in told] == ["failed"]
    assert "Mrs Miller" in told[0].message
    assert not reader.newest(lab.job_id).entries
    handler.close()


async def test_a_verdict_is_told_in_the_job_s_own_namespace(lab: Laboratory) -> None:
    """Whichever namespace is in force where it is looked from: once there, and in no other tenant's job."""
    handler = JobLogHandler(sink="jsonl", options={"directory": str(lab.directory)}, spool=None)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    reader = JsonLinesSink(lab.directory)
    await lab.row(status="FAILURE")
    lab.log("tenant-b's own failure", level=40, namespace="tenant-b")
    use_namespace("tenant-a")
    try:
        for _ in range(2):
            await tell_changes([lab.job_id], reader, Configuration.of(lab.configuration), "tenant-b")
            assert flush(5)
    finally:
        use_namespace("")
    told = Selection(logger="joblog_router.doctor", audience="staff")
    lines = reader.newest(lab.job_id, told, namespace="tenant-b").entries
    assert ["tenant-b's own failure" in line.message for line in lines] == [True]
    for other in ("tenant-a", ""):
        assert not reader.newest(lab.job_id, told, namespace=other).entries
    handler.close()


async def test_the_page_is_given_a_verdict_that_is_kept_for_a_while(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As plain data; whoever asks again at once is given the same, without servers being asked."""
    monkeypatch.setattr(configuration, "_default", lambda: Configuration.of(lab.configuration))
    monkeypatch.setenv("JOBLOG_STORE", f"jsonl:{lab.directory}")
    await lab.row(status="FAILURE")
    lab.log("failed", level=40)
    found = diagnosis.panel(lab.job_id)
    assert found is not None
    assert found["cause"] == "failed"
    assert "probes" not in found
    assert diagnosis.panel(lab.job_id) is found
