"""Iterators whose own code runs in a job, step by step, and their consumer's outside it: `wrap_stream`.

Called by the application and by `contrib.django`; the steps run on the consumer's thread or task. Imports `scopes` and
`lifetime`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, TypeVar, overload

from . import scopes
from .generators import innermost
from .lifetime import job_context, job_context_in
from .namespaces import current_namespace
from .scopes import JobScope, leave

T = TypeVar("T")
# Anything with `streaming_content`, as Django's streaming responses have it.
Response = TypeVar("Response")


@overload
def wrap_stream(job_id: object, iterable: Iterable[T], /, **fields: Any) -> Iterator[T]: ...
@overload
def wrap_stream(job_id: object, iterable: AsyncIterable[T], /, **fields: Any) -> AsyncIterator[T]: ...
@overload
def wrap_stream(job_id: object, iterable: Response, /, **fields: Any) -> Response: ...
def wrap_stream(job_id: object, iterable: Any, /, **fields: Any) -> Any:
    """Run a generator's or other iterator's own code in a job, step by step, and its consumer's code outside it.

    For generators and streaming bodies: the code that makes an item runs in the job, the consumer's code does not,
    so the consumer's lines stay in the consumer's own job. One scope is open from the first item to the last, so that
    tasks the source starts keep the job until then; its namespace is that in force where this is called. Takes sync and
    async iterables and gives the same kind; closing the result closes the source. A Django streaming response is
    changed in place and given back.
    """
    # Asked here: a body is sent when the middleware that knows whose request it is has been left.
    scope = job_context_in(current_namespace(), job_id, **fields)
    if hasattr(iterable, "streaming_content"):
        return _wrap_response(scope, iterable)
    if isinstance(iterable, AsyncIterable):
        return _wrap_async(scope, iterable)
    return _wrap_sync(scope, iterable)


def _wrap_response(scope: job_context, response: Any) -> Any:
    content = response.streaming_content
    wrap = _wrap_async if isinstance(content, AsyncIterable) else _wrap_sync
    response.streaming_content = wrap(scope, content)
    return response


def _wrap_sync(scope: job_context, iterable: Iterable[T]) -> Iterator[T]:
    step = _Step(scope)
    source: Iterator[T] | None = None
    try:
        with step:
            source = iter(iterable)
        while True:
            with step:
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item
    finally:
        try:
            close = getattr(source, "close", None)
            if close is not None:
                with step:
                    close()
        finally:
            step.end()


async def _wrap_async(scope: job_context, iterable: AsyncIterable[T]) -> AsyncIterator[T]:
    step = _Step(scope)
    source: AsyncIterator[T] | None = None
    try:
        with step:
            source = aiter(iterable)
        while True:
            with step:
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    return
            yield item
    finally:
        try:
            close = getattr(source, "aclose", None)
            if close is not None:
                with step:
                    await close()
        finally:
            step.end()


class _Step:
    """`with` around each step of a stream: its scope stays open all the time, in the variable only inside."""

    __slots__ = ("_before", "_scope")

    def __init__(self, scope: job_context) -> None:
        self._scope = scope
        self._before: JobScope | None = None

    def __enter__(self) -> None:
        self._before = scopes.get_scope()
        if self._scope._again is None:
            self._open()
        else:
            self._scope._inside = innermost()
            scopes.set_scope(self._scope)

    def __exit__(self, *exc_info: object) -> None:
        leave(self._scope, self._before)

    def end(self) -> None:
        """Close the scope; what is in the variable is the consumer's."""
        before = scopes.get_scope()
        scopes.set_scope(self._scope)
        self._scope.__exit__(None, None, None)
        scopes.set_scope(before)

    def _open(self) -> None:
        # In a function of its own, which is no generator: this scope needs none of the care for those.
        self._scope.__enter__()
