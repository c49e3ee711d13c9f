"""Threads, pools, timers, signals, finalizers and other processes: contextvars do not go there."""

from __future__ import annotations

import contextvars
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from joblog_router import carry, detached, job_context
from tests.helpers import run_python

from .lines import Counted, lines, log


def in_thread(function: Callable[..., Any], *arguments: Any) -> None:
    """Run `function` in a thread of its own."""
    thread = threading.Thread(target=function, args=arguments)
    thread.start()
    thread.join(10)


def test_a_thread_is_lost_without_carry() -> None:
    """`Thread` takes no context along: no job, or that of the call with `carry`."""
    with job_context("A"):
        in_thread(log.info, "lost")
        in_thread(carry(log.info), "carried")
    assert lines() == [("A", "carried")]


def test_a_timer_is_lost_without_carry() -> None:
    """`Timer` takes no context along either."""
    with job_context("A"):
        for function in (log.info, carry(log.info)):
            timer = threading.Timer(0.001, function, ["timer"])
            timer.start()
            timer.join(10)
    assert lines() == [("A", "timer")]


def test_a_pool_is_lost_without_carry() -> None:
    """`submit` and `map` take no context along, and a carried call leaves none behind."""
    with ThreadPoolExecutor(1) as pool, job_context("A"):
        pool.submit(log.info, "lost").result(10)
        pool.submit(carry(log.info), "carried").result(10)
        list(pool.map(carry(log.info), ["mapped"]))
        pool.submit(log.info, "lost again").result(10)
    assert lines() == [("A", "carried"), ("A", "mapped")]


def test_a_pool_that_a_job_fills_lazily_serves_the_next_one() -> None:
    """Its threads are born inside A: B's carried calls are B's, bare ones nobody's."""
    with ThreadPoolExecutor(2) as pool:
        with job_context("A"):
            for _ in range(2):
                pool.submit(carry(log.info), "of A").result(10)
        with job_context("B"):
            pool.submit(carry(log.info), "of B").result(10)
            pool.submit(log.info, "nobody").result(10)
    assert lines() == [("A", "of A"), ("A", "of A"), ("B", "of B")]


def test_a_thread_that_inherited_a_context_and_outlives_the_job() -> None:
    """As free-threaded Pythons let threads inherit: A's while A is open, then nobody's."""
    late = Counted("late")
    go, first = threading.Event(), threading.Event()

    def work() -> None:
        log.info("while open")
        first.set()
        assert go.wait(10)
        log.info("late")

    with job_context("A"):
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,))
        thread.start()
        assert first.wait(10)
    with job_context("B"):
        go.set()
        thread.join(10)
    assert lines() == [("A", "while open")]
    assert late.more() == 1


def test_a_thread_started_while_detached() -> None:
    """Also where threads inherit contexts: started in `detached`, it is nobody's."""
    with job_context("A"), detached():
        in_thread(contextvars.copy_context().run, log.info, "nobody")
    assert lines() == []


def test_a_done_callback_of_a_future_runs_where_it_is_called() -> None:
    """At once in the caller's job when the future is done; carried, wherever it is called."""
    done: Future[None] = Future()
    done.set_result(None)
    pending: Future[None] = Future()
    with job_context("A"):
        done.add_done_callback(lambda _: log.info("at once"))
        pending.add_done_callback(lambda _: log.info("lost"))
        pending.add_done_callback(carry(lambda _: log.info("carried")))
        in_thread(pending.set_result, None)
    assert lines() == [("A", "at once"), ("A", "carried")]


def test_carry_after_the_job_is_late() -> None:
    """A carried call that runs after A has closed: no job, counted, also while B is open."""
    late = Counted("late")
    with job_context("A"):
        carried = carry(log.info)
    with job_context("B"):
        carried("late")
        log.info("of B")
    assert lines() == [("B", "of B")]
    assert late.more() == 1


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="the system has no such signals")
def test_a_signal_handler_runs_in_the_interrupted_job() -> None:
    """A line of a handler is the interrupted code's; `detached` in the handler says nobody's."""

    def handler(*_: Any) -> None:
        log.info("interrupted")
        with detached():
            log.info("nobody")

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with job_context("A"):
            signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert lines() == [("A", "interrupted")]


class _Finalized:
    """Logs when it is collected."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.itself = self

    def __del__(self) -> None:
        log.info("collected %s", self.name, extra={"job_log_id": self.name})


def test_a_finalizer_runs_in_whatever_job_drops_the_last_reference() -> None:
    """Nobody can know whose it is unless its record says so: addressed, it is right."""
    with job_context("A"):
        made = _Finalized("A")
        weakref.finalize(made, carry(log.info), "finalized")
    with job_context("B"):
        del made
        gc.collect()
        log.info("of B")
    assert sorted(lines()) == [("A", "collected A"), ("B", "of B")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_the_child_of_a_fork_has_no_job() -> None:
    """It inherits a copy of everything, the open job and a generator's as well: none of them counts."""
    told = run_python(
        """
        import contextvars, logging, os
        from joblog_router import JobLogHandler, current_job, flush, job_context
        log = logging.getLogger("x")
        handler = JobLogHandler(sink="memory")
        logging.getLogger().addHandler(handler)
        log.setLevel("INFO")
        def items():
            with job_context("G"):
                yield
                log.info("a step")
                yield
        with job_context("A"):
            generator, elsewhere = items(), items()
            next(generator)
            contextvars.copy_context().run(next, elsewhere)
            pid = os.fork()
            if not pid:
                log.info("child")
                next(generator)
                next(elsewhere)
                with job_context("C"):
                    log.info("of C")
                flush()
                print([(entry.job_id, entry.message) for entry in handler.sink.entries()], current_job(), flush=True)
                os._exit(0)
            os.waitpid(pid, 0)
        """
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == "[('C', 'of C')] None"


def test_exit_functions_have_no_job() -> None:
    """`atexit` runs in the main thread's context, where no job is open any more."""
    told = run_python(
        """
        import atexit, logging
        from joblog_router import JobLogHandler, current_job, job_context
        with job_context("A"):
            atexit.register(lambda: print(current_job()))
        """
    )
    assert (told.returncode, told.stdout.strip()) == (0, "None"), told.stderr


def test_a_reused_worker_thread_starts_without_the_last_job() -> None:
    """A scope left by `with` leaves nothing behind in a worker that takes the next job, also after an error."""

    def fails() -> None:
        with job_context("A"):
            raise ValueError

    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(fails).exception(10), ValueError)
        pool.submit(log.info, "nobody").result(10)
        with job_context("B"):
            pool.submit(carry(log.info), "of B").result(10)
    assert lines() == [("B", "of B")]


def test_a_scope_entered_and_never_left_in_a_thread() -> None:
    """A scope that is forgotten open ends with its thread's context: the next thread has none."""

    def forgets() -> None:
        job_context("A").__enter__()
        log.info("of A")

    in_thread(forgets)
    in_thread(log.info, "nobody")
    log.info("nobody")
    assert lines() == [("A", "of A")]
