"""Workers that know nothing of this library, in processes of their own: nats-py alone, or a bare socket.

Run as a program: `python workers.py {nats|socket} URL STREAM CONSUMER`. Takes one command a line on stdin (a JSON list)
and answers each with a line. Imported by tests for `Outsider`, which starts and drives one.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import uuid
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

ANSWERS = {"ack": b"+ACK", "nak": b"-NAK", "term": b"+TERM", "progress": b"+WPI"}


class Outsider:
    """Drives one such worker. What it fetched and answered is its own record, `done`: (command, sequence, attempt)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.done: list[tuple[str, int, int]] = []

    @classmethod
    async def start(cls, how: str, url: str, stream: str, consumer: str) -> Self:
        """Start one; it is connected when this returns."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__)),
            *(how, url, stream, consumer),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        )
        worker = cls(process)
        assert await worker._answer() == "ready"
        return worker

    async def fetch(self, batch: int, timeout: float = 1.0) -> dict[int, int]:
        """Take messages; sequence to attempt."""
        got = {int(seq): attempt for seq, attempt in (await self._ask("fetch", batch, timeout)).items()}
        self.done += [("fetch", seq, attempt) for seq, attempt in got.items()]
        return got

    async def answer(self, what: str, seq: int, reason: str = "") -> None:
        """Answer for the last delivery of a message."""
        self.done.append((what, seq, await self._ask(what, seq, reason)))

    async def drain(self, batch: int) -> tuple[int, float]:
        """Fetch and acknowledge all there is at full speed: how many, and in how many seconds."""
        count, seconds = await self._ask("drain", batch)
        return count, seconds

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self) -> None:
        """End it, whatever it does."""
        self.kill()
        await self._process.wait()

    def count(self, what: str) -> int:
        """How often it did something, by its own record."""
        return sum(done[0] == what for done in self.done)

    async def _ask(self, *command: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(await asyncio.wait_for(self._process.stdout.readline(), 120))


async def with_nats(url: str, stream: str, consumer: str) -> None:
    """The worker that uses nats-py."""
    import time

    import nats

    client = await nats.connect(url)
    subscription = await client.jetstream().pull_subscribe_bind(consumer=consumer, stream=stream)
    last: dict[int, str] = {}
    loop = asyncio.get_running_loop()
    say("ready")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command, *arguments = json.loads(line)
        if command == "fetch":
            try:
                messages = await subscription.fetch(arguments[0], timeout=arguments[1])
            except TimeoutError:
                messages = []
            last.update({message.metadata.sequence.stream: message.reply for message in messages})
            say({m.metadata.sequence.stream: m.metadata.num_delivered for m in messages})
        elif command == "drain":
            count, started = 0, time.perf_counter()
            while True:
                try:
                    messages = await subscription.fetch(arguments[0], timeout=0.3)
                except TimeoutError:
                    break
                for message in messages:
                    await message.ack()
                count += len(messages)
                ended = time.perf_counter()
            await client.flush()
            say([count, ended - started])
        else:
            seq, reason = arguments
            payload = ANSWERS[command] + (b" " + reason.encode() if reason else b"")
            await client.publish(last[seq], payload)
            await client.flush()
            say(int(last[seq].split(".")[4]))


def with_socket(url: str, stream: str, consumer: str) -> None:
    """The worker that speaks the protocol by itself."""
    parts = urlsplit(url)
    connection = socket.create_connection((parts.hostname, parts.port))
    file = connection.makefile("rb")
    inbox, last = f"_INBOX.{uuid.uuid4().hex}", {}
    file.readline()
    connection.sendall(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
    connection.sendall(f"SUB {inbox} 1\r\nPING\r\n".encode())
    until(file, connection, b"PONG")
    say("ready")
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        if command == "fetch":
            batch = json.dumps({"batch": arguments[0], "no_wait": True}).encode()
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
            connection.sendall(f"PUB {subject} {inbox} {len(batch)}\r\n".encode() + batch + b"\r\n")
            got: dict[int, int] = {}
            while len(got) < arguments[0]:
                head = until(file, connection, b"MSG", b"HMSG")
                file.read(int(head[-1]) + 2)
                if head[0] == b"HMSG":
                    break  # the status: there is no more
                reply = head[3].decode()
                got[int(reply.split(".")[5])] = int(reply.split(".")[4])
                last[int(reply.split(".")[5])] = reply
            say(got)
        else:
            seq, reason = arguments
            payload = ANSWERS[command] + (b" " + reason.encode() if reason else b"")
            connection.sendall(f"PUB {last[seq]} {len(payload)}\r\n".encode() + payload + b"\r\nPING\r\n")
            until(file, connection, b"PONG")
            say(int(last[seq].split(".")[4]))


def until(file: Any, connection: socket.socket, *kinds: bytes) -> list[bytes]:
    """Read lines up to one of these kinds; the words of it."""
    while True:
        words: list[bytes] = file.readline().split()
        if words and words[0] == b"PING":
            connection.sendall(b"PONG\r\n")
        elif words and words[0] in kinds:
            return words


def say(what: Any) -> None:
    """One line to whoever drives us."""
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "nats":
        asyncio.run(with_nats(*sys.argv[2:]))
    else:
        with_socket(*sys.argv[2:])
