"""Functions each call of which runs in the job that one of its arguments names: `job_context.of`.

Called by `lifetime` when a module of the application is imported; what it makes runs on any thread or task. Imports
nothing of the pipeline.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")
Opened: TypeAlias = "AbstractContextManager[Any]"


def bind(parameter: str, open_job: Callable[[object], Opened]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The decorator that runs each call in the scope `open_job(value)`, `value` being the argument `parameter`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        name = getattr(function, "__qualname__", repr(function))
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"job_context.of: {name} is a generator function, its body runs inside its consumer's code. "
                f"Wrap what it returns instead: wrap_stream(job_id, {name}(...))"
            )
        signature = inspect.signature(function)
        if parameter not in signature.parameters:
            raise TypeError(f"job_context.of: {name}{signature} has no parameter {parameter!r}")

        def scope_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Opened:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:
                return contextlib.nullcontext()  # the call itself raises the caller's own error
            bound.apply_defaults()
            return open_job(bound.arguments[parameter])

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def in_job_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                with scope_for(args, kwargs):
                    return await function(*args, **kwargs)

            return in_job_async  # type: ignore[return-value]

        @functools.wraps(function)
        def in_job(*args: P.args, **kwargs: P.kwargs) -> R:
            with scope_for(args, kwargs) as scope:
                result = function(*args, **kwargs)
            if scope is not None and inspect.iscoroutine(result):
                # A plain function around a coroutine function, as some decorators make them.
                return cast("R", _awaited_in(scope_for(args, kwargs), result))
            return result

        return in_job

    return decorate


async def _awaited_in(scope: AbstractContextManager[Any], coroutine: Coroutine[Any, Any, Any]) -> Any:
    with scope:
        return await coroutine
