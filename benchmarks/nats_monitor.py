"""What the monitor costs those that it watches, and itself: figures of one run.

    python benchmarks/nats_monitor.py [SECONDS]     exit status 0: kept; 1: over; 3: the run says nothing

Needs a nats-server. One server and one worker in a process of its own, which drains 20,000 messages at full speed again
and again. Each block has four drains in random order: with a monitor that records, with one that only listens, and two
without any, whose difference is the control. The monitor is a process of its own, too. What counts is the median of the
blocks' ratios, and 95 % of the medians that resampling gives: over or kept only where all of those are. The monitor's
CPU per acknowledgement is compared with what one `consumer_info` costs the server in the same run.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import nats
from nats.js.errors import NotFoundError

from tests.contrib.nats.workers import Outsider
from tests.servers import NatsServer

SECONDS = 200
MESSAGES = 20_000
POLLS = 500
MAX_ROWS = 60
MAX_SLOWER = 0.03
MAX_SHARE = 0.05
MIN_BLOCKS = 8
RESAMPLES = 2_000

MONITOR = """
import asyncio, json, logging.config, sys, time
from joblog_router.contrib.nats.monitor import Monitor
url, directory = sys.argv[1:]
handler = {"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {"directory": directory}}
root = {"level": "INFO", "handlers": ["job"]}
logging.config.dictConfig(
    {"version": 1, "disable_existing_loggers": False, "handlers": {"job": handler}, "root": root}
)
async def main():
    loop, monitor = asyncio.get_running_loop(), None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        if line == "stop\\n":
            used = time.process_time() - before
            await monitor.stop()
            print(json.dumps(used), flush=True)
        else:
            monitor = Monitor(url, interval=1.0, recorder=line == "record\\n")
            await monitor.start()
            while not monitor.is_leading:
                await asyncio.sleep(0.01)
            before = time.process_time()
            print(json.dumps(monitor.is_recording), flush=True)
asyncio.run(main())
"""

WAYS = ("alone", "control", "record", "listen")


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Bench:
    """A server, a worker and a monitor's process."""

    def __init__(self, server: NatsServer, directory: str) -> None:
        self.server = server
        self.path = Path(directory) / "7.jsonl"
        self.rows = 0
        self.client: Any = None
        self.worker: Any = None
        self.monitor: Any = None

    async def start(self) -> None:
        """The job's stream and consumer, and the processes."""
        self.client = await nats.connect(self.server.url)
        js = self.client.jetstream()
        await js.add_stream(name="job_7", subjects=["job.7.tasks"], storage="memory")
        await js.add_consumer("job_7", durable_name="c", ack_policy="explicit", max_ack_pending=5_000, ack_wait=60)
        self.worker = await Outsider.start("nats", self.server.url, "job_7", "c")
        self.monitor = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", MONITOR, self.server.url, str(self.path.parent)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def end(self) -> None:
        """End the processes."""
        await self.worker.end()
        self.monitor.stdin.close()
        await self.monitor.wait()
        await self.client.close()

    async def tell(self, command: str) -> Any:
        """Have the monitor's process do something."""
        self.monitor.stdin.write(command.encode() + b"\n")
        return json.loads(await self.monitor.stdout.readline())

    async def drain(self, way: str) -> dict[str, float]:
        """One drain."""
        await self.client.jetstream().purge_stream("job_7")
        for _ in range(MESSAGES):
            await self.client.publish("job.7.tasks", b'{"id": 1}')
        await self.client.flush()
        is_watched = way in {"record", "listen"}
        if is_watched:
            assert await self.tell(way) == (way == "record")
        count, seconds = await self.worker.drain(500)
        assert count == MESSAGES
        found = {"rate": count / seconds}
        if is_watched:
            found |= await self.watched()
        return found

    async def watched(self) -> dict[str, float]:
        """What the monitor wrote, and what that took."""
        deadline = time.monotonic() + 10
        while "nats.drained" not in self.written() and time.monotonic() < deadline:  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.05)
        used = await self.tell("stop")
        rows = self.written()
        new = [json.loads(row) for row in rows.splitlines()]
        last = [row for row in new if row["fields"]["event"] == "nats.drained"][-1]
        assert last["fields"]["acknowledged"] >= MESSAGES
        self.rows += len(new)
        for name in ("JOBLOG_MONITOR_RECORDER", "JOBLOG_MONITOR"):
            try:
                await self.client.jetstream().delete_stream(name)
            except NotFoundError:
                pass
        return {"cpu": used / MESSAGES, "rows": len(new)}

    def written(self) -> str:
        """The lines since the last drain."""
        if not self.path.exists():
            return ""
        return "\n".join(self.path.read_text().splitlines()[self.rows :])

    async def poll(self) -> float:
        """CPU seconds of the server for one `consumer_info`."""
        started = cpu_of(self.server.pid)
        for _ in range(POLLS):
            await self.client.request("$JS.API.CONSUMER.INFO.job_7.c")
        return (cpu_of(self.server.pid) - started) / POLLS


def range_of(values: Sequence[float], of: Callable[[Sequence[float]], float] = statistics.median) -> tuple[float, ...]:
    """Median, and the range of 95 % of the medians of resampled values."""
    draw = random.Random(1).choices
    medians = sorted(of(draw(values, k=len(values))) for _ in range(RESAMPLES))
    return of(values), medians[RESAMPLES // 40], medians[-RESAMPLES // 40]


async def measure(seconds: float) -> int:
    """Print the figures; the exit status."""
    blocks: list[dict[str, dict[str, float]]] = []
    polls: list[float] = []
    shuffle = random.Random(1).shuffle
    with NatsServer() as server, tempfile.TemporaryDirectory() as directory:
        bench = Bench(server, directory)
        await bench.start()
        await bench.drain("alone")  # warm up
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            order = list(WAYS)
            shuffle(order)
            blocks.append({way: await bench.drain(way) for way in order})
            polls.append(await bench.poll())
        await bench.end()
    return told(blocks, statistics.mean(polls))


def told(blocks: list[dict[str, dict[str, float]]], poll: float) -> int:
    """Print what was measured; the exit status."""
    alone = [(block["alone"]["rate"] + block["control"]["rate"]) / 2 for block in blocks]
    control = range_of([block["control"]["rate"] / block["alone"]["rate"] - 1 for block in blocks])
    print(f"worker alone  {statistics.median(alone):8,.0f} messages/s, {len(blocks)} blocks")
    print(f"control       {_range(control)} (two drains without a monitor)")
    is_conclusive = max(map(abs, control[1:])) < MAX_SLOWER and len(blocks) >= MIN_BLOCKS
    verdicts: set[bool | None] = set()
    for way in ("record", "listen"):
        slower = range_of([1 - block[way]["rate"] / rate for block, rate in zip(blocks, alone, strict=True)])
        share = range_of([block[way]["cpu"] / poll for block in blocks])
        rows = max(block[way]["rows"] for block in blocks)
        cpu = statistics.median(block[way]["cpu"] for block in blocks)
        print(f"{way}ing monitor")
        print(f"    the worker is slower by  {_range(slower)}   limit {MAX_SLOWER:.0%}: {_verdict(slower, MAX_SLOWER)}")
        print(f"    CPU per ack {cpu * 1e6:.2f} us, of a poll's {poll * 1e6:.0f} us at the server:")
        print(f"                             {_range(share)}   limit {MAX_SHARE:.0%}: {_verdict(share, MAX_SHARE)}")
        print(f"    rows a drain, at most    {rows:.0f}   limit {MAX_ROWS}")
        verdicts.update((_is_kept(slower, MAX_SLOWER), _is_kept(share, MAX_SHARE), rows <= MAX_ROWS))
    if not is_conclusive or (None in verdicts and False not in verdicts):
        print("inconclusive")
        return 3
    print("OVER" if False in verdicts else "kept")
    return 1 if False in verdicts else 0


def _is_kept(found: tuple[float, ...], limit: float) -> bool | None:
    return None if found[1] <= limit < found[2] else found[2] <= limit


def _verdict(found: tuple[float, ...], limit: float) -> str:
    return {True: "kept", False: "OVER", None: "not decided"}[_is_kept(found, limit)]


def _range(found: tuple[float, ...]) -> str:
    return f"{found[0]:+.1%} ({found[1]:+.1%} to {found[2]:+.1%})"


if __name__ == "__main__":
    sys.exit(asyncio.run(measure(float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS)))
