"""Streams and consumers: made, reused, refused, deleted: a tap on `Client.request` reads the API's replies.

Runs on the event loop, once per request. It reads the raw JSON: nats-py's objects leave out `ts` and, before
2.15, `created`, without which a stream that was just created cannot be told from one that was there
(`did_create` is true for both).
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

from ....context import JobScope, current_job
from ..events import filters_of, limits_of, timestamp
from ..naming import Job
from ..questions import MAX_WAIT
from ..told import LOGGER, failure
from .acks import confirmed
from .drift import found, is_watched
from .fetching import ending
from .ledger import Ledger, open_part
from .lifecycle import (
    Refusal,
    Target,
    tell_already_gone,
    tell_consumer,
    tell_deleted,
    tell_final,
    tell_refused,
    tell_stream,
)
from .ownership import StreamKey, is_monitor, is_ownable, server_of
from .publishing import settle
from .state import CONFLICT, Coroutine, State, alike, quietly, report_failure
from .vanishing import is_missing, vanished

_CALL: Final = re.compile(
    r"(\$JS\.(?:[^.]+\.)?API)\.(STREAM|CONSUMER)\.(?:DURABLE\.)?(CREATE|UPDATE|INFO|DELETE)"
    r"\.([^.]+)(?:\.([^.]+))?(?:\.|\Z)"
)
_TOLERANCE: Final = 0.002
# Before 2.10 a reply has no time of its own: the clocks of client and server are compared.
_CLOCK_TOLERANCE: Final = 0.1
_MAX_FINAL: Final = 50
# So many consumers are asked for one by one before their stream is deleted.
_MAX_ASKED: Final = 10
_ERROR: Final = b'"error":'
_ERROR_WITHIN: Final = 200


class Call(NamedTuple):
    """One request to the JetStream API."""

    prefix: str
    action: str
    key: StreamKey
    target: Target

    @property
    def is_about_stream(self) -> bool:
        """Whether it is about the stream itself, not a consumer."""
        return self.target.kind == "stream"

    @property
    def consumer(self) -> str:
        """The consumer's name; "" for streams, and for a consumer the server shall name."""
        return self.target.consumer


class Timing(NamedTuple):
    """When a request was sent, in seconds since the epoch, and how long the reply took."""

    sent: float
    took: float


def requesting(state: State, original: Coroutine) -> Coroutine:
    """`Client.request`, its JetStream API calls told where they are about a job."""
    state.request = original

    async def request(  # noqa: PLR0917 - nats-py's own parameters
        self: Any, subject: Any, payload: Any, timeout: Any, old_style: Any, headers: Any
    ) -> Any:
        if type(subject) is not str or subject[:1] != "$" or not subject.startswith("$JS.") or not state.active:
            return await original(self, subject, payload, timeout, old_style, headers)
        send = functools.partial(original, self, subject, payload, timeout, old_style, headers)
        return await _request(state, self, subject, timeout, send)

    async def request_anyhow(self: Any, *args: Any, **kwargs: Any) -> Any:
        subject = args[0] if args else kwargs.get("subject")
        if type(subject) is not str or not subject.startswith("$JS.") or not state.active:
            return await original(self, *args, **kwargs)
        send = functools.partial(original, self, *args, **kwargs)
        return await _request(state, self, subject, kwargs.get("timeout"), send)

    return alike(request, request_anyhow, original)


async def _request(state: State, client: Any, subject: str, timeout: Any, send: Callable[[], Awaitable[Any]]) -> Any:
    """One request to the JetStream API, or an answer to a message; `send` does what the application asked for."""
    if subject.startswith("$JS.ACK."):
        return await confirmed(state, send(), client, subject)
    call = None if is_monitor(client) else quietly(_call, client, subject)
    if call is None:
        return await send()
    scope = current_job()
    if scope is not None:
        quietly(state.works_on, scope, client)
    if call.action == "DELETE" and state.settings.events:
        quietly(settle, state, call.key)
        consumers = await _ask_for_consumers(state, client, call, scope, _wait(timeout))
        quietly(ending, state, call.key, call.consumer, consumers)
        if consumers:
            quietly(_tell_final, state, call, scope, consumers)
    sent, started = time.time(), time.monotonic()
    try:
        reply = await send()
    except Exception as error:
        quietly(_unanswered, state, call, open_part(scope), error)
        raise
    quietly(_answered, state, call, open_part(scope), reply, Timing(sent, time.monotonic() - started))
    return reply


def _call(client: Any, subject: str) -> Call | None:
    match = _CALL.match(subject)
    if match is None:
        return None
    prefix, about, action, stream, consumer = match.groups()
    target = Target(about.lower(), stream, consumer or "" if about == "CONSUMER" else "")
    return Call(prefix, action, StreamKey(server_of(client), stream), target)


def _answered(state: State, call: Call, scope: JobScope | None, reply: Any, timing: Timing) -> None:
    is_told = call.action == "INFO" and (scope is None or _is_said(state, call, scope))
    if is_told and not is_watched() and _ERROR not in reply.data[:_ERROR_WITHIN]:
        return
    body = json.loads(reply.data)
    if not isinstance(body, dict):
        return  # of a service of the application's own behind such a subject
    refused = body.get("error")
    if is_missing(refused) and call.action != "DELETE":
        vanished(state, call.key)
    if call.action == "INFO" and call.consumer and not refused:
        found(call.key.stream, body.get("config") or {})
    if is_told and not refused:
        return
    if scope is not None and call.action != "DELETE" and not refused:
        state.uses(call.key, scope)
    if call.action == "CREATE" and call.consumer and state.owners:
        for named in state.settings.patterns.jobs_in(call.consumer):
            job = state.owner(call.key, consumer=call.consumer, scope=scope)
            state.owners.used(call.key, job if job and job.job_id == named else Job("", named))
    if call.action == "DELETE":
        _deleted(state, call, scope, refused)
    elif refused:
        if call.action != "INFO" or refused.get("code") != 404:
            _refused(state, call, scope, _refusal(refused))
    elif call.is_about_stream:
        _stream(state, call, scope, body, _is_new(state, call, body, timing))
    else:
        name = call.consumer or str(body.get("name") or "")
        call = call._replace(target=call.target._replace(consumer=name))
        _consumer(state, call, scope, body, _is_new(state, call, body, timing))


def _is_said(state: State, call: Call, scope: JobScope) -> bool:
    """Whether an INFO has nothing new to tell: the scope's job was told already. Spares reading the reply."""
    if state.owners.of(call.key) not in {None, Job.of(scope)}:
        return False
    return (call.key, call.consumer) in state.ledgers.of(scope).said


def _is_new(state: State, call: Call, body: dict[str, Any], timing: Timing) -> bool:
    """Whether this very request created what it describes."""
    created = timestamp(body.get("created"))
    if created is None:
        return False
    is_known = state.is_known_birth(call.key, call.consumer, body["created"])
    if is_known or call.action != "CREATE":
        return False
    now = timestamp(body.get("ts"))
    if now is not None:
        return now - created <= timing.took + _TOLERANCE
    used = body.get("state") or body.get("delivered") or {}
    is_unused = not (used.get("last_seq") or used.get("messages") or used.get("consumer_seq"))
    return is_unused and created >= timing.sent - _CLOCK_TOLERANCE


def _stream(state: State, call: Call, scope: JobScope | None, body: dict[str, Any], is_new: bool) -> None:
    config = body.get("config") or {}
    if is_new and scope is not None and is_ownable(config, scope.job_id, state.settings.patterns):
        state.owners.learn(call.key, Job.of(scope))
        state.last_booking = None
    subjects = list(config.get("subjects") or ())
    if is_new:
        vanished(state, call.key, "was created again")
    job = state.owner_of_event(call.key, scope, subjects=subjects)
    if scope is not None:
        state.ledgers.of(scope).subjects[call.key.stream] = subjects
    if job is None or not state.settings.events or call.action == "UPDATE":
        return
    if _shall_tell(state, call, scope, job, is_new):
        tell_stream(job, call.target, body, is_new)


def _consumer(state: State, call: Call, scope: JobScope | None, body: dict[str, Any], is_new: bool) -> None:
    config = body.get("config") or {}
    state.learn_limits(call.key, call.consumer, limits_of(config))
    job = state.owner_of_event(call.key, scope, consumer=call.consumer, subjects=filters_of(config))
    if job is None or not state.settings.events:
        return
    if _shall_tell(state, call, scope, job, is_new):
        tell_consumer(job, call.target, body, is_new)


def _shall_tell(state: State, call: Call, scope: JobScope | None, job: Job, is_new: bool) -> bool:
    """What is new always; what was there once per scope of that very job."""
    if scope is None or Job.of(scope) != job:
        return is_new
    return state.ledgers.of(scope).say((call.key, call.consumer)) or is_new


def _deleted(state: State, call: Call, scope: JobScope | None, refused: dict[str, Any] | None) -> None:
    job = state.owner_of_event(call.key, scope, consumer=call.consumer)
    is_gone = refused is None or refused.get("code") == 404
    if is_gone:
        if scope is not None or job is not None:
            _unsay(_ledger(state, scope, job or CONFLICT), call)
        state.forget(call.key, call.consumer)
        if call.is_about_stream:
            state.owners.forget(call.key)
    if job is None or not state.settings.events:
        return
    if refused is None:
        tell_deleted(job, call.target)
    elif is_gone:
        tell_already_gone(job, call.target, _refusal(refused))
    else:
        tell_refused(job, call.target, call.action, _refusal(refused))


def _unsay(ledger: Ledger, call: Call) -> None:
    """What was deleted may be created and found again."""
    if call.is_about_stream:
        ledger.subjects.pop(call.key.stream, None)
        ledger.said = {said for said in ledger.said if not (isinstance(said, tuple) and said[0] == call.key)}
    else:
        ledger.said.discard((call.key, call.consumer))


def _refused(state: State, call: Call, scope: JobScope | None, refusal: Refusal) -> None:
    job = state.owner_of_event(call.key, scope, consumer=call.consumer)
    if job is None or not state.settings.events:
        return
    # A loop that tries again and again is told once.
    about = (call.key, call.target, call.action, refusal.err_code or type(refusal.error))
    if _ledger(state, scope, job).say(about):
        tell_refused(job, call.target, call.action, refusal)


def _unanswered(state: State, call: Call, scope: JobScope | None, error: Exception) -> None:
    what = "no answer in time, outcome unknown" if isinstance(error, TimeoutError) else str(error)
    _refused(state, call, scope, Refusal(None, failure(error, what), error))


def _refusal(refused: dict[str, Any]) -> Refusal:
    return Refusal(refused.get("err_code"), str(refused.get("description") or refused), None)


def _ledger(state: State, scope: JobScope | None, job: Job) -> Ledger:
    return state.ledgers.of_job(job) if scope is None else state.ledgers.of(scope)


def _wait(timeout: Any) -> float:
    """How long our own request may take: never longer than the application gives its own, a second at most."""
    return min(timeout, MAX_WAIT) if isinstance(timeout, int | float) else MAX_WAIT


async def _ask_for_consumers(
    state: State, client: Any, call: Call, scope: JobScope | None, wait: float
) -> list[dict[str, Any]]:
    """The numbers of what is about to be deleted; none where the account may not ask, or nobody answers in time.

    Consumers that this process met are asked for by name, as whoever works with them may; only where none is known
    their list is asked for.
    """
    try:
        if not LOGGER.isEnabledFor(logging.INFO) or client.is_draining:
            return []
        if state.owner_of_event(call.key, scope, consumer=call.consumer) is None:
            return []
        ask = functools.partial(state.questions.ask, client, state.request, wait=wait)
        names = [call.consumer] if call.consumer else state.known_consumers(call.key)[:_MAX_ASKED]
        if not names:
            body = await ask(f"{call.prefix}.CONSUMER.LIST.{call.key.stream}", b'{"offset":0}')
            return list((body or {}).get("consumers") or ())
        subjects = [f"{call.prefix}.CONSUMER.INFO.{call.key.stream}.{name}" for name in names]
        bodies = await asyncio.gather(*(ask(subject, b"") for subject in subjects))
        return [body for body in bodies if body is not None and not body.get("error")]
    except Exception as error:
        report_failure(_ask_for_consumers, error)
        return []


def _tell_final(state: State, call: Call, scope: JobScope | None, consumers: list[dict[str, Any]]) -> None:
    for consumer in consumers[:_MAX_FINAL]:
        name = str(consumer.get("name") or "")
        job = state.owner_of_event(call.key, scope, consumer=name)
        if job is not None:
            tell_final(job, Target("consumer", call.key.stream, name), consumer)
