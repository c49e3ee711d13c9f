"""The job across the wire: which messages carry it, and that nobody is believed who contradicts a name."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from joblog_router import ConfigurationError, job_context, stats
from joblog_router.contrib.nats import instrument
from tests.contrib.nats.conftest import Call, Connect, JobLogs
from tests.helpers import auntil
from tests.servers import NatsServer

HEADER = "Joblog-Job-Id"
EXAMPLE = Path(__file__).resolve().parents[3] / "examples/nats_subscriber.py"

pytestmark = pytest.mark.usefixtures("instrumented")


async def test_listed_subjects_carry_the_header(connect: Connect, own: str) -> None:
    """Only JetStream messages to a listed subject, from inside a job; the caller's own headers stay."""
    instrument(header_subjects=[f"{own}.*.out", f"job.{own}B.>"])
    client = await connect()
    js = client.jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.>", f"job.{own}B.>"])
    seen: list[Any] = []

    async def keep(message: Any) -> None:
        seen.append(dict(message.headers or {}))

    await client.subscribe(f"{own}.>", cb=keep)
    await client.subscribe(f"job.{own}B.>", cb=keep)
    mine = {"Mine": "1"}
    await js.publish(f"{own}.a.out", b"")  # no job
    with job_context("7"):
        await js.publish(f"{own}.a.out", b"")
        await js.publish(f"{own}.a.out", b"", headers=mine)
        await js.publish(f"{own}.a.out", b"", 5, None, {HEADER: "8"})
        await (await js.publish_async(f"{own}.a.out", b""))
        await js.publish(f"{own}.a.other", b"")
        await client.publish(f"{own}.a.out", b"")  # core NATS
        await js.publish(f"job.{own}B.x", b"")  # another job's name
    with job_context("seven\n"):
        await js.publish(f"{own}.a.out", b"")
    await client.flush()
    while len(seen) < 9:
        await asyncio.wait_for(client.flush(), 5)
    jobs = [headers.get(HEADER) for headers in seen]
    assert jobs == [None, "7", "7", "8", "7", None, None, None, None]
    assert seen[2] == {"Mine": "1", HEADER: "7"}
    assert mine == {"Mine": "1"}


async def test_a_summary_is_the_same_with_the_header(logs: JobLogs, connect: Connect, own: str) -> None:
    """What is published with our header is counted as before."""
    instrument(header_subjects=[f"{own}.>"])
    js = (await connect()).jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.>"])
    with job_context("7"):
        for _ in range(30):
            await js.publish(f"{own}.x", b"")
    assert logs.event("7", "nats.publish.summary").fields["accepted"] == 30


async def test_a_forged_header_binds_nobody(logs: JobLogs, connect: Connect, own: str) -> None:
    """On a job's own subject a header that names another one puts the callback in no job, and is counted."""
    client = await connect()
    call = Call("got", times=2)
    await client.subscribe(f"job.{own}.>", cb=call.message)
    before = stats()["conflicts"]
    await client.publish(f"job.{own}.results", b"", headers={HEADER: "victim"})
    await client.publish(f"job.{own}.results", b"", headers={HEADER: own})
    await call.wait()
    assert stats()["conflicts"] > before
    assert logs.messages("victim") == []
    assert logs.messages(own, "worker") == [f"got job.{own}.results"]


async def test_the_example_writes_into_the_publishers_job(
    logs: JobLogs, connect: Connect, own: str, tmp_path: Path, nats_server: NatsServer
) -> None:
    """A plain subscriber in another process: its lines are in the log of the job that published."""
    instrument(header_subjects=[f"{own}.>"])
    js = (await connect()).jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.>"])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLE), nats_server.url, f"{own}.>", str(tmp_path)), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 20) == b"listening\n"
        for job in ("71", "72"):
            with job_context(job):
                await js.publish(f"{own}.done", b"xyz")
        await auntil(lambda: all((tmp_path / f"{job}.jsonl").exists() for job in ("71", "72")))
    finally:
        process.send_signal(signal.SIGINT)
        await process.wait()
    for job in ("71", "72"):
        assert f"Received 3 bytes on {own}.done" in (tmp_path / f"{job}.jsonl").read_text()


@pytest.mark.parametrize("subjects", ["a.b", ["a..b"], ["$JS.>"], [7], ["a.>.b"], ["a b"]])
def test_wrong_subjects_are_refused(subjects: Any) -> None:
    """What is no list of subjects is said at once."""
    with pytest.raises(ConfigurationError, match="header_subjects must be a list of subjects"):
        instrument(header_subjects=subjects)
