"""The monitor against workers that run none of this library, on a real server: their own record against the log."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import re
import signal
import sys
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import nats
import pytest
import pytest_asyncio
from nats.js.api import ConsumerConfig

from joblog_router import Entry, flush
from joblog_router.cli import main
from joblog_router.contrib.nats.monitor import Monitor
from joblog_router.contrib.nats.told import LOGGER
from tests.contrib.nats.conftest import JobLogs, server_version
from tests.contrib.nats.workers import Outsider
from tests.helpers import auntil
from tests.servers import NatsServer

INTERVAL = 0.2


class Scene:
    """A job with a stream on a server of its own, those who watch it, and those who work for it."""

    def __init__(self, job: str, server: NatsServer, stack: AsyncExitStack, url: str = "") -> None:
        self.job = job
        self.stream = f"job_{job}"
        self.server = server
        self.url = url or server.url  # of those who work
        self._stack = stack
        self.client: Any = None
        self.js: Any = None

    async def monitor(self, url: str | None = None, **options: Any) -> Monitor:
        """Start a monitor."""
        return await self._stack.enter_async_context(
            Monitor(url or self.server.url, **{"interval": INTERVAL, **options})
        )

    async def leading(self, **options: Any) -> Monitor:
        """Start a monitor, and wait until it writes."""
        monitor = await self.monitor(**options)
        await auntil(lambda: monitor.is_leading)
        return monitor

    async def queue(self, count: int, **config: Any) -> None:
        """The job's stream with tasks, and its consumer `c`."""
        if self.client is None:
            self.client = await nats.connect(self.url)
            self._stack.push_async_callback(self.client.close)
            self.js = self.client.jetstream()
        await self.js.add_stream(name=self.stream, subjects=[f"job.{self.job}.tasks"])
        await self.js.add_consumer(self.stream, ConsumerConfig(durable_name="c", ack_policy="explicit", **config))
        for number in range(1, count + 1):
            await self.js.publish(f"job.{self.job}.tasks", json.dumps({"id": f"T{number}"}).encode())

    async def worker(self, how: str = "nats") -> Outsider:
        """Start a worker on the consumer."""
        outsider = await Outsider.start(how, self.url, self.stream, "c")
        self._stack.push_async_callback(outsider.end)
        return outsider


@pytest_asyncio.fixture
async def scene(own: str, own_nats_server: NatsServer) -> AsyncIterator[Scene]:
    """A job nobody has worked for yet."""
    async with AsyncExitStack() as stack:
        yield Scene(own, own_nats_server, stack)


async def rounds(monitor: Monitor, count: int = 3) -> None:
    """Until a monitor that leads has looked so many times: what it had to tell before is told, and what came then."""
    term: Any = monitor._term
    look, looked = term.look, 0

    async def counted() -> bool:
        nonlocal looked
        goes_on: bool = await look()
        looked += 1
        return goes_on

    term.look = counted
    await auntil(lambda: looked == count or monitor._term is not term)
    assert monitor._term is term
    term.look = look


def of(logs: JobLogs, job: str, event: str) -> list[Entry]:
    """The lines of one event in the job's log."""
    return [entry for entry in logs.entries(job) if entry.fields.get("event") == event]


def seqs(entries: list[Entry]) -> list[int]:
    """The messages that lines name."""
    return sorted(int(seq) for entry in entries for seq in entry.fields["stream_seqs"].split(", "))


@pytest.mark.parametrize("how", ["nats", "socket"])
@pytest.mark.parametrize("recorder", [True, False])
async def test_what_a_foreign_worker_does(how: str, recorder: bool, logs: JobLogs, scene: Scene) -> None:
    """Acknowledged, sent back, terminated, given more time, redelivered: each told, counted as the worker did."""
    own = scene.job
    await scene.leading(recorder=recorder)
    await scene.queue(10, max_deliver=5, ack_wait=30)
    outsider = await scene.worker(how)
    reason = "no such camera" if server_version(scene.client) >= (2, 10) else ""  # before, one is not understood
    await outsider.fetch(6)
    for what, seq in (("ack", 1), ("ack", 2), ("nak", 3), ("term", 4), ("progress", 5), ("ack", 5), ("nak", 6)):
        await outsider.answer(what, seq, reason if what == "term" else "")
    again: dict[int, int] = {}
    while len(again) < 6:  # what was sent back comes when the server gets to it
        again |= await outsider.fetch(6)
    assert Counter(again.values()) == {1: 4, 2: 2}
    for seq in again:
        await outsider.answer("ack", seq)
    await auntil(lambda: "nats.drained" in logs.stdout.events())
    info = await scene.js.consumer_info(f"job_{own}", "c")

    (drained,) = of(logs, own, "nats.drained")
    assert drained.fields["acknowledged"] == outsider.count("ack") == 9
    assert drained.fields["naked"] == outsider.count("nak") == 2
    assert drained.fields["terminated"] == outsider.count("term") == 1
    assert drained.fields["redelivered"] == 2
    assert drained.fields["delivered"] == outsider.count("fetch") == info.delivered.consumer_seq == 12
    assert (drained.fields["num_pending"], drained.fields["num_ack_pending"]) == (0, 0)
    assert seqs(of(logs, own, "nats.nak")) == [3, 6]
    assert seqs(of(logs, own, "nats.redelivery")) == [3, 6]
    assert seqs(of(logs, own, "nats.in_progress")) == [5]
    (first,) = of(logs, own, "nats.fetch.first")
    assert (first.fields["batch"], first.fields["count"]) == (6, 1)
    (terminated,) = of(logs, own, "nats.terminated")
    assert terminated.message == (
        f"1 message of job_{own} is terminated, and will not come again: seq 4 (task T4) (attempt 1 of 5)"
    ) + (f"; {reason}" if reason else "")
    assert (terminated.fields["task_ids"], terminated.fields["stream_seqs"]) == ("T4", "4")
    assert logs.jobs() == {own}
    assert {entry.fields["source"] for entry in logs.entries(own)} == {"monitor"}


async def test_a_slow_answer_is_work_done_twice(logs: JobLogs, scene: Scene) -> None:
    """One worker answers after another had the message again: told, in whatever order the answers come."""
    own = scene.job
    await scene.leading()
    await scene.queue(2, max_deliver=5, ack_wait=0.3)
    slow, quick = await scene.worker(), await scene.worker("socket")
    assert await slow.fetch(2) == {1: 1, 2: 1}
    again: dict[int, int] = {}
    while len(again) < 2:
        again |= await quick.fetch(2)
    await quick.answer("ack", 1)
    await slow.answer("ack", 1)
    await slow.answer("ack", 2)
    await quick.answer("ack", 2)
    await auntil(lambda: sum(e.fields["count"] for e in of(logs, own, "nats.ack.twice")) == 2)
    twice = of(logs, own, "nats.ack.twice")
    assert seqs(twice) == [1, 2]
    assert "ack_wait (300 ms) is too short for the work" in twice[0].message


@pytest.mark.parametrize("max_deliver", [1, 2, 3])
async def test_given_up_with_all_workers_dead(max_deliver: int, logs: JobLogs, scene: Scene) -> None:
    """The last attempts were taken by workers that crashed: told within an interval past `ack_wait`, with task ids."""
    own, ack_wait = scene.job, 0.6
    monitor = await scene.leading()
    await scene.queue(8, max_deliver=max_deliver, ack_wait=ack_wait)
    for attempt in range(1, max_deliver + 1):
        outsider = await scene.worker()
        got: dict[int, int] = {}
        while len(got) < (8 if attempt == 1 else 5):
            got |= await outsider.fetch(8, 2)
        assert set(got.values()) == {attempt}
        if attempt == 1:
            for seq in (1, 4, 6):
                await outsider.answer("ack", seq)
        ended = asyncio.get_running_loop().time()
        outsider.kill()
        if attempt < max_deliver:
            assert not of(logs, own, "nats.exhausted")
    await auntil(lambda: "nats.exhausted" in logs.stdout.events())
    took = asyncio.get_running_loop().time() - ended
    (given_up,) = of(logs, own, "nats.exhausted")
    assert given_up.fields["stream_seqs"] == "2, 3, 5, 7, 8"
    assert given_up.fields["task_ids"] == "T2, T3, T5, T7, T8"
    assert given_up.fields["attempt"] == max_deliver
    attempts = f"{max_deliver} attempt" + ("s" if max_deliver > 1 else "")
    assert given_up.message == (
        f"Gave up 5 messages of job_{own} after {attempts}: seq 2 (task T2), seq 3 (task T3), seq 5 (task T5), … 2 more"
    )
    assert took < ack_wait + 10 * INTERVAL  # a busy machine; the monitor's own promise is one interval
    # The server's own words at the next pull are no news, and nothing else was given up.
    outsider = await scene.worker()
    assert not await outsider.fetch(8, 0.5)
    await rounds(monitor)
    assert len(of(logs, own, "nats.exhausted")) == 1


async def test_nothing_is_missed_while_no_monitor_runs(logs: JobLogs, scene: Scene) -> None:
    """A monitor ends, work goes on, another one starts: it tells what happened meanwhile, and nothing twice."""
    own = scene.job
    first = await scene.leading()
    await scene.queue(6, max_deliver=5)
    if not first.is_recording:
        assert server_version(scene.client) < (2, 10)
        return
    outsider = await scene.worker()
    await outsider.fetch(2)
    await outsider.answer("nak", 1)
    await outsider.answer("ack", 2)
    await auntil(lambda: bool(of(logs, own, "nats.nak")))
    await first.stop()
    before = logs.messages(own)
    got = await outsider.fetch(5)
    assert got[1] == 2
    await outsider.answer("term", 3)
    for seq in (1, 4, 5, 6):
        await outsider.answer("ack", seq)
    second = await scene.leading()
    await auntil(lambda: "nats.drained" in logs.stdout.events())
    await second.stop()
    after = logs.messages(own)[len(before) :]
    assert not set(before) & set(after)
    assert seqs(of(logs, own, "nats.nak")) == [1]
    assert seqs(of(logs, own, "nats.redelivery")) == [1]
    assert seqs(of(logs, own, "nats.terminated")) == [3]
    (drained,) = of(logs, own, "nats.drained")
    assert (drained.fields["acknowledged"], drained.fields["delivered"]) == (5, 7)
    third = await scene.leading()
    await rounds(third)
    await third.stop()
    assert logs.messages(own)[len(before) :] == after


async def test_a_job_that_came_and_went_while_no_monitor_ran(logs: JobLogs, scene: Scene) -> None:
    """Its stream is deleted when the monitor starts: what workers did is still told, once."""
    own = scene.job
    first = await scene.leading()
    is_recording = first.is_recording
    await first.stop()
    await scene.queue(3)
    outsider = await scene.worker()
    for seq in await outsider.fetch(3):
        await outsider.answer("ack", seq)
    await scene.js.delete_stream(scene.stream)
    for _ in range(2):
        monitor = await scene.leading()
        await rounds(monitor)
        await monitor.stop()
    told = of(logs, own, "nats.fetch.summary")
    assert [entry.fields["acknowledged"] for entry in told] == [3] * is_recording


async def test_what_was_acknowledged_before_any_monitor_ran_is_told_by_the_servers_word(
    logs: JobLogs, scene: Scene
) -> None:
    """Not as nothing; and what nobody measured has no rate."""
    await scene.queue(4)
    outsider = await scene.worker()
    for seq in await outsider.fetch(3):
        await outsider.answer("ack", seq)
    await scene.leading()
    for seq in await outsider.fetch(1):
        await outsider.answer("ack", seq)
    await auntil(lambda: "nats.drained" in logs.stdout.events())
    drained = of(logs, scene.job, "nats.drained")[-1]
    assert "1 acknowledged" in drained.message
    assert " that the monitor saw (all up to delivery 4 is answered)" in drained.message
    first = next(one for one in logs.entries(scene.job) if one.fields.get("event") in ("nats.snapshot", "nats.drained"))
    assert "/s" not in first.message
    assert "rate" not in first.fields


async def test_two_monitors_write_each_line_once(logs: JobLogs, scene: Scene) -> None:
    """One writes, the other waits; the second takes over when the first ends, and when it is frozen."""
    own = scene.job
    one = await scene.leading()
    two = await scene.monitor()
    await scene.queue(9, max_deliver=3)
    outsider = await scene.worker()
    got = await outsider.fetch(9)
    for seq in got:
        await outsider.answer("nak" if seq % 3 == 0 else "ack", seq)
    await auntil(lambda: seqs(of(logs, own, "nats.nak")) == [3, 6, 9])
    assert one.is_leading
    assert not two.is_leading
    await one.stop()
    await auntil(lambda: two.is_leading)
    for seq in await outsider.fetch(3):
        await outsider.answer("ack", seq)
    await auntil(lambda: "nats.drained" in logs.stdout.events())
    assert Counter(logs.messages(own)).most_common(1)[0][1] == 1
    assert seqs(of(logs, own, "nats.nak")) == seqs(of(logs, own, "nats.redelivery")) == [3, 6, 9]
    assert of(logs, own, "nats.drained")[0].fields["acknowledged"] == 9


PROGRAM = """
import asyncio, logging.config, sys
from joblog_router.contrib.nats.told import LOGGER
from joblog_router.contrib.nats.monitor import Monitor
url, directory = sys.argv[1:]
handler = {"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {"directory": directory}}
root = {"level": "INFO", "handlers": ["job"]}
logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "handlers": {"job": handler}, "root": root})
async def main():
    async with Monitor(url, interval=0.2) as monitor:
        while True:
            await asyncio.sleep(0.05)
            print(monitor.is_leading, flush=True)
asyncio.run(main())
"""


async def test_a_monitor_that_lost_its_lease_writes_nothing(logs: JobLogs, scene: Scene, tmp_path: Path) -> None:
    """Frozen for longer than its lease lasts, it finds another one writing when it thaws, and waits."""
    await scene.queue(4)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PROGRAM, scene.server.url, str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    outsider = await scene.worker()
    file = tmp_path / f"{scene.job}.jsonl"
    try:
        while await process.stdout.readline() != b"True\n":
            pass
        await outsider.fetch(1)
        await outsider.answer("nak", 1)
        await auntil(lambda: file.exists() and "nats.nak" in file.read_text())
        # How far it has told it leaves for the next one once a round; what it told in this one would be told again.
        await asyncio.sleep(5 * INTERVAL)
        process.send_signal(signal.SIGSTOP)
        before = file.read_text()
        two = await scene.leading()
        for seq in await outsider.fetch(4):
            await outsider.answer("ack", seq)
        process.send_signal(signal.SIGCONT)  # it finds all that in its connection, and its lease long over
        while await process.stdout.readline() != b"False\n":
            pass
        await auntil(lambda: "nats.drained" in logs.stdout.events())
        for _ in range(12):  # three of its intervals
            assert await process.stdout.readline() == b"False\n"
        assert two.is_leading
        assert file.read_text() == before
        assert not of(logs, scene.job, "nats.nak")
        assert Counter(logs.messages(scene.job)).most_common(1)[0][1] == 1
    finally:
        process.kill()
        await process.wait()


def documented_user() -> str:
    """The user of the monitor, as the documentation has it."""
    text = (Path(__file__).resolve().parents[3] / "docs/nats-events.md").read_text("utf-8")
    block: str = re.findall(r"```\n(\{\n  user: monitor.*?)```", text, re.DOTALL)[0]
    return block.replace('"…"', '"m"')


@pytest.mark.parametrize("may_listen", [True, False])
async def test_the_documented_permissions_are_enough(
    may_listen: bool, logs: JobLogs, own: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Under exactly these the whole story is told and nothing refused; without the taps the numbers still are."""
    user = documented_user()
    if not may_listen:
        user = user.replace('"$JS.API.CONSUMER.MSG.NEXT.>", "$JS.ACK.>"', "")
    path = tmp_path / "server.conf"
    path.write_text("authorization { users: [ { user: all, password: a }, " + user + " ] }")
    async with AsyncExitStack() as stack:
        server = stack.enter_context(NatsServer("-c", str(path)))
        url = server.url.replace("nats://", "nats://all:a@")
        scene = Scene(own, server, stack, url)
        monitor = await scene.leading(user="monitor", password="m", recorder=may_listen)
        await scene.queue(4, max_deliver=2, ack_wait=0.4)
        outsider = await scene.worker()
        for attempt in (1, 2):
            got: dict[int, int] = {}
            while len(got) < (4 if attempt == 1 else 2):
                got |= await outsider.fetch(4, 2)
            if attempt == 1:
                for seq in (1, 2):
                    await outsider.answer("ack", seq)
        outsider.kill()
        await auntil(lambda: "nats.exhausted" in logs.stdout.events())
        (given_up,) = of(logs, own, "nats.exhausted")
        assert given_up.fields["count"] == 2
        snapshots = of(logs, own, "nats.snapshot")
        assert snapshots[-1].fields["delivered"] == 6
        if may_listen:
            assert monitor.is_recording == (server_version(scene.client) >= (2, 10))
            assert (given_up.fields["stream_seqs"], given_up.fields["task_ids"]) == ("3, 4", "T3, T4")
            assert of(logs, own, "nats.fetch.first")
            assert "permissions violation" not in capfd.readouterr().err.lower()
            assert "violation" not in server.log.replace("no_ack", "").lower()
        else:
            assert "permissions violation" in capfd.readouterr().err.lower()


async def test_without_a_stream_for_the_lease_it_writes_and_says_so(
    logs: JobLogs, own: str, permitted: Callable[..., NatsServer], capfd: pytest.CaptureFixture[str]
) -> None:
    """An account that may have no stream `JOBLOG_MONITOR`: nobody can tell whether there is a second monitor."""
    server = permitted("$JS.API.STREAM.CREATE.JOBLOG_MONITOR")
    async with AsyncExitStack() as stack:
        scene = Scene(own, server, stack, server.url.replace("nats://", "nats://all:all@"))
        monitor = await scene.leading(user="some", password="some", recorder=False)
        await scene.queue(2)
        outsider = await scene.worker()
        await outsider.fetch(2)
        await outsider.answer("nak", 1)
        await outsider.answer("ack", 2)
        await auntil(lambda: of(logs, own, "nats.nak"))
        await scene.js.delete_stream(scene.stream)
        await auntil(lambda: of(logs, own, "nats.stream.deleted"))
        await rounds(monitor)
        assert monitor.is_leading
        assert len(of(logs, own, "nats.nak")) == 1
    said = capfd.readouterr().err
    assert "the stream JOBLOG_MONITOR cannot be had; a second monitor would write every line again" in said


@pytest.mark.parametrize("content", [b"no JSON", b"[]", b'{"monitor": "another", "position": "x", "lasting": "long"}'])
async def test_a_lease_that_cannot_be_read_keeps_no_monitor_from_writing(
    content: bytes, logs: JobLogs, scene: Scene
) -> None:
    """Somebody published to its subject: who comes next takes it over, at once or when it has not changed for long."""
    first = await scene.leading()
    await first.stop()
    await scene.queue(1)
    await scene.js.publish("joblog.monitor.JOBLOG_MONITOR", content)
    monitor = await scene.leading()
    outsider = await scene.worker()
    await outsider.fetch(1)
    await outsider.answer("nak", 1)
    await auntil(lambda: of(logs, scene.job, "nats.nak"))
    assert monitor.is_leading


async def test_what_somebody_does_to_stream_and_consumer(logs: JobLogs, scene: Scene) -> None:
    """Created, changed, paused, resumed and deleted, by whomever: each once, and nothing for other streams."""
    own = scene.job
    await scene.leading()
    await scene.queue(1)
    await scene.js.add_stream(name="other", subjects=["other"])
    await scene.js.update_stream(name=scene.stream, subjects=[f"job.{own}.tasks"], max_msgs=100)
    expected = ["nats.stream.created", "nats.consumer.created", "nats.stream.updated"]
    if server_version(scene.client) >= (2, 11):
        for until_when, event in (("2100-01-01T00:00:00Z", "paused"), ("2000-01-01T00:00:00Z", "resumed")):
            pause = json.dumps({"pause_until": until_when}).encode()
            await scene.client.request(f"$JS.API.CONSUMER.PAUSE.{scene.stream}.c", pause)
            expected.append(f"nats.consumer.{event}")
            await auntil(lambda: expected[-1] in logs.stdout.events())
    await scene.js.delete_consumer(scene.stream, "c")
    await scene.js.delete_stream("other")
    await scene.js.delete_stream(scene.stream)
    await auntil(lambda: "nats.stream.deleted" in logs.stdout.events())
    expected += ["nats.consumer.deleted", "nats.stream.deleted"]
    assert [event for event in logs.events(own) if event in expected] == expected
    assert logs.messages(own)[0] == f"NATS stream {scene.stream} was created"
    assert logs.messages(own)[-1] == f"NATS stream {scene.stream} was deleted"
    assert logs.jobs() == {own}


class Counting(logging.Handler):
    """Counts lines and keeps none."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Called with each."""
        self.count += 1


def _knows_nobody(watching: Any) -> bool:
    return not watching._watch.followed and not watching._inventory.gone


@pytest.mark.parametrize(
    "jobs", [pytest.param(200, id="200"), pytest.param(10_000, id="10,000", marks=pytest.mark.soak)]
)
async def test_a_finished_job_leaves_nothing_behind(jobs: int, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams come, are worked on and go: in the end the monitor knows of none, and has not grown."""
    told = Counting()
    monkeypatch.setattr(LOGGER, "handlers", [told])
    monkeypatch.setattr(LOGGER, "propagate", False)  # pytest keeps every record that it sees
    LOGGER.setLevel(logging.INFO)
    monitor = await scene.leading(recorder=False)
    client = await nats.connect(scene.url)
    js = client.jetstream()
    sizes: list[int] = []
    tracemalloc.start()
    try:
        for number in range(1, jobs + 1):
            stream = f"job_{number}"
            await js.add_stream(name=stream, subjects=[f"job.{number}.x"], storage="memory")
            subscription = await js.pull_subscribe(f"job.{number}.x", durable="c", stream=stream)
            await js.publish(f"job.{number}.x", b"")
            for message in await subscription.fetch(1):
                await message.ack_sync()
            await subscription.unsubscribe()
            await js.delete_stream(stream)
            if number % (jobs // 2) == 0:
                watching = monitor._term
                assert watching is not None
                await auntil(partial(_knows_nobody, watching))
                await rounds(monitor, 1)  # the one in progress holds its own
                assert not watching._watch._strangers
                assert not watching._watch._by_subjects
                monitor._settings.patterns.jobs_in.cache_clear()
                gc.collect()
                only = [tracemalloc.Filter(inclusive=True, filename_pattern="*joblog_router*")]
                found = tracemalloc.take_snapshot().filter_traces(only).statistics("filename")
                sizes.append(sum(one.size for one in found))
    finally:
        tracemalloc.stop()
        await client.close()
        LOGGER.setLevel(logging.NOTSET)
    assert told.count >= 4 * jobs
    assert sizes[1] - sizes[0] < 10 * jobs + 10_000, sizes


# Runs the command where a handler is configured.
BY_ITS_HANDLER = """
import logging, sys
from joblog_router import JobLogHandler
from joblog_router.cli import main
logging.getLogger().addHandler(JobLogHandler(sink="jsonl", options={"directory": sys.argv[1]}))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("place", ["a store that is named", "the handler that there is"])
async def test_the_command_writes_what_it_finds(scene: Scene, tmp_path: Path, place: str) -> None:
    """`joblog monitor URL --store jsonl:DIR`, or without a store by handlers; prints it, and ends well on SIGTERM."""
    await scene.queue(2)
    outsider = await scene.worker()
    for seq in await outsider.fetch(2):
        await outsider.answer("ack", seq)
    arguments = ("monitor", scene.url, "--interval", "0.2")
    command = ("-m", "joblog_router", *arguments, "--store", f"jsonl:{tmp_path}")
    if place == "the handler that there is":
        command = ("-c", BY_ITS_HANDLER, str(tmp_path), *arguments)
    environment = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    file = tmp_path / f"{scene.job}.jsonl"
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line.startswith(f"[{scene.job}] Nothing is left for consumer c of {scene.stream}: 2 deliveries".encode())
        await auntil(lambda: file.exists() and "nats.drained" in file.read_text())
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_the_command_without_a_place_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    """Says what to name, and exits with the status for misuse."""
    assert main(["monitor", "nats://127.0.0.1:1"]) == 2
    assert "Name a store, --store jsonl:DIRECTORY" in capsys.readouterr().err


async def test_a_server_that_is_not_there_is_named_and_tried_again(capfd: pytest.CaptureFixture[str]) -> None:
    """Once, not with advice on permissions, and without the password; and that it answers, each time."""
    said = ""

    def is_said(words: str, times: int = 1) -> bool:
        nonlocal said
        flush(1)
        said += capfd.readouterr().err
        return said.count(words) == times

    with NatsServer() as server:
        where = server.url.removeprefix("nats://")
        server.stop()
        monitor = Monitor(f"nats://watcher:secret-word@{where}", connect_timeout=1, reconnect_time_wait=0.05)
        starting = asyncio.create_task(monitor.start())
        try:
            away = f"no NATS server answers at {where}; it is tried again until one does"
            await auntil(partial(is_said, away))
            server.restart()
            answers = f"NATS monitor: the server at {where} answers"
            await auntil(partial(is_said, answers))
            await starting
            server.stop()
            await auntil(partial(is_said, away, 2))
            server.restart()
            await auntil(partial(is_said, answers, 2))
        finally:
            starting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await starting
            await monitor.stop()
    assert said.count(away) == 2
    assert "secret-word" not in said
    assert "permissions" not in said
