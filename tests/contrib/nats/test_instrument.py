from __future__ import annotations

import asyncio
import functools
import inspect
import subprocess
import sys
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.js.client import JetStreamContext

from joblog_router import ConfigurationError, job_context
from joblog_router.contrib.nats import instrument, instrumentation, uninstrument
from tests.contrib.nats.conftest import MEMORY, Call, Connect, JobLogs

CLASSES: list[Any] = [Client, Subscription, JetStreamContext, JetStreamContext._JSI, JetStreamContext.PullSubscription]


def attributes() -> dict[tuple[Any, str], Any]:
    """Every attribute of every class that could be patched."""
    return {(owner, name): value for owner in CLASSES for name, value in vars(owner).items()}


def test_uninstrument_restores_every_attribute() -> None:
    """After any number of calls each class has the very objects it had; before that, wrappers of them."""
    before = attributes()
    instrument()
    instrument(events=False)
    during = attributes()
    uninstrument()
    uninstrument()
    assert attributes() == before
    patched = {name for key, value in during.items() if value is not before[key] for name in [key[1]]}
    assert patched >= {
        "connect",
        "subscribe",
        "request",
        "publish",
        "publish_async",
        "fetch",
        "pull_subscribe",
        "_process_op_err",
        "close",
        "drain",
        "_read_loop",
        "_ping_interval",
        "_flusher",
        "_attempt_reconnect",
        "_wait_for_msgs",
        "activity_check",
    }
    assert "force_reconnect" in patched or not hasattr(Client, "force_reconnect")
    for key, value in during.items():
        if value is not before[key]:
            assert inspect.iscoroutinefunction(value)
            assert inspect.signature(value) == inspect.signature(before[key])
            assert value.__wrapped__ is before[key]


def test_whoever_patched_later_keeps_his_patch() -> None:
    """Another library's wrapper around ours stays; ours below it only passes on."""
    original = Client.request
    instrument()
    ours = Client.request

    async def theirs(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await ours(self, *args, **kwargs)

    Client.request = theirs
    try:
        uninstrument()
        assert Client.request is theirs
    finally:
        Client.request = original


@pytest.mark.parametrize(
    "options",
    [
        {"nonsense": 1},
        {"patterns": "job_{job_id}"},
        {"patterns": ["job"]},
        {"patterns": None},
        {"header": ""},
        {"header": "two words"},
        {"header": "a:b"},
        {"header": None},
        {"events": 1},
        {"events": None},
    ],
)
def test_wrong_options_are_refused_and_nothing_is_patched(options: dict[str, Any]) -> None:
    """A configuration error names the option; nats-py stays as it was."""
    before = attributes()
    with pytest.raises(ConfigurationError, match=next(iter(options)).rstrip("s")):
        instrument(**options)
    assert attributes() == before


def test_a_second_call_changes_what_it_names() -> None:
    """Options that are given replace, the others stay."""
    try:
        instrument(header="X-One", events=False)
        instrument(header="X-Two")
        installation: Any = instrumentation._installed.now
        assert (installation.state.settings.header, installation.state.settings.events) == ("X-Two", False)
    finally:
        uninstrument()


def child(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter."""
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=30, check=False)


def test_without_nats_py_the_missing_extra_is_named() -> None:
    """The error says which package, and the line that installs it."""
    done = child(
        "import sys; sys.modules['nats'] = None\n"
        "from joblog_router import MissingExtraError\n"
        "from joblog_router.contrib.nats import instrument\n"
        "try: instrument()\n"
        "except MissingExtraError as error: print(error)\n"
    )
    assert done.stdout.strip() == "nats-py is not installed. Run: pip install 'joblog-router[nats]'", done.stderr


@pytest.mark.parametrize("is_imported", [True, False])
def test_instrument_works_before_and_after_the_import_of_nats(is_imported: bool) -> None:
    """Importing the integration imports no nats-py; clients could only exist where nats-py was imported."""
    done = child(
        ("import nats.aio.client\n" if is_imported else "") + "import sys\n"
        "from joblog_router.contrib.nats import instrument\n"
        "print('nats' in sys.modules)\n"
        "instrument()\n"
        "from joblog_router._pipeline import services\n"
        "print(bool(services.SERVICES))\n"
        "from nats.aio.client import Client\n"
        "print(hasattr(Client.connect, '__wrapped__'))\n"
    )
    assert done.stdout.split() == [str(is_imported), str(is_imported), "True"], done.stderr


def test_the_guard_of_older_clients_ends_with_the_instrumentation() -> None:
    """`uninstrument()` also takes back what it told the core."""
    from joblog_router._pipeline import services

    assert not services.SERVICES
    instrument()
    assert services.SERVICES
    uninstrument()
    assert not services.SERVICES


async def test_without_events_the_guards_stay(logs: JobLogs, connect: Connect, own: str) -> None:
    """`events=False` says nothing and asks nothing, and still gives each message its own job."""
    instrument(events=False)
    try:
        message = Call("message")
        client = await connect()
        js = client.jetstream()
        before = client.stats["out_msgs"]
        with job_context("A"):
            await js.add_stream(name=own, subjects=[f"{own}.*"])
            await js.subscribe(f"{own}.*", stream=own, cb=message.message)
            await js.publish(f"{own}.job_B", b"")
            await message.wait()
            await client.flush()
            await js.delete_stream(own)
        assert logs.stdout.events() == []
        assert logs.messages("B") == [f"message {own}.job_B"]
        assert logs.messages("A") == []
        assert client.stats["out_msgs"] - before == 5  # stream, consumer, message, its ack, deletion
    finally:
        uninstrument()


def test_two_loops_one_after_the_other(logs: JobLogs, own: str, nats_server: Any) -> None:
    """A process that calls `asyncio.run` per job, as sync views do, is instrumented once."""
    import nats

    async def work() -> None:
        client = await nats.connect(nats_server.url)
        with job_context(own):
            await client.jetstream().add_stream(name=f"job_{own}", subjects=[own], storage=MEMORY)
            await client.jetstream().delete_stream(f"job_{own}")
        await client.close()

    instrument()
    try:
        asyncio.run(work())
        asyncio.run(work())
    finally:
        uninstrument()
    assert logs.events(own) == ["nats.stream.created", "nats.stream.deleted"] * 2


async def test_whoever_patched_earlier_is_passed_through(
    logs: JobLogs, connect: Connect, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Methods that another library replaced by ones that take anything are wrapped as they are, keywords included."""
    called: list[str] = []

    def loose(original: Any) -> Any:
        async def anything(self: Any, *args: Any, **kwargs: Any) -> Any:
            called.append(original.__name__)
            return await original(self, *args, **kwargs)

        return functools.wraps(original)(anything)

    for name in ("publish", "request"):
        monkeypatch.setattr(Client, name, loose(getattr(Client, name)))
    instrument()
    try:
        client = await connect(name="w")
        js = client.jetstream()
        await js.add_stream(name=f"job_{own}", subjects=[f"job.{own}.tasks"])
        subscription = await js.pull_subscribe(f"job.{own}.tasks", durable="c")
        for _ in range(2):
            await js.publish(f"job.{own}.tasks", b"")
        first, second = await subscription.fetch(2)
        await client.publish(payload=b"-NAK", subject=first.reply)
        await second.ack_sync()
        await js.delete_stream(f"job_{own}")
    finally:
        uninstrument()
    assert set(called) == {"publish", "request"}
    assert logs.events(own)[:2] == ["nats.stream.created", "nats.consumer.created"]
    assert "nats.nak" in logs.events(own)
    assert logs.event(own, "nats.consumer.final").fields["num_ack_pending"] == 1
