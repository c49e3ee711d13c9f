"""Keep the job handlers on the loggers where the application put them, when Celery sets logging up for itself.

A worker empties the root logger and its own (`worker_hijack_root_logger`, on by default), and cuts `celery.task`, the
parent of `get_task_logger`'s loggers, off from all above it. Called by Celery, once when a process starts.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Final

from ...handlers import JobLogHandler
from .._patching import Patches

__all__ = ["KeptHandlers"]

_ROOT: Final = ""
_TASK: Final = "celery.task"
_ABOVE: Final = (_ROOT, "celery")
# What Celery empties.
_EMPTIED: Final = (*_ABOVE, _TASK, "celery.redirected")
_METHOD: Final = "setup_logging_subsystem"


class KeptHandlers:
    """Notes the job handlers just before Celery's set-up, and puts them back where that has thrown them away.

    Not a receiver of Celery's signal `setup_logging`: any receiver of it turns Celery's own set-up off. And not noted
    earlier, with `worker_init` or the like: processes that are spawned send none of those, and the handlers may be
    configured late. Where the application sets logging up itself, in such a receiver, nothing is put back.
    """

    def __init__(self, logging_class: Any) -> None:
        self._noted: dict[str, list[JobLogHandler]] = {}
        self._patches = Patches()
        self._patches.put(logging_class, _METHOD, self._noting)
        if logging_class.already_setup:
            self.after_task_setup()

    def _noting(self, original: Callable[..., Any]) -> Callable[..., Any]:
        noted = self._noted

        @functools.wraps(original)
        def noting(*args: Any, **kwargs: Any) -> Any:
            noted.update({name: _job_handlers(name) for name in _EMPTIED})
            try:
                return original(*args, **kwargs)
            finally:
                noted.clear()  # nothing here may keep a handler alive that the application replaces

        return noting

    def after_setup(self, **_: Any) -> None:
        """Receiver of `after_setup_logger`: the root logger has Celery's handlers now."""
        for name, handlers in self._noted.items():
            if name != _TASK:
                _attach(name, handlers)

    def after_task_setup(self, **_: Any) -> None:
        """Receiver of `after_setup_task_logger`: what stands above that logger is not asked any more."""
        _attach(_TASK, self._noted.get(_TASK, []))
        if not logging.getLogger(_TASK).propagate:
            for name in _ABOVE:
                _attach(_TASK, _job_handlers(name))

    def end(self) -> None:
        """Take the patch back."""
        self._patches.end()


def _job_handlers(name: str) -> list[JobLogHandler]:
    return [handler for handler in logging.getLogger(name).handlers if isinstance(handler, JobLogHandler)]


def _attach(name: str, handlers: list[JobLogHandler]) -> None:
    logger = logging.getLogger(name)
    for handler in handlers:
        if handler not in logger.handlers:
            logger.addHandler(handler)
