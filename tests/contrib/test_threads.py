"""Threads, timers and pools work for the job of the call that starts or submits, not of the one they were born in."""

from __future__ import annotations

import asyncio
import gc
import logging
import logging.handlers
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from joblog_router import current_job, detached, job_context
from joblog_router.contrib.threads import JobThreadPoolExecutor, instrument_threads, uninstrument_threads
from tests.helpers import configure, messages, run_python

log = logging.getLogger("app")


@pytest.fixture
def instrumented() -> Iterator[None]:
    """Threads are instrumented in this test."""
    instrument_threads()
    yield
    uninstrument_threads()


@pytest.fixture(params=["own class", "instrumented"])
def make_pool(request: pytest.FixtureRequest) -> Iterator[Callable[..., ThreadPoolExecutor]]:
    """How a pool that carries jobs is made: by its class, or any while threads are instrumented."""
    pools: list[ThreadPoolExecutor] = []

    def make(**given: Any) -> ThreadPoolExecutor:
        kind = JobThreadPoolExecutor if request.param == "own class" else ThreadPoolExecutor
        pools.append(kind(**given))
        return pools[-1]

    if request.param == "instrumented":
        instrument_threads()
    yield make
    for pool in pools:
        pool.shutdown()
    uninstrument_threads()


def job_id(_: object = None) -> str | None:
    """The job that is open here."""
    job = current_job()
    return None if job is None else job.job_id


def test_a_pool_works_for_the_job_of_each_submit(make_pool: Callable[..., ThreadPoolExecutor]) -> None:
    """One thread, born in job 1, serves jobs 2 and 3 and nobody, by submit and by map."""
    configure()
    pool = make_pool(max_workers=1)
    with job_context(1):
        assert pool.submit(job_id).result() == "1"
    for job in (2, 3):
        with job_context(job):
            pool.submit(log.info, "line of %d", job).result()
            assert list(pool.map(job_id, range(5))) == [str(job)] * 5
    assert pool.submit(job_id).result() is None
    assert list(pool.map(job_id, range(2))) == [None, None]
    with job_context(4), detached():
        assert pool.submit(job_id).result() is None
    assert [messages(job) for job in (1, 2, 3)] == [[], ["line of 2"], ["line of 3"]]


def test_a_thread_that_lives_in_a_job_serves_others_in_theirs(make_pool: Callable[..., ThreadPoolExecutor]) -> None:
    """Its whole context holds job 1, as Python 3.14 with thread_inherit_context makes it: the submitter's counts."""
    scope = job_context(1)
    with scope:
        pool = make_pool(max_workers=1, initializer=lambda: job_context(1).__enter__())
        assert pool.submit(job_id).result() == "1"
    assert pool.submit(job_id).result() is None
    with job_context(2):
        assert pool.submit(job_id).result() == "2"


def test_a_call_that_outlives_its_job_is_late(make_pool: Callable[..., ThreadPoolExecutor]) -> None:
    """What runs when the scope is closed is about no job, also if another is open where it was submitted."""
    configure()
    pool = make_pool(max_workers=1)
    started, go = threading.Event(), threading.Event()

    def late() -> None:
        log.info("before")
        started.set()
        go.wait(10)
        log.info("after")

    with job_context(1):
        future = pool.submit(late)
        assert started.wait(10)
    with job_context(2):
        go.set()
        future.result(10)
    assert (messages(1), messages(2)) == (["before"], [])


async def test_run_in_executor_carries_the_job(make_pool: Callable[..., ThreadPoolExecutor]) -> None:
    """With a pool of one's own, and asyncio.to_thread and the exceptions of calls as ever."""
    loop = asyncio.get_running_loop()
    pool = make_pool(max_workers=2)

    async def work(job: int) -> list[str | None]:
        with job_context(job):
            found = [await loop.run_in_executor(pool, job_id) for _ in range(10)]
            return [*found, await asyncio.to_thread(job_id)]

    assert await asyncio.gather(*(work(job) for job in range(5))) == [[str(job)] * 11 for job in range(5)]
    with job_context(1), pytest.raises(ZeroDivisionError):
        await loop.run_in_executor(pool, divmod, 1, 0)


async def test_the_loops_own_pool_carries_when_instrumented(instrumented: None) -> None:
    """`run_in_executor(None, ...)`."""
    loop = asyncio.get_running_loop()
    for job in (1, 2):
        with job_context(job):
            assert await loop.run_in_executor(None, job_id) == str(job)
    assert await loop.run_in_executor(None, job_id) is None


@pytest.mark.usefixtures("instrumented")
def test_threads_and_timers_work_for_the_job_that_starts_them() -> None:
    """By target, by subclass and by timer; made in one job and started in another, the start counts."""
    found: list[tuple[str, str | None]] = []

    class Own(threading.Thread):
        def run(self) -> None:
            found.append(("subclass", job_id()))

    with job_context(1):
        made = threading.Thread(target=lambda: found.append(("made elsewhere", job_id())))
    with job_context(2):
        threads = [
            threading.Thread(target=lambda: found.append(("target", job_id()))),
            Own(),
            threading.Timer(0, lambda: found.append(("timer", job_id()))),
            made,
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert sorted(found) == [("made elsewhere", "2"), ("subclass", "2"), ("target", "2"), ("timer", "2")]


@pytest.mark.usefixtures("instrumented")
def test_a_started_thread_is_freed_without_a_collection_and_refuses_a_second_start() -> None:
    """The binding leaves nothing behind on the thread."""
    gc.collect()
    gc.disable()
    try:
        thread = threading.Thread(target=job_id)
        with job_context(1):
            thread.start()
            thread.join(10)
            with pytest.raises(RuntimeError, match="threads can only be started once"):
                thread.start()
        assert "run" not in vars(thread)
        gone = weakref.ref(thread)
        del thread
        assert gone() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("instrumented")
def test_threads_that_serve_everybody_have_no_job_themselves() -> None:
    """A QueueListener and pools that start in a job; what a thread of one's own does inside `detached()`."""
    found: list[Any] = []

    class Keeps(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(job_id())

    waiting: queue.Queue[Any] = queue.Queue()
    listener = logging.handlers.QueueListener(waiting, Keeps())
    with job_context(1):
        listener.start()
        pool = ThreadPoolExecutor(1, initializer=lambda: found.append(job_id()))
        pool.submit(int).result()
        with detached():
            thread = threading.Thread(target=lambda: found.append(job_id()))
            thread.start()
            thread.join(10)
        waiting.put(logging.makeLogRecord({"msg": "x"}))
        listener.stop()
    pool.shutdown()
    assert found == [None, None, None]


def _pid_and_job() -> tuple[bool, str | None]:
    return threading.current_thread() is threading.main_thread(), job_id()


@pytest.mark.usefixtures("instrumented")
def test_process_pools_work_as_ever() -> None:
    """Nothing is wrapped that would have to be pickled; a process has no job."""
    import multiprocessing

    with job_context(1), ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        executor: Executor = pool
        assert executor.submit(_pid_and_job).result(30) == (True, None)


def test_switching_off_takes_everything_back_and_on_twice_is_once() -> None:
    """Also where another library patched over ours."""
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit
    instrument_threads()
    instrument_threads()
    ours = threading.Thread.start
    assert ours is not start

    def theirs(thread: threading.Thread) -> None:
        ours(thread)

    uninstrument_threads()
    uninstrument_threads()
    assert (threading.Thread.start, ThreadPoolExecutor.submit) == (start, submit)
    found: list[str | None] = []
    with job_context(1):
        thread = threading.Thread(target=lambda: found.append(job_id()))
        theirs(thread)
        thread.join(10)
    assert found == [None]


def test_without_it_threads_have_no_job_and_importing_patches_nothing() -> None:
    """Opt-in: the import alone changes nothing."""
    result = run_python(
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        before = threading.Thread.start, ThreadPoolExecutor.submit
        import joblog_router.contrib.threads
        print(before == (threading.Thread.start, ThreadPoolExecutor.submit))
        """
    )
    assert result.stdout.split() == ["True"], result.stderr
