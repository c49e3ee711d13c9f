"""Opening and closing scopes: `job_context`, and `detached`, which opens none.

Called by the application around its orchestration code, and by contribs. Imports `scopes` and what imports no scope.
Runs on whatever thread, task or context the application runs on; takes no lock, does no I/O, raises only for misuse of
`job_context.of` when a module is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, MappingProxyType, TracebackType
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

from . import namespaces, scopes
from .binding import bind
from .generators import ENTERING, GENERATOR, HOLDING, hold, innermost, let_go, on_stack
from .primitives import freeze_fields
from .report import report_once
from .scopes import (
    NO_FIELDS,
    NO_NUMBER,
    NUMBERS,
    JobScope,
    before,
    current_job,
    leave,
    open_ancestor,
)
from .text import clean

P = ParamSpec("P")
R = TypeVar("R")

_getframe = sys._getframe
# The code that opened the last scope, if it is neither a generator nor enters for others: mostly the same again.
_plain_code: CodeType | None = None

# Set while service loops are guarded: tells in which task or thread a scope is opened.
_home_of: Callable[[], object] | None = None
# Called with every scope that has just closed, on the thread that closed it, and who wants that: the late policy, which
# has to know when, and `report_tasks`.
_closing: tuple[Callable[[JobScope], None], ...] = ()
_wanted: Final[dict[str, Callable[[JobScope], None]]] = {}


def _take_variable() -> None:
    global _get, _set
    _get = scopes.variable.get
    _set = scopes.variable.set


_get = scopes.variable.get
_set = scopes.variable.set
scopes.follow(_take_variable)


class job_context(JobScope):  # noqa: N801 - a context manager, named like contextlib's
    """Open `job_id`'s log for every record logged inside the block, in this thread or task and its children.

    `with job_context(job.pk, stage="queue"):` and `async with` are the same; neither waits. The id is
    `str(job_id)`, without NUL and lone surrogates, which no store can hold; None or "" (a job that was not saved yet)
    opens no job and is reported once. `fields` are put on each record that has no such attribute and into the entry's
    fields; values other than text, numbers, dates and containers of them are kept as the name of their type. Fields of
    a surrounding scope of the same job are inherited, the inner one's win; another job's are not. `after_end=True`
    marks the lines of work that comes when the job has ended already, for example a late result; `after_end=False` is
    no field at all, so that `after_end=job.is_finished` will do. Nothing here raises into the block's code.

    Thread and async rules: follows `await`, `create_task`, `asyncio.to_thread` and asgiref's `sync_to_async`; does not
    follow into plain threads, executors and timers: wrap those callables in `carry()`.
    """

    # Slots that only few scopes need are left empty until then: opening a scope is paid per job step.
    __slots__ = ("_again", "_given")

    # False where the namespace is known before the scope is opened.
    _asks_namespace: ClassVar[bool] = True

    job_id: str
    namespace: str
    fields: Mapping[str, Any]
    closed: bool

    # None until entered; then the scopes of further `with` blocks on this object.
    _again: tuple[job_context, ...] | None
    # The fields as given, where `fields` has inherited more.
    _given: Mapping[str, Any]

    def __init__(self, job_id: object, /, **fields: Any) -> None:
        if type(job_id) is int:
            self.job_id = f"{job_id}"
        elif type(job_id) is str:
            self.job_id = clean(job_id)
        else:
            self.job_id = _job_name(job_id)
        self.namespace = ""
        self.fields = _own_fields(fields) if fields else NO_FIELDS
        self.parent = None
        self.closed = True
        self._captured = None
        self._at_close = None
        self._held = None
        self._inside = None
        self._numbers = None
        self._again = None

    def __enter__(self) -> JobScope:
        if self._again is not None:
            return self._enter_again()
        self._again = ()
        outer = self._outer = _get()
        if HOLDING or (outer is not None and outer.closed):
            outer = current_job()
            self._outer = _get()
            self._inside = innermost()
        name = self.job_id
        if not name:
            self.parent = outer
            self._n = NO_NUMBER
            _report_unsaved()
            _set(self)  # closed and without an id: what is logged inside is about no job
            return self
        if namespaces.namespace_of is not None and not self.namespace and self._asks_namespace:
            self.namespace = namespaces.namespace_of()
        if outer is None:
            self._n = iter(NUMBERS)
        else:
            self.parent = outer
            if outer.job_id == name and outer.namespace == self.namespace:
                self._count_with(outer)
                if outer._n is NO_NUMBER:
                    self._n = iter(NUMBERS)
                if outer.fields:
                    self._inherit(outer.fields)
            else:
                self._n = iter(NUMBERS)
        if _home_of is not None:
            self._home = _home_of()
        try:
            entered_from = _getframe(1)
        except ValueError:
            pass  # called by C code on an empty stack
        else:
            if entered_from.f_code is not _plain_code:
                self._look_at(entered_from)
        self.closed = False
        _set(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        current = _get()
        if self._again and (leaving := self._leaving(current)) is not self:
            leaving.__exit__(exc_type, exc, tb)
            return
        if self._at_close is not None:
            _run_at_close(self)
        self.closed = True
        held = self._held
        if held is not None:
            let_go(self, held)
        # By value, not by token: `reset()` refuses a foreign context and would bring a closed scope back after
        # another order of closing. Whoever else holds this scope finds it closed.
        if current is self:
            outer = self._outer
            _set(outer if outer is None or not outer.closed else before(self))
        elif current is not None and current._held is not None:
            leave(self, before(self))
        if held is None:
            self._outer = None
        self._inside = None  # it would keep what the generator has alive
        if _home_of is not None:
            self._home = None
        if _closing:
            for callback in _closing:
                callback(self)
        parent = self.parent
        if parent is not None and parent.closed:
            # Scopes closed in another order than opened must not keep each other alive.
            self.parent = open_ancestor(parent)

    async def __aenter__(self) -> JobScope:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, tb)

    def _look_at(self, entered_from: FrameType) -> None:
        """Whether a generator holds this scope open, which `entered_from` opens."""
        global _plain_code
        code = entered_from.f_code
        if code.co_flags & GENERATOR or code.co_name in ENTERING:
            self._held = hold(self, entered_from)
        else:
            _plain_code = code

    def _inherit(self, fields: Mapping[str, Any]) -> None:
        """Go on for the same job with the `fields` of the scope around."""
        self._given = self.fields
        self.fields = MappingProxyType({**fields, **self.fields})

    def _enter_again(self) -> JobScope:
        """A second `with` on the same object opens a scope of its own: the first may still be seen by others."""
        again = job_context_in(self.namespace, self.job_id)
        again.fields = getattr(self, "_given", self.fields)
        self._again = (*(self._again or ()), again)
        again.__enter__()
        if again.parent is None or again.parent.job_id != again.job_id or again.parent.namespace != again.namespace:
            again._count_with(self)
        return again

    def _leaving(self, current: JobScope | None) -> job_context:
        """Which of this object's scopes a `with` leaves: its generator's, else the running context's, else the newest.

        A further one is taken off the list.
        """
        again = self._again or ()
        leaving = self if current is self or not again else again[-1]
        leaving = next((scope for scope in again if scope is current), leaving)
        for frame in on_stack() if HOLDING else ():
            scopes = [scope for scope in (self, *again) if scope._held is not None and scope._held.frame is frame]
            if scopes:
                leaving = scopes[-1]
                break
        if leaving is not self:
            self._again = tuple(scope for scope in again if scope is not leaving)
        return leaving

    @staticmethod
    def of(parameter: str, /, **fields: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a function or coroutine function: each call runs in the job named by its argument `parameter`.

        `@job_context.of("job_id")` finds the argument by signature, given by position, keyword or default. Raises
        TypeError when the decorated thing has no such parameter, or is a generator function: its body runs in its
        consumer's steps; use `wrap_stream`.
        """
        return bind(parameter, lambda job_id: job_context(job_id, **fields))


class job_context_in(job_context):  # noqa: N801 - as the class it is one of
    """`job_context` for a job whose namespace is known, whatever is in force where it is opened. For contribs."""

    __slots__ = ()

    _asks_namespace: ClassVar[bool] = False

    def __init__(self, namespace: str, job_id: object, /, **fields: Any) -> None:
        super().__init__(job_id, **fields)
        self.namespace = namespace


class detached:  # noqa: N801 - a context manager, named like contextlib's
    """Run a block outside any job: what it starts (tasks, connections, listeners) belongs to nobody.

    `with detached():` or `async with detached():` around code that lazily starts something shared. Only this
    library's variable is masked; other libraries' context variables stay.
    """

    # Nothing on the object: one may serve many tasks at once. The scope in the variable knows what was before.
    __slots__ = ()

    def __enter__(self) -> None:
        mask = JobScope("")
        mask.closed = True
        mask.parent = current_job()
        mask._outer = _get()
        mask._inside = innermost()
        _set(mask)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        mask = _get()
        while mask is not None and mask._held is not None:
            mask = mask._outer
        # Left in another context than it was entered in, there is nothing of ours to take away.
        if mask is not None and type(mask) is JobScope and not mask.job_id:
            _set(before(mask))

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, tb)


def before_close(scope: JobScope, callback: Callable[[JobScope], None]) -> None:
    """Have `callback(scope)` called once, on the closing thread, while the scope is still open. For contribs."""
    if scope._at_close is None:
        scope._at_close = []
    scope._at_close.append(callback)


def use_home(home_of: Callable[[], object] | None) -> None:
    """Have scopes know in which task or thread they were opened, which `home_of()` tells."""
    global _home_of
    _home_of = home_of


def on_close(why: str, callback: Callable[[JobScope], None] | None) -> None:
    """Call `callback(scope)` for every scope that has just closed, on the thread that closed it; None ends it."""
    global _closing
    if callback is None:
        _wanted.pop(why, None)
    else:
        _wanted[why] = callback
    _closing = tuple(_wanted.values())


def _run_at_close(scope: JobScope) -> None:
    callbacks, scope._at_close = scope._at_close or [], None
    for callback in callbacks:
        try:
            callback(scope)
        except Exception as error:
            report_once(("at-close", repr(callback)), f"closing job {scope.job_id!r}: {callback!r} failed: {error!r}")


def _own_fields(fields: dict[str, Any]) -> Mapping[str, Any]:
    if "after_end" in fields:
        # A mark, not a value: there or not.
        fields["after_end"] = bool(fields["after_end"])
        if not fields["after_end"]:
            del fields["after_end"]
    return freeze_fields(fields)


def _job_name(value: object) -> str:
    if value is None:
        return ""
    try:
        name = clean(str(value))
    except Exception as error:
        report_once(("bad-id", type(value).__qualname__), f"job_context(): str() of the job id failed: {error!r}")
        return ""
    if hasattr(value, "pk") and not isinstance(value, str):
        report_once(
            ("model-as-id", type(value).__qualname__),
            f"job_context() got a {type(value).__qualname__} object; its log is kept under the text of that object, "
            f"{name!r}. Pass its id: job_context(job.pk)",
        )
    return name


def _report_unsaved() -> None:
    report_once(
        ("unsaved-job",),
        "job_context() got None or '' as job id: no job is open in that block. Save the job first, then pass job.pk",
    )
