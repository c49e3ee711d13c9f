"""Which job is a task for? Its arguments say so, else the header of the message that brought it.

Called where a task is sent, before it runs, and when it is found lost; on the thread where that happens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from ..._pipeline.report import report_once
from ..._pipeline.resolve import conflicts
from .._patching import names_job

__all__ = ["HEADER", "NAMESPACE_HEADER", "JobFinder"]

HEADER: Final = "joblog_job_id"
"""The message header that names the job in which a task was sent. Empty: there was none, and none is to be taken."""
NAMESPACE_HEADER: Final = "joblog_namespace"
"""Whose job it is, also where an argument names it. Absent where the sender knew of no namespaces."""


class JobFinder:
    """Finds the job of a task by the names of parameters that hold one."""

    def __init__(self, parameters: tuple[str, ...]) -> None:
        self._parameters = parameters
        # Per task: the place among the positional arguments and the default of each of those parameters.
        self._known: WeakKeyDictionary[Any, dict[str, tuple[int, Any]]] = WeakKeyDictionary()

    def find(self, task: Any, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, header: Any) -> Any:
        """The job's id, or None. An argument wins over the header; where they differ a conflict is counted."""
        named = self.named(task, args or (), kwargs or {})
        if named is None:
            return header or None
        if header and str(named) != header:
            conflicts.add()
            report_once(
                ("celery-header", task.name),
                f"task {task.name} was sent in job {header!r} with an argument that names job {str(named)!r}: the "
                "argument counts",
            )
        return named

    def named(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The job that the arguments name, or None. Of a `task` that is None only those by keyword can tell."""
        places = {} if task is None else self._known.get(task)
        if places is None:
            places = self._known[task] = _places(task, self._parameters)
        for name in self._parameters:
            value = kwargs.get(name)
            if value is None and name in places and name not in kwargs:
                place, value = places[name]
                if 0 <= place < len(args):
                    value = args[place]
            if names_job(value):
                return value
        return None


def _places(task: Any, names: tuple[str, ...]) -> dict[str, tuple[int, Any]]:
    """Where `task.run` has the parameters `names`. Of a bound task without self, as callers pass none."""
    try:
        parameters = inspect.signature(task.run).parameters.values()
    except (AttributeError, TypeError, ValueError):
        return {}
    positional = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return {
        parameter.name: (
            positional.index(parameter.name) if parameter.name in positional else -1,
            None if parameter.default is parameter.empty else parameter.default,
        )
        for parameter in parameters
        if parameter.name in names
    }
