"""Scopes: which job the code that runs right now works for.

Called by the application around its orchestration code and by `_pipeline.resolve` for every record. Runs on
whatever thread, task or context the application runs on; takes no lock, does no I/O, raises only for misuse of
`job_context.of` when a module is imported. Imports the standard library and `_pipeline.report` only.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import itertools
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, cast, overload

from ._pipeline.primitives import freeze_fields
from ._pipeline.report import report_once
from ._pipeline.text import clean

__all__ = ["JobScope", "carry", "current_job", "detached", "job_context", "wrap_stream"]

if TYPE_CHECKING:
    from ._pipeline.resolve import Captured

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})

# Holds a scope object, never a bare id: a stale copy of it in some task's context is made inert by `closed`.
_current: ContextVar[JobScope | None] = ContextVar("joblog_router.job", default=None)
_get = _current.get
_set = _current.set

# Set by `_pipeline.resolve.guard_services`: tells in which task a scope is opened while service loops are guarded.
_home_of: Callable[[], object] | None = None


# Whose jobs they are (a tenant's schema, ...): part of every key beside the id. Set by `use_namespace`.
_namespace_of: Callable[[], str] | None = None


def _no_number() -> int:
    """The `n` of lines that are addressed from outside a scope."""
    return 0


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
        "_home",
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

    def __init__(self, job_id: str, fields: Mapping[str, Any] = _NO_FIELDS, namespace: str = "") -> None:
        self.job_id = job_id
        self.namespace = namespace
        self.fields = fields
        self.parent = None
        self.closed = False
        self._n: Callable[[], int] = _no_number
        self._captured: Captured | None = None
        self._at_close: list[Callable[[JobScope], None]] | None = None
        self._home: object = None
        # What the variable held before, to be put back.
        self._outer: JobScope | None = None
        # Counts for sinks beyond the first; each store's lines have numbers without a gap of their own.
        self._numbers: dict[str, Callable[[], int]] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # A plain dictionary, which `resolve` understands: a receiver of pickled records may lack this library.
        stamp = {"job_id": self.job_id, "fields": dict(self.fields), "namespace": self.namespace}
        return (dict, (list(stamp.items()),))

    def _number_for(self, channel: str) -> int:
        """The next `n` of this scope's lines in a channel that is not the process's first. Any thread."""
        if self._n is _no_number:
            return 0
        if self._numbers is None:
            self._numbers = {}
        return self._numbers.setdefault(channel, itertools.count(1).__next__)()

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<JobScope job_id={self.job_id!r} {state}>"


class job_context(JobScope):  # noqa: N801 - a context manager, named like contextlib's
    """Open `job_id`'s log for every record logged inside the block, in this thread or task and its children.

    `with job_context(job.pk, stage="queue"):` and `async with` are the same; neither waits. The id is
    `str(job_id)`, without NUL and lone surrogates, which no store can hold; None or "" (a job that was not saved yet)
    opens no job and is reported once. `fields` are put on each record that has no such attribute and into the entry's
    fields; values other than text, numbers, dates and containers of them are kept as the name of their type. Fields of
    a surrounding scope of the same job are inherited, the inner one's win; another job's are not. Nothing here raises
    into the block's code.

    Thread and async rules: follows `await`, `create_task`, `asyncio.to_thread` and asgiref's `sync_to_async`; does not
    follow into plain threads, executors and timers: wrap those callables in `carry()`.
    """

    __slots__ = ("_again", "_entered", "_given")

    _again: list[job_context] | None
    _entered: bool
    _given: Mapping[str, Any]

    def __init__(self, job_id: object, /, **fields: Any) -> None:
        if type(job_id) is int:
            name = str(job_id)
        elif type(job_id) is str:
            name = clean(job_id)
        else:
            name = _job_name(job_id)
        # The rest repeats JobScope.__init__: opening a scope is paid per job step, a super() call shows there.
        self.job_id = name
        self.namespace = ""
        self.fields = freeze_fields(fields) if fields else _NO_FIELDS
        self.parent = None
        self.closed = True
        self._n = _no_number
        self._captured = None
        self._at_close = None
        self._home = None
        self._outer = None
        self._numbers = None
        self._again = None
        self._entered = False
        self._given = self.fields

    def __enter__(self) -> JobScope:
        if self._entered:
            return self._enter_again()
        self._entered = True
        outer = self._outer = _get()
        if outer is not None and outer.closed:
            outer = still_open(outer)
        self.parent = outer
        name = self.job_id
        if not name:
            _report_unsaved()
            _set(self)  # closed and without an id: what is logged inside is about no job
            return self
        if _namespace_of is not None and not self.namespace:
            self.namespace = _namespace_of()
        if outer is not None and outer.job_id == name and outer.namespace == self.namespace:
            # One job, one count: a gap in `n` means a loss whichever of them logged.
            self._n = outer._n
            if outer._numbers is None:
                outer._numbers = {}
            self._numbers = outer._numbers
            if outer.fields:
                self.fields = MappingProxyType({**outer.fields, **self._given})
        if self._n is _no_number:
            self._n = itertools.count(1).__next__
        if _home_of is not None:
            self._home = _home_of()
        self.closed = False
        _set(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        current = _get()
        if self._again and current is not self:
            self._again_of(current).__exit__(exc_type, exc, tb)
            return
        if self._at_close is not None:
            _run_at_close(self)
        self.closed = True
        self._home = None
        # By value, not by token: `reset()` refuses a foreign context and would bring a closed scope back after
        # another order of closing. Whoever else holds this scope finds it closed.
        if current is self:
            _put_back(self)
        self._outer = None
        if self.parent is not None and self.parent.closed:
            # Scopes closed in another order than opened must not keep each other alive.
            self.parent = _open_ancestor(self.parent)

    async def __aenter__(self) -> JobScope:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, tb)

    def _enter_again(self) -> JobScope:
        """A second `with` on the same object opens a scope of its own: the first may still be seen by others."""
        again = job_context(self.job_id)
        again.namespace = self.namespace
        again.fields = again._given = self._given
        again._n = self._n
        if self._numbers is None:
            self._numbers = {}
        again._numbers = self._numbers
        if self._again is None:
            self._again = []
        self._again.append(again)
        return again.__enter__()

    def _again_of(self, current: JobScope | None) -> job_context:
        """Which of this object's further scopes a `with` leaves: that of the running context, else the newest."""
        again = self._again or []
        for position, scope in enumerate(again):
            if scope is current:
                return again.pop(position)
        return again.pop()

    @staticmethod
    def of(parameter: str, /, **fields: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a function or coroutine function: each call runs in the job named by its argument `parameter`.

        `@job_context.of("job_id")` finds the argument by signature, given by position, keyword or default. Raises
        TypeError when the decorated thing has no such parameter, or is a generator function: its body runs in its
        consumer's steps; use `wrap_stream`.
        """

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            name = getattr(function, "__qualname__", repr(function))
            if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
                raise TypeError(
                    f"job_context.of: {name} is a generator function, its body runs inside its consumer's code. "
                    f"Wrap what it returns instead: wrap_stream(job_id, {name}(...))"
                )
            signature = inspect.signature(function)
            if parameter not in signature.parameters:
                raise TypeError(f"job_context.of: {name}{signature} has no parameter {parameter!r}")

            def scope_for(args: tuple[Any, ...], kwargs: dict[str, Any]) -> job_context | contextlib.nullcontext[None]:
                try:
                    bound = signature.bind(*args, **kwargs)
                except TypeError:
                    return contextlib.nullcontext()  # the call itself raises the caller's own error
                bound.apply_defaults()
                return job_context(bound.arguments[parameter], **fields)

            if inspect.iscoroutinefunction(function):

                @functools.wraps(function)
                async def in_job_async(*args: P.args, **kwargs: P.kwargs) -> Any:
                    with scope_for(args, kwargs):
                        return await function(*args, **kwargs)

                return in_job_async  # type: ignore[return-value]

            @functools.wraps(function)
            def in_job(*args: P.args, **kwargs: P.kwargs) -> R:
                with scope_for(args, kwargs) as scope:
                    result = function(*args, **kwargs)
                if scope is not None and inspect.iscoroutine(result):
                    # A plain function around a coroutine function, as some decorators make them.
                    return cast("R", _awaited_in(scope_for(args, kwargs), result))
                return result

            return in_job

        return decorate


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
        outer = mask._outer = _get()
        mask.parent = still_open(outer) if outer is not None and outer.closed else outer
        _set(mask)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        mask = _get()
        # Left in another context than it was entered in, there is nothing of ours to take away.
        if mask is not None and type(mask) is JobScope and not mask.job_id:
            _put_back(mask)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, tb)


def current_job() -> JobScope | None:
    """The scope that is open here, or None. A closed one gives way to the scope around it if the job is the same."""
    scope = _get()
    if scope is None or not scope.closed:
        return scope
    return still_open(scope)


def carry(function: Callable[P, R]) -> Callable[P, R]:
    """Bind `function` to the job that is open now, for threads, executors, timers and callbacks of other libraries.

    `executor.submit(carry(work), item)`. The call runs in that very scope, so it counts until the scope closes;
    afterwards its records are late. Without an open job the call runs in none, whatever the thread had before.
    Coroutine functions stay coroutine functions. Context variables of others are not carried.
    """
    scope = current_job()

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def carried_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            before = _get()
            _set(scope)
            try:
                return await function(*args, **kwargs)
            finally:
                if _get() is scope:
                    _set(before)

        return carried_async  # type: ignore[return-value]

    @functools.wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _get()
        _set(scope)
        try:
            return function(*args, **kwargs)
        finally:
            if _get() is scope:
                _set(before)

    return carried


@overload
def wrap_stream(job_id: object, iterable: Iterable[T], /, **fields: Any) -> Iterator[T]: ...
@overload
def wrap_stream(job_id: object, iterable: AsyncIterable[T], /, **fields: Any) -> AsyncIterator[T]: ...
def wrap_stream(
    job_id: object, iterable: Iterable[T] | AsyncIterable[T], /, **fields: Any
) -> Iterator[T] | AsyncIterator[T]:
    """Run a generator's or other iterator's own code in a job, step by step, and its consumer's code outside it.

    For generators and streaming bodies: the scope is open while an item is made and closed while the consumer
    has it, so the consumer's lines stay in the consumer's own job. Takes sync and async iterables and gives the
    same kind; closing the result closes the source.
    """
    if isinstance(iterable, AsyncIterable):
        return _wrap_async(job_context(job_id, **fields), iterable)
    return _wrap_sync(job_context(job_id, **fields), iterable)


def _wrap_sync(scope: job_context, iterable: Iterable[T]) -> Iterator[T]:
    with scope:
        source = iter(iterable)
    try:
        while True:
            with scope:
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            with scope:
                close()


async def _wrap_async(scope: job_context, iterable: AsyncIterable[T]) -> AsyncIterator[T]:
    with scope:
        source = aiter(iterable)
    try:
        while True:
            with scope:
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    return
            yield item
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            with scope:
                await close()


def still_open(scope: JobScope) -> JobScope | None:
    """The scope that takes over from a closed one: the open one around it, only if it is the same job's."""
    outer = _open_ancestor(scope)
    if outer is None or outer.job_id != scope.job_id or outer.namespace != scope.namespace:
        return None
    return outer


def use_namespace(namespace: str | Callable[[], object]) -> None:
    """Have scopes that are opened from now on belong to `namespace`: text, or what gives it each time.

    A callable is called on the thread or task that opens a scope, with each scope. If it fails, or gives None, the
    namespace is "", and it is reported once.
    """
    global _namespace_of
    if isinstance(namespace, str):
        fixed = clean(namespace)
        _namespace_of = (lambda: fixed) if fixed else None
        return
    called = namespace

    def namespace_now() -> str:
        try:
            value = called()
            return "" if value is None else clean(str(value))
        except Exception as error:
            report_once(("namespace", repr(called)), f"NAMESPACE: {called!r} failed, jobs are kept without: {error!r}")
            return ""

    _namespace_of = namespace_now


def current_namespace() -> str:
    """The namespace that a scope opened here would have; readers use it, too. Never raises."""
    return "" if _namespace_of is None else _namespace_of()


def before_close(scope: JobScope, callback: Callable[[JobScope], None]) -> None:
    """Have `callback(scope)` called once, on the closing thread, while the scope is still open. For contribs."""
    if scope._at_close is None:
        scope._at_close = []
    scope._at_close.append(callback)


def forget_all() -> None:
    """No context of this process has a job any more: in the child of a fork, whose parent goes on with them.

    A new variable, because contexts of tasks and threads that were copied too cannot be reached one by one.
    """
    global _current, _get, _set
    scope = _get()
    while scope is not None:
        scope.closed = True
        scope = scope.parent
    _current = ContextVar("joblog_router.job", default=None)
    _get = _current.get
    _set = _current.set


def opening_task() -> object:
    """The asyncio task that runs here, or None outside a loop. Never raises."""
    if asyncio._get_running_loop() is None:
        return None
    return asyncio.current_task()


def _put_back(scope: JobScope) -> None:
    """Have the variable hold what it held before `scope`.

    If that was closed meanwhile, its job goes on only in an open scope of the same job around it. What was closed
    before already stays, so that a task that outlived its job does not get into another job by opening a scope.
    """
    outer = scope._outer
    if outer is not None and outer.closed and scope.parent is outer:
        outer = still_open(outer)
    _set(outer)


async def _awaited_in(scope: AbstractContextManager[Any], coroutine: Coroutine[Any, Any, Any]) -> Any:
    with scope:
        return await coroutine


def _open_ancestor(scope: JobScope | None) -> JobScope | None:
    while scope is not None and scope.closed:
        scope = scope.parent
    return scope


def _run_at_close(scope: JobScope) -> None:
    callbacks, scope._at_close = scope._at_close or [], None
    for callback in callbacks:
        try:
            callback(scope)
        except Exception as error:
            report_once(("at-close", repr(callback)), f"closing job {scope.job_id!r}: {callback!r} failed: {error!r}")


def _job_name(value: object) -> str:
    if value is None:
        return ""
    if hasattr(value, "pk") and not isinstance(value, str):
        report_once(
            ("model-as-id", type(value).__qualname__),
            f"job_context() got a {type(value).__qualname__} object; its log is kept under the text of that object. "
            "Pass its id: job_context(job.pk)",
        )
    try:
        return clean(str(value))
    except Exception as error:
        report_once(("bad-id", type(value).__qualname__), f"job_context(): str() of the job id failed: {error!r}")
        return ""


def _report_unsaved() -> None:
    report_once(
        ("unsaved-job",),
        "job_context() got None or '' as job id: no job is open in that block. Save the job first, then pass job.pk",
    )
