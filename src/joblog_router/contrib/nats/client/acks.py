"""What a worker answers to a message: acknowledged, sent back, terminated, and what went wrong with the answer.

Wraps `Client.publish`, through which every answer goes, nats-py's own and hand-made ones; everything else passes
after one comparison. Runs on the event loop.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ....context import current_job
from .. import told
from ..answers import IN_PROGRESS, NAK, TERM, kind_of
from ..naming import Delivery, delivery_of_reply
from ..pacing import is_milestone
from ..told import duration, failure, reason_of, so_far, tell
from .consumption import Consumption, LastAttempt
from .exhaustion import GRACE
from .ownership import StreamKey, server_of
from .state import Coroutine, State, alike, quietly

_ACK: Final = "$JS.ACK."


def acknowledging(state: State, original: Coroutine) -> Coroutine:
    """`Client.publish`, answers to JetStream messages counted."""

    async def publish(self: Any, subject: Any, payload: Any, reply: Any, headers: Any) -> Any:
        if type(subject) is not str or subject[:1] != "$" or not subject.startswith(_ACK):
            return await original(self, subject, payload, reply, headers)
        return await _answer(state, original(self, subject, payload, reply, headers), self, subject, payload)

    async def publish_anyhow(self: Any, *args: Any, **kwargs: Any) -> Any:
        subject = args[0] if args else kwargs.get("subject")
        if type(subject) is not str or not subject.startswith(_ACK):
            return await original(self, *args, **kwargs)
        payload = args[1] if len(args) > 1 else kwargs.get("payload", b"")
        return await _answer(state, original(self, *args, **kwargs), self, subject, payload)

    return alike(publish, publish_anyhow, original)


async def _answer(state: State, sending: Awaitable[Any], client: Any, subject: str, payload: Any) -> Any:
    if not (state.active and state.settings.events):
        return await sending
    try:
        result = await sending
    except Exception as error:
        quietly(_book, state, client, subject, functools.partial(_failed, error=error))
        raise
    quietly(_book, state, client, subject, functools.partial(_answered, payload=bytes(payload)))
    return result


async def confirmed(state: State, answer: Awaitable[Any], client: Any, subject: str) -> Any:
    """`Client.request` with an answer to a message: `Msg.ack_sync`. Sending it is seen by `publish`."""
    try:
        return await answer
    except TimeoutError as error:
        if state.active and state.settings.events:
            quietly(_book, state, client, subject, functools.partial(_failed, error=error))
        raise


def _book(state: State, client: Any, subject: str, what: Callable[[Consumption, Delivery], None]) -> None:
    delivery = delivery_of_reply(subject)
    if delivery is None:
        return
    key = StreamKey(server_of(client), delivery.stream)
    job = state.owner_of_event(key, current_job(), consumer=delivery.consumer)
    if job is not None:
        what(state.consumption(job, key, delivery.consumer), delivery)


def _answered(taken: Consumption, delivery: Delivery, payload: bytes) -> None:
    last = taken.last_attempts
    kind = kind_of(payload)
    if kind == IN_PROGRESS:
        if delivery.stream_seq in last:
            last[delivery.stream_seq] = last[delivery.stream_seq]._replace(received=time.monotonic())
    elif kind == NAK:
        taken.naked += 1
        if delivery.stream_seq in last:
            wait = taken.limits.ack_wait if taken.limits is not None else 0.0
            last[delivery.stream_seq] = LastAttempt(last[delivery.stream_seq].task, time.monotonic() - wait - GRACE)
        _tell_nak(taken, delivery, payload)
    elif kind == TERM:
        taken.end(delivery.stream_seq)
        taken.terminated += 1
        last.pop(delivery.stream_seq, None)
        tell_terminated(taken, delivery.stream_seq, delivery.attempt, reason_of(payload[5:]))
    else:
        taken.acked += 1
        last.pop(delivery.stream_seq, None)


def _tell_nak(taken: Consumption, delivery: Delivery, payload: bytes) -> None:
    if not is_milestone(taken.naked):
        return
    delay = None
    try:
        options = json.loads(payload[4:] or b"{}")
        delay = options.get("delay") if isinstance(options, dict) else None
    except ValueError:
        pass  # a delay of the server's other notation is not told
    seconds = delay / 1e9 if isinstance(delay, int) else None
    tell(
        taken.job,
        told.SENT_BACK,
        delivery.stream_seq,
        delivery.stream,
        taken.of_max(delivery.attempt),
        f", not before {duration(seconds)}" if seconds else "",
        so_far(taken.naked),
        **taken.fields,
        stream_seq=delivery.stream_seq,
        consumer_seq=delivery.consumer_seq,
        attempt=delivery.attempt,
        delay=seconds,
        count=taken.naked,
    )


def tell_terminated(taken: Consumption, seq: int, attempt: int, reason: str) -> None:
    """A message that shall never come again, at the first, tenth, hundredth, …"""
    if not is_milestone(taken.terminated):
        return
    reason = reason_of(reason)
    tell(
        taken.job,
        told.TERMINATED,
        seq,
        taken.key.stream,
        taken.of_max(attempt),
        f": {reason}" if reason else "",
        so_far(taken.terminated),
        **taken.fields,
        stream_seq=seq,
        attempt=attempt,
        reason=reason or None,
        count=taken.terminated,
    )


def _failed(taken: Consumption, delivery: Delivery, error: Exception) -> None:
    taken.failed_acks += 1
    if not is_milestone(taken.failed_acks):
        return
    what = "no confirmation in time, outcome unknown" if isinstance(error, TimeoutError) else str(error)
    tell(
        taken.job,
        told.ANSWER_FAILED,
        delivery.stream_seq,
        delivery.stream,
        taken.of_max(delivery.attempt),
        failure(error, what),
        so_far(taken.failed_acks),
        error=error,
        **taken.fields,
        stream_seq=delivery.stream_seq,
        attempt=delivery.attempt,
        count=taken.failed_acks,
        error_type=type(error).__name__,
    )
