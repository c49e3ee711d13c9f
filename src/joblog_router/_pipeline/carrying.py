"""Functions that take a job to where contextvars do not go, and functions that serve every job.

Called by the application and by `contrib.threads`; what they make runs on any thread or task. Imports `scopes` and
`lifetime`. Raises TypeError for misuse of `serves_everybody` when a module is imported, nothing afterwards.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from . import scopes
from .generators import innermost
from .lifetime import before_close, detached
from .scopes import JobScope, current_job, leave

P = ParamSpec("P")
R = TypeVar("R")


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Bind `function` to the job that is open now, for threads, executors, timers and callbacks of other libraries.

    `executor.submit(carry(work), item)`. The call runs in that very scope, so it counts until the scope closes;
    afterwards its records are late. Without an open job the call runs in none, whatever the thread had before.
    Coroutine functions stay coroutine functions. Context variables of others are not carried.
    """
    scope = current_job()
    if scope is not None and scope._held is not None:
        held = scope._held
        scope = held.twin = held.twin or _Twin(scope)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def carried_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            before = scopes.get_scope()
            carries = _put_here(scope)
            try:
                return await function(*args, **kwargs)
            finally:
                leave(carries, before)
                if type(carries) is _Twin and carries is not scope:
                    carries.end()

        return carried_async  # type: ignore[return-value]

    @functools.wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        before = scopes.get_scope()
        carries = _put_here(scope)
        try:
            return function(*args, **kwargs)
        finally:
            leave(carries, before)
            if type(carries) is _Twin and carries is not scope:
                carries.end()

    return carried


def serves_everybody(function: Callable[P, R]) -> Callable[P, R]:
    """Declare that a function or coroutine function serves every job: it runs in none, whoever starts it.

    For the target of a thread or task that lives long: a poller, a queue's worker, a refresher. What it starts belongs
    to nobody either; around the work for one job it opens `job_context(...)`. Where the function is not yours, the
    setting `services` names it.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def serve_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            with detached():
                return await function(*args, **kwargs)

        return serve_async  # type: ignore[return-value]
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"serves_everybody: {getattr(function, '__qualname__', function)} is a generator function, its body runs "
            "inside its consumer's code. Declare the function that consumes it"
        )

    @functools.wraps(function)
    def serve(*args: P.args, **kwargs: P.kwargs) -> R:
        with detached():
            return function(*args, **kwargs)

    return serve


class _Twin(JobScope):
    """Goes where `scope`, for the sake of generators, would not count: it was said whose work this is."""

    __slots__ = ()

    def __init__(self, scope: JobScope) -> None:
        super().__init__(scope.job_id, scope.fields, scope.namespace)
        self.parent = scope
        self._count_with(scope)
        self.closed = scope.closed
        if not scope.closed:
            before_close(scope, self._close)

    def end(self) -> None:
        """What it was made for is over; what still has it goes on in its scope, as long as that is open."""
        self.closed = True
        self._inside = None
        callbacks = self.parent._at_close if self.parent is not None else None
        if callbacks:
            with contextlib.suppress(ValueError):  # closed meanwhile
                callbacks.remove(self._close)

    def _close(self, _: JobScope) -> None:
        self.closed = True


def _put_here(scope: JobScope | None) -> JobScope | None:
    """Put a carried scope into the variable; gives what is there now."""
    inside = innermost()
    if inside is not None:
        # It is called by a generator: what was carried counts, not that one's scope.
        if scope is None:
            scope = JobScope("")
            scope.closed = True
        else:
            scope = _Twin(scope)
        scope._inside = inside
    scopes.set_scope(scope)
    return scope
