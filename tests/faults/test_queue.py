"""Faults of the queue, made on a real nats-server: the doctor names each, and no other with certainty."""

from __future__ import annotations

import asyncio
import re

import pytest
from nats.js.api import StorageType, StreamConfig

from joblog_router.doctor import Verdict
from tests.contrib.nats.conftest import server_version
from tests.faults.laboratory import PATIENCE, Laboratory
from tests.servers import NatsServer

LIMIT = 10.0  # of a loaded machine; alone all are below three seconds
RUNS = [0, 1, *(pytest.param(run, marks=pytest.mark.soak) for run in range(2, 100))]


async def settle() -> None:
    """Until the doctor's patience is over: nothing tells that nothing happens."""
    await asyncio.sleep(PATIENCE + 0.15)


def is_cause(verdict: Verdict, cause: str, certainly: bool = True) -> None:
    """The verdict, within three seconds."""
    assert verdict.diagnosis.cause == cause, verdict.as_dict()
    assert verdict.is_finding
    if certainly:
        assert verdict.diagnosis.sure == "certain", verdict.diagnosis
    assert verdict.took < LIMIT
    assert verdict.diagnosis.evidence
    assert verdict.diagnosis.advice


async def test_never_queued(lab: Laboratory) -> None:
    """The job is started, and there is no stream."""
    await lab.row(total=10)
    lab.log("collecting pictures")
    is_cause(await lab.examine(), "never_queued", certainly=False)


async def test_nothing_published(lab: Laboratory) -> None:
    """The stream was made and stayed empty."""
    await lab.row(total=10)
    await lab.queue(0)
    await settle()
    is_cause(await lab.examine(), "never_queued")


async def test_nobody_polls(lab: Laboratory) -> None:
    """Tasks wait, no worker ever came."""
    await lab.row(total=7)
    await lab.queue(7)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls")
    assert verdict.diagnosis.sentence.startswith("No worker has polled yet: 7 tasks waiting since ")


async def test_workers_went_away(lab: Laboratory) -> None:
    """A worker was there and is gone; what it took has run out."""
    await lab.row(total=7)
    await lab.queue(7, ack_wait=0.3)
    await lab.fetch(2)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls", certainly=False)
    assert "2 were taken and never answered" in verdict.diagnosis.sentence


async def test_filter_mismatch(lab: Laboratory) -> None:
    """The consumer takes another subject than the tasks have; a worker polls in vain."""
    await lab.row(total=4)
    await lab.queue(4, subject=f"job.{lab.job_id}.pictures")
    lab.worker()
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "filter_mismatch")
    assert f"job.{lab.job_id}.pictures" in verdict.diagnosis.sentence


async def test_paused(lab: Laboratory) -> None:
    """Somebody paused the consumer."""
    if server_version(lab.client) < (2, 11):  # nothing can be paused there
        return
    await lab.row(total=4)
    await lab.queue(4)
    reply = await lab.client.request(
        f"$JS.API.CONSUMER.PAUSE.{lab.stream}.{lab.consumer}", b'{"pause_until": "2100-01-01T00:00:00Z"}'
    )
    assert b'"paused":true' in reply.data.replace(b" ", b"")
    lab.worker()
    await settle()
    is_cause(await lab.examine(), "consumer_paused")


async def test_wrong_stream(lab: Laboratory) -> None:
    """Workers poll a consumer that does not exist."""
    await lab.row(total=4)
    await lab.queue(4)
    await settle()

    async def poll() -> None:
        while True:
            await lab.client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{lab.stream}.job-{lab.job_id}-workers", b"1")
            await asyncio.sleep(0.05)

    polling = asyncio.create_task(poll())
    try:
        verdict = await lab.examine()
    finally:
        polling.cancel()
    is_cause(verdict, "wrong_stream")


async def test_crash_loop(lab: Laboratory) -> None:
    """Workers take tasks and die before they acknowledge."""
    await lab.row(total=6)
    await lab.queue(6, ack_wait=0.3, max_deliver=20)
    lab.worker("crash", batch=3)
    await lab.until(num_redelivered=3)
    verdict = await lab.examine()
    is_cause(verdict, "crash_loop", certainly=False)
    assert " of 20, none was ever acknowledged" in verdict.diagnosis.sentence


async def test_nak_loop(lab: Laboratory) -> None:
    """Workers refuse every task."""
    await lab.row(total=6)
    await lab.queue(6, max_deliver=-1)
    lab.worker("nak", batch=3)
    await lab.until(num_redelivered=3)
    verdict = await lab.examine()
    is_cause(verdict, "crash_loop")
    assert "nak" in verdict.diagnosis.sentence


async def test_ack_wait_too_short(lab: Laboratory) -> None:
    """Workers need longer than they are given; tasks come twice."""
    await lab.row(total=5000)
    lab.configuration["NATS"]["window"] = 1.0  # acknowledgements of both deliveries
    await lab.queue(5000, ack_wait=0.3, max_deliver=50)
    lab.worker("late", seconds=0.4, batch=20)
    await lab.until(num_redelivered=1)
    lab.log("working", age=0.1)
    await asyncio.sleep(0.5)  # until second acknowledgements come, too
    is_cause(await lab.examine(), "ack_wait_too_short")


async def test_max_ack_pending(lab: Laboratory) -> None:
    """What is reserved is not answered, so nothing more is handed out."""
    await lab.row(total=9)
    await lab.queue(9, max_ack_pending=3)
    await lab.fetch(3)
    lab.worker()
    await settle()
    is_cause(await lab.examine(), "max_ack_pending")


async def test_exhausted(lab: Laboratory) -> None:
    """A poison task was given up after its last attempt; the rest is done."""
    await lab.row(total=5, done=4)
    await lab.queue(5, ack_wait=0.2, max_deliver=2)
    await lab.work(4)
    await lab.fetch(1)
    await lab.fetch(1)
    await asyncio.sleep(0.3)  # the last attempt runs out
    lab.worker()
    await lab.until(num_waiting=1)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "exhausted")
    assert verdict.diagnosis.sentence.startswith("1 task was given up after 2 attempts")


async def test_drift_is_told_beside_the_verdict(lab: Laboratory) -> None:
    """Settings that the server did not take are no cause by themselves."""
    await lab.row(total=7)
    await lab.queue(7)
    lab.event("nats.consumer.drift", "ack_wait 30 s instead of 300 s", level=30)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls")
    assert [one.cause for one in verdict.others] == ["drift"]
    assert "ack_wait 30 s instead of 300 s" in verdict.others[0].sentence


async def test_stream_deleted(lab: Laboratory) -> None:
    """The stream was there, as the log tells, and is gone."""
    await lab.row(total=5, done=2)
    await lab.queue(5)
    lab.event("nats.stream.created")
    await lab.js.delete_stream(lab.stream)
    is_cause(await lab.examine(), "stream_deleted")


async def test_a_job_that_ends_while_it_is_looked_at(lab: Laboratory) -> None:
    """It took its stream away and says a moment later that it is done: it is asked once more."""
    await lab.row(total=5, done=2)
    await lab.queue(5)
    lab.event("nats.stream.created")
    await lab.js.delete_stream(lab.stream)
    looking = asyncio.create_task(lab.examine())
    await asyncio.sleep(0.15)  # within its first look, or after that
    await lab.row(status="SUCCESS", total=5, done=5)
    assert (await looking).diagnosis.cause == "finished"


async def test_consumer_deleted(lab: Laboratory) -> None:
    """The consumer was there and is gone."""
    await lab.row(total=5, done=2)
    await lab.queue(5)
    lab.event("nats.consumer.created")
    await lab.js.delete_consumer(lab.stream, lab.consumer)
    is_cause(await lab.examine(), "consumer_deleted")


async def test_consumer_never_made(lab: Laboratory) -> None:
    """Tasks are queued, and nobody made a consumer."""
    await lab.row(total=5)
    await lab.queue(5, consumer=False)
    await settle()
    is_cause(await lab.examine(), "consumer_missing", certainly=False)


async def test_canceling_and_still_serving(lab: Laboratory) -> None:
    """Cancelled, and workers are still given tasks."""
    await lab.row(status="CANCELING", total=500)
    await lab.queue(200)
    lab.worker()
    is_cause(await lab.examine(), "canceling_still_serving")


async def test_canceling_stuck(lab: Laboratory) -> None:
    """Cancelled, nobody works, and nobody finishes it."""
    await lab.row(status="CANCELING", total=5)
    await lab.queue(5)
    is_cause(await lab.examine(), "canceling_stuck")


async def test_finished_but_not_marked(lab: Laboratory) -> None:
    """All tasks are done, the job is still running."""
    await lab.row(total=5, done=5)
    await lab.queue(5)
    await lab.work(5)
    await settle()
    is_cause(await lab.examine(), "not_marked")


async def test_results_lost(lab: Laboratory) -> None:
    """All tasks are acknowledged, and fewer are saved."""
    await lab.row(total=5, done=3)
    await lab.queue(5)
    await lab.work(5)
    await settle()
    is_cause(await lab.examine(), "results_not_saved", certainly=False)


async def test_orphaned_stream(lab: Laboratory) -> None:
    """The job ended an hour ago; its stream is still there."""
    await lab.row(status="SUCCESS", total=5, done=5)
    from tests.faults.laboratory import Job

    job = await Job.objects.aget(pk=lab.job_id)
    await lab.row(status="SUCCESS", total=5, done=5, finished_at=job.started_at)
    await lab.queue(5)
    is_cause(await lab.examine(), "orphaned_stream")


async def test_row_deleted_and_stream_left(lab: Laboratory) -> None:
    """Nobody knows the job any more but NATS."""
    await lab.queue(5)
    is_cause(await lab.examine(), "orphaned_stream")


async def test_nats_killed(own_lab: Laboratory, own_nats_server: NatsServer) -> None:
    """The server is gone."""
    await own_lab.row(total=5)
    await own_lab.queue(5)
    own_nats_server.kill()
    is_cause(await own_lab.examine(), "nats_down")


async def test_nats_frozen(own_lab: Laboratory, own_nats_server: NatsServer) -> None:
    """The server takes connections and answers nothing."""
    await own_lab.row(total=5)
    await own_lab.queue(5)
    own_nats_server.pause()
    try:
        is_cause(await own_lab.examine(), "nats_down", certainly=False)
    finally:
        own_nats_server.resume()


async def test_logging_broken(lab: Laboratory) -> None:
    """The job works and says nothing that is stored."""
    await lab.row(status="STARTED", total=500, done=100)
    await lab.queue(0)
    verdict = await lab.examine()
    causes = {verdict.diagnosis.cause, *(one.cause for one in verdict.others)}
    assert "logging_broken" in causes, verdict.as_dict()


@pytest.mark.parametrize("run", RUNS)
async def test_a_healthy_job_is_no_finding(lab: Laboratory, run: int) -> None:
    """Workers work: no alarm."""
    lab.configuration["PATIENCE"] = 10
    await lab.row(age=0.5, total=1000, done=10)
    await lab.queue(200)
    lab.log("started", age=0.2)
    lab.worker()
    await lab.until(num_ack_pending=0)
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert verdict.diagnosis.cause in {"healthy", "slow"}
    assert not verdict.others


@pytest.mark.parametrize("run", RUNS)
async def test_a_slow_job_is_no_finding(lab: Laboratory, run: int) -> None:
    """One task takes long, and nothing else moves: no alarm, and how long it will take."""
    await lab.row(age=600, total=100, done=10)
    await lab.queue(20)
    lab.log("started", age=600)
    await lab.work(2)
    await lab.fetch(1)
    await settle()
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert verdict.diagnosis.cause == "slow"
    assert re.search(r"1 h 3\d min to go", verdict.diagnosis.sentence)
    assert not verdict.others


@pytest.mark.parametrize("run", RUNS)
async def test_a_finished_job_is_no_finding(lab: Laboratory, run: int) -> None:
    """Done, stream deleted: no alarm."""
    await lab.row(status="SUCCESS", total=5, done=5)
    lab.log("done")
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert verdict.diagnosis.cause == "finished"
    assert not verdict.others


async def test_a_beginning_job_is_no_finding(lab: Laboratory) -> None:
    """Just queued; no worker has come yet."""
    lab.configuration["PATIENCE"] = 10
    await lab.row(age=0.1, total=5)
    await lab.queue(5)
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert verdict.diagnosis.cause == "starting"


async def test_a_stream_of_many_jobs_is_not_said_to_be_missing(lab: Laboratory) -> None:
    """What is queued stands in a stream that does not name the job: its figures are not the job's."""
    await lab.row(total=5)
    lab.log("queued")
    shared = f"all{lab.job_id}"
    await lab.js.add_stream(StreamConfig(name=shared, subjects=[f"job.{lab.job_id}.>"], storage=StorageType.MEMORY))
    try:
        verdict = await lab.examine()
    finally:
        await lab.js.delete_stream(shared)
    assert verdict.diagnosis.cause == "unknown", verdict.diagnosis
    assert not verdict.others


async def test_a_job_that_does_without_nats(lab: Laboratory) -> None:
    """It works and says so: that there is no stream of it is no matter."""
    lab.configuration["PATIENCE"] = 10
    await lab.row(total=5, done=1)
    lab.log("working", age=0.1)
    assert (await lab.examine()).diagnosis.cause == "too_early"

    async def work() -> None:
        for done in range(2, 5):
            await asyncio.sleep(0.25)
            await lab.row(total=5, done=done)

    verdict, _ = await asyncio.gather(lab.examine(), work())
    assert verdict.diagnosis.cause in {"healthy", "slow"}, verdict.diagnosis


async def test_work_that_was_taken_away_without_a_word(lab: Laboratory) -> None:
    """No stream, and nothing in the log says that there was one: what it may be is told as such."""
    await lab.row(total=5, done=2)
    lab.log("two are done")
    verdict = await lab.examine()
    assert verdict.diagnosis.cause == "unknown"
    assert [one.cause for one in verdict.others] == ["stream_deleted"]
