"""Each message in its own job: guards for what nats-py runs in tasks of its own.

Called when subscriptions are made, and on the event loop around each callback. Nothing here inherits the job
of whoever happened to connect or subscribe first: a connection is shared by all of them.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import Any

from ....context import JobScope, current_job, detached
from ..naming import Job, job_in_header
from .advisories import heard, is_advisory
from .ledger import MessageScope, open_part
from .ownership import is_monitor, server_of
from .pushing import delivered
from .state import Coroutine, State, quietly

# The exception that a callback raised last in this task, and the job of its message: nats-py hands the
# exception to the error callback when our scope is closed already.
_failed: ContextVar[tuple[BaseException, Job | None] | None] = ContextVar("joblog_router.nats.failed", default=None)


def masked(state: State, original: Coroutine) -> Coroutine:
    """`original` without a job: what it starts outlives the job that happens to call it."""

    @functools.wraps(original)
    async def without_job(*args: Any, **kwargs: Any) -> Any:
        if not state.active:
            return await original(*args, **kwargs)
        with detached():
            return await original(*args, **kwargs)

    return without_job


def subscribing(state: State, original: Coroutine, internal: frozenset[Any]) -> Coroutine:
    """`Client.subscribe` without a job, its callback bound to the job of each message.

    `internal`: nats-py's own callbacks, which only resolve futures.
    """

    @functools.wraps(original)
    async def subscribe(self: Any, *args: Any, **kwargs: Any) -> Any:
        if state.active:
            bound = quietly(_with_bound_callback, state, self, args, kwargs, internal)
            if bound is not None:
                args, kwargs = bound
            with detached():
                return await original(self, *args, **kwargs)
        return await original(self, *args, **kwargs)

    return subscribe


def waiting(state: State, original: Coroutine) -> Coroutine:
    """`Subscription._wait_for_msgs` without a job, its error callback in the failed message's job."""

    @functools.wraps(original)
    async def wait_for_messages(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not state.active:
            return await original(self, *args, **kwargs)
        if args and inspect.iscoroutinefunction(args[0]):
            args = (_bound_error_callback(args[0]), *args[1:])
        with detached():
            return await original(self, *args, **kwargs)

    return wait_for_messages


def _with_bound_callback(
    state: State, client: Any, args: tuple[Any, ...], kwargs: dict[str, Any], internal: frozenset[Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments of `Client.subscribe(subject, queue, cb, …)` with `cb` bound; None without a `cb`."""
    callback = kwargs.get("cb") if "cb" in kwargs else args[2] if len(args) > 2 else None
    if (
        callback is None
        or is_monitor(client)
        or not _is_callback(callback)
        or getattr(callback, "__func__", None) in internal
    ):
        return None
    bound = _bind(state, client, _inbox(client, args[0] if args else kwargs.get("subject")), callback)
    if "cb" in kwargs:
        return args, {**kwargs, "cb": bound}
    return (*args[:2], bound, *args[3:]), kwargs


def _is_callback(callback: Any) -> bool:
    """What nats-py takes as a callback; it refuses anything else itself."""
    return inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(getattr(callback, "func", None))


def _inbox(client: Any, subject: Any) -> str:
    """`subject` if it is one of the client's inboxes; "" otherwise."""
    prefix = bytes(getattr(client, "_inbox_prefix", b"_INBOX")).decode()
    return subject if isinstance(subject, str) and subject.startswith(prefix + ".") else ""


def _bind(state: State, client: Any, inbox: str, callback: Coroutine) -> Coroutine:
    creator = current_job()

    @functools.wraps(callback)
    async def in_job_of_message(message: Any, *args: Any, **kwargs: Any) -> Any:
        if not state.active:
            return await callback(message, *args, **kwargs)
        job = quietly(_owner, state, client, message, inbox, creator)
        if state.settings.events and is_advisory(message.subject):
            quietly(heard, state, server_of(client), [message])
        elif job and state.settings.events:
            quietly(delivered, state, client, inbox, message, job=job, scope=creator)
        try:
            with MessageScope(job, creator) if job else detached():
                return await callback(message, *args, **kwargs)
        except Exception as error:
            _failed.set((error, job))
            raise

    return in_job_of_message


def _owner(state: State, client: Any, message: Any, inbox: str, creator: JobScope | None) -> Job | None:
    """The job that owns a received message."""
    reply = message.reply or ""
    job = state.owner_of_message(
        server_of(client) if state.tells_servers else "",
        message.subject,
        reply,
        job_in_header(message.headers, state.settings.header),
        creator,
    )
    if job is not None or creator is None:
        return job
    # Private is what was sent to an inbox of its own, which nobody but its maker was told. One with a
    # wildcard serves whoever asks, and a consumer pushes any stream's messages, with their own subjects, into
    # an inbox.
    if message.subject != inbox:
        return None
    scope = open_part(creator)
    return None if scope is None else Job.of(scope)


def _bound_error_callback(callback: Coroutine) -> Coroutine:
    @functools.wraps(callback)
    async def in_job_of_failed_message(error: BaseException, *args: Any, **kwargs: Any) -> Any:
        failed = _failed.get()
        _failed.set(None)
        if failed is None or failed[0] is not error or not failed[1]:
            return await callback(error, *args, **kwargs)
        with MessageScope(failed[1], None):
            return await callback(error, *args, **kwargs)

    return in_job_of_failed_message
