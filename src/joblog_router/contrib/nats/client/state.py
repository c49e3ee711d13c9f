"""What one `instrument()` knows, and the answer to "whose is it?" for messages and events alike.

Used by every other module of this package, on the event loops that run nats-py. No locks: single dictionary
operations, which threads with loops of their own may mix at will.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Final, ParamSpec, TypeVar

from ...._pipeline.report import report_once
from ...._pipeline.resolve import conflicts
from ....context import JobScope, current_job, namespace_varies
from ..bounded import shrink
from ..events import Limits
from ..naming import DEFAULT_HEADER, Job, Named, NamePatterns, stream_of_reply, stream_of_subject
from ..questions import Questions
from ..task_ids import DEFAULT_TASK_ID_KEYS
from .consumption import Consumption
from .ledger import Ledgers
from .ownership import Owners, StreamKey

Coroutine = Callable[..., Awaitable[Any]]
P = ParamSpec("P")
R = TypeVar("R")

# What `State.owner` says where names contradict each other, or where it cannot be known whose id they hold. Is false.
CONFLICT: Final = Job("", "")

_MAX_STREAMS: Final = 10_000
_MAX_CONSUMERS: Final = 1_000
_MAX_LIMITS: Final = 20_000
_MAX_CONSUMPTIONS: Final = 2_000


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of `instrument()`."""

    patterns: NamePatterns = dataclasses.field(default_factory=NamePatterns)
    header: str = DEFAULT_HEADER
    header_subjects: tuple[str, ...] = ()
    events: bool = True
    task_id_keys: tuple[str, ...] = DEFAULT_TASK_ID_KEYS


@dataclasses.dataclass(slots=True, eq=False)
class State:
    """One installation. `active` is False once it ended: what it left in running tasks is inert then."""

    settings: Settings
    active: bool = True
    owners: Owners = dataclasses.field(default_factory=Owners)
    ledgers: Ledgers = dataclasses.field(default_factory=Ledgers)
    questions: Questions = dataclasses.field(default_factory=Questions)
    # `Client.request` as it was, for our own questions.
    request: Coroutine | None = None
    consumptions: dict[tuple[StreamKey, str, Job], Consumption] = dataclasses.field(default_factory=dict)
    limits: dict[tuple[StreamKey, str], Limits] = dataclasses.field(default_factory=dict)
    # What the last publish was booked under, and the scope and connection it used: mostly those of the next.
    last_booking: Any = None
    last_use: tuple[JobScope | None, Any] = (None, None)
    # Clients that lost their connection, and when (monotonic).
    lost: weakref.WeakKeyDictionary[Any, float] = dataclasses.field(default_factory=weakref.WeakKeyDictionary)
    # Futures of asynchronous publishes to what is known of them.
    unanswered: weakref.WeakKeyDictionary[Any, tuple[Any, Any]] = dataclasses.field(
        default_factory=weakref.WeakKeyDictionary
    )
    _births: dict[StreamKey, dict[str, str]] = dataclasses.field(default_factory=dict)

    @property
    def tells_servers(self) -> bool:
        """Whether anything is known of streams that depends on their server."""
        return bool(self.owners) or namespace_varies()

    def uses(self, key: StreamKey, scope: JobScope) -> None:
        """A scope works with a stream."""
        job = Job.of(scope)
        self.owners.used(key, job)
        if namespace_varies():
            self.owners.met(key, job)

    def owner(
        self,
        key: StreamKey,
        *,
        consumer: str = "",
        subject: str = "",
        header: Named | None = None,
        scope: JobScope | None = None,
    ) -> Job | None:
        """The job that stream, consumer, subject and header name; None if nobody, CONFLICT if several.

        `scope`: in which this happens, if that is not the open one.
        """
        jobs_in = self.settings.patterns.jobs_in
        named = jobs_in(key.stream) | jobs_in(consumer) | jobs_in(subject)
        if len(named) > 1:
            return self._conflict(f"stream {key.stream!r}, consumer {consumer!r} and subject {subject!r}", named)
        owned = None if named else self.owners.of(key)
        job_id = next(iter(named), None) if owned is None else owned.job_id
        if header is None:
            if owned is not None or job_id is None:
                return owned
            return self._placed(job_id, key, scope)
        if job_id is not None and header.job_id != job_id:
            return self._conflict(f"header {self.settings.header} and stream or subject", {header.job_id, job_id})
        if owned is not None:
            if header.namespace in {None, owned.namespace}:
                return owned
            tenants = {f"{header.job_id} of {namespace}" for namespace in (header.namespace, owned.namespace)}
            return self._conflict(f"header {self.settings.header} and the owner of stream {key.stream!r}", tenants)
        if header.namespace is not None:
            return Job(header.namespace, header.job_id)
        return self._placed(header.job_id, key, scope)

    def _placed(self, job_id: str, key: StreamKey, scope: JobScope | None) -> Job:
        """The job of which only the id is known; CONFLICT where it may be another tenant's."""
        scope = scope or current_job()
        if scope is not None and scope.job_id == job_id:
            return Job.of(scope)
        if namespace_varies():
            known = self.owners.jobs_of_name(key, job_id)
            if known is not None:
                return known
        job = Job.named(job_id) if scope is None else Job(scope.namespace, job_id)
        if job is None:
            report_once(
                ("nats-namespace",),
                f"NATS: whose job {job_id!r} is cannot be told where NAMESPACE gives no answer: what is logged for it "
                "goes to no job's log. Have it answer where messages are received, or see `header_subjects`",
            )
            return CONFLICT
        return job

    def owner_of_message(
        self, server: str, subject: str, reply: str, header: Named | None, scope: JobScope | None = None
    ) -> Job | None:
        """The same for a message that was received."""
        if header is None and not subject.startswith("$JS.") and not reply.startswith("$JS."):
            named = self.settings.patterns.jobs_in(subject)  # a core message: nothing else can name its job
            if not named:
                return None
            if len(named) < 2:
                return self._placed(next(iter(named)), StreamKey(server, ""), scope)
        about = stream_of_subject(subject)
        if about is not None:
            # What the server says about a stream belongs to that stream, whoever's consumer brings it.
            stream, consumer = about
            key = StreamKey(server, stream)
            if self.owner(key, consumer=consumer, scope=scope) is not None:
                return self.owner(key, consumer=consumer, header=header, scope=scope)
            subject = ""
        delivered = stream_of_reply(reply)
        stream, consumer = delivered if delivered is not None else ("", "")
        return self.owner(StreamKey(server, stream), consumer=consumer, subject=subject, header=header, scope=scope)

    def owner_of_event(
        self, key: StreamKey, scope: JobScope | None, *, consumer: str = "", subjects: list[str] | None = None
    ) -> Job | None:
        """The job whose log tells that something happened to a stream or consumer; None for nobody's.

        `subjects` are those of the configuration. Being several jobs' is no contradiction there.
        """
        job = self.owner(key, consumer=consumer, scope=scope)
        if job is not None:
            return job or None
        jobs_in = self.settings.patterns.jobs_in
        named = {found for subject in subjects or () for found in jobs_in(subject)}
        if len(named) == 1:
            return self._placed(named.pop(), key, scope) or None
        return None if scope is None else Job.of(scope)

    def works_on(self, scope: JobScope, client: Any) -> None:
        """A scope uses a connection."""
        ledger = self.ledgers.of(scope)
        if client not in ledger.clients:
            ledger.clients.add(client)
        if not ledger.lasting:
            self.last_use = (scope, client)
            if ledger.say("last use"):
                ledger.at_close.append(self._forget_last)

    def _forget_last(self, _: JobScope) -> None:
        self.last_use = (None, None)
        self.last_booking = None

    def consumption(self, job: Job, key: StreamKey, consumer: str) -> Consumption:
        """The tally of what this process takes from a consumer for a job."""
        taken = self.consumptions.get((key, consumer, job))
        if taken is None:
            taken = self.consumptions[key, consumer, job] = Consumption(job, key, consumer)
            shrink(self.consumptions, _MAX_CONSUMPTIONS)
        if taken.limits is None:
            taken.limits = self.limits.get((key, consumer))
        return taken

    def learn_limits(self, key: StreamKey, consumer: str, limits: Limits) -> None:
        """What a consumer's description says of its limits."""
        self.limits.pop((key, consumer), None)
        self.limits[key, consumer] = limits
        shrink(self.limits, _MAX_LIMITS)
        for taken in self.consumptions_of(key, consumer):
            taken.limits = limits

    def consumptions_of(self, key: StreamKey, consumer: str = "") -> list[Consumption]:
        """The tallies of a stream's consumers, or of one of them."""
        return [
            taken
            for (at, name, _), taken in list(self.consumptions.items())
            if at == key and (not consumer or name == consumer)
        ]

    def known_consumers(self, key: StreamKey) -> list[str]:
        """The consumers of a stream that this process met, as far as remembered."""
        taken = {taken.consumer for taken in self.consumptions_of(key)}
        return sorted((taken | set(self._births.get(key, ()))) - {""})

    def forget(self, key: StreamKey, consumer: str) -> None:
        """A consumer was deleted, or a stream with all its consumers."""
        births = self._births.get(key, {})
        for name in [consumer] if consumer else list(births):
            births.pop(name, None)
            self.limits.pop((key, name), None)
        if not births:
            self._births.pop(key, None)

    def is_known_birth(self, key: StreamKey, consumer: str, created: str) -> bool:
        """Whether a stream or consumer of that very creation time was met before. Remembers it."""
        births = self._births.get(key)
        if births is None:
            births = self._births[key] = {}
            shrink(self._births, _MAX_STREAMS)
        known = births.get(consumer) == created
        births[consumer] = created
        shrink(births, _MAX_CONSUMERS)
        return known

    def _conflict(self, what: str, jobs: set[str] | frozenset[str]) -> Job:
        conflicts.add()
        report_once(
            ("nats-conflict", frozenset(jobs)),
            f"NATS: {what} name different jobs ({', '.join(sorted(map(repr, jobs)))}): what is logged for it "
            "goes to no job's log. Give streams and subjects of one job one job's id",
        )
        return CONFLICT


def quietly(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R | None:
    """Call `function`; what it raises is reported once on stderr and becomes None. For all bookkeeping."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        report_failure(function, error)
        return None


def alike(exact: Coroutine, general: Coroutine, original: Coroutine) -> Coroutine:
    """The wrapper to put in the place of `original`: `exact` if it names the very parameters that `original` takes.

    It costs a third of one that passes on whatever it is given (`general`), and is on the way of every publish.
    """
    # What stands in place of it, not what that may say that it wraps.
    taken = inspect.signature(original, follow_wrapped=False).parameters.values()
    named = [(parameter.name, parameter.kind) for parameter in inspect.signature(exact).parameters.values()]
    if [(parameter.name, parameter.kind) for parameter in taken] == named:
        exact.__defaults__ = original.__defaults__
        return functools.wraps(original)(exact)
    return functools.wraps(original)(general)


def report_failure(function: Callable[..., Any], error: Exception) -> None:
    """Say once that bookkeeping failed; the application is not touched by it."""
    name = getattr(inspect.unwrap(function), "__qualname__", repr(function))
    report_once(
        ("nats", name, type(error)),
        f"NATS: {name} failed: {error!r}; a line of a job's log may be missing. Please report it",
    )
