"""Declared services: what serves everybody has nobody's job, by decorator or by setting."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading

import pytest

from joblog_router import current_job, job_context, leak_report, serves_everybody, stats
from joblog_router._pipeline import leaks
from tests.helpers import configure, entries, messages

log = logging.getLogger("third_party.module")


def _lines() -> list[tuple[str, str]]:
    return [(entry.job_id, entry.message) for entry in entries()]


async def _worker(go: asyncio.Event) -> None:
    """Serves everybody: one line of its own, one for job B, and one of a task it starts."""
    await go.wait()
    log.info("own")
    with job_context("B"):
        log.info("for B")
        await asyncio.create_task(_child("child for B"))
    log.info("own again")


async def _child(text: str) -> None:
    log.info(text)


def _thread(go: threading.Event) -> None:
    assert go.wait(10)
    log.info("own")
    with job_context("B"):
        log.info("for B")


async def test_a_decorated_coroutine_function_serves_everybody() -> None:
    """Started lazily inside a job that is still open, it has no job but those it opens."""
    configure()
    go = asyncio.Event()
    go.set()
    with job_context("A"):
        await asyncio.create_task(serves_everybody(_worker)(go))
        log.info("of A")
    assert _lines() == [("B", "for B"), ("B", "child for B"), ("A", "of A")]


async def test_a_service_gives_its_result_and_raises_its_error() -> None:
    """A decorated function answers as before, a coroutine function too."""

    @serves_everybody
    def divide(dividend: int, *, divisor: int) -> int:
        assert current_job() is None
        return dividend // divisor

    @serves_everybody
    async def divide_later(dividend: int, *, divisor: int) -> int:
        return divide(dividend, divisor=divisor)

    with job_context("A") as scope:
        assert (divide(6, divisor=2), await divide_later(6, divisor=3)) == (3, 2)
        with pytest.raises(ZeroDivisionError):
            divide(1, divisor=0)
        with pytest.raises(ZeroDivisionError):
            await divide_later(1, divisor=0)
        assert current_job() is scope


async def test_awaiting_a_service_gives_the_job_back() -> None:
    """Called in the job's own task, it is without a job only while it runs."""
    configure()
    go = asyncio.Event()
    go.set()
    with job_context("A") as scope:
        await serves_everybody(_worker)(go)
        assert current_job() is scope
        assert serves_everybody(current_job)() is None
        assert current_job() is scope


async def test_a_service_named_in_a_setting() -> None:
    """By dotted name, whole or a module; a scope it opens itself counts, and the rest is counted."""
    configure(services=[f"{__name__}._worker"])
    leaks.forget()
    before = stats()["services"]
    go = asyncio.Event()
    go.set()
    with job_context("A"):
        await asyncio.create_task(_worker(go))
        await asyncio.create_task(_child("of A"))
    assert _lines() == [("B", "for B"), ("B", "child for B"), ("A", "of A")]
    assert stats()["services"] == before + 2
    assert sum(site.count for site in leak_report().services) == 2


def test_a_thread_named_in_a_setting() -> None:
    """A thread that inherited a context, as free-threaded Pythons let them, has no job but those it opens."""
    configure(services=[f"{__name__}._thread"])
    go = threading.Event()
    go.set()

    class Inheriting(threading.Thread):
        def __init__(self) -> None:
            super().__init__(target=_thread, args=(go,))
            self.context = contextvars.copy_context()

        def run(self) -> None:
            self.context.run(super().run)

    with job_context("A"):
        thread = Inheriting()
        thread.start()
        thread.join(10)
        log.info("of A")
    assert _lines() == [("B", "for B"), ("A", "of A")]


def test_without_a_declaration_the_starter_gets_the_lines() -> None:
    """What the declaration is for: a shared task that A starts lazily counts as A's while A is open."""
    configure()

    async def main() -> None:
        go = asyncio.Event()
        go.set()
        with job_context("A"):
            await asyncio.create_task(_worker(go))

    asyncio.run(main())
    assert [line for line in _lines() if line[0] == "A"] == [("A", "own"), ("A", "own again")]


def test_names_end_with_their_handler() -> None:
    """A later configuration that names no service has none."""
    configure(services=[__name__])
    configure()

    async def main() -> None:
        with job_context("A"):
            await asyncio.create_task(_child("of A"))

    asyncio.run(main())
    assert messages() == ["of A"]


def test_a_generator_function_is_refused() -> None:
    """Its body runs inside its consumer's code: the error says what to declare."""
    with pytest.raises(TypeError, match="generator function"):
        serves_everybody(lambda: (yield))
