"""A consumer that is there keeps its own configuration, whatever is passed: what differs is told.

Wraps `JetStreamContext.pull_subscribe` and `subscribe`, which ignore the configuration of a durable consumer that
exists, without a word. Runs on the event loop.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import Any, Final

from ....context import current_job
from .. import told
from ..events import seconds
from ..told import duration, tell
from .ownership import StreamKey, server_of
from .state import Coroutine, State, quietly

# Names, and what nats-py fills in itself.
_NOT_COMPARED: Final = frozenset(
    {"name", "durable_name", "description", "deliver_subject", "deliver_group", "filter_subject", "metadata"}
)
_DURATIONS: Final = frozenset({"ack_wait", "idle_heartbeat", "inactive_threshold", "max_expires"})

# The stream and configuration of the consumer that was found while `subscribe` runs in this task.
_found: ContextVar[list[tuple[str, dict[str, Any]]] | None] = ContextVar("joblog_router.nats.found", default=None)


def is_watched() -> bool:
    """Whether the description of a consumer is wanted here."""
    return _found.get() is not None


def found(stream: str, config: dict[str, Any]) -> None:
    """A consumer was found, with this configuration."""
    watched = _found.get()
    if watched is not None:
        watched.append((stream, config))


def comparing(state: State, original: Coroutine) -> Coroutine:
    """`pull_subscribe` or `subscribe`, its configuration compared with that of the consumer it finds."""
    signature = inspect.signature(original)

    def passed_by(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
        bound = signature.bind_partial(*args, **kwargs).arguments
        durable, config = bound.get("durable"), bound.get("config")
        return (str(durable), config.as_dict()) if durable and config is not None else None

    @functools.wraps(original)
    async def subscribe(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not state.active or not state.settings.events:
            return await original(self, *args, **kwargs)
        passed = quietly(passed_by, (self, *args), kwargs)
        if passed is None:
            return await original(self, *args, **kwargs)
        watched: list[tuple[str, dict[str, Any]]] = []
        token = _found.set(watched)
        try:
            return await original(self, *args, **kwargs)
        finally:
            _found.reset(token)
            for stream, config in watched[:1]:
                quietly(_compare, state, self, stream, config, passed)

    return subscribe


def _compare(
    state: State, jetstream: Any, stream: str, kept: dict[str, Any], passed: tuple[str, dict[str, Any]]
) -> None:
    consumer, wanted = passed
    differences = {
        name: (kept.get(name), value)
        for name, value in wanted.items()
        if name not in _NOT_COMPARED and value is not None and value != "" and (kept.get(name) or 0) != (value or 0)
    }
    scope = current_job()
    job = state.owner_of_event(StreamKey(server_of(jetstream._nc), stream), scope, consumer=consumer)
    if not differences or job is None:
        return
    ledger = state.ledgers.of(scope) if scope is not None else state.ledgers.of_job(job)
    if not ledger.say(("drift", stream, consumer, str(differences))):
        return
    words = [
        f"{name} stays {_said(name, is_)}, not {_said(name, wanted)}" for name, (is_, wanted) in differences.items()
    ]
    tell(
        job,
        told.CONSUMER_DRIFTED,
        consumer,
        stream,
        "; ".join(words),
        stream=stream,
        consumer=consumer,
        differences=", ".join(differences),
    )


def _said(name: str, value: Any) -> str:
    if value is None:
        return "unset"
    return duration(seconds(value)) if name in _DURATIONS else str(getattr(value, "value", value))
