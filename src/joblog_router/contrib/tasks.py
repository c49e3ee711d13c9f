"""Django's tasks (6.0, or the package django-tasks before): each runs in the job that its argument names.

Call `instrument()` once when the program starts; the Django app does it by itself. Tasks and where they are enqueued
stay as they are. Runs on the thread or task that runs the task; makes no query.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final

from .._pipeline import scopes
from .._pipeline.report import report_once
from ..context import job_context
from ..exceptions import MissingExtraError
from ._patching import DEFAULT_PARAMETERS, Installed, Patches, checked_parameters, names_job

__all__ = ["DEFAULT_PARAMETERS", "instrument", "uninstrument"]

_SIGNALS: Final = ("task_enqueued", "task_started", "task_finished")
_SENDS: Final = ("send", "send_robust", "asend", "asend_robust")

_installed: Installed[_Installation] = Installed()


def instrument(**options: Any) -> None:
    """Run each task in the job its arguments name; what is said of its start and its end is in the job, too.

    Options, all optional:

    - `parameters`: names of task parameters that hold a job's id, `("job_id",)` by default; the first that is given
      and not None counts, by keyword, by position or by default. A task without any has the job of the code that runs
      it: of the caller with the immediate backend, none in a worker.

    Process-wide. Called again, it changes the options that are given. Raises ConfigurationError for a wrong option,
    MissingExtraError where neither Django 6.0 nor django-tasks is there.
    """
    parameters = checked_parameters("Tasks", options)
    with _installed.lock:
        if _installed.now is None:
            _installed.now = _Installation(parameters or DEFAULT_PARAMETERS)
        elif parameters is not None:
            _installed.now.parameters = parameters


def uninstrument() -> None:
    """Take back what `instrument()` did."""
    _installed.end()


class _Installation:
    """What one `instrument()` patched: how a task's function is called, and how its signals are sent."""

    def __init__(self, parameters: tuple[str, ...]) -> None:
        self.parameters = parameters
        self._patches = Patches()
        put = self._patches.put
        found = [name for name in ("django.tasks", "django_tasks") if find_spec(name) is not None]
        if not found:
            raise MissingExtraError("django-tasks", "tasks")
        for name in found:
            base = importlib.import_module(f"{name}.base")
            signals = importlib.import_module(f"{name}.signals")
            put(base.Task, "call", self._calling)
            put(base.Task, "acall", self._calling_async)
            for signal in _SIGNALS:
                for send in _SENDS:
                    put(getattr(signals, signal), send, self._sending)  # not all of them in Django 4.2

    def end(self) -> None:
        """Take everything back; where somebody patched over ours, it stays below and only passes on."""
        self.parameters = ()
        self._patches.end()

    def _calling(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def call_in_job(task: Any, /, *args: Any, **kwargs: Any) -> Any:
            with self._job(task, args, kwargs):
                return call(task, *args, **kwargs)

        return call_in_job

    def _calling_async(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        async def call_in_job(task: Any, /, *args: Any, **kwargs: Any) -> Any:
            with self._job(task, args, kwargs):
                return await call(task, *args, **kwargs)

        return call_in_job

    def _sending(self, send: Callable[..., Any]) -> Callable[..., Any]:
        """Receivers are in the job: Django's own logs the traceback of a task that failed."""
        if inspect.iscoroutinefunction(send):

            @functools.wraps(send)
            async def asend_in_job(*args: Any, **named: Any) -> Any:
                with self._job_of_result(named.get("task_result")):
                    return await send(*args, **named)

            return asend_in_job

        @functools.wraps(send)
        def send_in_job(*args: Any, **named: Any) -> Any:
            with self._job_of_result(named.get("task_result")):
                return send(*args, **named)

        return send_in_job

    @contextmanager
    def _job_of_result(self, result: Any) -> Iterator[None]:
        task = getattr(result, "task", None)
        args = tuple(getattr(result, "args", ()))
        if getattr(task, "takes_context", False):
            args = (None, *args)
        with self._job(task, args, dict(getattr(result, "kwargs", {}))):
            yield

    @contextmanager
    def _job(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[None]:
        job_id = self._find(task, args, kwargs)
        before = scopes.get_scope()
        try:
            if job_id is None:
                yield
            else:
                with job_context(job_id):
                    yield
        finally:
            # Not what is there now: the task may have opened scopes and never closed them, and a worker goes on.
            scopes.set_scope(before)

    def _find(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        try:
            bound = inspect.signature(task.func).bind(*args, **kwargs)
            bound.apply_defaults()
            for name in self.parameters:
                value = bound.arguments.get(name)
                if names_job(value):
                    return value
        except (AttributeError, TypeError, ValueError):
            pass  # the call itself raises the caller's own error
        except Exception as error:
            report_once(("tasks", repr(error)), f"the job of a task could not be found: {error!r}")
        return None
