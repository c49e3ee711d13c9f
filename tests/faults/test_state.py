"""Faults of what a job keeps in Valkey, of a real Celery worker, and of the log: told apart by the doctor."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis
from celery import Celery

from joblog_router.doctor.probing import ProbeResult, ask
from tests.contrib.celery.valkey import ValkeyServer
from tests.contrib.celery.worker import Worker
from tests.faults.laboratory import Laboratory
from tests.faults.test_queue import is_cause, settle

KEYS = {
    "process": "job:{job_id}:pending_images:process",
    "results": "job:{job_id}:pending_images:results",
    "total": "job:{job_id}:pending_images_total",
}


def with_redis(lab: Laboratory, server: ValkeyServer) -> redis.Redis:
    """The job's counters in Valkey, and the setting that names them."""
    lab.configuration["REDIS"] = {"url": f"redis://127.0.0.1:{server.port}/0", "keys": KEYS, "expected": ["total"]}
    client = redis.Redis(port=server.port)
    client.sadd(KEYS["process"].format(job_id=lab.job_id), "a", "b")
    client.sadd(KEYS["results"].format(job_id=lab.job_id), "a", "b", "c")
    client.set(KEYS["total"].format(job_id=lab.job_id), 9)
    return client


def with_celery(lab: Laboratory, broker: str) -> Celery:
    """A Celery application of the project's, and the setting that names it."""
    app = Celery("client", broker=broker, set_as_current=False)
    lab.configuration["CELERY"] = {"app": app, "queues": ["celery"]}
    return app


async def test_redis_lost(lab: Laboratory, valkey: ValkeyServer) -> None:
    """Somebody flushed Redis under the job."""
    with with_redis(lab, valkey) as client:
        await lab.row(total=9, done=3)
        await lab.queue(9)
        assert (await lab.examine()).diagnosis.cause != "redis_lost"
        client.delete(*(pattern.format(job_id=lab.job_id) for pattern in KEYS.values()))
        is_cause(await lab.examine(), "redis_lost")


async def test_redis_unreachable(lab: Laboratory, own_valkey: ValkeyServer) -> None:
    """Redis is down: its state is not said to be missing."""
    with_redis(lab, own_valkey).close()
    await lab.row(total=9, done=3)
    await lab.queue(9)
    own_valkey.kill()
    verdict = await lab.examine()
    is_cause(verdict, "redis_unreachable")
    assert "not lost" in verdict.diagnosis.sentence


async def test_redis_frozen(lab: Laboratory, own_valkey: ValkeyServer) -> None:
    """Redis takes connections and answers nothing."""
    with_redis(lab, own_valkey).close()
    await lab.row(total=9, done=3)
    await lab.queue(9)
    own_valkey.pause()
    is_cause(await lab.examine(), "redis_unreachable")


async def test_counters_are_read(lab: Laboratory, valkey: ValkeyServer) -> None:
    """Sizes of sets and values of counters, without what is in them."""
    with with_redis(lab, valkey):
        await lab.row(total=9)
        result = (await lab.examine()).results["redis"]
    assert result.facts["values"] == {"process": 2, "results": 3, "total": 9}
    assert not result.error


async def test_celery_dead(lab: Laboratory, valkey: ValkeyServer) -> None:
    """Results are queued for Celery, and no worker runs."""
    app = with_celery(lab, f"redis://127.0.0.1:{valkey.port}/3")
    await lab.row(total=9, done=3)
    await lab.queue(9)
    await lab.fetch(4)
    for _ in range(4):
        app.send_task("save", kwargs={"job_id": lab.job_id})
    verdict = await lab.examine()
    app.close()
    is_cause(verdict, "celery_dead", certainly=False)
    assert "4 tasks wait" in verdict.diagnosis.sentence


@pytest.mark.parametrize(
    ("broker", "words"),
    [
        ("mongodb://127.0.0.1/", "ModuleNotFoundError: No module named 'pymongo'"),
        ("nonsense://127.0.0.1/", "KeyError: 'No such transport: nonsense'"),
    ],
)
async def test_a_broker_that_the_doctor_cannot_ask_is_not_said_to_be_away(
    lab: Laboratory, broker: str, words: str
) -> None:
    """A package is missing where the doctor runs: that says nothing about the broker."""
    with_celery(lab, broker)
    await lab.row(total=9, done=3)
    verdict = await lab.examine()
    assert verdict.diagnosis.cause != "broker_unreachable"
    assert verdict.failures["celery"] == f"the doctor cannot ask the broker: {words}"


async def test_broker_unreachable(lab: Laboratory, own_valkey: ValkeyServer) -> None:
    """The broker is down."""
    app = with_celery(lab, f"redis://127.0.0.1:{own_valkey.port}/0")
    await lab.row(total=9)
    await lab.queue(9)
    own_valkey.kill()
    verdict = await lab.examine()
    app.close()
    is_cause(verdict, "broker_unreachable")


async def test_celery_takes_from_another_queue_and_a_task_hangs(
    lab: Laboratory, tmp_path: Path, valkey: ValkeyServer
) -> None:
    """A real worker: first it takes from another queue than tasks are sent to; then one of its tasks says nothing."""
    with Worker(valkey.database(), tmp_path, "-c", "1", "-Q", "other") as worker:
        lab.configuration["CELERY"] = {"app": worker.client, "queues": ["celery"], "timeout": 0.5}
        await lab.row(total=9, done=3)
        lab.log("started")
        worker.send("work", job_id=lab.job_id)
        await settle()
        verdict = await lab.examine()
        is_cause(verdict, "celery_wrong_queue", certainly=False)
        assert "they take from other" in verdict.diagnosis.sentence
        worker.client.control.purge()
        worker.client.send_task("worker_app.hard_limited", kwargs={"job_id": lab.job_id}, queue="other")
        lab.configuration["PATIENCE"] = 0.05
        async with asyncio.timeout(10):
            while (verdict := await lab.examine()).diagnosis.cause == "unknown":
                await asyncio.sleep(0.1)  # until it is at work
    is_cause(verdict, "celery_task_silent", certainly=False)
    assert "worker_app.hard_limited is at work since" in verdict.diagnosis.sentence


async def test_never_started_without_a_worker(lab: Laboratory, valkey: ValkeyServer) -> None:
    """The job waits in the broker for a worker that is not there."""
    app = with_celery(lab, f"redis://127.0.0.1:{valkey.port}/4")
    await lab.row(status="PENDING", started_at=None)
    app.send_task("run", kwargs={"job_id": lab.job_id})
    verdict = await lab.examine()
    app.close()
    is_cause(verdict, "celery_dead", certainly=False)


async def test_never_queued_at_all(lab: Laboratory, tmp_path: Path) -> None:
    """Created and forgotten."""
    await lab.row(status="CREATED", started_at=None)
    is_cause(await lab.examine(), "never_queued", certainly=False)


async def test_a_failed_job_tells_its_error(lab: Laboratory) -> None:
    """The verdict quotes the log."""
    await lab.row(status="FAILURE", total=9)
    lab.log("failed", level=40, exception="Traceback\nValueError: no pictures")
    verdict = await lab.examine()
    is_cause(verdict, "failed")
    assert "ValueError: no pictures" in verdict.diagnosis.sentence


async def test_no_such_job(lab: Laboratory) -> None:
    """Neither row nor line nor stream."""
    is_cause(await lab.examine(), "no_such_job")


async def test_probes_that_fail_or_hang_are_lines_of_the_answer(lab: Laboratory) -> None:
    """A project's own probes: one raises, one hangs, one works; the verdict is the same."""

    class Raising:
        name = "raising"

        async def probe(self, job_id: str) -> ProbeResult:
            raise LookupError("no such table")

    class Hanging:
        name = "hanging"

        async def probe(self, job_id: str) -> ProbeResult:
            await asyncio.Event().wait()
            raise AssertionError

    class Working:
        name = "working"

        async def probe(self, job_id: str) -> ProbeResult:
            return ProbeResult(self.name, {"tasks": 3})

    results = await ask([Raising(), Hanging(), Working()], "1", 0.1)
    assert results["raising"].error == "LookupError: no such table"
    assert results["hanging"].error == "no answer within 0.1 s"
    assert results["working"].facts == {"tasks": 3}
    lab.configuration["PROBES"] = {"one": Raising}
    await lab.row(total=7)
    await lab.queue(7)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls")
    assert verdict.failures == {"one": "LookupError: no such table"}
