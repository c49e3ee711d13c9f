"""Many browsers that follow one job, on a real server: what each of them gets, and when."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
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

    def __init__(self, site: Site) -> None:
        self.messages: list[bytes] = []
        self.skipped = 0
        self.longest = 0.0
        self._site = site
        self._id = ""
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


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_five_hundred_are_kept_up_to_date(site: Site) -> None:
    """At 1,000 lines a second each gets the newest in time; what it does not get is counted exactly."""
    browsers = follow(site, 500, 1000, 15)
    longest = sorted(browser.longest for browser in browsers)
    print(f"\nwithout a line for: median {longest[250]:.2f} s, most {longest[-1]:.2f} s")
    assert longest[250] < 2.0
    for browser in browsers:
        assert len(browser.messages) + browser.skipped == 15_001
        assert browser.messages[-1] == b"line 14999"
        numbers = [int(message.split()[1]) for message in browser.messages[1:]]
        assert numbers == sorted(set(numbers))
