"""What a scope published into JetStream: failures at once, progress now and then, and a summary at the end.

Wraps `JetStreamContext.publish` and `publish_async`; runs on the event loop, once per message, and logs none
of them. The end is the end of the scope, the last of the expected messages, the deletion of the stream, or that
the scope goes on with another stream.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from time import monotonic
from typing import Any, Final, NamedTuple

from ...._pipeline.subjects import takes
from ....context import JobScope, current_job
from .. import told
from ..naming import Job, job_in_header
from ..pacing import is_milestone
from ..told import so_far, tell
from .headers import HEADERS, with_header
from .ledger import Ledger, open_part
from .ownership import StreamKey, server_of
from .state import CONFLICT, Coroutine, State, quietly
from .sums import Failure, Run, Sum, expected_of
from .vanishing import look_for, replaced, starts_over

_MAX_SUMS: Final = 1_000
# So many messages in a row into another stream: the scope is done with the one before.
_SWITCHED: Final = 10


class Attempt(NamedTuple):
    """One call of `publish(subject, payload, timeout, stream, headers)`."""

    client: Any
    scope: JobScope
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    started: float

    @property
    def subject(self) -> str:
        """Where to."""
        return str(self._argument(0, "subject"))

    @property
    def stream(self) -> str | None:
        """The stream the caller expects, if one was named."""
        return self._argument(3, "stream") or None

    @property
    def headers(self) -> Any:
        """The caller's headers."""
        return self._argument(HEADERS, "headers")

    def _argument(self, position: int, name: str) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name)


def publishing(state: State, original: Coroutine) -> Coroutine:
    """`JetStreamContext.publish`, counted where a job is open."""

    @functools.wraps(original)
    async def publish(self: Any, *args: Any, **kwargs: Any) -> Any:
        scope = current_job()
        last = state.last_booking
        if (
            last is not None
            and last.scope is scope
            and last.jetstream is self
            and args
            and args[0] == last.subject
            and len(args) <= HEADERS
            and "headers" not in kwargs
        ):
            sending = original(self, *args, **kwargs)
        elif scope is None or not state.active:
            return await original(self, *args, **kwargs)
        else:
            last = None
            sent = _prepared(state, scope, getattr(self, "_nc", None), args, kwargs)
            sending = original(self, *sent[0], **sent[1])
        started = monotonic()
        try:
            ack = await sending
        except (Exception, asyncio.CancelledError) as error:
            client = getattr(self, "_nc", None)
            gone = quietly(_failed, state, Attempt(client, scope, args, kwargs, started), error)
            if gone is not None:
                await look_for(state, client, gone)
            raise
        # Whatever changes the answer puts another booking there.
        if last is None or last is not state.last_booking or not last.add(ack, started):
            quietly(_accepted, state, Attempt(getattr(self, "_nc", None), scope, args, kwargs, started), ack, self)
        return ack

    return publish


def _prepared(state: State, scope: JobScope, client: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments to send with, the job's header among them where a setting asks for it."""
    if state.last_use[0] is not scope or state.last_use[1] is not client:
        quietly(state.works_on, scope, client)
    if not state.settings.header_subjects:
        return args, kwargs
    return quietly(with_header, state.settings, scope, args, kwargs) or (args, kwargs)


def publishing_async(state: State, original: Coroutine) -> Coroutine:
    """`JetStreamContext.publish_async`, counted when its future is done; what never is, is pending at the end."""

    @functools.wraps(original)
    async def publish_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        scope = current_job()
        if scope is None or not state.active:
            return await original(self, *args, **kwargs)
        attempt = Attempt(getattr(self, "_nc", None), scope, args, kwargs, monotonic())
        sent = _prepared(state, scope, attempt.client, args, kwargs)
        try:
            future = await original(self, *sent[0], **sent[1])
        except (Exception, asyncio.CancelledError) as error:
            quietly(_failed, state, attempt, error)
            raise
        quietly(_wait, state, attempt, future)
        return future

    return publish_async


def answering(state: State, original: Coroutine) -> Coroutine:
    """`JetStreamContext._handle_async_reply`: what a stream refuses is raised there, and its future left pending."""

    @functools.wraps(original)
    async def handle_async_reply(self: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return await original(self, message, *args, **kwargs)
        except Exception as error:
            if state.active:
                quietly(_refused, state, self, message, error)
            raise

    return handle_async_reply


def _refused(state: State, jetstream: Any, message: Any, error: Exception) -> None:
    token = message.subject[len(jetstream._async_reply_prefix) :]
    attempt = _answered(state, jetstream._publish_async_futures.get(token))
    if attempt is not None:
        _failed(state, attempt, error)


def _answered(state: State, future: Any) -> Attempt | None:
    """What `future` was the answer to, unless that was seen before."""
    known = None if future is None else state.unanswered.pop(future, None)
    if known is None:
        return None
    attempt: Attempt = known[0]
    if (waiting := known[1]) is not None:
        waiting.pending -= 1
    return attempt


def settle(state: State, key: StreamKey) -> None:
    """Sum up what was published into a stream: it is about to be deleted, or is gone."""
    for ledger in state.ledgers.open_ones():
        for booked in list(ledger.sums.values()):
            if booked.stream == key.stream:
                _settle(ledger, booked)


def _wait(state: State, attempt: Attempt, future: Any) -> None:
    waiting = None
    if state.settings.events:
        waiting = _sum(state, attempt, _expected_key(state, attempt))[1]
        if waiting is not None:
            waiting.pending += 1
    state.unanswered[future] = (attempt, waiting)
    future.add_done_callback(functools.partial(_acknowledged, state))


def _acknowledged(state: State, future: Any) -> None:
    quietly(_resolved, state, future)


def _resolved(state: State, future: Any) -> None:
    attempt = _answered(state, future)
    if attempt is None or not state.active:
        return
    if future.cancelled():
        _failed(state, attempt, asyncio.CancelledError())
        return
    # `future.exception()` would mark a failure as seen: asyncio would not report one that nobody looked at.
    error = getattr(future, "_exception", None)
    if error is not None:
        _failed(state, attempt, error)
    else:
        _accepted(state, attempt, future.result())


class Booking:
    """Where the last message was booked: the next one, of the same scope and subject, mostly goes there too."""

    __slots__ = ("add", "jetstream", "scope", "subject")

    scope: JobScope
    jetstream: Any
    subject: str
    add: Callable[[Any, float], bool]

    def __init__(self, attempt: Attempt, jetstream: Any, run: Run) -> None:
        self.scope = attempt.scope
        self.jetstream = jetstream
        self.subject = attempt.subject
        self.add = run.add


def _accepted(state: State, attempt: Attempt, ack: Any, jetstream: Any = None) -> None:
    state.last_booking = None
    key = StreamKey(server_of(attempt.client) if state.tells_servers else "", ack.stream)
    state.uses(key, attempt.scope)
    if not state.settings.events:
        return
    ledger, booked = _sum(state, attempt, key)
    if booked is None:
        return
    if starts_over(booked, ack, attempt.started):
        replaced(ledger, booked, "was created again")
        ledger, booked = _sum(state, attempt, key)
        if booked is None:
            return
    progress = booked.add_accepted(ack, attempt.started)
    if progress is not None:
        booked.tell_progress(progress)
    _go_on(ledger, booked)
    # Only once the scope has turned to this stream: until then each message is counted towards that.
    is_plain = not (ledger.closed or attempt.headers or state.settings.header_subjects or state.owners)
    if jetstream is not None and is_plain and ledger.run.get(booked.job) == (booked, _SWITCHED):
        run = booked.begin_run()
        state.last_booking = None if run is None else Booking(attempt, jetstream, run)


def _go_on(ledger: Ledger, booked: Sum) -> None:
    """Sum up what is over: all that was expected is there, or the scope has turned to another stream."""
    if ledger.lasting or ledger.closed:
        return
    if booked.is_complete:
        _settle(ledger, booked)
        return
    before, run = ledger.run.get(booked.job, (booked, 0))
    run = run + 1 if before is booked else 1
    ledger.run[booked.job] = (booked, min(run, _SWITCHED))
    if run == _SWITCHED:
        for other in list(ledger.sums.values()):
            # Who goes back and forth gets no line for each time.
            if (
                other is not booked
                and other.job == booked.job
                and not other.pending
                and ledger.say(("switched", other.job, other.stream))
            ):
                _settle(ledger, other)


def _settle(ledger: Ledger, booked: Sum) -> None:
    ledger.sums.pop((booked.job, booked.stream), None)
    booked.end_run()
    if booked.is_complete:
        ledger.said.add(("complete", booked.job, booked.stream))
    if not ledger.lasting:
        booked.tell()


def _failed(state: State, attempt: Attempt, error: BaseException) -> StreamKey | None:
    """Count and tell a failure. The stream, where it took messages before and may be gone: once for each."""
    state.last_booking = None
    if not state.settings.events:
        return None
    key = _expected_key(state, attempt)
    ledger, booked = _sum(state, attempt, key)
    if booked is None:
        return None
    failure = Failure(error, attempt.subject)
    count = booked.add_failure(failure, attempt.started)
    # Where no summary will come, the tenth, the hundredth, … tell how it goes on.
    if ledger.lasting:
        is_telling = is_milestone(count)
    else:
        is_telling = count == 1 and ledger.say(("failed", booked.job, booked.stream, type(error)))
    if is_telling and not isinstance(error, asyncio.CancelledError):
        _tell_failure(booked, failure, count)
    _go_on(ledger, booked)
    is_unheard = type(error).__name__ == "NoStreamResponseError" and booked.accepted > 0
    return key if is_unheard and ledger.say(("unheard", key.stream, booked.first_seq)) else None


def _expected_key(state: State, attempt: Attempt) -> StreamKey:
    """The stream that should take the message, as far as known."""
    stream = attempt.stream or _stream_of(state.ledgers.of(attempt.scope), attempt.subject)
    return StreamKey(server_of(attempt.client) if state.tells_servers else "", stream or "")


def _tell_failure(booked: Sum, failure: Failure, count: int) -> None:
    error = failure.error
    description = getattr(error, "description", None) or str(error)
    tell(
        booked.job,
        told.PUBLISH_FAILED,
        failure.subject,
        f" (NATS stream {booked.stream})" if booked.stream is not None else "",
        ": no acknowledgement in time, outcome unknown" if failure.is_unknown else " failed",
        told.failure(error, description),
        so_far(count, " times"),
        error=error,
        stream=booked.stream,
        subject=failure.subject,
        failed=count,
        error_type=type(error).__name__,
        err_code=getattr(error, "err_code", None),
        description=description or None,
    )


def _sum(state: State, attempt: Attempt, key: StreamKey) -> tuple[Ledger, Sum | None]:
    """Where a message is booked; no sum if it is nobody's, or if its scope closed while it was on its way."""
    ledger = state.ledgers.of(attempt.scope)
    header = job_in_header(attempt.headers, state.settings.header)
    job = state.owner(key, subject=attempt.subject, header=header, scope=attempt.scope)
    if job is None:
        scope = open_part(attempt.scope)
        job = None if scope is None else Job.of(scope)
    elif ledger.closed and job != CONFLICT:
        ledger = state.ledgers.of_job(job)
    if not job:
        return ledger, None
    stream = key.stream or None
    booked = ledger.sums.get((job, stream))
    if booked is None:
        if not ledger.lasting and ledger.say("sums"):
            ledger.at_close.append(lambda _: _tell_sums(ledger))
        while len(ledger.sums) >= _MAX_SUMS:
            _settle(ledger, ledger.sums[next(iter(ledger.sums))])
        total = expected_of(attempt.scope.fields) if job == Job.of(attempt.scope) else 0
        if ("complete", job, stream) in ledger.said:
            total = 0
        booked = ledger.sums[job, stream] = Sum(job, stream, total)
    booked.end_run()
    return ledger, booked


def _tell_sums(ledger: Ledger) -> None:
    for booked in ledger.sums.values():
        booked.tell()


def _stream_of(ledger: Ledger, subject: str) -> str | None:
    """The stream that takes `subject`, among those that were met in this scope."""
    for stream, patterns in ledger.subjects.items():
        if any(takes(pattern, subject) for pattern in patterns):
            return stream
    return None
