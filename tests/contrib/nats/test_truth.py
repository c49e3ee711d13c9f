"""One long story of a foreign module, told by the job's log and by the server: the same numbers, one by one."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from typing import Any

import pytest

from joblog_router import Entry, job_context
from tests.contrib.nats.conftest import JobLogs
from tests.contrib.nats.foreign_app import TaskQueueManager
from tests.helpers import auntil
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("instrumented")

DELETE = """
import asyncio, nats, sys
async def main():
    client = await nats.connect(sys.argv[1])
    await client.jetstream().delete_stream(sys.argv[2])
    await client.close()
asyncio.run(main())
"""


def total(entries: list[Entry], event: str, field: str) -> int:
    """The sum of a field over the lines of an event."""
    return sum(entry.fields[field] for entry in entries if entry.fields.get("event") == event)


async def rounds_of(queue: TaskQueueManager, job: str, recorded: Counter[int]) -> None:
    """Fetch all there is; acknowledge all but those that stand for a crashed worker. What came is recorded."""
    while True:
        tasks = await queue.reserve_tasks(job, 64, timeout=0.1)
        if not tasks:
            return
        for task in tasks:
            seq = int(task["reply"].split(".")[5])
            recorded[seq] += 1
            if seq % 25:
                assert await queue.acknowledge(task["reply"])


async def test_the_log_has_the_servers_numbers(logs: JobLogs, own: str, own_nats_server: NatsServer) -> None:
    """500 published, 480 acknowledged, 80 redelivered, 20 given up, 5 refused, 3 into a vanished stream, killed."""
    recorded: Counter[int] = Counter()
    async with TaskQueueManager(own_nats_server.url, ack_wait=0.5, max_deliver=5, max_msgs=500) as queue:
        stream, consumer = queue.stream_name(own), queue.consumer_name(own)
        with job_context(own):
            for number in range(505):
                assert await queue.publish_task(own, {"image_id": f"I{number + 1}"}) == (number < 500)
            published_rows = [e for e in logs.entries(own) if e.logger == "joblog_router.nats"]
            for _ in range(6):  # five deliveries of the twenty, and the pull that has the server give them up
                await rounds_of(queue, own, recorded)
                await asyncio.sleep(0.6)
            info = await queue.js.consumer_info(stream, consumer)
            state = (await queue.js.stream_info(stream)).state
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", DELETE, own_nats_server.url, stream)
            assert await process.wait() == 0
            for _ in range(3):
                with pytest.raises(Exception, match="no response from stream"):
                    await queue.js.publish(queue.subject(own), b"")
            own_nats_server.kill()
            lost = asyncio.create_task(until_lost(logs, own))
            await asyncio.wait_for(lost, 10)
            queue.nc.options["max_reconnect_attempts"] = 0
    entries = logs.entries(own)

    # What the worker recorded, and the server's own description before the stream vanished.
    assert state.messages == state.last_seq == 500
    assert (info.num_redelivered, info.num_ack_pending, info.num_pending) == (20, 0, 0)
    assert info.delivered.consumer_seq == recorded.total() == 580
    assert sorted(seq for seq, count in recorded.items() if count == 5) == list(range(25, 501, 25))

    summaries = [e.fields for e in entries if e.fields.get("event") == "nats.publish.summary"]
    assert sum(fields["accepted"] for fields in summaries) == state.last_seq
    assert Counter(errors_of(summaries)) == {"ServiceUnavailableError": 5, "NoStreamResponseError": 3}
    assert len(published_rows) <= 8
    assert total(entries, "nats.redelivery", "count") == recorded.total() - 500 == 80
    assert total(entries, "nats.exhausted", "count") == info.num_redelivered == 20
    given_up = [e.fields for e in entries if e.fields.get("event") == "nats.exhausted"]
    assert sorted(int(seq) for fields in given_up for seq in fields["stream_seqs"].split(", ")) == [*range(25, 501, 25)]
    assert sorted(task for fields in given_up for task in fields["task_ids"].split(", ")) == sorted(
        f"I{seq}" for seq in range(25, 501, 25)
    )
    tallies = [e.fields for e in entries if e.fields.get("event") in {"nats.fetch.progress", "nats.fetch.summary"}]
    assert (tallies[-1]["messages"], tallies[-1]["acknowledged"], tallies[-1]["redelivered"]) == (580, 480, 80)
    vanished = [e.fields for e in entries if e.fields.get("event") == "nats.stream.vanished"]
    assert [fields["messages"] for fields in vanished] == [500]
    assert [e.level for e in entries if e.fields.get("event") == "nats.connection.lost"]
    assert len([e for e in entries if "event" in e.fields]) < 40
    assert logs.jobs() == {own}


def errors_of(summaries: list[Any]) -> dict[str, int]:
    """The errors that summaries tell, by name."""
    found: Counter[str] = Counter()
    for fields in summaries:
        for part in filter(None, fields.get("errors", "").split(", ")):
            name, count = part.split(" ")
            found[name] += int(count)
    return found


async def until_lost(logs: JobLogs, job: str) -> None:
    """Until the job's log says that the connection is lost."""
    await auntil(lambda: "nats.connection.lost" in logs.stdout.events())
