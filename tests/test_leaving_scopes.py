"""Leaving a scope, wherever and in whatever order, never opens another job."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from joblog_router import aflush, carry, current_job, detached, job_context, wrap_stream
from tests.helpers import configure, entries, messages

log = logging.getLogger("third_party.module")


def found() -> list[tuple[str, str]]:
    """Job and message of every entry."""
    return [(entry.job_id, entry.message) for entry in entries()]


@pytest.mark.parametrize("how", ["detached", "other job", "unsaved job", "wrap_stream"])
async def test_a_task_that_outlived_its_job_stays_out_of_the_job_around_it(how: str) -> None:
    """Leaving a scope inside a stray task of B, born inside A, does not put that task into A."""
    configure()
    go = asyncio.Event()

    async def stray() -> None:
        await go.wait()
        log.info("before")
        if how == "detached":
            with detached():
                pass
        elif how == "wrap_stream":
            list(wrap_stream("C", [1, 2]))
        else:
            with job_context("C" if how == "other job" else None):
                pass
        log.info("after")

    with job_context("A"):
        with job_context("B"):
            task = asyncio.create_task(stray())
            await asyncio.sleep(0)
        go.set()
        await task
        log.info("of A")
    assert found() == [("A", "of A")]


async def test_a_child_of_a_job_that_closes_meanwhile_does_not_fall_into_the_outer_one() -> None:
    """A scope opened while B was open and left after B has closed leads to no job, not to A around B."""
    configure()
    entered, go = asyncio.Event(), asyncio.Event()

    async def child() -> None:
        with job_context("C"):
            entered.set()
            await go.wait()
            log.info("of C")
        log.info("of nobody")

    with job_context("A"):
        with job_context("B"):
            task = asyncio.create_task(child())
            await entered.wait()
        go.set()
        await task
    assert found() == [("C", "of C")]


async def test_one_detached_object_serves_many_tasks() -> None:
    """A shared `detached()` gives each task its own job back."""
    configure()
    shared = detached()
    inside, left = asyncio.Barrier(2), asyncio.Event()

    async def job(name: str) -> None:
        with job_context(name):
            with shared:
                await inside.wait()
                log.info("nobody")
                if name == "A":
                    await left.wait()
            left.set()
            log.info("line of %s", name)

    await asyncio.gather(job("A"), job("B"))
    assert sorted(found()) == [("A", "line of A"), ("B", "line of B")]


def test_one_context_object_serves_many_threads() -> None:
    """Each thread leaves the scope it has entered, in whatever order."""
    configure()
    shared = job_context(7)
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with shared:
            first_in.set()
            assert second_in.wait(10)
        log.info("outside again")
        assert current_job() is None
        first_out.set()

    def second() -> None:
        assert first_in.wait(10)
        with shared:
            second_in.set()
            assert first_out.wait(10)
            log.info("still inside")

    threads = [threading.Thread(target=target) for target in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert found() == [("7", "still inside")]


@pytest.mark.parametrize("opened", [detached, lambda: job_context(None), lambda: job_context("X")])
def test_a_scope_left_in_another_context_opens_nothing_there(opened: Callable[[], Any]) -> None:
    """A generator that holds a scope, begun in job A and closed where no job is, leaves no job behind."""
    configure()

    def holding() -> Iterator[None]:
        with opened():
            yield

    generator = holding()

    def begin() -> None:
        with job_context("A"):
            next(generator)

    contextvars.copy_context().run(begin)
    generator.close()  # type: ignore[attr-defined]
    assert current_job() is None
    log.info("nobody")
    with job_context("B"):
        log.info("of B")
    assert messages() == ["of B"]


def test_one_context_object_that_is_in_use_several_times_is_left_newest_first() -> None:
    """Also from a context that knows of none of its scopes."""
    shared = job_context(7)
    first = shared.__enter__()
    second = shared.__enter__()
    third = shared.__enter__()
    closed = []
    for _ in range(3):
        contextvars.Context().run(shared.__exit__, None, None, None)
        closed.append((first.closed, second.closed, third.closed))
    assert closed == [(False, False, True), (False, True, True), (True, True, True)]


def test_a_generator_leaves_the_newest_scope_of_one_context_object_first() -> None:
    """Between its items nobody else sees either of them."""
    shared = job_context(7)

    def items() -> Iterator[tuple[bool, bool]]:
        with shared as first:
            with shared as second:
                yield first.closed, second.closed
            yield first.closed, second.closed
        yield first.closed, second.closed

    seen = []
    for item in items():
        seen.append(item)
        assert current_job() is None
    assert seen == [(False, False), (False, True), (True, True)]


@pytest.mark.parametrize("how", ["carry", "wrap_stream"])
def test_code_that_leaves_a_scope_open_disturbs_nobody(how: str) -> None:
    """A step or a carried call enters a scope and never leaves it: nothing is raised, its caller is given all."""
    configure()

    class Rows:
        """An iterator that is no generator."""

        left = 2

        def __iter__(self) -> Rows:
            return self

        def __next__(self) -> str:
            if not self.left:
                raise StopIteration
            self.left -= 1
            job_context("B").__enter__()
            log.info("row")
            return "row"

    def consume() -> list[str]:
        if how == "wrap_stream":
            return list(wrap_stream("A", Rows()))
        with job_context("A"):
            call = carry(lambda: list(Rows()))
        return call()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(consume).result(10) == ["row", "row"]
    assert found() == [("B", "row")] * 2


def test_carry_leaves_a_reused_thread_as_it_was() -> None:
    """After a carried call, also one that fails, the thread has the job it had before."""
    configure()

    def fails() -> None:
        raise ValueError

    with ThreadPoolExecutor(max_workers=1) as pool, job_context("a"):
        pool.submit(carry(lambda: None)).result()
        assert pool.submit(current_job).result() is None
        assert pool.submit(carry(fails)).exception() is not None
        assert pool.submit(current_job).result() is None


async def test_carry_leaves_the_awaiting_task_as_it_was() -> None:
    """Awaiting a carried coroutine inside another job gives that job back."""

    async def work() -> None:
        assert current_job() is None, "the carried scope has closed"

    with job_context("a"):
        carried = carry(work)
    with job_context("b") as scope:
        await carried()
        assert current_job() is scope


async def test_the_decorator_follows_a_plain_function_around_a_coroutine_function() -> None:
    """A decorator that hides a coroutine function in a plain one does not lose the job."""
    configure()

    def retrying(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return call

    @job_context.of("job_id")
    @retrying
    async def work(job_id: int) -> int:
        await asyncio.sleep(0)
        log.info("working")
        return job_id

    assert await work(7) == 7
    assert await aflush()
    assert found() == [("7", "working")]


def test_the_event_loops_own_complaints_are_in_no_jobs_log() -> None:
    """Its "exception was never retrieved" comes when the garbage collector runs, in whatever job that is."""
    configure()

    async def fails() -> None:
        raise ValueError("secret of customer A")

    async def main() -> None:
        with job_context("A"):
            task = asyncio.create_task(fails())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with job_context("B"):
            del task
            gc.collect()
            log.info("of B")

    asyncio.run(main())
    assert found() == [("B", "of B")]
