"""A job's log as Server-Sent Events, for WSGI and ASGI servers alike.

The answer's iterator is synchronous or asynchronous as the request is: the other kind never sends a byte. Every stream
ends by itself, so that servers can end too and slots come back; browsers then go on from the last event.
Called by the views; what is sent comes from the hub's thread (`tailing`).
"""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from ..._pipeline import reading
from ...context import current_namespace
from ...sinks.opening import open_store
from ...sinks.store import Selection
from . import conf
from .tailing import Hub, Viewer, event, identity

__all__ = ["hub", "stream_of"]

_HEARTBEAT: Final = 15.0
_SHORTEST, _LONGEST = 25.0, 55.0
_RETRY: Final = b"retry: 1000\n\n"
# A synchronous server has a thread for each open stream, and few of them: one must be left to answer everybody else.
# How many there are is not told, and two are the fewest that are more than one.
_MOST_ASYNC: Final = 500
_MOST_SYNC: Final = 1


_NOBODY: Final = Viewer("", Selection(), lambda: None)


class _Stream:
    """What a viewer is sent. `close` is called by Django whether or not anything was sent."""

    def __init__(self, namespace: str, job_id: str) -> None:
        self._place = (namespace, job_id)
        # Set by `open`; without a viewer nothing is sent.
        self._viewer: Viewer = _NOBODY
        self._ends_at = time.monotonic() + random.uniform(_SHORTEST, _LONGEST)  # noqa: S311 - so that not all end at once
        self._state = "new"

    def open(self, cursor: str, selection: Selection, most: int) -> bool:
        """Take a place among the viewers; whether there was one. In the request: the hub's thread has no tenant."""
        namespace, job_id = self._place
        viewer = Viewer(cursor, selection, self._waker(), reading.shown_since(job_id, namespace))
        if not hub.watch(*self._place, viewer, most):
            return False
        self._viewer = viewer
        return True

    def close(self) -> None:
        """Give the place back."""
        self._state = "over"
        hub.unwatch(*self._place, self._viewer)

    def _waker(self) -> Callable[[], None]:
        raise NotImplementedError

    def _next(self) -> bytes | None:
        """What can be sent now: None where it is to be waited for."""
        if self._state == "new":
            self._state = "open"
            return _RETRY
        if waiting := self._viewer.take():
            return waiting
        if self._viewer.is_over or time.monotonic() >= self._ends_at:
            self._state = "ended"
            return event("end", {})
        return None

    def _heartbeat(self) -> bytes:
        """Keeps proxies from closing the connection, and tells where to go on."""
        return f":\n{identity(self._viewer.cursor)}\n".encode()

    def _patience(self) -> float:
        return max(0.01, min(_HEARTBEAT, self._ends_at - time.monotonic()))


class _SyncStream(_Stream):
    def _waker(self) -> Callable[[], None]:
        self._woken = threading.Event()
        return self._woken.set

    def __iter__(self) -> _SyncStream:
        return self

    def __next__(self) -> bytes:
        if self._state in ("ended", "over"):
            raise StopIteration
        while True:
            self._woken.clear()  # before looking: what is put after this wakes
            if (part := self._next()) is not None:
                return part
            if not self._woken.wait(self._patience()):
                return self._next() or self._heartbeat()


class _AsyncStream(_Stream):
    def _waker(self) -> Callable[[], None]:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()

        def wake() -> None:
            # Before the first part was asked for nobody waits.
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._woken.set)

        return wake

    def __aiter__(self) -> _AsyncStream:
        return self

    async def __anext__(self) -> bytes:
        if self._state in ("ended", "over"):
            raise StopAsyncIteration
        self._loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()  # before looking: what is put after this wakes
            if (part := self._next()) is not None:
                return part
            try:
                async with asyncio.timeout(self._patience()):
                    await self._woken.wait()
            except TimeoutError:
                return self._next() or self._heartbeat()


def stream_of(request: HttpRequest, job_id: str, cursor: str, selection: Selection) -> HttpResponseBase:
    """The answer that follows the log from `cursor`; 204 where too many do.

    That is no error: browsers write those into the page's console, and the page asks for lines instead.
    """
    is_async = isinstance(request, ASGIRequest)
    if request.method == "HEAD":
        return HttpResponse(content_type="text/event-stream")
    stream: _AsyncStream | _SyncStream = (_AsyncStream if is_async else _SyncStream)(current_namespace(), job_id)
    if not stream.open(cursor, selection, _most(request, is_async)):
        response = HttpResponse(status=204)
        response["Retry-After"] = "10"
        return response
    # The thread that answered the request lives as long as the stream, and would keep what it asked who the user is.
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()
    answer = StreamingHttpResponse(stream, content_type="text/event-stream")
    answer["X-Accel-Buffering"] = "no"
    answer["Content-Encoding"] = "identity"  # what compresses answers keeps parts back
    return answer


def _most(request: HttpRequest, is_async: bool) -> int:
    """How many streams this process may have open."""
    if not is_async and not request.META.get("wsgi.multithread", True):
        return 0  # the only thread: nobody else would be answered until the stream ends, whatever the setting says
    most = conf.current().STREAMS
    if most is None:
        most = _MOST_ASYNC if is_async else _MOST_SYNC
    return most


hub: Final = Hub(open_store)
