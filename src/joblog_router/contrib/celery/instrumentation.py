"""Switch the Celery integration on and off: receivers of its signals, and one method that sets logging up.

Called by the application when it starts (or by the Django app), on any thread, in processes that send tasks as in
those that run them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final

from ...exceptions import MissingExtraError
from .._patching import DEFAULT_PARAMETERS, Installed, checked_parameters
from .arguments import JobFinder
from .handlers import KeptHandlers
from .tasks import Tasks

__all__ = ["instrument", "uninstrument"]

_UID: Final = "joblog_router"

_installed: Installed[_Installation] = Installed()


def instrument(**options: Any) -> None:
    """Run each task in the job its arguments name, and keep the job handlers that a worker's start throws away.

    Options, all optional:

    - `parameters`: names of task parameters that hold a job's id, `("job_id",)` by default; the first that is
      given and not None counts, by keyword, by position or by default. A task without any takes the job in which
      it was sent (message header `joblog_job_id`), else it has none.

    Process-wide. Called again, it changes the options that are given and leaves the others. Call it where the
    Celery app is made; not needed with the Django app. Raises ConfigurationError for a wrong option,
    MissingExtraError without Celery.
    """
    parameters = checked_parameters("Celery", options)
    with _installed.lock:
        if _installed.now is None:
            _installed.now = _Installation(parameters or DEFAULT_PARAMETERS)
        elif parameters is not None:
            _installed.now.tasks.finder = JobFinder(parameters)


def uninstrument() -> None:
    """Disconnect everything that `instrument()` connected; the scopes of tasks that still run are closed."""
    _installed.end()


class _Installation:
    """What one `instrument()` connected and patched, and how to take it back."""

    def __init__(self, parameters: tuple[str, ...]) -> None:
        try:
            celery: Any = importlib.import_module("celery")
            signals: Any = importlib.import_module("celery.signals")
            logging_class: Any = importlib.import_module("celery.app.log").Logging
            errors: Any = importlib.import_module("celery.exceptions")
        except ImportError as error:
            raise MissingExtraError("celery", "celery") from error
        self.tasks = Tasks(
            JobFinder(parameters),
            signals.task_postrun,
            celery.current_app,
            celery.current_task,
            (errors.WorkerLostError, errors.TimeLimitExceeded),
        )
        self._handlers = KeptHandlers(logging_class)
        self._receivers: list[tuple[Any, Callable[..., None]]] = [
            (signals.after_setup_logger, self._handlers.after_setup),
            (signals.after_setup_task_logger, self._handlers.after_task_setup),
            (signals.before_task_publish, self.tasks.on_publish),
            (signals.task_received, self.tasks.on_received),
            (signals.task_prerun, self.tasks.on_prerun),
            (signals.task_internal_error, self.tasks.on_internal_error),
            (signals.task_failure, self.tasks.on_failure),
            (signals.worker_process_shutdown, self.tasks.on_process_shutdown),
        ]
        for signal, receiver in self._receivers:
            signal.connect(receiver, weak=False, dispatch_uid=_UID)
        _move_to_front(signals.task_prerun, self.tasks.on_prerun)

    def end(self) -> None:
        """Take everything back."""
        for signal, _ in self._receivers:
            signal.disconnect(dispatch_uid=_UID)
        self.tasks.end()
        self._handlers.end()


def _move_to_front(signal: Any, receiver: Callable[..., None]) -> None:
    """Have `receiver` called first, so that the application's own receivers log in the task's job already.

    Celery has no public way; where the signal is built in another way, the receiver stays where it is.
    """
    try:
        with signal.lock:
            entries = signal.receivers
            place = next(index for index, entry in enumerate(entries) if entry[1] == receiver)
            entries.insert(0, entries.pop(place))
            signal.sender_receivers_cache.clear()
    except (AttributeError, IndexError, StopIteration, TypeError):
        pass
