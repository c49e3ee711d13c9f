"""What was said and what is being counted, per scope, so that an event is one line and not one per message.

Called on the event loop by the modules that make events. A ledger belongs to the outermost open scope of a
job and is closed with it; work in the short scope of a single message is booked where the subscription was
made, or else per job.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Final

from ....context import JobScope, before_close, job_context_in, still_open
from ..bounded import shrink
from ..naming import Job

_MAX_LASTING: Final = 1_000
_MAX_SAID: Final = 10_000


class MessageScope(job_context_in):
    """The scope around one call of a callback. `creator`: the scope the subscription was made in."""

    __slots__ = ("creator",)

    creator: JobScope | None

    def __init__(self, job: Job, creator: JobScope | None) -> None:
        super().__init__(*job)
        self.creator = creator


@dataclasses.dataclass(slots=True, eq=False)
class Ledger:
    """Of one scope (`lasting` False), or of a job outside any scope that could end (`lasting` True)."""

    job: Job
    lasting: bool
    closed: bool = False
    # The connections that the scope has work on.
    clients: weakref.WeakSet[Any] = dataclasses.field(default_factory=weakref.WeakSet)
    # What needs no second line.
    said: set[Hashable] = dataclasses.field(default_factory=set)
    # Stream to its subjects, as met here.
    subjects: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    # What is summed up when it closes, and of a job the sum that grew last, and how often in a row.
    sums: dict[Hashable, Any] = dataclasses.field(default_factory=dict)
    run: dict[Job, tuple[Any, int]] = dataclasses.field(default_factory=dict)
    at_close: list[Callable[[JobScope], None]] = dataclasses.field(default_factory=list)

    def say(self, what: Hashable) -> bool:
        """True the first time `what` is to be said here."""
        if what in self.said or len(self.said) >= _MAX_SAID:
            return False
        self.said.add(what)
        return True


class Ledgers:
    """The ledgers of open scopes, and of jobs whose messages are worked on outside of them."""

    __slots__ = ("_lasting", "_open")

    def __init__(self) -> None:
        self._open: dict[JobScope, Ledger] = {}
        self._lasting: dict[Job, Ledger] = {}

    def of(self, scope: JobScope) -> Ledger:
        """The ledger in which work done in `scope` is booked."""
        root = _outermost(scope)
        if isinstance(root, MessageScope):
            creator = open_part(root.creator)
            if creator is None or Job.of(creator) != Job.of(root):
                return self.of_job(Job.of(root))
            root = _outermost(creator)
            if isinstance(root, MessageScope):
                return self.of_job(Job.of(root))
        ledger = self._open.get(root)
        if ledger is None:
            ledger = Ledger(Job.of(root), lasting=False)
            if root.closed:
                ledger.closed = True
                return ledger
            self._open[root] = ledger
            before_close(root, self._close)
        return ledger

    def of_job(self, job: Job) -> Ledger:
        """The ledger of a job outside any scope that could end."""
        ledger = self._lasting.get(job)
        if ledger is None:
            ledger = self._lasting[job] = Ledger(job, lasting=True)
            shrink(self._lasting, _MAX_LASTING)
        return ledger

    def open_ones(self) -> list[Ledger]:
        """Those of all open scopes."""
        return list(self._open.values())

    def jobs_on(self, client: Any) -> list[Job]:
        """The jobs whose open scopes have work on a connection, each once."""
        return list(dict.fromkeys(ledger.job for ledger in self.open_ones() if client in ledger.clients))

    def _close(self, scope: JobScope) -> None:
        ledger = self._open.pop(scope, None)
        if ledger is None:
            return
        ledger.closed = True
        callbacks, ledger.at_close = ledger.at_close, []
        for callback in callbacks:
            callback(scope)


def open_part(scope: JobScope | None) -> JobScope | None:
    """What is left of a scope by now: itself, the open one of the same job around it, or nothing."""
    return still_open(scope) if scope is not None and scope.closed else scope


def _outermost(scope: JobScope) -> JobScope:
    outer = scope.parent
    job = Job.of(scope)
    while outer is not None and not outer.closed and Job.of(outer) == job:
        scope = outer
        outer = scope.parent
    return scope
