"""Many browsers that follow one job, on a real server: what each of them gets, and when."""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.site import Site

_MESSAGE = re.compile(rb'"message": "([^"]*)"')


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site under uvicorn."""
    site = Site(tmp_path, JOBLOG_TEST_STREAMS="1000")
    yield site
    site.stop()


class Browser:
    """Follows a job as a page does: goes on from the last id when a stream ends."""

    def __init__(self, site: Site, after: str = "") -> None:
        self.messages: list[bytes] = []
        self.skipped = 0
        self.longest = 0.0
        self._site = site
        self._id = after
        self._last: float | None = None

    async def follow(self) -> None:
        """Until it is cancelled."""
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._site.port)
            writer.write(
                f"GET /jobs/7/stream/ HTTP/1.1\r\nHost: 127.0.0.1\r\nLast-Event-ID: {self._id}\r\n\r\n".encode()
            )
            try:
                while (await reader.readline()).strip():
                    pass  # headers
                rest = b""
                while size := int(await reader.readline() or b"0", 16):
                    *lines, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n")
                    for line in lines:
                        if line.startswith(b"id: "):
                            self._id = line[4:].decode()
                        elif line.startswith(b"data: "):
                            self._take(line)
            finally:
                writer.transport.abort()

    def _take(self, line: bytes) -> None:
        if line.startswith(b'data: {"lines": '):
            self.skipped += json.loads(line[6:])["lines"]
        elif messages := _MESSAGE.findall(line):  # not by JSON: hundreds of browsers share this process
            self.messages += messages
            now = time.monotonic()
            if self._last is not None:
                self.longest = max(self.longest, now - self._last)
            self._last = now


def follow(site: Site, viewers: int, rate: int, seconds: int) -> list[Browser]:
    """Have `viewers` follow job 7 while it logs `rate` lines a second."""
    site.say("7", "begin", level=30)
    total = rate * seconds

    def talk() -> None:
        began = time.monotonic()
        for start in range(0, total, rate // 10):
            site.say("7", *(f"line {start + n}" for n in range(rate // 10)), level=30)
            time.sleep(max(0.0, began + (start + rate // 10) / rate - time.monotonic()))  # the rate

    async def main() -> list[Browser]:
        browsers = [Browser(site) for _ in range(viewers)]
        tasks = [asyncio.ensure_future(browser.follow()) for browser in browsers]
        while not all(browser.messages for browser in browsers):
            await asyncio.sleep(0.05)
        talker = threading.Thread(target=talk)
        talker.start()
        for browser in browsers:
            browser._last = time.monotonic()
        while not all(len(browser.messages) + browser.skipped > total for browser in browsers):
            await asyncio.sleep(0.05)
        talker.join()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the transports' own end
        return browsers

    return asyncio.run(asyncio.wait_for(main(), 100 + seconds))


def expected(count: int) -> list[bytes]:
    """What whoever misses nothing has got."""
    return [b"begin", *(b"line %d" % n for n in range(count))]


def test_viewers_get_every_line_once(site: Site) -> None:
    """Twenty browsers, 500 lines a second: nothing is skipped, missing or doubled, and all is in order."""
    for browser in follow(site, 20, 500, 3):
        assert browser.skipped == 0
        assert browser.messages == expected(1500)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_fifty_skip_nothing(site: Site) -> None:
    """For a minute, over the ends of all their streams, at 1,000 lines a second."""
    for browser in follow(site, 50, 1000, 60):
        assert browser.skipped == 0
        assert browser.messages == expected(60_000)


BURST = 500
WRITER = """
import logging, os, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
import django
django.setup()
from joblog_router import flush, job_context
logger = logging.getLogger("shop.work")
number = 0
for command in sys.stdin:
    began = time.monotonic()
    with job_context("7"):
        for _ in range(int(command)):
            logger.warning("line %d", number)
            number += 1
    assert flush(60)
    print(time.monotonic() - began, flush=True)
"""


class Writer:
    """A worker in a process and on a CPU of its own that logs to job 7, as fast as it can when it is told to."""

    def __init__(self, site: Site) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=site.environment,
        )

    async def burst(self) -> float:
        """Log a burst of lines; the seconds until they were all stored."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{BURST}\n")
        self._process.stdin.flush()
        return float(await asyncio.to_thread(self._process.stdout.readline))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()


def memory_of(process: int) -> int:
    """Its resident bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_five_hundred_are_kept_up_to_date(site: Site) -> None:
    """At 1,000 lines a second each gets some every second; the rest is counted exactly; the writer hardly notices."""
    site.say("7", "begin", level=30)
    if hasattr(os, "sched_setaffinity"):
        others = sorted(os.sched_getaffinity(0))[:-1] or [0]
        os.sched_setaffinity(0, others)
        os.sched_setaffinity(site.pid, others)
    writer = Writer(site)
    took: dict[str, list[float]] = {"watched": [], "alone": []}
    longest: list[float] = []
    memory: list[int] = []
    browsers: list[Browser] = []

    async def round_of(kind: str, bursts: int) -> None:
        for _ in range(bursts):
            began = time.monotonic()
            took[kind].append(await writer.burst())
            await asyncio.sleep(max(0.0, BURST / 1000 - (time.monotonic() - began)))  # the rate

    async def watched() -> None:
        # As a page does: first the newest lines, then what comes after them.
        with urllib.request.urlopen(f"{site.url}/jobs/7/entries/?limit=1") as answer:
            after = json.load(answer)["next"]
        browsers[:] = [Browser(site, after) for _ in range(500)]
        tasks = [asyncio.ensure_future(browser.follow()) for browser in browsers]
        await writer.burst()
        while not all(len(browser.messages) + browser.skipped == BURST for browser in browsers):
            await asyncio.sleep(0.05)
        for browser in browsers:
            browser._last = time.monotonic()
        await round_of("watched", 24)
        while not all(len(browser.messages) + browser.skipped == 25 * BURST for browser in browsers):
            await asyncio.sleep(0.05)
        longest.extend(browser.longest for browser in browsers)
        memory.append(memory_of(site.pid))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)

    async def main() -> None:
        await writer.burst()  # the first ones open connections and the like
        for _ in range(3):
            await round_of("alone", 12)
            await watched()
            await round_of("alone", 12)

    try:
        asyncio.run(asyncio.wait_for(main(), 800))
    finally:
        writer.close()
    longest.sort()
    rates = {kind: BURST / statistics.median(times) for kind, times in took.items()}
    print(f"\nwithout a line for: median {statistics.median(longest):.2f} s, most {longest[-1]:.2f} s")
    print(f"the writer's rate with 500 viewers: {rates['watched'] / rates['alone']:.3f} of that without")
    print(f"memory of the server: {', '.join(f'{size / 1e6:.0f}' for size in memory)} MB")
    for browser in browsers:
        numbers = [int(message.split()[1]) for message in browser.messages if message != b"begin"]
        assert numbers == sorted(set(numbers))
