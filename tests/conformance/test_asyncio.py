"""Tasks, callbacks and everything else an event loop runs, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest

from joblog_router import carry, current_job, detached, job_context, serves_everybody

from .conftest import Run
from .lines import Counted, lines, log


async def say(text: str) -> None:
    """One line, after the loop has had a turn."""
    await asyncio.sleep(0)
    log.info(text)


def test_a_created_task_is_its_creators(run: Run) -> None:
    """`create_task` inside A: A's lines."""

    async def main() -> None:
        with job_context("A"):
            await asyncio.create_task(say("child"))

    run(main())
    assert lines() == [("A", "child")]


def test_gather_and_wait_are_their_callers(run: Run) -> None:
    """Two jobs that gather at the same time keep their children's lines apart."""

    async def job(name: str) -> None:
        with job_context(name):
            await asyncio.gather(*(say(f"{name}{number}") for number in range(3)))
            await asyncio.wait([asyncio.ensure_future(say(f"{name}w"))])

    async def main() -> None:
        await asyncio.gather(job("A"), job("B"))

    run(main())
    assert len(lines()) == 8
    assert all(text.startswith(job) for job, text in lines())


def test_a_task_group_is_its_openers(run: Run) -> None:
    """`TaskGroup.create_task` inside A: A's lines."""

    async def main() -> None:
        with job_context("A"):
            async with asyncio.TaskGroup() as group:
                group.create_task(say("one"))
                group.create_task(say("two"))

    run(main())
    assert lines() == [("A", "one"), ("A", "two")]


def test_wait_for_and_shield_are_their_callers(run: Run) -> None:
    """Timeouts and shields change nothing."""

    async def main() -> None:
        with job_context("A"):
            await asyncio.wait_for(say("waited"), 5)
            await asyncio.shield(say("shielded"))
            async with asyncio.timeout(5):
                await say("timed")

    run(main())
    assert lines() == [("A", "waited"), ("A", "shielded"), ("A", "timed")]


@pytest.mark.parametrize("how", ["call_soon", "call_later", "call_at", "call_soon_threadsafe"])
def test_a_scheduled_callback_is_its_schedulers(run: Run, how: str) -> None:
    """Scheduled inside A and run while A is open: A's line."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def callback() -> None:
            log.info("callback")
            done.set()

        with job_context("A"):
            if how == "call_later":
                loop.call_later(0.001, callback)
            elif how == "call_at":
                loop.call_at(loop.time() + 0.001, callback)
            else:
                getattr(loop, how)(callback)
            await done.wait()

    run(main())
    assert lines() == [("A", "callback")]


def test_a_callback_that_runs_after_the_job_is_late(run: Run) -> None:
    """Scheduled inside A and run after A has closed: no job, counted."""
    late = Counted("late")

    async def main() -> None:
        done = asyncio.Event()

        def callback() -> None:
            log.info("callback")
            done.set()

        with job_context("A"):
            asyncio.get_running_loop().call_soon(callback)
        with job_context("B"):
            await done.wait()

    run(main())
    assert lines() == []
    assert late.more() == 1


def test_a_done_callback_is_its_adders(run: Run) -> None:
    """Added inside A to a task of B: A's line."""

    async def main() -> None:
        go, done = asyncio.Event(), asyncio.Event()

        def callback(task: asyncio.Task[Any]) -> None:
            log.info("done callback")
            done.set()

        with job_context("B"):
            task = asyncio.create_task(go.wait())
        with job_context("A"):
            task.add_done_callback(callback)
            go.set()
            await done.wait()

    run(main())
    assert lines() == [("A", "done callback")]


def test_to_thread_is_its_callers(run: Run) -> None:
    """`asyncio.to_thread` takes the context along."""

    async def main() -> None:
        with job_context("A"):
            await asyncio.to_thread(log.info, "in a thread")

    run(main())
    assert lines() == [("A", "in a thread")]


def test_run_in_executor_is_lost_without_carry(run: Run) -> None:
    """`loop.run_in_executor` takes no context along: no job, or that of the call with `carry`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with job_context("A"):
            await loop.run_in_executor(None, log.info, "lost")
            await loop.run_in_executor(None, carry(log.info), "carried")

    run(main())
    assert lines() == [("A", "carried")]


def test_run_coroutine_threadsafe_is_the_calling_threads(run: Run) -> None:
    """The coroutine runs in the job of the thread that hands it over."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def hand_over() -> None:
            with job_context("A"):
                asyncio.run_coroutine_threadsafe(say("handed over"), loop).result(10)

        with job_context("C"):
            await loop.run_in_executor(None, hand_over)

    run(main())
    assert lines() == [("A", "handed over")]


def test_fire_and_forget_after_the_job_is_late(run: Run) -> None:
    """A task that nobody awaits and that outlives A: no job once A has closed, counted."""
    late = Counted("late")

    async def main() -> None:
        go = asyncio.Event()

        async def forgotten() -> None:
            log.info("still A's")
            await go.wait()
            log.info("late")

        with job_context("A"):
            task = asyncio.create_task(forgotten())
            await asyncio.sleep(0)
        go.set()
        with job_context("B"):
            await task

    run(main())
    assert lines() == [("A", "still A's")]
    assert late.more() == 1


def _poller(handed: asyncio.Queue[str]) -> Any:
    async def poll() -> None:
        while (text := await handed.get()) != "stop":
            log.info(text)

    return poll


def test_a_poller_that_a_job_starts_is_its_own_while_it_is_open(run: Run) -> None:
    """No context can tell an undeclared shared task from a child: A's while A is open, then nobody's."""

    async def main() -> None:
        handed: asyncio.Queue[str] = asyncio.Queue()
        with job_context("A"):
            task = asyncio.create_task(_poller(handed)())
            handed.put_nowait("while open")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        with job_context("B"):
            handed.put_nowait("for B")
            handed.put_nowait("stop")
            await task

    run(main())
    assert lines() == [("A", "while open")]


@pytest.mark.parametrize("how", ["detached", "serves_everybody"])
def test_a_declared_poller_is_nobodys(run: Run, how: str) -> None:
    """Declared where it is started or where it is defined, it has no job."""

    async def main() -> None:
        handed: asyncio.Queue[str] = asyncio.Queue()
        poll = _poller(handed)
        with job_context("A"):
            if how == "detached":
                with detached():
                    task = asyncio.create_task(poll())
            else:
                task = asyncio.create_task(serves_everybody(poll)())
            handed.put_nowait("while open")
            handed.put_nowait("stop")
            await task
            log.info("of A")

    run(main())
    assert lines() == [("A", "of A")]


def test_a_queue_worker_opens_the_job_of_each_item(run: Run) -> None:
    """A worker started inside A that opens B for B's item: B's lines, whoever started it."""

    async def main() -> None:
        handed: asyncio.Queue[str] = asyncio.Queue()

        async def work() -> None:
            while (job := await handed.get()) != "stop":
                with job_context(job):
                    log.info("item of %s", job)

        with job_context("A"):
            task = asyncio.create_task(work())
            for job in ("B", "A", "stop"):
                handed.put_nowait(job)
            await task

    run(main())
    assert lines() == [("B", "item of B"), ("A", "item of A")]


def test_a_record_that_names_another_job_is_nobodys(run: Run) -> None:
    """A worker that A started and whose record names B in `extra`: no job, a conflict counted."""
    conflicts = Counted("conflicts")

    async def work() -> None:
        log.info("of B", extra={"job_id": "B"})

    async def main() -> None:
        with job_context("A"):
            await asyncio.create_task(work())

    run(main())
    assert lines() == []
    assert conflicts.more() == 1


def test_a_reader_callback_registered_in_a_job(run: Run) -> None:
    """`add_reader` runs in the context of registration: A's while A is open, then nobody's; or `detached`."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        seen = asyncio.Event()

        def readable() -> None:
            log.info("readable %s", ours.recv(10).decode())
            seen.set()

        async def send(text: bytes) -> None:
            theirs.send(text)
            await seen.wait()
            seen.clear()

        with job_context("A"):
            loop.add_reader(ours, readable)
            await send(b"1")
        with job_context("B"):
            await send(b"2")
        loop.remove_reader(ours)
        with job_context("A"):
            with detached():
                loop.add_reader(ours, readable)
            await send(b"3")
        loop.remove_reader(ours)
        ours.close()
        theirs.close()

    run(main())
    assert lines() == [("A", "readable 1")]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no such signals")
def test_a_loops_signal_handler_registered_while_detached(run: Run) -> None:
    """`add_signal_handler` runs in the context of registration as well: after A, and detached, it is nobody's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen = asyncio.Event()

        def handler() -> None:
            log.info("signal")
            seen.set()

        with job_context("A"):
            loop.add_signal_handler(signal.SIGUSR1, handler)
        with job_context("B"):
            os.kill(os.getpid(), signal.SIGUSR1)
            await seen.wait()
        seen.clear()
        with job_context("A"):
            with detached():
                loop.add_signal_handler(signal.SIGUSR1, handler)
            os.kill(os.getpid(), signal.SIGUSR1)
            await seen.wait()
            log.info("of A")
        loop.remove_signal_handler(signal.SIGUSR1)

    run(main())
    assert lines() == [("A", "of A")]


def test_a_server_that_a_job_starts(run: Run) -> None:
    """Handlers of connections run in the context of `start_server`: detached they are nobody's, and open their own."""

    async def main() -> None:
        answered = asyncio.Event()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            log.info("connection")
            with job_context((await reader.readline()).decode().strip()):
                log.info("request")
            writer.close()
            answered.set()

        with job_context("A"):
            with detached():
                server = await asyncio.start_server(handle, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"B\n")
            await answered.wait()
            writer.close()
            server.close()
            await server.wait_closed()

    run(main())
    assert lines() == [("B", "request")]


def test_an_exception_that_nobody_retrieved_is_nobodys(run: Run) -> None:
    """The loop's own logger speaks when the last reference is dropped, in whatever job: none."""

    async def fails() -> None:
        raise ValueError("of A")

    async def main() -> None:
        with job_context("A"):
            task = asyncio.create_task(fails())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with job_context("B"):
            del task
            gc.collect()
            log.info("of B")

    run(main())
    assert lines() == [("B", "of B")]


def test_an_exception_in_a_callback_is_nobodys(run: Run) -> None:
    """What the loop logs about a failed `call_soon` is nobody's, on both loops."""

    async def main() -> None:
        with job_context("A"):
            asyncio.get_running_loop().call_soon(lambda: 1 // 0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            log.info("of A")

    run(main())
    assert lines() == [("A", "of A")]


def test_an_async_context_manager_entered_in_a_child_task(run: Run) -> None:
    """The scope stays in the child's context; leaving it in the parent closes it and raises nothing."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        async with job_context("A"):
            yield

    async def main() -> None:
        manager = opened()

        async def enter() -> None:
            await manager.__aenter__()
            log.info("of A")

        await asyncio.create_task(enter())
        log.info("nobody")
        with job_context("B"):
            await manager.__aexit__(None, None, None)
            log.info("of B")

    run(main())
    assert lines() == [("A", "of A"), ("B", "of B")]


def test_a_scope_closed_in_a_foreign_task_closes_for_its_children(run: Run) -> None:
    """Closed from another task, it is closed wherever a copy of it is left."""

    async def main() -> None:
        go, opened = asyncio.Event(), asyncio.Event()
        scope = job_context("A")

        async def opener() -> None:
            scope.__enter__()
            log.info("open")
            opened.set()
            await go.wait()
            log.info("closed")

        task = asyncio.create_task(opener())
        await opened.wait()
        with job_context("B") as own:
            scope.__exit__(None, None, None)
            assert current_job() is own
        go.set()
        await task

    run(main())
    assert lines() == [("A", "open")]


def test_a_cancelled_task_closes_its_scope(run: Run) -> None:
    """Cancellation leaves the block: what comes in `finally` outside of it is no longer the job's."""

    async def main() -> None:
        started = asyncio.Event()

        async def work() -> None:
            try:
                with job_context("A"):
                    try:
                        started.set()
                        await asyncio.Event().wait()
                    finally:
                        log.info("cleaning up")
            finally:
                log.info("afterwards")

        task = asyncio.create_task(work())
        await started.wait()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    run(main())
    assert lines() == [("A", "cleaning up")]


def test_an_empty_context_has_no_job(run: Run) -> None:
    """What another library starts in an empty Context is nobody's."""

    async def main() -> None:
        with job_context("A"):
            await asyncio.create_task(say("nobody"), context=contextvars.Context())
            contextvars.Context().run(log.info, "nobody either")

    run(main())
    assert lines() == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_are_their_creators() -> None:
    """A task that runs at once has a context of its own all the same (uvloop refuses the factory)."""

    async def child() -> None:
        with job_context("B"):
            log.info("of B")
            await asyncio.sleep(0)
            log.info("of B still")

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        with job_context("A"):
            task = asyncio.create_task(child())
            log.info("of A")
            await task

    asyncio.run(main())
    assert lines() == [("B", "of B"), ("A", "of A"), ("B", "of B still")]


def test_a_loop_in_another_thread(run: Run) -> None:
    """A thread that runs a loop of its own has no job; what it is handed has that of the call."""

    async def main() -> None:
        with job_context("A"), ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(pool, lambda: asyncio.run(say("lost")))
            await loop.run_in_executor(pool, carry(lambda: asyncio.run(say("carried"))))

    run(main())
    assert lines() == [("A", "carried")]


def test_two_threads_hand_over_to_one_loop(run: Run) -> None:
    """Each thread's callbacks on the shared loop are its job's."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def thread(job: str) -> None:
            with job_context(job):
                for number in range(5):
                    asyncio.run_coroutine_threadsafe(say(f"{job}{number}"), loop).result(10)

        threads = [threading.Thread(target=thread, args=(job,)) for job in "AB"]
        for each in threads:
            each.start()
        for each in threads:
            await loop.run_in_executor(None, each.join, 10)

    run(main())
    assert len(lines()) == 10
    assert all(text.startswith(job) for job, text in lines())
