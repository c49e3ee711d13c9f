"""What a scope published into JetStream: failures at once, all the rest in one summary when the scope closes.

Wraps `JetStreamContext.publish` and `publish_async`; runs on the event loop, once per message, and logs none
of them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections import Counter
from typing import Any, Final, NamedTuple

from ...context import JobScope, current_job
from .events import tell
from .ledger import Ledger, open_part
from .messages import Coroutine
from .naming import job_in_header
from .ownership import StreamKey, server_of
from .state import CONFLICT, State, quietly

_MAX_SUMS: Final = 1_000


class Failure(NamedTuple):
    """One message that was not acknowledged."""

    error: BaseException
    subject: str

    @property
    def is_unknown(self) -> bool:
        """Whether the message may be stored all the same: it was sent, and nobody heard what became of it."""
        return isinstance(self.error, TimeoutError | asyncio.CancelledError)


class Sum:
    """What one scope published into one stream for one job."""

    __slots__ = (
        "_lock",
        "accepted",
        "duplicates",
        "errors",
        "first_seq",
        "job",
        "last_seq",
        "started",
        "stopped",
        "stream",
        "unknown",
    )

    def __init__(self, job: str, stream: str | None) -> None:
        self.job = job
        self.stream = stream
        self.accepted = self.duplicates = self.unknown = 0
        self.first_seq = self.last_seq = 0
        self.errors: Counter[str] = Counter()
        self.started = self.stopped = 0.0
        self._lock = threading.Lock()  # a scope may be carried into a thread with a loop of its own

    def add(self, started: float) -> None:
        """Count the time of one message."""
        self.started = min(self.started, started) if self.started else started
        self.stopped = time.monotonic()

    def add_accepted(self, ack: Any, started: float) -> None:
        """Count a message that the stream acknowledged."""
        with self._lock:
            self.add(started)
            self.accepted += 1
            if ack.duplicate:
                self.duplicates += 1
            else:
                self.first_seq = min(self.first_seq, ack.seq) if self.first_seq else ack.seq
                self.last_seq = max(self.last_seq, ack.seq)

    def add_failure(self, failure: Failure, started: float) -> int:
        """Count a message that was not acknowledged; how many of its error there are now."""
        with self._lock:
            self.add(started)
            self.unknown += failure.is_unknown
            self.errors[type(failure.error).__name__] += 1
            return self.errors[type(failure.error).__name__]

    def tell(self) -> None:
        """The summary line."""
        failed, total = sum(self.errors.values()), self.accepted + sum(self.errors.values())
        text, args = "Published %d of %d messages", [self.accepted, total]
        if not failed:
            text, args = "Published %d message" + ("s" if total != 1 else ""), [total]
        more: list[Any] = []
        if self.stream is not None:
            text += " to NATS stream %s"
            more.append(self.stream)
        if self.first_seq:
            # Others publish into the stream as well: then the numbers are not all ours.
            gapless = self.last_seq - self.first_seq + 1 == self.accepted - self.duplicates
            text += " (stream_seq %d-%d)" if gapless else " (between stream_seq %d and %d)"
            more += [self.first_seq, self.last_seq]
        text += " in %.3g s"
        more.append(self.stopped - self.started)
        if self.duplicates:
            text += ", %d of them stored before"
            more.append(self.duplicates)
        errors = ", ".join(f"{name} {count}" for name, count in self.errors.most_common())
        if failed > self.unknown:
            text += "; %d failed"
            more.append(failed - self.unknown)
        if self.unknown:
            text += "; %d without an acknowledgement in time, outcome unknown"
            more.append(self.unknown)
        if errors:
            text += " (%s)"
            more.append(errors)
        tell(
            self.job,
            logging.WARNING if failed else logging.INFO,
            "nats.publish.summary",
            text,
            *args,
            *more,
            stream=self.stream,
            accepted=self.accepted,
            failed=failed - self.unknown,
            unknown=self.unknown,
            duplicates=self.duplicates,
            first_seq=self.first_seq or None,
            last_seq=self.last_seq or None,
            duration=round(self.stopped - self.started, 3),
            errors=errors or None,
        )


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
        return self._argument(4, "headers")

    def _argument(self, position: int, name: str) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name)


def publishing(state: State, original: Coroutine) -> Coroutine:
    """`JetStreamContext.publish`, counted where a job is open."""

    @functools.wraps(original)
    async def publish(self: Any, *args: Any, **kwargs: Any) -> Any:
        scope = current_job()
        if scope is None or not state.active:
            return await original(self, *args, **kwargs)
        attempt = Attempt(getattr(self, "_nc", None), scope, args, kwargs, time.monotonic())
        try:
            ack = await original(self, *args, **kwargs)
        except (Exception, asyncio.CancelledError) as error:
            quietly(_failed, state, attempt, error)
            raise
        quietly(_accepted, state, attempt, ack)
        return ack

    return publish


def publishing_async(state: State, original: Coroutine) -> Coroutine:
    """`JetStreamContext.publish_async`, noticed as another job's use of a stream."""

    @functools.wraps(original)
    async def publish_async(self: Any, *args: Any, **kwargs: Any) -> Any:
        future = await original(self, *args, **kwargs)
        scope = current_job()
        if scope is not None and state.active and state.owners:
            attempt = Attempt(getattr(self, "_nc", None), scope, args, kwargs, 0.0)
            quietly(future.add_done_callback, functools.partial(_acknowledged, state, attempt))
        return future

    return publish_async


def _acknowledged(state: State, attempt: Attempt, future: Any) -> None:
    # `future.exception()` would mark a failure as seen: asyncio would not report one that nobody looked at.
    if not future.cancelled() and getattr(future, "_exception", None) is None:
        quietly(_used, state, attempt, future.result())


def _used(state: State, attempt: Attempt, ack: Any) -> StreamKey:
    key = StreamKey(server_of(attempt.client) if state.owners else "", ack.stream)
    state.owners.used(key, attempt.scope.job_id)
    return key


def _accepted(state: State, attempt: Attempt, ack: Any) -> None:
    key = _used(state, attempt, ack)
    if state.settings.events:
        booked = _sum(state, attempt, key)[1]
        if booked is not None:
            booked.add_accepted(ack, attempt.started)


def _failed(state: State, attempt: Attempt, error: BaseException) -> None:
    if not state.settings.events:
        return
    stream = attempt.stream or _stream_of(state.ledgers.of(attempt.scope), attempt.subject)
    key = StreamKey(server_of(attempt.client) if state.owners else "", stream or "")
    ledger, booked = _sum(state, attempt, key)
    if booked is None:
        return
    failure = Failure(error, attempt.subject)
    count = booked.add_failure(failure, attempt.started)
    if isinstance(error, asyncio.CancelledError):
        return
    # Where no summary will come, the tenth, the hundredth, … tell how it goes on.
    if count == 1 or (ledger.lasting and str(count).strip("0") == "1"):
        _tell_failure(booked, failure, count)


def _tell_failure(booked: Sum, failure: Failure, count: int) -> None:
    error = failure.error
    description = getattr(error, "description", None) or str(error)
    message = "Publishing to %s failed: %s"
    if failure.is_unknown:
        message = "Publishing to %s: no acknowledgement in time, outcome unknown: %s"
    name = type(error).__name__
    args: list[Any] = [failure.subject, f"{name} ({description})" if description else name]
    if booked.stream is not None:
        message = message.replace("to %s", "to %s (NATS stream %s)", 1)
        args.insert(1, booked.stream)
    if count > 1:
        message += ", %d times so far"
        args.append(count)
    tell(
        booked.job,
        logging.WARNING,
        "nats.publish.failed",
        message,
        *args,
        error=error,
        stream=booked.stream,
        subject=failure.subject,
        failed=count,
        error_type=name,
        err_code=getattr(error, "err_code", None),
        description=description or None,
    )


def _sum(state: State, attempt: Attempt, key: StreamKey) -> tuple[Ledger, Sum | None]:
    """Where a message is booked; no sum if it is nobody's, or if its scope closed while it was on its way."""
    ledger = state.ledgers.of(attempt.scope)
    header = job_in_header(attempt.headers, state.settings.header)
    job = state.owner(key, subject=attempt.subject, header=header)
    if job is None:
        scope = open_part(attempt.scope)
        job = None if scope is None else scope.job_id
    elif ledger.closed and job != CONFLICT:
        ledger = state.ledgers.of_job(job)
    if not job:
        return ledger, None
    stream = key.stream or None
    booked = ledger.sums.get((job, stream))
    if booked is None:
        if not ledger.lasting and not ledger.sums:
            ledger.at_close.append(lambda _: _tell_sums(ledger))
        while len(ledger.sums) >= _MAX_SUMS:
            oldest = ledger.sums.pop(next(iter(ledger.sums)))
            if not ledger.lasting:
                oldest.tell()
        booked = ledger.sums[job, stream] = Sum(job, stream)
    return ledger, booked


def _tell_sums(ledger: Ledger) -> None:
    for booked in ledger.sums.values():
        booked.tell()


def _stream_of(ledger: Ledger, subject: str) -> str | None:
    """The stream that takes `subject`, among those that were met in this scope."""
    for stream, patterns in ledger.subjects.items():
        if any(_matches(pattern, subject) for pattern in patterns):
            return stream
    return None


def _matches(pattern: str, subject: str) -> bool:
    wanted, given = pattern.split("."), subject.split(".")
    for position, part in enumerate(wanted):
        if part == ">":
            return len(given) > position
        if position >= len(given) or part not in {"*", given[position]}:
            return False
    return len(wanted) == len(given)
