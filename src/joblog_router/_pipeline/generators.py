"""Scopes that a generator holds open between its items: whose code runs meanwhile?

A generator that opens a scope and then yields leaves it in the context variable of whoever iterates. Such a scope
counts only while the generator's own frame is on the stack. This module finds the frames; `scopes` draws the
conclusions, `lifetime` tells of scopes that are opened and closed. Runs on the application's threads, takes no lock,
raises nothing, imports nothing that knows scopes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dis
import inspect
import sys
import threading
import weakref
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any, Final

from .report import report_once

if TYPE_CHECKING:
    from .scopes import JobScope

_CACHE: Final = dis.opmap.get("CACHE", 0)
GENERATOR: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
# Context managers and what enters them on behalf of others: their caller is who holds the scope open.
ENTERING: Final = frozenset(
    {"__enter__", "__aenter__", "enter_context", "enter_async_context", "push_context", "_enter_again"}
)
# Frames of generators that hold scopes open right now, with those scopes, the innermost last.
HOLDING: Final[dict[FrameType, list[JobScope]]] = {}
# One truth test each on the way of every record, changed in place since the capturing closures hold on to them. Their
# keys are the reasons: frames of HOLDING, and what `resolve` adds.
ASK: Final[dict[object, None]] = {}  # without an open scope: does anything else know the job?
GUARDS: Final[dict[object, None]] = {}  # with one: may it be nobody's all the same?
ALWAYS: Final[dict[object, None]] = {}  # and that also where no event loop runs?

_KNOWN_DRIVERS: Final = ("_pytest", "pytest_asyncio", "anyio")
_drivers: tuple[str, ...] = _KNOWN_DRIVERS
_CONTEXTLIB: Final = contextlib.__dict__
_thread = threading.local()


class Held:
    """That a scope was opened in a generator: its frame while it is open, and the task or thread that opened it."""

    __slots__ = ("_opener", "frame", "twin")

    def __init__(self, frame: FrameType) -> None:
        self.frame: FrameType | None = frame
        # The scope that `carry` takes elsewhere, where this one would not count.
        self.twin: JobScope | None = None
        opener = here()
        try:
            self._opener: Callable[[], object] = weakref.ref(opener)
        except TypeError:
            self._opener = lambda: opener  # a task of somebody's own making

    def is_openers(self) -> bool:
        """Whether the task or thread that opened the scope runs now."""
        return self._opener() is here()


def hold(scope: JobScope, entered_from: FrameType) -> Held | None:
    """Note that `scope` was opened in a generator that its consumer steps; None where it is nobody's business."""
    try:
        frame = _holding_frame(entered_from)
    except Exception as error:
        report_once(("holding", repr(error)), f"the code that opens job {scope.job_id!r} could not be seen: {error!r}")
        return None
    if frame is None:
        return None
    HOLDING.setdefault(frame, []).append(scope)
    ASK[frame] = GUARDS[frame] = ALWAYS[frame] = None
    return Held(frame)


def let_go(scope: JobScope, held: Held) -> None:
    """`scope` is closed: its generator's frame means nothing any more, and is not kept alive."""
    frame, held.frame = held.frame, None
    scopes = HOLDING.get(frame) if frame is not None else None
    if scopes is None:
        return
    if scope in scopes:
        scopes.remove(scope)
    if not scopes and frame is not None:
        _forget(frame)


def forget_all() -> None:
    """No generator holds anything: in the child of a fork."""
    for frame in list(HOLDING):
        _forget(frame)


def _forget(frame: FrameType) -> None:
    for by_frame in (HOLDING, ASK, GUARDS, ALWAYS):
        by_frame.pop(frame, None)


def on_stack() -> list[FrameType]:
    """The frames of generators with scopes that are on this thread's stack, the innermost first."""
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame in HOLDING:
            found.append(frame)
        frame = frame.f_back
    return found


def innermost() -> FrameType | None:
    """The first of `on_stack()`, if any."""
    running = on_stack() if HOLDING else None
    return running[0] if running else None


def use_drivers(names: Iterable[str]) -> None:
    """Modules, by dotted name, that step generators as contextlib does: from set up to tear down."""
    global _drivers
    _drivers = (*_KNOWN_DRIVERS, *names)


def _holding_frame(frame: FrameType | None) -> FrameType | None:
    """The frame of the generator that holds what is entered from `frame`, if its items go to code of others."""
    frame = _beyond_entering(frame)
    if not _is_generator(frame):
        return None
    holder = frame
    while frame is not None:
        driver = frame.f_back
        if driver is not None and driver.f_globals is _CONTEXTLIB:
            # @contextmanager and the like: who enters that one decides.
            frame = holder = _beyond_entering(driver)
            if not _is_generator(frame):
                return None
        elif driver is not None and _is_delegating(driver, frame):
            if not _is_generator(driver) or driver.f_code.co_flags & inspect.CO_ASYNC_GENERATOR:
                return None  # an awaitable: it is suspended together with its coroutine
            frame = driver
        elif driver is not None and _is_known(driver):
            return None
        else:
            break
    if holder is not None:
        _report(holder.f_code, driver)
    return holder


def _beyond_entering(frame: FrameType | None) -> FrameType | None:
    while frame is not None and (frame.f_globals is _CONTEXTLIB or frame.f_code.co_name in ENTERING):
        frame = frame.f_back
    return frame


def _is_generator(frame: FrameType | None) -> bool:
    if frame is None:
        return False
    flags = frame.f_code.co_flags
    return bool(flags & GENERATOR) and not flags & inspect.CO_ITERABLE_COROUTINE


def _is_delegating(driver: FrameType, frame: FrameType) -> bool:
    """Whether `driver` is in a `yield from` or `await` of the plain generator `frame`."""
    if frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR or driver.f_lasti < 0:
        return False
    code, at = driver.f_code.co_code, driver.f_lasti
    while at > 0 and code[at] == _CACHE:
        at -= 2  # Python 3.12 stands behind the instruction while what it sends to runs
    return dis.opname[code[at]] == "SEND"


def _is_known(driver: FrameType) -> bool:
    module = driver.f_globals.get("__name__")
    return isinstance(module, str) and any(module == name or module.startswith(name + ".") for name in _drivers)


def here() -> Any:
    """The task that runs, or else something that stands for the thread."""
    loop = asyncio._get_running_loop()
    if loop is not None:
        task = asyncio.current_task(loop)
        if task is not None:
            return task
    try:
        return _thread.here
    except AttributeError:
        _thread.here = _Here()
        return _thread.here


class _Here:
    """A thread."""

    __slots__ = ("__weakref__",)


def _report(code: CodeType, driver: FrameType | None) -> None:
    name = getattr(code, "co_qualname", code.co_name)
    consumer = "code written in C"
    if driver is not None:
        consumer = f"{driver.f_globals.get('__name__', '?')}.{getattr(driver.f_code, 'co_qualname', '?')}"
    report_once(
        ("generator", code.co_filename, code.co_firstlineno),
        f"the generator {name} ({code.co_filename}:{code.co_firstlineno}) opens a job and yields to {consumer}: the "
        "job counts while the generator itself runs, not between its items nor in tasks and threads it starts. "
        f"Leave the scope out of it and iterate wrap_stream(job_id, {code.co_name}(...)); if {consumer} only sets up "
        "and tears down with it, name its module in generator_drivers",
    )
