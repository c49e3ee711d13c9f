"""Tasks and threads that serve everybody: a job they have merely inherited does not count.

Declared at configuration and by contribs; asked by `resolve`, the filter and the handler on the thread that logs, only
while something is declared. Imports nothing that asks whose a record is. No lock, no I/O, raises nothing.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable
from types import CodeType
from typing import Final

from . import lifetime
from .generators import ALWAYS, GUARDS, here
from .naming import LoggerNames
from .scopes import JobScope

_get_running_loop = asyncio._get_running_loop
# Code objects of shared service loops by their `id`: they hash themselves anew each time, constants and all.
SERVICES: Final[dict[int, CodeType]] = {}
# Holds one element while services are declared by name, which may be threads too.
NAMED: Final[list[LoggerNames]] = []
# Keys of the truth tests.
_CODES: Final = "service loops by their code"
_NAMES: Final = "services by name"
_root_of_thread = threading.local()


def is_service(loop: asyncio.AbstractEventLoop, scope: JobScope) -> bool:
    """Whether the task that runs in `loop` is a guarded service's, which has merely inherited `scope`."""
    task = asyncio.current_task(loop)
    if task is None or task is getattr(scope, "_home", None):
        return False
    get_coroutine = getattr(task, "get_coro", None)  # a task of somebody's own making may have none
    return get_coroutine is not None and id(getattr(get_coroutine(), "cr_code", None)) in SERVICES


def is_service_loop(scope: JobScope) -> bool:
    runs = here()
    if runs is getattr(scope, "_home", None):
        return False
    get_coroutine = getattr(runs, "get_coro", None)
    if get_coroutine is None:
        return bool(NAMED) and _get_running_loop() is None and _is_named_thread()
    coroutine = get_coroutine()
    code = getattr(coroutine, "cr_code", None)
    if id(code) in SERVICES:
        return True
    if not NAMED or code is None or (frame := coroutine.cr_frame) is None:
        return False
    return NAMED[0].wants(f"{frame.f_globals.get('__name__')}.{code.co_qualname}")


def _is_named_thread() -> bool:
    """Whether this thread's target, or the class of its `run`, is declared. Looked at once a thread."""
    try:
        names: LoggerNames
        names, answer = _root_of_thread.answer
        if names is NAMED[0]:
            return bool(answer)
    except AttributeError:
        pass
    thread = threading.current_thread()
    target = getattr(thread, "_target", None)
    root = type(thread).run if target is None else inspect.unwrap(target)
    answer = NAMED[0].wants(f"{getattr(root, '__module__', '')}.{getattr(root, '__qualname__', '')}")
    _root_of_thread.answer = (NAMED[0], answer)
    return answer


def guard_services(codes: Iterable[CodeType]) -> Callable[[], None]:
    """Treat tasks whose root coroutine has one of `codes` as nobody's: what they merely inherited does not count.

    For clients of other libraries that were opened before they could be instrumented. Gives a function that ends it.
    """
    mine = {id(code): code for code in codes}
    SERVICES.update(mine)
    GUARDS[_CODES] = None
    lifetime.use_home(here)

    def end() -> None:
        for each in mine:
            SERVICES.pop(each, None)
        if not SERVICES:
            GUARDS.pop(_CODES, None)
            if not NAMED:
                lifetime.use_home(None)

    return end


def use_service_names(names: LoggerNames | None) -> None:
    """Treat tasks and threads whose root function has one of `names` the same way; None for no names."""
    NAMED[:] = [] if names is None else [names]
    if names is None:
        GUARDS.pop(_NAMES, None)
        ALWAYS.pop(_NAMES, None)
        if not SERVICES:
            lifetime.use_home(None)
    else:
        GUARDS[_NAMES] = ALWAYS[_NAMES] = None
        lifetime.use_home(here)
