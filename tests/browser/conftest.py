"""A site in a process of its own, and a real Chromium that looks at it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = ["--disable-background-networking", "--no-first-run", "--disable-gpu", "--hide-scrollbars"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that lies here needs a browser."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("browser")


class Site:
    """Uvicorn with the site on a port of its own. `say` logs in it; `stop` and `start` restart it."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
            "JOBLOG_TEST_SITE": str(folder),
            "DJANGO_SETTINGS_MODULE": "tests.browser.settings",
            "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        for alias in ("default", "joblog"):
            self._python("-m", "django", "migrate", "--verbosity", "0", "--database", alias).wait(60)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def _python(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=self._environment)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        arguments = ["--port", str(self.port), "--lifespan", "off", "--log-level", "error"]
        self._process = self._python("-m", "uvicorn", *arguments, "tests.browser.asgi:application")
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self._process.poll() is None, "the site did not start"
            assert time.monotonic() < deadline
            time.sleep(0.05)  # nobody tells when a port is open

    def stop(self) -> None:
        """End the server at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)
            self._process = None

    def say(self, job: str, *messages: str, level: int = 20, **extra: Any) -> None:
        """Have the site log lines."""
        lines = [(job, level, message, extra) for message in messages]
        request = urllib.request.Request(f"{self.url}/say/", json.dumps(lines).encode())
        urllib.request.urlopen(request, timeout=20).close()

    def fill(self, job: str, count: int, start: float = 1_700_000_000.0, step: float = 0.01) -> None:
        """Put `count` lines into the table directly; every thousandth is an error, every hundredth a warning."""

        def level(number: int) -> int:
            return 40 if number % 1000 == 500 else 30 if number % 100 == 50 else 20

        rows = (
            (job, round((start + number * step) * 1e6), level(number), f"Processed image {number} of {count}", number)
            for number in range(count)
        )
        connection = sqlite3.connect(self.folder / "joblog.sqlite3", timeout=30)
        connection.executemany(
            "INSERT INTO joblog_router_joblogentry (namespace, job_id, created, level, logger, message, exception,"
            " fields, path, line, audience, origin, seq, n)"
            f" VALUES ('', ?, ?, ?, 'survey.images', ?, '', '{{}}', '/srv/x.py', 7, 'all', '{job}-1', ?, 1)",
            rows,
        )
        connection.commit()
        connection.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site that tests share: each uses jobs of its own."""
    site = Site(tmp_path_factory.mktemp("site"))
    yield site
    site.stop()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Debian's Chromium, or the one that CHROMIUM names."""
    from playwright.sync_api import sync_playwright

    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert path, "no Chromium was found: apt-get install chromium, or set CHROMIUM to its path"
    flags = [*FLAGS, "--no-sandbox"] if os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


class Tab:
    """A page of the browser, and what its console said."""

    def __init__(self, browser: Any, **options: Any) -> None:
        defaults = {"viewport": {"width": 1100, "height": 650}, "timezone_id": "UTC", "locale": "en-GB"}
        self.context = browser.new_context(**{**defaults, **options})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"a dialog: {dialog.message}"))
        self.page.on(
            "console",
            lambda message: message.type in ("error", "warning") and self.complaints.append(message.text),
        )

    def visit(self, site: Site, job: str, query: str = "") -> Any:
        """Open a job's log and wait until it is live."""
        self.page.goto(f"{site.url}/jobs/{job}/{query}")
        self.page.locator('.jl-status[data-state="live"]').wait_for()
        return self.page

    def log(self) -> dict[str, Any]:
        """What the page's script knows of the log."""
        found: dict[str, Any] = self.page.evaluate(
            """() => {
                const log = document.querySelector("[data-joblog]").joblog;
                return {
                    messages: log.lines.map((line) => line.message),
                    total: log.total(), above: log.above, below: log.below, follows: log.follows, unseen: log.unseen,
                    current: log.current, first: log.firstVisible(),
                };
            }"""
        )
        return found

    def shown(self) -> list[str]:
        """The texts of the rows in sight."""
        found: list[str] = self.page.evaluate(
            """() => {
                const box = document.querySelector(".jl-view").getBoundingClientRect();
                const isSeen = (row) => {
                    const at = row.getBoundingClientRect();
                    return at.bottom > box.top && at.top < box.bottom;
                };
                return [...document.querySelectorAll(".jl-row")].filter(isSeen)
                    .map((row) => row.querySelector(".jl-text")?.textContent ?? "…");
            }"""
        )
        return found

    def still(self) -> list[str]:
        """What is in sight once scrolling, which the browser animates, has come to rest."""
        before = None
        while (now := self.shown()) != before:
            before = now
            self.page.wait_for_timeout(150)
        return now

    def until(self, condition: Any, timeout: float = 15) -> Any:
        """Look again and again, as the policy of the page allows no other way, until `condition()` gives something."""
        deadline = time.monotonic() + timeout
        while not (found := condition()):
            assert time.monotonic() < deadline, self.log()
            self.page.wait_for_timeout(20)
        return found


@pytest.fixture
def tab(chromium: Any) -> Iterator[Tab]:
    """A fresh page, whose console has to stay clean."""
    tab = Tab(chromium)
    yield tab
    tab.context.close()
    assert tab.complaints == []
