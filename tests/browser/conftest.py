"""A site in a process of its own, and a real Chromium that looks at it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.site import Site

FLAGS = ["--disable-background-networking", "--no-first-run", "--disable-gpu", "--hide-scrollbars"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All that lies here needs a browser."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker("browser")


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
        self.page.on("console", self._note)

    def _note(self, message: Any) -> None:
        # Chromium asks for an icon of pages that name none.
        if message.type in ("error", "warning") and "favicon" not in message.location.get("url", ""):
            self.complaints.append(message.text)

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

    def processes(self) -> set[tuple[str | None, str | None, float]]:
        """Of each row drawn the process it shows, in which colour, and where what comes behind begins."""
        found: list[Any] = self.page.evaluate(
            """() => [...document.querySelectorAll(".jl-row:not(.jl-absent)")].map((row) => {
                const dot = row.querySelector(".jl-origin");
                const isShown = dot !== null && dot.offsetWidth > 0;
                const left = row.querySelector(".jl-logger").getBoundingClientRect().left;
                return [isShown ? dot.title : null, isShown ? getComputedStyle(dot).color : null, left];
            })"""
        )
        return {(process, colour, left) for process, colour, left in found}

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
