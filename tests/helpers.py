"""What several tests need: a configuration by dictConfig, a wait for what nobody tells, and subprocesses that end."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from joblog_router import Entry, JobLogHandler, flush
from joblog_router._pipeline import settings
from joblog_router._pipeline.handing_over import hand_over
from joblog_router._pipeline.rules import Rules
from joblog_router.sinks import MemorySink

SRC = Path(__file__).parents[1] / "src"


def configure(level: str = "DEBUG", handlers: dict[str, Any] | None = None, **job: Any) -> JobLogHandler:
    """Configure logging as an application does, with the job handler (memory sink) on root, and give that handler."""
    job = {"class": "joblog_router.JobLogHandler", "sink": "memory", "fold": False, **job}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"job_context": {"()": "joblog_router.JobContextFilter"}},
            "handlers": {"job": job, **(handlers or {})},
            "root": {"level": level, "handlers": [*(handlers or {}), "job"]},
        }
    )
    return job_handler()


def job_handler() -> JobLogHandler:
    """The job handler on the root logger."""
    return next(handler for handler in logging.getLogger().handlers if isinstance(handler, JobLogHandler))


def use_rules(rules: Rules) -> None:
    """Have these rules count where handlers say nothing; the other settings stay."""
    hand_over(replace(settings.current, rules=rules))


def entries(job_id: object = None) -> list[Entry]:
    """What the memory sink of the root logger's handler has, after a flush that must succeed."""
    assert flush(10)
    sink = job_handler().sink
    assert isinstance(sink, MemorySink)
    return sink.entries(job_id)


def messages(job_id: object = None) -> list[str]:
    """The messages of `entries`."""
    return [entry.message for entry in entries(job_id)]


def until(is_so: Callable[[], object], seconds: float = 20.0) -> None:
    """Poll for what there is no event of: the doing of another process, or of a thread that nobody waits for."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"not so within {seconds:g} s"
        time.sleep(0.01)


async def auntil(is_so: Callable[[], object], seconds: float = 20.0) -> None:
    """The same on an event loop, which goes on meanwhile."""
    async with asyncio.timeout(seconds):
        while not is_so():
            await asyncio.sleep(0.01)


def run_python(
    code: str, *arguments: str, timeout: float = 30, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter that can import this package."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SRC), **(env or {})},
    )


def run_script(script: Path, *arguments: str, timeout: float = 40) -> subprocess.CompletedProcess[str]:
    """Run a file, which its own children may import."""
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SRC)},
    )
