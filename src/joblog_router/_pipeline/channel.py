"""What logging threads know of one sink: a bounded buffer they append to, its numbers, its room and its spool.

Made and settled by the router where logging is configured; `wake`, `hurry`, `weigh` and `takes` run on logging threads
and use only atomic calls of C code. What becomes of the lines is the delivery's, on the writer, which also sets `room`
and `awake`; who opens a channel says what makes it. Imports what a record meets on its way, nothing of the writer.
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from .naming import LoggerNames
from .origins import is_first
from .overflow import Bounds, Overflow
from .rules import Asked, Rules, strictest
from .scopes import JobScope
from .spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import LogRecord
    from pathlib import Path

    from ..entry import Entry
    from .channel_delivery import ChannelDelivery
    from .exceptions import CapturedException
    from .sinks import NamedSink

# record, scope, seq, n, message, extra and exception, logger, level. The record is kept for what hardly anybody changes
# (time, place) and only until the writer has looked, a few hundredths of a second later; formatters shorten the names
# of loggers in it, and by the name a line is for staff.
# An entry stands in the place of the record where the writer itself adds one: a tally row, or a line held back.
Item: TypeAlias = (
    "tuple[LogRecord | Entry, JobScope, int, int, str, tuple[dict[str, Any] | None, CapturedException | None] | None, "
    "str, int]"
)


class Use(NamedTuple):
    """What one handler asks of a channel; several may have the same sink."""

    bounds: Bounds
    fold: bool | None = None
    unfolded: LoggerNames | None = None
    rules: Rules = Rules()


class Wake(Protocol):
    """What tells the writer that a channel has lines."""

    def __call__(self, channel: Channel, *, hurry: bool = False) -> None:
        """Safe on any thread, in signal handlers and `__del__`."""


class Channel:
    """A sink and its buffer. `key` tells channels apart over a reconfiguration; `deliver` gives what empties one."""

    def __init__(
        self,
        named: NamedSink,
        origin: str,
        bounds: Bounds,
        *,
        wake: Wake,
        deliver: Callable[[Channel], ChannelDelivery],
    ) -> None:
        self.key = named.key
        # The same for the next process's channel to the same place.
        self.spool_key = named.lasting
        self.spool_directory: Path | None = None
        self.uses_default_spool = False
        self.spool: Spool | None = None
        self.name = named.name
        self.is_shared = named.is_shared
        self.alone = frozenset((self.key,))
        self.sink = named.sink
        self.bounds = bounds
        self.asked = Asked(Rules())
        # Of the open handlers.
        self.uses: list[Use] = []
        self._wake = wake
        self._deliver = deliver
        self._begin(origin)

    def settle(self) -> None:
        """Go by what all open handlers ask, whichever came first: the strictest rules, the most that may be kept.

        Without one nothing changes: a closed handler may still be on its logger.
        """
        uses = self.uses
        if not uses:
            return
        folds = {use.fold for use in uses}
        self.asked = Asked(
            strictest(use.rules for use in uses),
            False if False in folds else None if None in folds else True,
            LoggerNames.joined(use.unfolded for use in uses),
        )
        self.bounds = self.overflow.bounds = Bounds(*map(max, zip(*(use.bounds for use in uses), strict=True)))
        self.delivery.make_room()

    def _begin(self, origin: str) -> None:
        self.origin = origin
        # The process's first channel takes its `n` from the scope itself, others from a table of the scope.
        self.is_first = is_first(origin)
        self.buffer: deque[Item] = deque()
        self.numbers = itertools.count(1)
        self._spools = itertools.count(1)
        self.overflow = Overflow(self.bounds)
        self.awake = False
        self.room = 0
        self.delivery = self._deliver(self)
        self.delivery.make_room()

    def begin_again(self, origin: str) -> None:
        """In the child of a fork: an empty buffer, a count of its own, and a segment of its own."""
        self.delivery.let_go()
        self.spool = None
        self._begin(origin)
        if self.spool_directory is not None:
            self.use_spool(self.spool_directory)

    def use_spool(self, directory: Path | None) -> bool:
        """Have lines from now on in a segment of `directory`, or in none; whether that is a change for handlers."""
        before = self.spool
        if before is None and directory is None:
            return False
        if before is not None and directory == self.spool_directory:
            return False
        last = self.delivery.last_seq()
        self.spool_directory = directory
        self.alone = frozenset((self.key,))  # another object: what scopes have cached lacks the spool's part
        self.spool = None
        if directory is not None:
            self.spool = Spool(directory, self.spool_key, self.origin, self.bounds.lines, next(self._spools))
        self.delivery.use_spool(before, last, self.spool)
        return True

    # --- on logging threads ---

    def hurry(self) -> None:
        """Have the writer begin at once, without waiting for more lines. As safe as `wake`."""
        self._wake(self, hurry=True)

    def wake(self) -> None:
        """Tell the writer that this buffer is no longer empty. Safe on any thread, in signal handlers and `__del__`."""
        self.awake = True
        self._wake(self)

    def weigh(self, message: str) -> str:
        """A long message, cut to what is allowed and counted in bytes."""
        message = self.overflow.weigh(message)
        if self.overflow.is_heavy():
            self.room = 0
        return message

    def takes(self, record: LogRecord, scope: JobScope, message: str) -> bool:
        """Whether there is room for a line though there is little; one that is not taken is counted. Never raises."""
        overflow = self.overflow
        try:
            level = int(record.levelno)
            # What the writer has taken off is in `room` already, which it may make smaller meanwhile.
            if overflow.takes(level, len(self.buffer), self.room) or (
                overflow.may_wait() and overflow.wait(lambda: overflow.takes(level, len(self.buffer), self.room))
            ):
                return True
            overflow.drop(scope.namespace, scope.job_id, level, float(record.created), message)
        except Exception:
            overflow.dropped.add()
        return False
