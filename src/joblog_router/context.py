"""Scopes: which job the code that runs right now works for.

Called by the application around its orchestration code and by `_pipeline.resolve` for every record. Runs on
whatever thread, task or context the application runs on; takes no lock, does no I/O, raises only for misuse of
`job_context.of` when a module is imported. Of `_pipeline` it imports the parts that import no scope.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import FrameType, MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar, cast, overload

from ._pipeline import generators
from ._pipeline.generators import ENTERING, GENERATOR, HOLDING, Held, hold, innermost, let_go, on_stack
from ._pipeline.primitives import freeze_fields
from ._pipeline.report import report_once
from ._pipeline.text import clean

__all__ = ["JobScope", "carry", "current_job", "detached", "job_context", "serves_everybody", "wrap_stream"]

if TYPE_CHECKING:
    from ._pipeline.resolve import Captured

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
# Anything with `streaming_content`, as Django's streaming responses have it.
Response = TypeVar("Response")

_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})

# Holds a scope object, never a bare id: a stale copy of it in some task's context is made inert by `closed`.
_current: ContextVar[JobScope | None] = ContextVar("joblog_router.job", default=None)
_get = _current.get
_set = _current.set
_getframe = sys._getframe
_count = itertools.count

# Set while service loops are guarded: tells in which task or thread a scope is opened.
_home_of: Callable[[], object] | None = None
# Set while something is to be done about scopes that have closed: the late policy wants to know when, and
# `report_tasks` which tasks go on.
_clock: Callable[[], float] | None = None
_closing: Callable[[JobScope], None] | None = None


# Whose jobs they are (a tenant's schema, ...): part of every key beside the id. Set by `use_namespace`.
_namespace_of: Callable[[], str] | None = None
# The function that NAMESPACE is, if it is one: None where it has no answer.
_namespace_asked: Callable[[], str | None] | None = None


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

    def __init__(self, job_id: str, fields: Mapping[str, Any] = _NO_FIELDS, namespace: str = "") -> None:
        self.job_id = job_id
        self.namespace = namespace
        self.fields = fields
        self.parent = None
        self.closed = False
        self._n: Callable[[], int] = _no_number
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


# A scope is what stamps records. OpenTelemetry's handler exports every attribute of a record, and warns by a record
# (which is stamped, exported, ...) of any that is neither text, number, mapping nor sequence: it takes an empty one.
Sequence.register(JobScope)


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
            self.job_id = str(job_id)
        elif type(job_id) is str:
            self.job_id = clean(job_id)
        else:
            self.job_id = _job_name(job_id)
        self.namespace = ""
        self.fields = _own_fields(fields) if fields else _NO_FIELDS
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
            self._n = _no_number
            _report_unsaved()
            _set(self)  # closed and without an id: what is logged inside is about no job
            return self
        if _namespace_of is not None and not self.namespace and self._asks_namespace:
            self.namespace = _namespace_of()
        if outer is None:
            self._n = _count(1).__next__
        else:
            self.parent = outer
            if outer.job_id == name and outer.namespace == self.namespace:
                self._continue(outer)
            else:
                self._n = _count(1).__next__
        if _home_of is not None:
            self._home = _home_of()
        try:
            entered_from = _getframe(1)
        except ValueError:
            pass  # called by C code on an empty stack
        else:
            code = entered_from.f_code
            if code.co_flags & GENERATOR or code.co_name in ENTERING:
                self._held = hold(self, entered_from)
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
            _set(outer if outer is None or not outer.closed else _before(self))
        elif current is not None and current._held is not None:
            _leave(self, _before(self))
        if held is None:
            self._outer = None
        if self._inside is not None:
            self._inside = None  # it would keep what the generator has alive
        if _home_of is not None:
            self._home = None
        if _clock is not None:
            self._closed_at = _clock()
        if _closing is not None:
            _closing(self)
        parent = self.parent
        if parent is not None and parent.closed:
            # Scopes closed in another order than opened must not keep each other alive.
            self.parent = _open_ancestor(parent)

    async def __aenter__(self) -> JobScope:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, tb)

    def _continue(self, outer: JobScope) -> None:
        """Go on for the same job. One job, one count: a gap in `n` means a loss whichever of them logged."""
        self._n = outer._n if outer._n is not _no_number else _count(1).__next__
        if outer._numbers is None:
            outer._numbers = {}
        self._numbers = outer._numbers
        if outer.fields:
            self._given = self.fields
            self.fields = MappingProxyType({**outer.fields, **self.fields})

    def _enter_again(self) -> JobScope:
        """A second `with` on the same object opens a scope of its own: the first may still be seen by others."""
        again = job_context_in(self.namespace, self.job_id)
        again.fields = getattr(self, "_given", self.fields)
        self._again = (*(self._again or ()), again)
        again.__enter__()
        if again.parent is None or again.parent.job_id != again.job_id or again.parent.namespace != again.namespace:
            again._n = self._n
            if self._numbers is None:
                self._numbers = {}
            again._numbers = self._numbers
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
            _set(_before(mask))

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, tb)


def serves_everybody(function: Callable[P, R]) -> Callable[P, R]:
    """Declare that a function or coroutine function serves every job: it runs in none, whoever starts it.

    For the target of a thread or task that lives long: a poller, a queue's worker, a refresher. What it starts belongs
    to nobody either; around the work for one job it opens `job_context(...)`. Where the function is not yours, the
    setting `services` names it.
    """
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def serve_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            with detached():
                return await function(*args, **kwargs)

        return serve_async  # type: ignore[return-value]
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"serves_everybody: {getattr(function, '__qualname__', function)} is a generator function, its body runs "
            "inside its consumer's code. Declare the function that consumes it"
        )

    @functools.wraps(function)
    def serve(*args: P.args, **kwargs: P.kwargs) -> R:
        with detached():
            return function(*args, **kwargs)

    return serve


def current_job() -> JobScope | None:
    """The scope that is open here, or None. A closed one gives way to the scope around it if the job is the same."""
    scope = _get()
    if HOLDING or (scope is not None and scope._held is not None):
        scope = among_generators(scope)
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
    if scope is not None and scope._held is not None:
        held = scope._held
        scope = held.twin = held.twin or _Twin(scope)

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def carried_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            before = _get()
            carries = _put_here(scope)
            try:
                return await function(*args, **kwargs)
            finally:
                _leave(carries, before)
                if type(carries) is _Twin and carries is not scope:
                    carries.end()

        return carried_async  # type: ignore[return-value]

    @functools.wraps(function)
    def carried(*args: P.args, **kwargs: P.kwargs) -> R:
        before = _get()
        carries = _put_here(scope)
        try:
            return function(*args, **kwargs)
        finally:
            _leave(carries, before)
            if type(carries) is _Twin and carries is not scope:
                carries.end()

    return carried


@overload
def wrap_stream(job_id: object, iterable: Iterable[T], /, **fields: Any) -> Iterator[T]: ...
@overload
def wrap_stream(job_id: object, iterable: AsyncIterable[T], /, **fields: Any) -> AsyncIterator[T]: ...
@overload
def wrap_stream(job_id: object, iterable: Response, /, **fields: Any) -> Response: ...
def wrap_stream(job_id: object, iterable: Any, /, **fields: Any) -> Any:
    """Run a generator's or other iterator's own code in a job, step by step, and its consumer's code outside it.

    For generators and streaming bodies: the code that makes an item runs in the job, the consumer's code does not,
    so the consumer's lines stay in the consumer's own job. One scope is open from the first item to the last, so that
    tasks the source starts keep the job until then. Takes sync and async iterables and gives the same kind; closing
    the result closes the source. A Django streaming response is changed in place and given back.
    """
    scope = job_context(job_id, **fields)
    if hasattr(iterable, "streaming_content"):
        return _wrap_response(scope, iterable)
    if isinstance(iterable, AsyncIterable):
        return _wrap_async(scope, iterable)
    return _wrap_sync(scope, iterable)


def _wrap_response(scope: job_context, response: Any) -> Any:
    content = response.streaming_content
    wrap = _wrap_async if isinstance(content, AsyncIterable) else _wrap_sync
    response.streaming_content = wrap(scope, content)
    return response


def _wrap_sync(scope: job_context, iterable: Iterable[T]) -> Iterator[T]:
    step = _Step(scope)
    source: Iterator[T] | None = None
    try:
        with step:
            source = iter(iterable)
        while True:
            with step:
                try:
                    item = next(source)
                except StopIteration:
                    return
            yield item
    finally:
        try:
            close = getattr(source, "close", None)
            if close is not None:
                with step:
                    close()
        finally:
            step.end()


async def _wrap_async(scope: job_context, iterable: AsyncIterable[T]) -> AsyncIterator[T]:
    step = _Step(scope)
    source: AsyncIterator[T] | None = None
    try:
        with step:
            source = aiter(iterable)
        while True:
            with step:
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    return
            yield item
    finally:
        try:
            close = getattr(source, "aclose", None)
            if close is not None:
                with step:
                    await close()
        finally:
            step.end()


class _Step:
    """`with` around each step of a stream: its scope stays open all the time, in the variable only inside."""

    __slots__ = ("_before", "_scope")

    def __init__(self, scope: job_context) -> None:
        self._scope = scope
        self._before: JobScope | None = None

    def __enter__(self) -> None:
        self._before = _get()
        if self._scope._again is None:
            self._open()
        else:
            self._scope._inside = innermost()
            _set(self._scope)

    def __exit__(self, *exc_info: object) -> None:
        _leave(self._scope, self._before)

    def end(self) -> None:
        """Close the scope; what is in the variable is the consumer's."""
        before = _get()
        _set(self._scope)
        self._scope.__exit__(None, None, None)
        _set(before)

    def _open(self) -> None:
        # In a function of its own, which is no generator: this scope needs none of the care for those.
        self._scope.__enter__()


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
    global _namespace_of, _namespace_asked
    _namespace_asked = None
    if isinstance(namespace, str):
        fixed = clean(namespace)
        _namespace_of = (lambda: fixed) if fixed else None
        return
    called = namespace

    def namespace_asked() -> str | None:
        try:
            value = called()
            return None if value is None else clean(str(value))
        except Exception as error:
            report_once(("namespace", repr(called)), f"NAMESPACE: {called!r} failed, jobs are kept without: {error!r}")
            return None

    _namespace_asked = namespace_asked
    _namespace_of = lambda: namespace_asked() or ""  # noqa: E731 - one name for both kinds


def current_namespace() -> str:
    """The namespace that a scope opened here would have; readers use it, too. Never raises."""
    return "" if _namespace_of is None else _namespace_of()


def known_namespace() -> str | None:
    """The same for what nobody opens a scope for; None where NAMESPACE is a function without an answer here."""
    return current_namespace() if _namespace_asked is None else _namespace_asked()


def namespace_varies() -> bool:
    """Whether one process may have jobs of several namespaces."""
    return _namespace_asked is not None


def before_close(scope: JobScope, callback: Callable[[JobScope], None]) -> None:
    """Have `callback(scope)` called once, on the closing thread, while the scope is still open. For contribs."""
    if scope._at_close is None:
        scope._at_close = []
    scope._at_close.append(callback)


# What is open here cannot be known: code that inherited the scope of a generator which runs elsewhere or not at all.
UNKNOWN = JobScope("")
UNKNOWN.closed = True


def forget_all() -> None:
    """No context of this process has a job any more: in the child of a fork, whose parent goes on with them.

    A new variable, because contexts of tasks and threads that were copied too cannot be reached one by one.
    """
    global _current, _get, _set
    generators.forget_all()
    scope = _get()
    while scope is not None:
        scope.closed = True
        scope = scope.parent
    _current = ContextVar("joblog_router.job", default=None)
    _get = _current.get
    _set = _current.set


def late_twin(scope: JobScope) -> JobScope:
    """Takes the late records of the closed `scope` that are kept: its job, its count, and the field `late`."""
    twin = getattr(scope, "_late", None)
    if twin is None:
        twin = JobScope(scope.job_id, MappingProxyType({**scope.fields, "late": True}), scope.namespace)
        twin._n = scope._n
        if scope._numbers is None:
            scope._numbers = {}
        twin._numbers = scope._numbers
        scope._late = twin
    return twin


class job_context_in(job_context):  # noqa: N801 - as the class it is one of
    """`job_context` for a job whose namespace is known, whatever is in force where it is opened. For contribs."""

    __slots__ = ()

    _asks_namespace: ClassVar[bool] = False

    def __init__(self, namespace: str, job_id: object) -> None:
        super().__init__(job_id)
        self.namespace = namespace


class _Twin(JobScope):
    """Goes where `scope`, for the sake of generators, would not count: it was said whose work this is."""

    __slots__ = ()

    def __init__(self, scope: JobScope) -> None:
        super().__init__(scope.job_id, scope.fields, scope.namespace)
        self.parent = scope
        self._n = scope._n
        if scope._numbers is None:
            scope._numbers = {}
        self._numbers = scope._numbers
        self.closed = scope.closed
        if not scope.closed:
            before_close(scope, self._close)

    def end(self) -> None:
        """What it was made for is over; what still has it goes on in its scope, as long as that is open."""
        self.closed = True
        self._inside = None
        callbacks = self.parent._at_close if self.parent is not None else None
        if callbacks:
            with contextlib.suppress(ValueError):  # closed meanwhile
                callbacks.remove(self._close)

    def _close(self, _: JobScope) -> None:
        self.closed = True


def _put_here(scope: JobScope | None) -> JobScope | None:
    """Put a carried scope into the variable; gives what is there now."""
    inside = innermost()
    if inside is not None:
        # It is called by a generator: what was carried counts, not that one's scope.
        if scope is None:
            scope = JobScope("")
            scope.closed = True
        else:
            scope = _Twin(scope)
        scope._inside = inside
    _set(scope)
    return scope


def use_closing(report: Callable[[JobScope], None] | None) -> None:
    """Call `report(scope)` for every scope that has just closed, on the thread that closed it."""
    global _closing
    _closing = report


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
        _set(_without_released(scope))
    if not running or not (scopes := HOLDING.get(running[0])):
        return inherited
    # The innermost generator's own scope, unless what it has called put another one into the variable.
    if inherited is not None and inherited._inside is running[0] and inherited._held is None:
        return inherited
    return scopes[-1]


def _before(scope: JobScope) -> JobScope | None:
    """What the variable is to hold when `scope` is left: what it held before.

    If that was closed meanwhile, its job goes on only in an open scope of the same job around it. What was closed
    before already stays, so that a task that outlived its job does not get into another job by opening a scope.
    """
    outer = scope._outer
    if outer is not None and outer.closed:
        if outer._held is not None:
            return _without_released(outer)
        if scope.parent is outer:
            return still_open(outer)
    return outer


def _without_released(scope: JobScope | None) -> JobScope | None:
    """`scope`, or what the variable held before it where a generator of this task or thread has closed it since."""
    while scope is not None and scope.closed and scope._held is not None and scope._held.is_openers():
        scope = _before(scope)
    return scope


def _leave(scope: JobScope | None, before: JobScope | None) -> None:
    """Put `before` into the variable if `scope` is there, or below those of generators that were begun on top of it.

    Those that are suspended count here no more, and are found on the stack when they run; one that runs right now stays
    above `before`.
    """
    current = _get()
    running = on_stack() if HOLDING else []
    above: JobScope | None = None
    while current is not scope:
        if current is None or current._held is None:
            return
        if current._held.frame in running:
            above = current
        current = current._outer
    if above is None:
        _set(before)
    else:
        above._outer = before


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
