from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any

import pytest
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.errors import NoStreamResponseError, ServiceUnavailableError

from joblog_router import job_context
from tests.contrib.nats.conftest import Connect, JobLogs
from tests.helpers import auntil
from tests.servers import NatsServer

pytestmark = pytest.mark.usefixtures("instrumented")


async def test_hundreds_at_once_make_one_line(logs: JobLogs, connect: Connect, own: str) -> None:
    """A gather of 300 publishes is summed up when the scope closes, nested scopes of the job included."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        with job_context(own, stage="first half"):
            await asyncio.gather(*(js.publish(own, b"") for _ in range(150)))
        assert "nats.publish.summary" not in logs.events(own)
        await asyncio.gather(*(js.publish(own, b"") for _ in range(150)))
    summary = logs.event(own, "nats.publish.summary")
    assert summary.level == logging.INFO
    assert summary.message.startswith(f"Published 300 messages to NATS stream job_{own} (stream_seq 1-300) in ")
    fields = summary.fields
    assert (fields["accepted"], fields["failed"], fields["unknown"], fields["duplicates"]) == (300, 0, 0, 0)
    assert (fields["first_seq"], fields["last_seq"], fields["stream"]) == (1, 300, f"job_{own}")
    assert 0 < fields["duration"] < 30


async def test_what_was_stored_before_and_what_others_store_is_told(logs: JobLogs, connect: Connect, own: str) -> None:
    """Duplicates are counted apart, and the range of sequence numbers is not claimed to be all the scope's."""
    js = (await connect()).jetstream()
    await js.add_stream(name=f"job_{own}", subjects=[own])
    with job_context(own):
        await js.publish(own, b"", headers={"Nats-Msg-Id": "1"})
        await js.publish(own, b"", headers={"Nats-Msg-Id": "1"})
        await asyncio.create_task(publish_outside(js, own))
        await js.publish(own, b"", headers={"Nats-Msg-Id": "2"})
    summary = logs.event(own, "nats.publish.summary")
    assert (summary.fields["accepted"], summary.fields["duplicates"]) == (3, 1)
    assert "(between stream_seq 1 and 3)" in summary.message
    assert "1 of them stored before" in summary.message


async def publish_outside(js: Any, subject: str) -> None:
    """A message of nobody's."""
    from joblog_router import detached

    with detached():
        await js.publish(subject, b"")


async def test_each_stream_has_its_own_summary(logs: JobLogs, connect: Connect, own: str) -> None:
    """Two streams, two lines; both in the log of the job that published."""
    js = (await connect()).jetstream()
    for name in ("one", "two"):
        await js.add_stream(name=f"{own}-{name}", subjects=[f"{own}.{name}"])
    with job_context(own):
        await js.publish(f"{own}.one", b"")
        await js.publish(f"{own}.two", b"")
        await js.publish(f"{own}.two", b"")
    summaries = [
        (entry.fields["stream"], entry.fields["accepted"])
        for entry in logs.entries(own)
        if entry.fields.get("event") == "nats.publish.summary"
    ]
    assert summaries == [(f"{own}-one", 1), (f"{own}-two", 2)]


async def test_a_publish_for_another_job_is_told_in_that_jobs_log(logs: JobLogs, connect: Connect, own: str) -> None:
    """A dispatcher's messages are summed up in the logs of the jobs that subject or header name."""
    js = (await connect()).jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.>"])
    with job_context("dispatcher"):
        await js.publish(f"{own}.job_B", b"")
        await js.publish(f"{own}.x", b"", headers={"Joblog-Job-Id": "C"})
        await js.publish(f"{own}.x", b"")
        await js.publish(f"{own}.job_B", b"", headers={"Joblog-Job-Id": "C"})
    for job in ("B", "C", "dispatcher"):
        assert logs.event(job, "nats.publish.summary").fields["accepted"] == 1


async def test_without_a_scope_nothing_is_summed(logs: JobLogs, connect: Connect, own: str) -> None:
    """Publishing outside jobs makes no line."""
    js = (await connect()).jetstream()
    await js.add_stream(name=own, subjects=[own])
    await js.publish(own, b"")
    with pytest.raises(NoStreamResponseError):
        await js.publish(f"{own}.nowhere", b"")
    assert logs.stdout.events() == []


async def test_failures_are_told_by_error_type(logs: JobLogs, connect: Connect, own: str) -> None:
    """The first of each type at once with its traceback, the rest in the summary, which is a warning then."""
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[f"{own}.*"], max_msgs=2, discard="new")
        for _ in range(2):
            await js.publish(f"{own}.x", b"")
        for _ in range(3):
            with pytest.raises(ServiceUnavailableError) as full:
                await js.publish(f"{own}.x", b"")
        assert logs.events(own) == ["nats.stream.created", "nats.publish.failed"]
        for _ in range(2):
            with pytest.raises(NoStreamResponseError):
                await js.publish(f"nowhere.{own}", b"")
    assert logs.events(own) == [
        "nats.stream.created",
        "nats.publish.failed",
        "nats.publish.failed",
        "nats.publish.summary",
        "nats.publish.summary",
    ]
    refused, lost = [e for e in logs.entries(own) if e.fields.get("event") == "nats.publish.failed"]
    assert refused.level == lost.level == logging.WARNING
    assert refused.fields["err_code"] == full.value.err_code == 10077
    assert refused.fields["stream"] == f"job_{own}"
    assert refused.fields["error_type"] == "ServiceUnavailableError"
    assert "ServiceUnavailableError" in (refused.exception or "")
    assert lost.message == (
        f"Publishing to nowhere.{own} failed: NoStreamResponseError (nats: no response from stream)"
    )
    stored, nowhere = [e for e in logs.entries(own) if e.fields.get("event") == "nats.publish.summary"]
    assert stored.level == nowhere.level == logging.WARNING
    assert stored.message.startswith(f"Published 2 of 5 messages to NATS stream job_{own} (stream_seq 1-2) in ")
    assert stored.message.endswith("; 3 failed (ServiceUnavailableError 3)")
    assert (stored.fields["accepted"], stored.fields["failed"]) == (2, 3)
    assert (nowhere.fields["accepted"], nowhere.fields["failed"]) == (0, 2)
    assert nowhere.fields["errors"] == "NoStreamResponseError 2"


async def test_a_timeout_is_not_called_a_failure(
    logs: JobLogs, connect: Connect, own: str, own_nats_server: NatsServer
) -> None:
    """Without an acknowledgement in time the message may be stored; so says the line, and so do the numbers."""
    client = await connect(own_nats_server.url)
    js = client.jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        await js.publish(own, b"")
        own_nats_server.pause()
        results = await asyncio.gather(*(js.publish(own, b"", timeout=0.2) for _ in range(4)), return_exceptions=True)
        assert {type(result) for result in results} == {NatsTimeoutError}
        before = client.stats["out_msgs"]
        task = asyncio.create_task(js.publish(own, b""))
        await auntil(lambda: client.stats["out_msgs"] > before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        own_nats_server.resume()
    failed = logs.event(own, "nats.publish.failed")
    assert failed.message == (
        f"Publishing to {own} (NATS stream job_{own}): no acknowledgement in time, outcome unknown: "
        "TimeoutError (nats: timeout)"
    )
    summary = logs.event(own, "nats.publish.summary")
    assert "5 without an acknowledgement in time, outcome unknown" in summary.message
    assert (summary.fields["accepted"], summary.fields["failed"], summary.fields["unknown"]) == (1, 0, 5)


async def test_exceptions_and_acks_come_through(connect: Connect, own: str, monkeypatch: Any) -> None:
    """The acknowledgement and the exception are nats-py's own objects."""
    client = await connect()
    js = client.jetstream()
    await js.add_stream(name=own, subjects=[own])
    error = RuntimeError("of nats-py")

    async def failing(*args: Any, **kwargs: Any) -> Any:
        raise error

    with job_context("A"):
        ack = await js.publish(subject=own, payload=b"", stream=own, headers=None)
        assert (type(ack).__name__, ack.stream, ack.seq) == ("PubAck", own, 1)
        monkeypatch.setattr(client, "request", failing)
        with pytest.raises(RuntimeError) as raised:
            await js.publish(own, b"")
        assert raised.value is error
        with pytest.raises(TypeError):
            await js.publish(own, b"", nonsense=1)


async def test_a_callbacks_publishes_are_summed_where_it_was_subscribed(
    logs: JobLogs, connect: Connect, own: str
) -> None:
    """A worker's callback that publishes per message makes one summary, in the scope that subscribed it."""
    client = await connect()
    js = client.jetstream()
    done = asyncio.Event()

    async def forward(message: Any) -> None:
        await js.stream_info(f"job_{own}")
        ack = await js.publish(f"{own}.out", b"")
        if ack.seq == 20:
            done.set()

    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[f"{own}.out"])
        await client.subscribe(f"{own}.job_{own}", cb=forward)
        for _ in range(20):
            await client.publish(f"{own}.job_{own}", b"")
        await asyncio.wait_for(done.wait(), 10)
        await client.flush()
    assert logs.events(own) == ["nats.stream.created", "nats.publish.summary"]
    assert logs.event(own, "nats.publish.summary").fields["accepted"] == 20


async def test_a_callback_outside_scopes_tells_failures_only(logs: JobLogs, connect: Connect, own: str) -> None:
    """Per message there is no summary; failures are told at the first, the tenth, the hundredth of their type."""
    client = await connect()
    js = client.jetstream()
    failed = 0
    done = asyncio.Event()

    async def forward(message: Any) -> None:
        nonlocal failed
        await js.publish(f"{own}.stored", b"")
        with pytest.raises(NoStreamResponseError):
            await js.publish(f"{own}.nowhere", b"")
        failed += 1
        if failed == 25:
            done.set()

    await js.add_stream(name=own, subjects=[f"{own}.stored"])
    await client.subscribe(f"{own}.job_{own}", cb=forward)
    for _ in range(25):
        await client.publish(f"{own}.job_{own}", b"")
    await asyncio.wait_for(done.wait(), 10)
    assert logs.events(own) == ["nats.publish.failed"] * 2
    assert [e.fields["failed"] for e in logs.entries(own)] == [1, 10]
    assert logs.messages(own)[1].endswith(", 10 times so far")


async def test_a_publish_that_outlives_its_scope_is_not_summed(logs: JobLogs, connect: Connect, own: str) -> None:
    """What ends after the scope is nobody's line: no summary, no failure in the closed job's log."""
    js = (await connect()).jetstream()
    await js.add_stream(name=own, subjects=[own])
    with job_context("A"):
        tasks = [asyncio.create_task(js.publish(subject, b"")) for subject in (own, f"{own}.nowhere")]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert logs.jobs() == set()


async def test_late_failures_of_a_named_job_are_told_once(logs: JobLogs, connect: Connect, own: str) -> None:
    """Publishes that end after the scope, to a subject that names another job: one line there, not one each."""
    js = (await connect()).jetstream()
    with job_context("A"):
        tasks = [asyncio.create_task(js.publish(f"{own}.job_{own}", b"")) for _ in range(5)]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert logs.events(own) == ["nats.publish.failed"]
    assert logs.jobs() == {own}


async def test_a_failure_that_nobody_looks_at_is_still_asyncios_to_report(connect: Connect, own: str) -> None:
    """Our look at an asynchronous publish does not mark its exception as seen."""
    js = (await connect()).jetstream()
    unseen: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
    with job_context("A"):
        await js.add_stream(name=own, subjects=[own])
        future = await js.publish_async(f"{own}.nowhere", b"")
        await asyncio.wait([future])
        del future
    gc.collect()
    assert [type(context["exception"]) for context in unseen] == [NoStreamResponseError]


async def test_a_dispatcher_of_many_jobs_is_bounded(
    logs: JobLogs, connect: Connect, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond so many sums in one scope the oldest is told early, and none is lost."""
    from joblog_router.contrib.nats.client import publishing

    monkeypatch.setattr(publishing, "_MAX_SUMS", 3)
    js = (await connect()).jetstream()
    await js.add_stream(name=own, subjects=[f"{own}.>"])
    with job_context("dispatcher"):
        for number in range(8):
            await js.publish(f"{own}.job_{own}{number}", b"")
        assert len(logs.jobs()) == 5
    assert logs.jobs() == {f"{own}{number}" for number in range(8)}


async def test_bookkeeping_that_fails_leaves_publishing_alone(
    logs: JobLogs, connect: Connect, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every step of ours broken, results and exceptions are the same, and the scope closes."""
    from joblog_router.contrib.nats.client import management, publishing

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError

    js = (await connect()).jetstream()
    monkeypatch.setattr(publishing, "_sum", broken)
    monkeypatch.setattr(publishing, "_tell_failure", broken)
    monkeypatch.setattr(management, "_stream", broken)
    monkeypatch.setattr(management, "_deleted", broken)
    monkeypatch.setattr(management, "_refused", broken)
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        assert (await js.publish(own, b"")).seq == 1
        with pytest.raises(NoStreamResponseError):
            await js.publish(f"{own}.nowhere", b"")
        assert await js.delete_stream(f"job_{own}")
    assert logs.jobs() == set()


async def test_a_handler_that_fails_leaves_publishing_alone(logs: JobLogs, connect: Connect, own: str) -> None:
    """An exception out of the application's own logging configuration does not come back through nats-py."""

    def broken(record: logging.LogRecord) -> bool:
        raise ZeroDivisionError

    logger = logging.getLogger("joblog_router.nats")
    logger.addFilter(broken)
    js = (await connect()).jetstream()
    with job_context(own):
        await js.add_stream(name=f"job_{own}", subjects=[own])
        assert (await js.publish(own, b"")).seq == 1
        assert await js.delete_stream(f"job_{own}")
