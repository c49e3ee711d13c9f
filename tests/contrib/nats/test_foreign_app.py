from __future__ import annotations

import asyncio
import logging
from collections import Counter

import pytest

from joblog_router import job_context
from tests.contrib.nats.conftest import JobLogs
from tests.contrib.nats.foreign_app import TaskQueueManager
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("instrumented")

LIFE = [
    "nats.stream.created",
    "nats.consumer.created",
    "nats.fetch.first",
    "nats.publish.summary",
    "nats.consumer.final",
    "nats.consumer.deleted",
    "nats.stream.deleted",
]


async def run_job(queue: TaskQueueManager, job: str, tasks: int, acknowledged: int) -> None:
    """Publish, reserve, acknowledge some, clean up."""
    for number in range(tasks):
        assert await queue.publish_task(job, {"image": number})
    reserved = await queue.reserve_tasks(job, tasks)
    assert len(reserved) == tasks
    for task in reserved[:acknowledged]:
        assert await queue.acknowledge(task["reply"])
    while True:  # the server works on acknowledgements in its own time
        info = await queue.js.consumer_info(queue.stream_name(job), queue.consumer_name(job))
        if info.ack_floor.stream_seq == acknowledged:
            break
    assert await queue.cleanup(job)


async def test_a_foreign_module_tells_its_life_in_the_jobs_log(
    logs: JobLogs, own: str, nats_server: NatsServer
) -> None:
    """The events of a module that knows nothing of job logs, in order, with their numbers, each once everywhere."""
    async with TaskQueueManager(nats_server.url) as queue:
        with job_context(own):
            await run_job(queue, own, tasks=50, acknowledged=48)
    assert logs.events(own) == LIFE
    assert logs.jobs() == {own}
    assert Counter(logs.stdout.events()) == Counter(LIFE)
    assert {record.job_id for record in logs.stdout.records if hasattr(record, "event")} == {own}  # type: ignore[attr-defined]

    created = logs.event(own, "nats.stream.created")
    assert created.message == (f"Created NATS stream job_{own} (subjects job.{own}.tasks, max age 24 h)")
    assert created.fields["stream"] == f"job_{own}"
    assert created.fields["subjects"] == f"job.{own}.tasks"
    assert created.fields["max_age"] == 86400
    assert created.fields["last_seq"] == 0

    consumer = logs.event(own, "nats.consumer.created")
    assert consumer.message == (
        f"Created consumer job-{own}-consumer of NATS stream job_{own} "
        "(max_deliver 5, ack_wait 30 s, max_ack_pending 100, deliver_policy all, ack_policy explicit)"
    )
    assert consumer.fields["consumer"] == f"job-{own}-consumer"
    for field, value in {
        "max_deliver": 5,
        "ack_wait": 30,
        "max_ack_pending": 100,
        "deliver_policy": "all",
        "ack_policy": "explicit",
    }.items():
        assert consumer.fields[field] == value

    final = logs.event(own, "nats.consumer.final")
    assert final.message == (
        f"Deleting consumer job-{own}-consumer of NATS stream job_{own}: 50 deliveries, finished up to stream_seq 48, "
        "2 not acknowledged, 0 delivered again and never acknowledged, 0 not delivered yet"
    )
    assert (final.fields["delivered"], final.fields["ack_floor"]) == (50, 48)
    assert (final.fields["num_ack_pending"], final.fields["num_pending"]) == (2, 0)

    summary = logs.event(own, "nats.publish.summary")
    assert summary.message.startswith(f"Published 50 messages to NATS stream job_{own} (stream_seq 1-50) in ")
    assert (summary.fields["accepted"], summary.fields["failed"]) == (50, 0)
    assert (summary.fields["first_seq"], summary.fields["last_seq"]) == (1, 50)
    # The module's own lines are there as well.
    assert f"Created stream job_{own}" in logs.messages(own)


async def test_a_second_worker_says_that_it_reuses(logs: JobLogs, own: str, nats_server: NatsServer) -> None:
    """A later scope of the same job finds stream and consumer and says so once, with their numbers."""
    async with TaskQueueManager(nats_server.url) as queue:
        with job_context(own):
            for number in range(3):
                await queue.publish_task(own, {"image": number})
        logs.clear()
        with job_context(own):
            for number in range(4):
                await queue.publish_task(own, {"image": number})
        assert logs.events(own) == ["nats.stream.reused", "nats.consumer.reused", "nats.publish.summary"]
        reused = logs.event(own, "nats.stream.reused")
        assert reused.message == f"Reusing NATS stream job_{own} (last_seq=3, 3 messages)"
        assert (reused.fields["last_seq"], reused.fields["messages"]) == (3, 3)
        assert logs.event(own, "nats.consumer.reused").fields["num_pending"] == 3
        assert (logs.event(own, "nats.publish.summary").fields["first_seq"]) == 4
        with job_context(own):
            await queue.cleanup(own)


async def test_a_second_cleanup_finds_nothing(logs: JobLogs, own: str, nats_server: NatsServer) -> None:
    """What is deleted twice was already gone the second time, which is no failure."""
    async with TaskQueueManager(nats_server.url) as queue:
        with job_context(own):
            await queue.publish_task(own, {})
            await queue.cleanup(own)
            logs.clear()
            assert not await queue.cleanup(own)
        gone = [entry for entry in logs.entries(own) if "event" in entry.fields]
        assert [entry.fields["event"] for entry in gone][:2] == [
            "nats.consumer.delete_failed",
            "nats.stream.delete_failed",
        ]
        assert [entry.level for entry in gone[:2]] == [logging.INFO, logging.INFO]
        assert gone[0].message == f"Consumer job-{own}-consumer of NATS stream job_{own} was already gone"
        assert gone[1].message == f"NATS stream job_{own} was already gone"


@pytest.mark.parametrize("is_first_open", [True, False])
async def test_two_jobs_share_a_connection_that_the_first_opened(
    logs: JobLogs, own: str, nats_server: NatsServer, is_first_open: bool
) -> None:
    """No line of one job is in the other's log, while the first is open and after it has ended."""
    first, second = f"{own}A", f"{own}B"
    ready, go_on = asyncio.Event(), asyncio.Event()
    queues: list[TaskQueueManager] = []

    async def opening_job() -> None:
        with job_context(first):
            queue = TaskQueueManager(nats_server.url)
            await queue.__aenter__()
            queues.append(queue)
            await run_job(queue, first, 20, 20)
            ready.set()
            if is_first_open:
                await go_on.wait()

    opener = asyncio.create_task(opening_job())
    await ready.wait()
    if not is_first_open:
        await opener
    with job_context(second):
        await asyncio.gather(*(queues[0].publish_task(second, {"image": number}) for number in range(20)))
        assert await queues[0].cleanup(second)
    go_on.set()
    await opener
    await queues[0].__aexit__()

    assert logs.jobs() == {first, second}
    for job, other in ((first, second), (second, first)):
        entries = logs.entries(job)
        assert not [entry for entry in entries if other in entry.message or other in str(dict(entry.fields))]
        assert len([entry for entry in entries if entry.fields.get("event") == "nats.publish.summary"]) == 1
    assert logs.events(first) == LIFE


async def test_failures_of_a_foreign_module_have_their_reasons(
    logs: JobLogs, own: str, nats_server: NatsServer
) -> None:
    """Publishes that a full stream refuses: the first one tells why, the summary tells how many."""
    async with TaskQueueManager(nats_server.url, max_msgs=7) as queue:
        with job_context(own):
            results = [await queue.publish_task(own, {"image": number}) for number in range(10)]
            await queue.cleanup(own)
    assert results == [True] * 7 + [False] * 3
    failed = logs.event(own, "nats.publish.failed")
    assert failed.level == logging.WARNING
    assert failed.message == (
        f"Publishing to job.{own}.tasks (NATS stream job_{own}) failed: "
        "ServiceUnavailableError (maximum messages exceeded)"
    )
    assert failed.fields["err_code"] == 10077
    assert failed.exception is not None
    summary = logs.event(own, "nats.publish.summary")
    assert summary.level == logging.WARNING
    assert summary.message.startswith("Published 7 of 10 messages")
    assert "3 failed (ServiceUnavailableError 3)" in summary.message
    assert (summary.fields["accepted"], summary.fields["failed"], summary.fields["unknown"]) == (7, 3, 0)
