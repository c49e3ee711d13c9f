"""Tells by name which tasks were born in a scope that has closed and go on. Python 3.12+, off by default.

Runs on the event loop that closes the scope, looks at every task of that loop, changes nothing.
"""

from __future__ import annotations

import asyncio
from typing import Any

from . import scopes
from .report import report_once
from .scopes import JobScope, still_open


def report_outliving(scope: JobScope) -> None:  # pragma: no cover - Python 3.12
    """Report the tasks whose context still holds `scope`, once per coroutine function. Never raises."""
    try:
        if asyncio._get_running_loop() is not None and still_open(scope) is None:
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task() and _was_born_in(task, scope):
                    _report(task, scope)
    except Exception as error:
        report_once(("report-tasks", repr(error)), f"tasks that outlive their job could not be listed: {error!r}")


def _was_born_in(task: Any, scope: JobScope) -> bool:  # pragma: no cover - Python 3.12
    held = task.get_context().get(scopes.variable)
    while held is not None:
        if held is scope:
            return True
        if held.job_id and not held.closed:
            return False  # it has opened a job of its own
        held = held.parent
    return False


def _report(task: Any, scope: JobScope) -> None:  # pragma: no cover - Python 3.12
    coroutine = task.get_coro()
    name = getattr(coroutine, "__qualname__", repr(coroutine))
    code = getattr(coroutine, "cr_code", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    report_once(
        ("outliving", name, place),
        f"the task {task.get_name()!r} of {name}{place} was started in job {scope.job_id!r} and goes on after it: what "
        "it logs from here on is late. Await it inside the scope, or start it in detached() if it serves everybody",
    )
