"""Which job is a record about? One function, `resolve(record)`, for filter and handler alike.

Called on the logging thread for every record, so it does no I/O, takes no lock and raises nothing. The rules, first
answer wins: what the call says (`extra`), the stamp of an earlier answer, the open scope.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any, Final

from .. import context
from ..context import JobScope, opening_task, still_open
from .primitives import field_name, freeze
from .report import report_once
from .stats import Tally
from .text import clean

STAMP: Final = "_joblog"
# The event loop's own logger ("Task exception was never retrieved") speaks in whatever context the garbage collector
# or a callback happens to run in, about any job.
_ASYNCIO: Final = "asyncio"

_get_scope = context._current.get
_get_running_loop = asyncio._get_running_loop


class _NoJob:
    """The stamp of a record that belongs to no job."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, ())  # see JobScope.__reduce__

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

    def __reduce__(self) -> tuple[Any, ...]:
        scope = self.scope
        stamp = {
            "job_id": scope.job_id,
            "fields": dict(scope.fields),
            "namespace": scope.namespace,
            "channels": sorted(self.channels),
        }
        return (dict, (list(stamp.items()),))


late = Tally()
conflicts = Tally()
foreign_service = Tally()

# A bare record: how many attributes it has, and the last of them. Whatever stands behind that one in a record's
# __dict__ was added: extra, a record factory's attributes, a formatter's, our stamp.
_BARE: Final = logging.LogRecord("", 0, "", 0, "", (), None).__dict__
BARE_LENGTH: Final = len(_BARE)
_LAST: Final = next(reversed(_BARE))
# Formatters leave these; they are nobody's extra.
_FORMATTERS: Final = frozenset({"message", "asctime", "exc_text", "taskName"})

_DEFAULT_EVIDENCE: Final = frozenset({"job_id"})
_evidence: frozenset[str] = _DEFAULT_EVIDENCE
_evidence_by: dict[int, frozenset[str]] = {}
# Code objects of shared service loops. Changed in place: the capturing closure holds on to it.
SERVICES: Final[set[CodeType]] = set()


def resolve(record: logging.LogRecord) -> JobScope | None:
    """The scope whose job `record` is about, or None. Leaves a stamp where the answer must not be worked out twice."""
    scope = _get_scope()
    if scope is None:
        # Not by __dict__: making a record's dictionary costs as much as all the rest of this path.
        if hasattr(record, STAMP) or hasattr(record, "job_log_id"):
            return _resolve_added(record, record.__dict__, None)
        return None
    added = record.__dict__
    if len(added) != BARE_LENGTH:
        return _resolve_added(record, added, scope)
    if scope.closed or (SERVICES and _get_running_loop() is not None):
        return _check_scope(record, scope)
    if record.name == _ASYNCIO:
        return None  # see _ASYNCIO
    return scope


def _resolve_added(record: logging.LogRecord, added: dict[str, Any], scope: JobScope | None) -> JobScope | None:
    """A record that carries more than the bare attributes: extra, an earlier stamp, a formatter's text."""
    stamp = added.get(STAMP)
    if stamp is not None:
        if type(stamp) is dict:
            stamp = added[STAMP] = _unpickled(stamp)
        if type(stamp) is Captured:
            return stamp.scope
        return stamp if isinstance(stamp, JobScope) else None
    if added.get("job_log") is False:
        added[STAMP] = NO_JOB
        return None
    if "job_log_id" in added:
        # Before the scope is judged: an addressed record is not late, wherever it comes from.
        if scope is not None and scope.closed:
            scope = still_open(scope)
        scope = added[STAMP] = _addressed(added["job_log_id"], scope)
        return None if scope is NO_JOB else scope
    if scope is not None and (scope.closed or SERVICES):
        scope = _check_scope(record, scope)
    if record.name == _ASYNCIO:
        return None  # see _ASYNCIO
    if scope is not None:
        for key in _evidence:
            if key in added and not _agrees(added[key], scope):
                conflicts.add()
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
        return JobScope(job_id, namespace=context.current_namespace())
    # Within a scope an id is one of its namespace.
    return scope if scope.job_id == job_id else JobScope(job_id, namespace=scope.namespace)


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
    if not scope.job_id:
        return None  # `detached()`, or a job without an id
    if SERVICES and _is_service_loop(scope):
        foreign_service.add()
        setattr(record, STAMP, NO_JOB)
        return None
    if not scope.closed:
        return scope
    outer = still_open(scope)
    if outer is not None:
        return outer
    setattr(record, STAMP, NO_JOB)
    if not scope._counts_late:
        return None
    late.add()
    report_once(
        ("late", record.pathname, record.lineno),
        f"a record of {record.name} ({record.pathname}:{record.lineno}) was logged in the scope of job "
        f"{scope.job_id!r} after that scope had closed: it goes to no job's log. Code that serves more than one job "
        "is started inside `with detached():`; work for the job is awaited inside its scope",
    )
    return None


def _is_service_loop(scope: JobScope) -> bool:
    task = opening_task()
    if task is None or task is scope._home:
        return False
    coroutine = task.get_coro()  # type: ignore[attr-defined]
    return getattr(coroutine, "cr_code", None) in SERVICES


def use_new_variable() -> None:
    """Read the scope from the variable that `context` uses now."""
    global _get_scope
    _get_scope = context._current.get


def guard_services(codes: Iterable[CodeType]) -> Callable[[], None]:
    """Treat tasks whose root coroutine has one of `codes` as nobody's: what they merely inherited does not count.

    For clients of other libraries that were opened before they could be instrumented. Gives a function that ends it.
    """
    mine = frozenset(codes)
    SERVICES.update(mine)
    context._home_of = opening_task

    def end() -> None:
        SERVICES.difference_update(mine)
        if not SERVICES:
            context._home_of = None

    return end


def use_evidence(owner: int, keys: Iterable[str] | None) -> None:
    """The keys of `extra` that tell a record's owner, as the handler `owner` has them; None when it is closed.

    Process-wide: all that open handlers name, or `job_id` if none names any.
    """
    global _evidence
    if keys is None:
        _evidence_by.pop(owner, None)
    else:
        _evidence_by[owner] = frozenset(keys)
    _evidence = frozenset().union(*_evidence_by.values()) if _evidence_by else _DEFAULT_EVIDENCE


def extras_of(added: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the call passed in `extra`, frozen to primitives, without this library's own keys. None if nothing.

    `fields` are the scope's, which JobContextFilter has put on the record too.
    """
    found: dict[str, Any] | None = None
    for key in reversed(added):
        if key == _LAST:
            break
        if key in _NOT_EXTRA:
            continue
        value = added[key]
        if key in fields and fields[key] is value:
            continue
        name = key if type(key) is str and key.isidentifier() else field_name(key)
        if name[:1] == "_":
            continue
        if found is None:
            found = {}
        found[name] = freeze(value)
    return found


_NOT_EXTRA: Final = _FORMATTERS | {"job_log", "job_log_id", "job_id", STAMP}
