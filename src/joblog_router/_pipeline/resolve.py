"""Which job is a record about? One function, `resolve(record)`, for filter and handler alike.

Called on the logging thread for every record, so it does no I/O, takes no lock and raises nothing. Imports `scopes` and
what stands beside it (`services`, `leaks`), nothing of channels. The rules, first answer wins: what the call says
(`extra`), the stamp of an earlier answer, the open scope, a resolver's answer.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, Final

from . import lifetime, scopes
from .attributes import ADDRESS, AUDIENCE, BARE_LAST, BARE_LENGTH, DOUBTS, JOB_ID, STAMP, ends_bare, is_bare
from .generators import ALWAYS, ASK, GUARDS, HOLDING
from .leaks import CONFLICT, GENERATOR, LATE, MARKED, SERVICE, UNADDRESSED, note
from .namespaces import current_namespace
from .primitives import freeze
from .report import report_once
from .scopes import UNKNOWN, JobScope, among_generators, current_job, late_twin, still_open
from .services import NAMED, SERVICES, is_service, is_service_loop
from .stats import Counter
from .text import clean

# The event loop's own logger ("Task exception was never retrieved") speaks in whatever context the garbage collector
# or a callback happens to run in, about any job.
_ASYNCIO: Final = "asyncio"

get_scope = scopes.variable.get
_get_running_loop = asyncio._get_running_loop


class _NoJob:
    """The stamp of a record that belongs to no job."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, ())  # see JobScope.__reduce__

    def __iter__(self) -> Iterator[Any]:
        return iter(())  # see Sequence.register below

    def __repr__(self) -> str:
        return "NO_JOB"


NO_JOB: Final = _NoJob()


class Captured:
    """The stamp of a record that is in the buffers of `channels` already, with the scope it was resolved to."""

    __slots__ = ("channels", "packed", "scope")

    def __init__(self, scope: JobScope, channels: frozenset[str], packed: bytes = b"") -> None:
        self.scope = scope
        self.channels = channels
        # The scope as each of its lines has it in the spool.
        self.packed = packed

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __reduce__(self) -> tuple[Any, ...]:
        scope = self.scope
        stamp = {
            "job_id": scope.job_id,
            "fields": dict(scope.fields),
            "namespace": scope.namespace,
            "channels": sorted(self.channels),
        }
        return (dict, (list(stamp.items()),))


Sequence.register(_NoJob)  # see JobScope
Sequence.register(Captured)

late = Counter()
marked = Counter()
conflicts = Counter()
foreign_service = Counter()
generators = Counter()
COUNTERS: Final = {
    "late": late,
    "marked": marked,
    "conflicts": conflicts,
    "services": foreign_service,
    "generators": generators,
}
"""By their names in `stats()`."""

DEFAULT_EVIDENCE: Final = frozenset({JOB_ID})
evidence: frozenset[str] = DEFAULT_EVIDENCE
# Keys of the truth tests.
_RESOLVERS: Final = "resolvers"
_MAX_ANSWERS: Final = 4096
# What is asked where no scope is open.
RESOLVERS: Final[list[Callable[[logging.LogRecord], object]]] = []


# Holds an element for each resolver that is being asked, in whichever thread.
_asking: list[None] = []
_keeps_late: Callable[[str], bool] | None = None
_grace = 0.0


# What a plain record is, which needs no second look, stands in three places, each without a call: at the beginning of
# `resolve` below, of `capture` in `capture.make_capture`, and of `JobContextFilter.filter`. What changes in one changes
# in all; tests/test_resolve.py holds each of them against the long way.


def resolve(record: logging.LogRecord) -> JobScope | None:
    """The scope whose job `record` is about, or None. Leaves a stamp where the answer must not be worked out twice."""
    scope = get_scope()
    if scope is None:
        # Not by __dict__: making a record's dictionary costs as much as all the rest of this path.
        if HOLDING or hasattr(record, STAMP) or hasattr(record, "job_log_id"):
            return _resolve_added(record, record.__dict__, None)
        if not RESOLVERS:
            return None
        return _resolve_added(record, record.__dict__, None) if hasattr(record, "job_log") else _ask(record)
    # Before __dict__ is asked for: attributes of a record without a dictionary are found faster.
    name = record.name
    added = record.__dict__
    if len(added) != BARE_LENGTH or BARE_LAST not in added or (DOUBTS and not ends_bare(added)):
        return _resolve_added(record, added, scope)
    if scope.closed or (GUARDS and (ALWAYS or ((loop := _get_running_loop()) is not None and is_service(loop, scope)))):
        if HOLDING:
            return _resolve_added(record, added, scope)
        return None if name == _ASYNCIO else _check_scope(record, scope)
    return None if name == "asyncio" else scope  # see _ASYNCIO


def _resolve_added(record: logging.LogRecord, added: dict[str, Any], scope: JobScope | None) -> JobScope | None:
    """A record that carries more than the bare attributes: extra, an earlier stamp, a formatter's text."""
    is_bare(added)  # remembers that records are slimmed
    stamp = added.get(STAMP)
    if stamp is not None:
        if type(stamp) is dict:
            stamp = added[STAMP] = _unpickled(stamp)
        if type(stamp) is Captured:
            return stamp.scope
        return stamp if isinstance(stamp, JobScope) else None
    if added.get(AUDIENCE) is False:
        added[STAMP] = NO_JOB
        return None
    if ADDRESS in added:
        # Before the scope is judged: an addressed record is not late, wherever it comes from.
        if HOLDING or (scope is not None and scope.closed):
            scope = current_job()
        scope = added[STAMP] = _addressed(added[ADDRESS], scope)
        return None if scope is NO_JOB else scope
    if HOLDING:
        scope = among_generators(scope)
    if scope is None and RESOLVERS and (answer := _ask(record)) is not None:
        return answer
    return _judged(record, added, scope)


def _judged(record: logging.LogRecord, added: dict[str, Any], scope: JobScope | None) -> JobScope | None:
    """The scope that is open or answered, unless something says that the record is not about its job."""
    if record.name == _ASYNCIO:
        return None  # see _ASYNCIO; before the scope is judged, which may leave a stamp
    if scope is not None and (scope.closed or GUARDS):
        scope = _check_scope(record, scope)
    if HOLDING and STAMP not in added:
        added[STAMP] = NO_JOB if scope is None else scope  # the stack is walked once
    if scope is not None:
        for key in evidence:
            if key in added and not _agrees(added[key], scope):
                conflicts.add()
                note(CONFLICT, record, scope.job_id, str(freeze(added[key])))
                report_once(
                    ("conflict", record.pathname, record.lineno),
                    f"a record of {record.name} ({record.pathname}:{record.lineno}) names job {freeze(added[key])!r} "
                    f"in extra[{key!r}] inside the scope of job {scope.job_id!r}: it goes to no job's log. "
                    "To address a job use extra={'job_log_id': ...}",
                )
                added[STAMP] = NO_JOB
                return None
    return scope


def _unpickled(stamp: dict[str, Any]) -> Any:
    """The stamp of a record that came from another process."""
    job_id, fields, channels = stamp.get("job_id"), stamp.get("fields"), stamp.get("channels")
    if not isinstance(job_id, str) or not job_id:
        return NO_JOB
    namespace = stamp.get("namespace")
    scope = JobScope(
        job_id, fields if isinstance(fields, dict) else {}, namespace if isinstance(namespace, str) else ""
    )
    return Captured(scope, frozenset(map(str, channels))) if isinstance(channels, list) else scope


def _addressed(value: object, scope: JobScope | None) -> Any:
    try:
        job_id = "" if value is None else clean(str(value))
    except Exception:
        job_id = ""
    if not job_id:
        return NO_JOB
    if scope is None:
        return JobScope(job_id, namespace=current_namespace())
    # Within a scope an id is one of its namespace.
    return scope if scope.job_id == job_id else JobScope(job_id, namespace=scope.namespace)


def address(namespace: str, job_id: str) -> dict[str, Any]:
    """`extra` for a record about the job of that very namespace, whichever is in force where it is logged."""
    scope = current_job()
    if scope is None or scope.job_id != job_id or scope.namespace != namespace:
        scope = JobScope(job_id, namespace=namespace)
    return {STAMP: scope, ADDRESS: job_id}


def _agrees(value: object, scope: JobScope) -> bool:
    kind = type(value)
    if value is None or (kind is str and not value):
        return True
    try:
        # By the text, as a scope is named; comparing the value itself may give anything.
        return clean(str(value)) == scope.job_id
    except Exception:
        return False


def _check_scope(record: logging.LogRecord, scope: JobScope) -> JobScope | None:
    """A scope that is closed, or that a long-lived service may merely have inherited."""
    if scope.closed and scope._held is not None:
        settled = among_generators(scope)
        if settled is None:
            return None
        scope = settled
    if not scope.job_id:
        if scope is UNKNOWN:
            generators.add()
            note(GENERATOR, record, None)
        return None  # `detached()`, or a job without an id
    if (SERVICES or NAMED) and is_service_loop(scope):
        foreign_service.add()
        note(SERVICE, record, scope.job_id)
        setattr(record, STAMP, NO_JOB)
        return None
    if not scope.closed:
        return scope
    outer = still_open(scope)
    if outer is not None:
        return outer
    if not scope._counts_late:
        setattr(record, STAMP, NO_JOB)
        return None
    if _keeps_late is not None and _keeps_late(record.name) and _is_in_grace(scope):
        marked.add()
        note(MARKED, record, scope.job_id)
        twin = late_twin(scope)
        setattr(record, STAMP, twin)
        return twin
    setattr(record, STAMP, NO_JOB)
    late.add()
    note(LATE, record, scope.job_id)
    report_once(
        ("late", record.pathname, record.lineno),
        f"a record of {record.name} ({record.pathname}:{record.lineno}) was logged in the scope of job "
        f"{scope.job_id!r} after that scope had closed: it goes to no job's log. Code that serves more than one job "
        "is started inside `with detached():`; work for the job is awaited inside its scope",
    )
    return None


def _ask(record: logging.LogRecord) -> JobScope | None:
    """The first resolver's answer that is a job id. What a resolver logs itself asks none."""
    asking = _asking
    if asking and _is_asking(sys._getframe(1)):
        return None
    asking.append(None)
    try:
        for resolver in RESOLVERS:
            try:
                job_id = resolver(record)
            except Exception as error:
                report_once(("resolver", repr(resolver)), f"the resolver {resolver!r} failed: {error!r}")
                continue
            if job_id is not None:
                scope = _addressed(job_id, None)
                if scope is not NO_JOB:
                    return _answered(record, scope)
    finally:
        asking.pop()
    return None


def _is_asking(frame: FrameType | None) -> bool:
    """Whether this thread is in a resolver: a mark of the thread's own would cost each record more than this look."""
    while frame is not None:
        if frame.f_code is _ask.__code__:
            return True
        frame = frame.f_back
    return False


def _answered(record: logging.LogRecord, scope: JobScope) -> JobScope | None:
    added = record.__dict__
    judged = _judged(record, added, scope)
    added[STAMP] = NO_JOB if judged is None else judged  # they are asked once
    return judged


def _note_closing(scope: JobScope) -> None:
    scope._closed_at = time.monotonic()


def _is_in_grace(scope: JobScope) -> bool:
    closed_at = getattr(scope, "_closed_at", None)  # closed before there was a policy: nobody knows when
    return closed_at is not None and time.monotonic() - closed_at <= _grace


def note_unaddressed(record: logging.LogRecord, added: dict[str, Any]) -> None:
    """Count a record without a scope that names a job in `extra` all the same. Any thread."""
    for key in evidence:
        named = added.get(key)
        if named is not None and STAMP not in added:
            note(UNADDRESSED, record, None, str(freeze(named)))
            return


def _take_variable() -> None:
    global get_scope, _asking
    get_scope = scopes.variable.get
    _asking = []


scopes.follow(_take_variable)


def use_resolvers(resolvers: Iterable[Callable[[logging.LogRecord], object]]) -> None:
    """Ask these, in order, for the id of the job where no scope is open; process-wide."""
    RESOLVERS[:] = resolvers
    if RESOLVERS:
        ASK[_RESOLVERS] = None
    else:
        ASK.pop(_RESOLVERS, None)


def use_evidence(keys: Iterable[str]) -> None:
    """The keys of `extra` that tell a record's owner, process-wide."""
    global evidence
    evidence = frozenset(keys)
    if evidence == DEFAULT_EVIDENCE:
        evidence = DEFAULT_EVIDENCE


def use_late_policy(marked_names: set[str], all_names: set[str], grace: float) -> None:
    """Keep late records of loggers below `marked_names` for `grace` seconds; the longest of `all_names` decides."""
    global _keeps_late, _grace
    _grace = grace
    if not marked_names:
        _keeps_late = None
        lifetime.on_close("late policy", None)
        return
    answers: dict[str, bool] = {}

    def keeps(name: str) -> bool:
        answer = answers.get(name)
        if answer is None:
            if len(answers) >= _MAX_ANSWERS:
                answers.clear()
            around = name
            while around and around not in all_names:
                around = around.rpartition(".")[0]
            answer = answers[name] = around in marked_names
        return answer

    _keeps_late = keeps
    lifetime.on_close("late policy", _note_closing)
