"""Connections lost, restored and refused: told to the jobs that have work on the connection right now, else to none.

Wraps `Client.connect`, `_process_op_err` and `_attempt_reconnect`; runs on the event loop. Of an address only host and
port are told, and only where no connection comes about: a URL may hold credentials.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import inspect
import time
from typing import Any

from ....context import JobScope, current_job, detached
from .. import told
from ..naming import Job
from ..told import duration, some, tell
from .ledger import open_part
from .state import Coroutine, State, quietly


class Refusals:
    """The errors of one attempt to connect, counted before the application's own callback hears of them.

    The first is told at once: with nats-py's own settings it takes minutes until the last.
    """

    __slots__ = ("client", "count", "is_over", "last", "place", "scope")

    client: Any
    scope: JobScope | None
    count: int
    place: str
    is_over: bool

    def __init__(self, client: Any, scope: JobScope | None) -> None:
        self.client = client
        self.scope = scope
        self.count = 0
        self.last: BaseException | None = None
        self.place = ""
        self.is_over = False

    def note(self, error: BaseException) -> None:
        """One more."""
        self.count += 1
        self.last = error
        if self.count == 1:
            quietly(_tell_first, self)

    def counting(self, callback: Coroutine) -> Coroutine:
        """`callback`, counted while the connection is being made; nats-py keeps it for as long as there is one."""

        @functools.wraps(callback)
        async def error_cb(error: BaseException, *args: Any, **kwargs: Any) -> Any:
            if not self.is_over:
                self.note(error)
            return await callback(error, *args, **kwargs)

        return error_cb


def connecting(state: State, original: Coroutine) -> Coroutine:
    """`Client.connect` without a job; the job that asked for it hears once how it went, unless it went well."""

    @functools.wraps(original)
    async def connect(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not state.active:
            return await original(self, *args, **kwargs)
        scope, started = current_job(), time.monotonic()
        refusals = Refusals(self, scope)
        if scope is not None and state.settings.events:
            counted = quietly(_counted, original, (self, *args), kwargs, refusals)
            if counted is not None:
                args, kwargs = counted
        try:
            try:
                with detached():
                    result = await original(self, *args, **kwargs)
            finally:
                refusals.is_over = True
        except (Exception, asyncio.CancelledError) as error:
            quietly(_tell_refused, state, scope, refusals, started, error)
            raise
        quietly(_tell_connected, scope, refusals, started)
        return result

    return connect


def losing(state: State, original: Coroutine) -> Coroutine:
    """`Client._process_op_err`: the connection is gone; nats-py's callbacks come after."""

    @functools.wraps(original)
    async def process_op_err(self: Any, *args: Any, **kwargs: Any) -> Any:
        if state.active and state.settings.events and self.is_connected:
            quietly(_tell_lost, state, self, args[0] if args else kwargs.get("e"))
        return await original(self, *args, **kwargs)

    return process_op_err


def reconnecting(state: State, original: Coroutine) -> Coroutine:
    """`Client._attempt_reconnect` without a job; its outcome told."""

    @functools.wraps(original)
    async def attempt_reconnect(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not state.active:
            return await original(self, *args, **kwargs)
        with detached():
            result = await original(self, *args, **kwargs)
        if state.settings.events:
            quietly(_tell_outcome, state, self)
        return result

    return attempt_reconnect


def _counted(
    original: Coroutine, args: tuple[Any, ...], kwargs: dict[str, Any], refusals: Refusals
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of `connect`, with an error callback that counts; None where it cannot be had."""
    bound = inspect.signature(original).bind(*args, **kwargs)
    callback = bound.arguments.get("error_cb")
    if callback is None:
        callback = getattr(importlib.import_module("nats.aio.client"), "_default_error_callback", None)
    if not inspect.iscoroutinefunction(callback):
        return None
    if "error_cb" not in bound.arguments or len(args) < 3:
        return args[1:], {**kwargs, "error_cb": refusals.counting(callback)}
    return (args[1], refusals.counting(callback), *args[3:]), kwargs


def _place_of(client: Any) -> str:
    """ " at HOST:PORT" of each server that `client` may try, without what else their URLs say; "" if none is known."""
    servers = [server.uri for server in getattr(client, "_server_pool", ())]
    return f" at {some([f'{uri.hostname}:{uri.port}' for uri in servers])}" if servers else ""


def _tell_first(refusals: Refusals) -> None:
    refusals.place = _place_of(refusals.client)  # in the end nats-py has forgotten those that it gave up
    scope = open_part(refusals.scope)
    if scope is None:
        return
    tell(
        Job.of(scope),
        told.CONNECTING_REFUSED,
        refusals.place,
        type(refusals.last).__name__,
        count=1,
        error_type=type(refusals.last).__name__,
    )


def _tell_connected(scope: JobScope | None, refusals: Refusals, started: float) -> None:
    scope = open_part(scope)
    if scope is None or not refusals.count:
        return
    tell(
        Job.of(scope),
        told.CONNECTED_LATE,
        refusals.place,
        _attempts(refusals.count),
        duration(time.monotonic() - started),
        type(refusals.last).__name__,
        error=refusals.last,
        count=refusals.count,
        duration=round(time.monotonic() - started, 3),
        error_type=type(refusals.last).__name__,
    )


def _tell_refused(
    state: State, scope: JobScope | None, refusals: Refusals, started: float, error: BaseException
) -> None:
    scope = open_part(scope)
    if scope is None or not state.settings.events:
        return
    cause = refusals.last or error
    count = refusals.count
    if isinstance(error, asyncio.CancelledError) and not count:
        return
    tell(
        Job.of(scope),
        told.CONNECTING_GIVEN_UP,
        refusals.place or quietly(_place_of, refusals.client) or "",
        f"{_attempts(count)}, " if count else "",
        duration(time.monotonic() - started),
        type(cause).__name__,
        error=cause,
        count=count or 1,
        duration=round(time.monotonic() - started, 3),
        error_type=type(cause).__name__,
    )


def _tell_lost(state: State, client: Any, error: BaseException | None) -> None:
    is_coming_back = bool(client.options.get("allow_reconnect"))
    state.lost[client] = time.monotonic()
    for job in state.ledgers.jobs_on(client):
        tell(
            job,
            told.CONNECTION_BREAK if is_coming_back else told.CONNECTION_LOST,
            type(error).__name__,
            "trying to connect again" if is_coming_back else "this client does not connect again",
            error=error,
            error_type=type(error).__name__,
        )


def _tell_outcome(state: State, client: Any) -> None:
    since = state.lost.get(client)
    if since is None:
        return
    seconds = time.monotonic() - since
    if client.is_connected:
        outcome = told.CONNECTION_RESTORED
    elif client.is_closed:
        outcome = told.CONNECTION_CLOSED
    else:
        return
    state.lost.pop(client, None)
    for job in state.ledgers.jobs_on(client):
        tell(job, outcome, duration(seconds), duration=round(seconds, 3))


def _attempts(count: int) -> str:
    return f"{count:,} failed attempt{'s' if count != 1 else ''}"
