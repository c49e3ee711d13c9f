"""A scope around each task: opened before it runs, closed in every end state, its lines flushed.

Receivers of Celery's signals, on the thread that runs or sends the task. Whatever goes wrong here is reported and
never reaches Celery; nothing waits longer than FLUSH_TIMEOUT.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary, ref

from ..._pipeline import scopes
from ..._pipeline.report import report_once
from ..._pipeline.resolve import address
from ..._pipeline.router import router
from ..._pipeline.text import clean
from ...context import JobScope, current_job, current_namespace, job_context, job_context_in
from .arguments import HEADER, NAMESPACE_HEADER, JobFinder

__all__ = ["FLUSH_TIMEOUT", "Tasks"]

FLUSH_TIMEOUT: Final = 2.0

logger: logging.Logger = logging.getLogger("joblog_router.celery")


class _Running(NamedTuple):
    """A task that runs: its scope, if it has a job, and the scope to go back to, if it runs in its caller."""

    scope: job_context | None
    outer: JobScope | None


class _Tail(JobScope):
    """A task's job between the end of its scope and the end of its request, for receivers that are called after ours.

    Ends by itself. Counts lines on where the scope stopped.
    """

    __slots__ = ("_request", "_stack", "_thread")

    _counts_late: ClassVar[bool] = False

    def __init__(self, scope: JobScope, task: Any, request: Any) -> None:
        self._request: Any = ref(request)
        self._stack = task.request_stack
        self._thread = threading.get_ident()
        super().__init__(scope.job_id, scope.fields, scope.namespace)
        self._n = scope._n
        self._numbers = scope._numbers

    @property
    def closed(self) -> bool:
        """Whether the request is over. Another thread sees that a moment later than the task's own."""
        request = self._request()
        if request is None:
            return True
        return threading.get_ident() == self._thread and not any(one is request for one in self._stack.stack)

    @closed.setter
    def closed(self, value: bool) -> None:
        if value:
            self._request = _nothing


def _nothing() -> None:
    return None


def _namespace(request: Any) -> str | None:
    """Whose job a message is for, if it says so."""
    namespace = request.get(NAMESPACE_HEADER) if request is not None else None
    return namespace if isinstance(namespace, str) else None


def _scope(job_id: object, namespace: str | None, outer: JobScope | None) -> job_context:
    """The scope of a task; within a scope an id is one of its namespace."""
    if namespace is None and outer is not None:
        namespace = outer.namespace
    return job_context(job_id) if namespace is None else job_context_in(namespace, job_id)


def _address(job_id: object, namespace: str | None) -> dict[str, Any]:
    return {"job_log_id": job_id} if namespace is None else address(namespace, clean(str(job_id)))


def _quiet(receiver: Callable[..., None]) -> Callable[..., None]:
    """Report what `receiver` raises instead of letting Celery log a traceback for each task."""

    @functools.wraps(receiver)
    def called(*args: Any, **kwargs: Any) -> None:
        try:
            receiver(*args, **kwargs)
        except Exception as error:
            report_once(("celery", receiver.__name__, repr(error)), f"celery: {receiver.__name__} failed: {error!r}")

    return called


class Tasks:
    """The receivers, and which tasks run now."""

    def __init__(
        self,
        finder: JobFinder,
        postrun: Any,
        current_app: Any,
        current_task: Any,
        losses: tuple[type[BaseException], ...],
    ) -> None:
        """`postrun` is Celery's signal, `losses` what a parent process reports when its child is gone."""
        self.finder = finder
        self._current_app = current_app
        self._current_task = current_task
        self._losses = losses
        # By request and not by task id: one task can be delivered twice and run in two threads at once.
        self._running: WeakKeyDictionary[Any, _Running] = WeakKeyDictionary()
        # What a pool's parent process has received and not finished, by task id: until Celery itself lets it go.
        self._received: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._postrun = postrun
        self._turn = 0
        self._turning = threading.Lock()
        self._lost = ""
        self._end_task = self.on_postrun
        self._connect_postrun()

    def end(self) -> None:
        """Disconnect and close the scopes of all tasks that run."""
        self._postrun.disconnect(dispatch_uid=self._postrun_uid())
        for running in list(self._running.values()):
            if running.scope is not None:
                running.scope.__exit__(None, None, None)
        self._running.clear()

    # --- where a task is sent ---

    @_quiet
    def on_publish(self, sender: Any = None, headers: dict[str, Any] | None = None, body: Any = None, **_: Any) -> None:
        """Write the job that is open here into the message, unless the task's arguments name one."""
        scope = current_job()
        # A retry, or what replaces a task, is that task: it belongs to its job, in whatever scope it was asked for.
        again = self._again(headers)
        if again is not None:
            scope = again.scope
        # Of the second version of Celery's protocol; the first has no place for headers.
        args, kwargs, embedded = body if isinstance(body, list | tuple) and len(body) == 3 else ((), {}, {})
        if scope is not None and headers is not None and self.finder.named(self._task(sender), args, kwargs) is None:
            headers.setdefault(HEADER, scope.job_id)
        # An id is the sender's, whoever names it: the worker may serve every tenant.
        if scope is not None:
            namespace = scope.namespace
        else:
            namespace = current_namespace() if again is None else ""
        if namespace and headers is not None:
            headers.setdefault(NAMESPACE_HEADER, namespace)
        # A chord's body is sent by whichever of its tasks ends last, perhaps one of another job. It belongs to the
        # job in which the chord was started, or to none.
        chord = embedded.get("chord")
        if isinstance(chord, dict):
            options = chord.get("options") or {}
            chord_headers = {HEADER: "" if scope is None else scope.job_id}
            if namespace:
                chord_headers[NAMESPACE_HEADER] = namespace
            chord_headers.update(options.get("headers") or {})
            # A copy: the signature may be the application's own and be sent again elsewhere.
            embedded["chord"] = {**chord, "options": {**options, "headers": chord_headers}}

    def _again(self, headers: Mapping[str, Any] | None) -> _Running | None:
        """The task that runs here, if it is the one that is sent: a message has its task's id."""
        request = getattr(self._current_task, "request", None)  # of no task: None has none
        if headers is None or request is None or headers.get("id") != request.id:
            return None
        return self._running.get(request)

    # --- where it runs ---

    @_quiet
    def on_prerun(self, task: Any = None, args: Any = (), kwargs: Any = None, **_: Any) -> None:
        """Open the task's scope. Whatever an earlier task left behind here is gone, also if this one has no job."""
        request = task.request
        outer = scopes.get_scope() if request.is_eager else None
        if not request.is_eager:
            scopes.set_scope(None)
        self._be_last()
        job_id = self._job(task, args, kwargs, request)
        scope = None if job_id is None else _scope(job_id, _namespace(request), current_job())
        self._running[request] = _Running(scope, outer)
        if scope is not None:
            scope.__enter__()

    @_quiet
    def on_postrun(self, task: Any = None, **_: Any) -> None:
        """Close the task's scope and have its lines stored."""
        request = task.request
        running = self._running.pop(request, None)
        if running is None:
            return
        scope = running.scope
        is_last = self._is_last()
        if scope is not None:
            scope.__exit__(None, None, None)
        # Not what __exit__ left: the task may have opened scopes and never closed them.
        scopes.set_scope(running.outer)
        if request.is_eager:
            return
        if scope is not None and not is_last:
            scopes.set_scope(_Tail(scope, task, request))
        router.flush_unless_stuck(FLUSH_TIMEOUT)

    @_quiet
    def on_process_shutdown(self, **_: Any) -> None:
        """Store what waits: a pool's process ends without running exit handlers."""
        router.flush(FLUSH_TIMEOUT)

    # --- what is known of a task outside of its scope ---

    @_quiet
    def on_received(self, request: Any = None, **_: Any) -> None:
        """Note the message of a task: should its process be lost, older Celery does not give it any more."""
        if request is not None:
            self._received[request.id] = request

    @_quiet
    def on_internal_error(
        self, sender: Any = None, task_id: str = "", request: Any = None, exception: Any = None, **given: Any
    ) -> None:
        """Tell the job what Celery met outside the task's body, after its end: most often an unreachable backend."""
        job_id = self._job(sender, given.get("args"), given.get("kwargs"), request)
        if job_id is None or not isinstance(exception, BaseException):
            return
        logger.error(
            "Task %s[%s] could not be finished: %s: %s",
            sender.name,
            task_id,
            type(exception).__name__,
            exception,
            exc_info=exception,
            extra=_address(job_id, _namespace(request)),
        )
        router.flush_unless_stuck(FLUSH_TIMEOUT)

    @_quiet
    def on_failure(self, sender: Any = None, task_id: str = "", exception: Any = None, **given: Any) -> None:
        """Tell the job, from the pool's parent process, that the process of its task is gone."""
        if not isinstance(exception, self._losses) or task_id == self._lost:
            return
        request = sender.request
        if request in self._running:
            return  # the task itself raised it, for one of its own
        message = request if request.id == task_id else getattr(self._received.get(task_id), "request_dict", None)
        job_id = self._job(sender, given.get("args"), given.get("kwargs"), message)
        if job_id is not None:
            self._lost = task_id  # this signal is sent twice for some
            logger.error(
                "Task %s[%s] was lost: %s: %s",
                sender.name,
                task_id,
                type(exception).__name__,
                exception,
                extra=_address(job_id, _namespace(message)),
            )

    def _job(self, task: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, request: Any) -> Any:
        header = request.get(HEADER) if request is not None else None
        return self.finder.find(task, args, kwargs, header if isinstance(header, str) else None)

    def _task(self, name: str) -> Any:
        """The task of that name if this process knows it: those that only send tasks may not."""
        app = self._current_app
        return app.tasks.get(name) if app.finalized else None

    # --- our place among the receivers of task_postrun ---

    def _postrun_uid(self) -> str:
        return f"joblog_router.{self._turn}"

    def _connect_postrun(self) -> None:
        self._postrun.connect(self._end_task, weak=False, dispatch_uid=self._postrun_uid())

    def _is_last(self) -> bool:
        """Whether no receiver of task_postrun is called after ours. False where that cannot be known."""
        try:
            return self._postrun.receivers[-1][1] is self._end_task
        except (AttributeError, IndexError, TypeError):
            return False

    def _be_last(self) -> None:
        """Move behind receivers that were connected since, so that their lines are in the scope and flushed, too."""
        if self._is_last() or not self._turning.acquire(blocking=False):
            return
        try:
            before = self._postrun_uid()
            self._turn += 1
            self._connect_postrun()  # first: a task that ends meanwhile must find one of the two
            self._postrun.disconnect(dispatch_uid=before)
        finally:
            self._turning.release()
