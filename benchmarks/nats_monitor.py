"""What the monitor costs those that it watches, and itself: figures of one run.

    python benchmarks/nats_monitor.py [ROUNDS]     exit status 0: kept; 1: over; 3: the control says nothing

Needs a nats-server. A worker in a process of its own drains 20,000 messages at full speed, on a fresh server each time:
without a monitor, with one that records, with one that only listens, without again (the control). The monitor is a
process of its own, too; its CPU per acknowledgement is compared with what one `consumer_info` costs the server. Of the
rates the best of each series counts: whatever else the machine does only slows.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nats

from tests.contrib.nats.workers import Outsider
from tests.servers import NatsServer

MESSAGES = 20_000
POLLS = 1_000
MAX_ROWS = 60
MAX_SLOWER = 0.03
MAX_SHARE = 0.05

MONITOR = """
import asyncio, json, logging.config, sys, time
from joblog_router.contrib.nats.monitor import Monitor
url, directory, recorder = sys.argv[1:]
handler = {"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {"directory": directory}}
root = {"level": "INFO", "handlers": ["job"]}
logging.config.dictConfig(
    {"version": 1, "disable_existing_loggers": False, "handlers": {"job": handler}, "root": root}
)
async def main():
    async with Monitor(url, interval=2.0, recorder=recorder == "1") as monitor:
        while not monitor.is_leading:
            await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        while True:
            print(json.dumps([time.process_time(), monitor.is_recording]), flush=True)
            if not await loop.run_in_executor(None, sys.stdin.readline):
                break
asyncio.run(main())
"""


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def filled(url: str) -> Any:
    """A job's stream with tasks and a consumer."""
    client = await nats.connect(url)
    js = client.jetstream()
    await js.add_stream(name="job_7", subjects=["job.7.tasks"], storage="memory")
    await js.add_consumer("job_7", durable_name="c", ack_policy="explicit", max_ack_pending=5_000, ack_wait=60)
    for _ in range(MESSAGES):
        await client.publish("job.7.tasks", b'{"id": 1}')
    await client.flush()
    return client


async def drained(monitor: str) -> dict[str, float]:
    """One drain. `monitor`: "", "1" for one that records, "0" for one that listens."""
    found: dict[str, float] = {}
    with NatsServer() as server, tempfile.TemporaryDirectory() as directory:
        client = await filled(server.url)
        process = None
        if monitor:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", MONITOR, server.url, directory, monitor),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stdin is not None
            before, is_recording = json.loads(await process.stdout.readline())
            assert is_recording == (monitor == "1")
        worker = await Outsider.start("nats", server.url, "job_7", "c")
        count, seconds = await worker.drain(500)
        assert count == MESSAGES
        found["rate"] = count / seconds
        await worker.end()
        if process is not None:
            assert process.stdout is not None
            assert process.stdin is not None
            path = Path(directory) / "7.jsonl"
            while not path.exists() or "nats.drained" not in path.read_text():  # noqa: ASYNC110 - another process's
                await asyncio.sleep(0.05)
            process.stdin.write(b"\n")
            found["cpu"] = (json.loads(await process.stdout.readline())[0] - before) / MESSAGES
            process.stdin.close()
            await process.wait()
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found["rows"] = len(rows)
            (last,) = [row for row in rows if row["fields"]["event"] == "nats.drained"]
            assert last["fields"]["acknowledged"] == MESSAGES
        started = cpu_of(server.pid)
        for _ in range(POLLS):
            await client.request("$JS.API.CONSUMER.INFO.job_7.c")
        found["poll"] = (cpu_of(server.pid) - started) / POLLS
        await client.close()
    return found


async def measure(rounds: int) -> int:
    """Print the figures; the exit status."""
    ways: dict[str, list[dict[str, float]]] = {"without": [], "1": [], "0": [], "control": []}
    for number in range(rounds):
        for way in sorted(ways, reverse=bool(number % 2)):
            ways[way].append(await drained(way if way in {"0", "1"} else ""))
    rate = {way: max(found["rate"] for found in runs) for way, runs in ways.items()}
    poll = statistics.median(found["poll"] for runs in ways.values() for found in runs)
    base = (rate["without"] + rate["control"]) / 2
    differ = rate["without"] / rate["control"] - 1
    print(f"worker alone             {base:10,.0f} messages/s   (two series differ by {differ:+.1%})")
    is_kept = True
    for way, name in (("1", "with a recording monitor"), ("0", "with a listening monitor")):
        slower = 1 - rate[way] / base
        cpu = statistics.median(found["cpu"] for found in ways[way])
        rows = max(found["rows"] for found in ways[way])
        share = cpu / poll
        is_kept = is_kept and slower < MAX_SLOWER and share <= MAX_SHARE and rows <= MAX_ROWS
        print(f"{name} {rate[way]:10,.0f} messages/s   {slower:+.1%} slower (limit {MAX_SLOWER:.0%})")
        print(
            f"    its CPU per ack {cpu * 1e6:6.2f} us, {share:.1%} of a poll's {poll * 1e6:.0f} us at the server",
            end="",
        )
        print(f" (limit {MAX_SHARE:.0%}); {rows:.0f} rows (limit {MAX_ROWS})")
    if abs(rate["without"] / rate["control"] - 1) > MAX_SLOWER:
        print("inconclusive: the two series without a monitor differ by more than what is to be measured")
        return 3
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 6)))
