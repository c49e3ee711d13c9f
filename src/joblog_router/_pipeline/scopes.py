"""Scopes, and which one counts where a record is logged: the variable that holds it, and generators around it.

Imported by everything that asks whose job it is: `resolve` for every record, `lifetime`, which opens and closes scopes,
`carrying` and `streams`, contribs. Imports of the pipeline only what imports no scope. Runs on whatever thread, task or
context the application runs on: no lock, no I/O, raises nothing.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

from . import generators
from .generators import HOLDING, Held, on_stack

if TYPE_CHECKING:
    from .resolve import Captured

NO_FIELDS: Final[Mapping[str, Any]] = MappingProxyType({})
# What scopes count their lines with: `iter` of it takes a third of the time of `itertools.count(1)`, and is as atomic.
NUMBERS: Final = range(1, sys.maxsize)
# The `n` of lines that are addressed from outside a scope.
NO_NUMBER: Final = itertools.repeat(0)


class JobScope:
    """One job, open in one context. `current_job()` gives it; `job_context(...)` makes it.

    Equality is identity: two scopes of the same job are two scopes. Jobs are the same if `namespace` (the setting
    NAMESPACE where the scope was opened) and `job_id` are. `fields` is read-only and already merged with
    those of the scope around it where that one belongs to the same job. Pickling keeps id, namespace and fields
    only, so that a stamped record still names its job behind a process boundary.
    """

    __slots__ = (
        "_at_close",
        "_captured",
        "_closed_at",
        "_held",
        "_home",
        "_inside",
        "_late",
        "_n",
        "_numbers",
        "_outer",
        "closed",
        "fields",
        "job_id",
        "namespace",
        "parent",
    )

    # False for a scope that is expected to be seen after its end: its records are no sign of a mistake.
    _counts_late: ClassVar[bool] = True

    job_id: str
    namespace: str
    fields: Mapping[str, Any]
    parent: JobScope | None
    closed: bool

    def __iter__(self) -> Iterator[Any]:
        """Nothing: see where this is registered as a Sequence."""
        return iter(())

    def __init__(self, job_id: str, fields: Mapping[str, Any] = NO_FIELDS, namespace: str = "") -> None:
        self.job_id = job_id
        self.namespace = namespace
        self.fields = fields
        self.parent = None
        self.closed = False
        self._n: Iterator[int] = NO_NUMBER
        self._captured: Captured | None = None
        self._at_close: list[Callable[[JobScope], None]] | None = None
        # What the variable held before, to be put back.
        self._outer: JobScope | None = None
        # Set for a scope that a generator holds open between its items.
        self._held: Held | None = None
        # The frame of the generator in whose run it was put into the variable, while some generator holds a scope.
        self._inside: FrameType | None = None
        # Empty until needed: `_home`, `_closed_at`, and `_late`, which takes the late records that are kept.
        self._late: JobScope
        self._closed_at: float
        self._home: object
        # Counts for sinks beyond the first; each store's lines have numbers without a gap of their own.
        self._numbers: dict[str, Iterator[int]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A plain dictionary, which `resolve` understands: a receiver of pickled records may lack this library.
        stamp = {"job_id": self.job_id, "fields": dict(self.fields), "namespace": self.namespace}
        return (dict, (list(stamp.items()),))

    def _count_with(self, other: JobScope) -> None:
        """One job, one count: a gap in `n` means a loss whichever of them logged."""
        self._n = other._n
        if other._numbers is None:
            other._numbers = {}
        self._numbers = other._numbers

    def _number_for(self, channel: str) -> int:
        """The next `n` of this scope's lines in a channel that is not the process's first. Any thread."""
        if self._n is NO_NUMBER:
            return 0
        if self._numbers is None:
            self._numbers = {}
        return next(self._numbers.setdefault(channel, iter(NUMBERS)))

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<JobScope job_id={self.job_id!r} {state}>"


# A scope is what stamps records. OpenTelemetry's handler exports every attribute of a record, and warns by a record
# (which is stamped, exported, ...) of any that is neither text, number, mapping nor sequence: it takes an empty one.
Sequence.register(JobScope)

# Holds a scope object, never a bare id: a stale copy of it in some task's context is made inert by `closed`.
variable: ContextVar[JobScope | None] = ContextVar("joblog_router.job", default=None)
get_scope = variable.get
set_scope = variable.set
# Modules that keep parts of the variable for speed's sake take them anew when there is a new one.
_followers: Final[list[Callable[[], None]]] = []

# What is open here cannot be known: code that inherited the scope of a generator which runs elsewhere or not at all.
UNKNOWN: Final = JobScope("")
UNKNOWN.closed = True


def current_job() -> JobScope | None:
    """The scope that is open here, or None. A closed one gives way to the scope around it if the job is the same."""
    scope = get_scope()
    if HOLDING or (scope is not None and scope._held is not None):
        scope = among_generators(scope)
    if scope is None or not scope.closed:
        return scope
    return still_open(scope)


def still_open(scope: JobScope) -> JobScope | None:
    """The scope that takes over from a closed one: the open one around it, only if it is the same job's."""
    outer = open_ancestor(scope)
    if outer is None or outer.job_id != scope.job_id or outer.namespace != scope.namespace:
        return None
    return outer


def open_ancestor(scope: JobScope | None) -> JobScope | None:
    while scope is not None and scope.closed:
        scope = scope.parent
    return scope


def among_generators(scope: JobScope | None) -> JobScope | None:
    """What counts here while generators hold scopes open, with `scope` in the variable: maybe closed, maybe UNKNOWN.

    A scope that a generator holds counts while that one's frame is on the stack; elsewhere in the task or thread that
    opened it the scope before it does, in other tasks and threads nobody can know.
    """
    running = on_stack() if HOLDING else []
    inherited = scope
    while inherited is not None and (held := inherited._held) is not None:
        if not inherited.closed and held.frame in running:
            break
        if not held.is_openers():
            inherited = UNKNOWN
            break
        inherited = inherited._outer
    if scope is not None and scope.closed and scope._held is not None:
        set_scope(without_released(scope))
    if not running or not (scopes := HOLDING.get(running[0])):
        return inherited
    # The innermost generator's own scope, unless what it has called put another one into the variable.
    if inherited is not None and inherited._inside is running[0] and inherited._held is None:
        return inherited
    return scopes[-1]


def before(scope: JobScope) -> JobScope | None:
    """What the variable is to hold when `scope` is left: what it held before.

    If that was closed meanwhile, its job goes on only in an open scope of the same job around it. What was closed
    before already stays, so that a task that outlived its job does not get into another job by opening a scope.
    """
    outer = scope._outer
    if outer is not None and outer.closed:
        if outer._held is not None:
            return without_released(outer)
        if scope.parent is outer:
            return still_open(outer)
    return outer


def without_released(scope: JobScope | None) -> JobScope | None:
    """`scope`, or what the variable held before it where a generator of this task or thread has closed it since."""
    while scope is not None and scope.closed and scope._held is not None and scope._held.is_openers():
        scope = before(scope)
    return scope


def leave(scope: JobScope | None, before: JobScope | None) -> None:
    """Put `before` into the variable if `scope` is there, or below those of generators that were begun on top of it.

    Those that are suspended count here no more, and are found on the stack when they run; one that runs right now stays
    above `before`.
    """
    current = get_scope()
    running = on_stack() if HOLDING else []
    above: JobScope | None = None
    while current is not scope:
        if current is None or current._held is None:
            return
        if current._held.frame in running:
            above = current
        current = current._outer
    if above is None:
        set_scope(before)
    else:
        above._outer = before


def late_twin(scope: JobScope) -> JobScope:
    """Takes the late records of the closed `scope` that are kept: its job, its count, and the field `late`."""
    twin = getattr(scope, "_late", None)
    if twin is None:
        twin = JobScope(scope.job_id, MappingProxyType({**scope.fields, "late": True}), scope.namespace)
        twin._count_with(scope)
        scope._late = twin
    return twin


def follow(renew: Callable[[], None]) -> None:
    """Call `renew()` now and whenever there is a new variable."""
    _followers.append(renew)
    renew()


def forget_all() -> None:
    """No context of this process has a job any more: in the child of a fork, whose parent goes on with them.

    A new variable, because contexts of tasks and threads that were copied too cannot be reached one by one.
    """
    global variable, get_scope, set_scope
    generators.forget_all()
    scope = get_scope()
    while scope is not None:
        scope.closed = True
        scope = scope.parent
    variable = ContextVar("joblog_router.job", default=None)
    get_scope = variable.get
    set_scope = variable.set
    for renew in _followers:
        renew()
