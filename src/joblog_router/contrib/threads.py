"""Threads, timers and executors that work for the job of the code that started or submitted the work.

Python gives a new thread an empty context, or, by an option of 3.14, that of whoever started it: for the threads of a
pool that is the job in which the pool happened to grow. Here the job is always that of the call: `start()`, `submit()`.
`JobThreadPoolExecutor` does it for one pool, `instrument_threads()` for the process. Called on the threads that start
and submit; takes a lock only where it is switched on and off.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from ..context import carry, detached
from ._patching import Installed, Patches

__all__ = ["JobThreadPoolExecutor", "instrument_threads", "uninstrument_threads"]

P = ParamSpec("P")
T = TypeVar("T")

# Whose threads serve everybody who hands them work: they belong to no job, whoever makes them start.
_SERVING: Final = frozenset(
    {
        "asyncio.unix_events",
        "concurrent.futures.process",
        "concurrent.futures.thread",
        "logging.handlers",
        "multiprocessing.pool",
        "multiprocessing.queues",
        "multiprocessing.resource_sharer",
    }
)

_installed: Installed[_Installation] = Installed()


class JobThreadPoolExecutor(ThreadPoolExecutor):
    """A thread pool whose calls run in the job that was open where they were submitted.

    `submit`, `map` and `loop.run_in_executor` with this pool. A call's lines count until its job's scope is closed:
    wait for the result inside of it. Submitted where no job is open, a call has none, whatever its thread ran before.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `ThreadPoolExecutor.submit`, and `fn` runs in the submitting code's job."""
        return super().submit(carry(fn), *args, **kwargs)


def instrument_threads() -> None:
    """Have every thread, timer and thread pool of this process work for the job of the call that starts or submits.

    `Thread.start`, `Timer.start`, `ThreadPoolExecutor.submit` and `map`, `loop.run_in_executor` with such a pool. The
    threads of pools, of `QueueListener` and of multiprocessing's queues and pools belong to no job themselves. A thread
    of your own that serves everybody is started inside `with detached():`. Threads that run already stay as they are.
    Process-wide; again, it changes nothing.
    """
    with _installed.lock:
        if _installed.now is None:
            _installed.now = _Installation()


def uninstrument_threads() -> None:
    """Take back what `instrument_threads()` did; what was started or submitted keeps its job."""
    _installed.end()


class _Installation:
    """The two methods that everything else goes through."""

    def __init__(self) -> None:
        self._active = True
        self._patches = Patches()
        self._patches.put(threading.Thread, "start", self._starting)
        self._patches.put(ThreadPoolExecutor, "submit", self._submitting)

    def end(self) -> None:
        """Take them back."""
        self._active = False
        self._patches.end()

    def _starting(self, start: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
        @functools.wraps(start)
        def start_in_job(thread: threading.Thread) -> None:
            if self._active:
                _bind(thread)
            start(thread)

        return start_in_job

    def _submitting(self, submit: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(submit)
        def submit_in_job(executor: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            if not self._active:
                return submit(executor, fn, *args, **kwargs)
            return submit(executor, carry(fn), *args, **kwargs)

        return submit_in_job


def _bind(thread: threading.Thread) -> None:
    """Have `thread.run` run in the job that is open here, or in none."""
    if thread._started.is_set():  # type: ignore[attr-defined]
        return  # `start` raises
    if getattr(thread, "_context", None) is not None:
        return  # Python 3.14: whoever gave the thread a context decided
    run = thread.run
    if _is_serving(thread):
        with detached():
            carried = carry(run)
    else:
        carried = carry(run)

    def run_in_job() -> None:
        # First: a thread that refers to itself by way of this function would not be freed before a collection.
        thread.__dict__.pop("run", None)
        carried()

    thread.run = run_in_job  # type: ignore[method-assign]


def _is_serving(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    return type(thread).__module__ in _SERVING or getattr(target, "__module__", None) in _SERVING
