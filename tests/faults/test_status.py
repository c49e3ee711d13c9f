"""`joblog status`: whatever is known of a job is on one screen, and what cannot be known is said there, too."""

from __future__ import annotations

import asyncio
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from joblog_router._commands.console import Console
from joblog_router.cli import main
from joblog_router.doctor import configuration
from joblog_router.doctor.probing import ProbeResult
from tests.contrib.celery.valkey import ValkeyServer
from tests.faults.laboratory import Job, Laboratory
from tests.faults.test_elsewhere import Api, api
from tests.faults.test_state import with_celery, with_redis

__all__ = ["api"]  # a fixture


class Stock:
    """A probe of the project's own."""

    name = "stock"

    async def probe(self, job_id: str) -> ProbeResult:
        """Two facts."""
        return ProbeResult(self.name, {"boxes": 3, "labels": 9})


class Silent:
    """Another, which fails."""

    name = "silent"

    async def probe(self, job_id: str) -> ProbeResult:
        """Nothing."""
        raise LookupError("no such shelf")


def status(*arguments: str) -> tuple[int, str, str]:
    """Run the command; exit status, output, errors."""
    out, err = io.StringIO(), io.StringIO()
    return main(["status", *arguments], "joblog", Console(out, err)), out.getvalue(), err.getvalue()


async def screen_of(lab: Laboratory, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """What it prints of the laboratory's job."""
    monkeypatch.setattr(configuration, "_default", lambda: configuration.Configuration.of(lab.configuration))
    given = (lab.job_id, "--store", f"jsonl:{lab.directory}", *arguments)
    code, out, err = await asyncio.to_thread(status, *given)
    assert (code in {0, 1}, err) == (True, "")
    return out


async def test_state_elsewhere_is_on_the_screen(
    lab: Laboratory, api: Api, valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters in Redis, Celery's queue, the REST interface, the tasks endpoint, workers, probes of the project."""
    stages = [
        {"key": "scan", "total": 10, "remaining": 4, "status": "BUSY"},
        {"name": "pack", "progress": 0.5},
        {"total": True, "processed": "many"},
    ]
    api.answer = (200, json.dumps({"status": "RUNNING", "progress": 0.25, "stages": stages, "tasks": [1, 2]}))
    lab.configuration["REST"] = {"url": f"{api.url}/jobs/{{job_id}}/"}
    lab.configuration["TASKS"] = {"url": f"{api.url}/{{job_id}}/tasks/", "peek": f"{api.url}/{{job_id}}/tasks/?peek=1"}
    lab.configuration["PROBES"] = {"stock": Stock, "silent": Silent}
    app = with_celery(lab, f"redis://127.0.0.1:{valkey.port}/5")
    app.send_task("save", kwargs={"job_id": lab.job_id})
    lab.log("hello", age=3, origin="remote:0123456789abcdef:cam-3")
    lab.event("nats.snapshot", "numbers", age=2, acknowledged=4000, source="monitor", workers=2, rate=12.5)
    with with_redis(lab, valkey):
        await lab.row(total=9, done=3)
        out = await screen_of(lab, monkeypatch)
    app.close()
    assert "            scan         [############........]  60.0 %  6 of 10  BUSY" in out
    assert "            pack         [##########..........]  50.0 %" in out
    assert "            stage        [....................]   0.0 %" in out
    assert "  nats      no stream" in out
    assert "  redis     process 2, results 3, total 9" in out
    assert "  celery    0 workers answer, 0 tasks in work (0 of this job), waiting: celery 1" in out
    assert f"  rest      RUNNING, progress 0.25 ({api.url}/jobs/{lab.job_id}/)" in out
    assert f"  tasks     2 would be given ({api.url}/{lab.job_id}/tasks/" in out
    assert "  workers   2 seen, last sign " in out
    assert ", 12.5 acknowledged/s (NATS monitor)" in out
    assert "  workers   cam-3: last line " in out
    assert "  stock     boxes 3, labels 9" in out
    assert "  silent    not known: LookupError: no such shelf" in out


async def test_a_tasks_endpoint_without_a_peek_is_said_not_to_be_asked(
    lab: Laboratory, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no request goes there. A setting of the project's stands there though there is no stream."""
    lab.configuration["TASKS"] = {"url": f"{api.url}/{{job_id}}/tasks/"}
    lab.configuration["SETTINGS"] = {"ack_wait": {"code": 12}}
    await lab.row(total=9, done=3)
    out = await screen_of(lab, monkeypatch)
    assert f"  tasks     cannot be peeked at ({api.url}/{lab.job_id}/tasks/): it reserves what it gives" in out
    assert "ack_wait 12 s" in out
    assert not api.asked


async def test_what_workers_do_while_it_looks_is_told(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken, sent back: the figures of the time between its two looks, which are short enough for a page."""
    await lab.row(total=900, age=5)
    await lab.queue(900)
    lab.worker("nak")
    await lab.until(num_redelivered=1)
    out = await screen_of(lab, monkeypatch)
    assert "            while watched (0.3 s): " in out
    assert " sent back" in out


async def test_a_job_that_has_ended_says_since_when(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """In words, and as JSON with what each probe said."""
    await lab.row(status="SUCCESS", total=7, done=7, finished_at=timezone.now() - timedelta(minutes=5))
    assert "(7 of 7) ended 5 min 0 s ago" in await screen_of(lab, monkeypatch)
    answer = json.loads(await screen_of(lab, monkeypatch, "--json"))
    assert (answer["job_id"], answer["cause"], answer["probes"]["job"]["facts"]["done"]) == (lab.job_id, "finished", 7)


async def test_all_active_is_every_job_that_has_not_ended(
    lab: Laboratory, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the model of the project's jobs and what its statuses mean; a job that is named, too, is there once."""
    settings.JOBLOG_ROUTER = {"DOCTOR": {"JOB": {"model": Job, "statuses": {"BUSY": "running"}}}}
    await lab.row(status="BUSY")
    one = lab.job_id
    lab.job_id = "ended"
    await lab.row(status="SUCCESS")
    lab.job_id = one
    out = await screen_of(lab, monkeypatch, "--all-active")
    assert out.count(f"job {one}: ") == 1
    assert "job ended" not in out
    await Job.objects.all().adelete()
    assert await asyncio.to_thread(status, "--all-active") == (0, "no active jobs\n", "")


def test_without_a_job_it_says_what_to_give() -> None:
    """A usage error, no traceback."""
    code, out, err = status()
    assert (code, out) == (2, "")
    assert "name a job, or say --all-active" in err
