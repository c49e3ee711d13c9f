"""Fixtures of the conformance tests: a configuration, and both event loops."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.helpers import configure

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
if sys.platform != "win32":  # uvloop is not made for it
    LOOPS["uvloop"] = importlib.import_module("uvloop").new_event_loop

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(autouse=True)
def _configured() -> None:
    """Logging as an application has it: the job handler on root, every line kept."""
    configure()


@pytest.fixture(params=list(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine to its end, on the one loop and on the other."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(asyncio.wait_for(main, 20))

    return run
