"""What a store is: a sink that can be read. Endpoint, page, admin and commands all read through it.

Called by readers on their own threads, never by the writer. Every method may block; coroutines call them in a
thread. A store opens nothing before it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from ..entry import Audience, Entry

__all__ = ["ALL", "Page", "Selection", "Store", "Summary"]


class Selection(NamedTuple):
    """Which lines of a job are wanted; all criteria must hold.

    `level` and above; `logger` and the loggers below it (whole dotted segments); `text` somewhere in message or
    traceback, without regard to case; `origin` exactly. `audience` is what the reader may see: "all" gives lines for
    all only, "staff" gives every line.
    """

    level: int = 0
    logger: str = ""
    text: str = ""
    origin: str = ""
    audience: Audience = "all"


ALL = Selection()


class Page(NamedTuple):
    """Some lines of one job, oldest first (by created, origin, seq), and where to go on.

    `cursor` is given to `after` for what came since; "" stands before the first line. It is opaque text for URLs,
    printable and bounded in length. `earlier` is given to `before` for older lines, None where there are none. `more`
    says that `after(cursor)` has lines right now.
    """

    entries: Sequence[Entry]
    cursor: str
    earlier: str | None = None
    more: bool = False


class Summary(NamedTuple):
    """What is known of one job's log without reading it all. Times are seconds since the epoch.

    `levels` counts lines by level number; `first_error` is the oldest line of level ERROR or above; `origins` are the
    processes that wrote. A tally counts as the lines it stands for.
    """

    job_id: str
    lines: int
    levels: Mapping[int, int]
    first: float | None
    last: float | None
    first_error: Entry | None
    origins: Sequence[str]


@runtime_checkable
class Store(Protocol):
    """A sink whose lines can be read again.

    `namespace` None means the one in force where the reader runs. A cursor that this store did not make raises
    ValueError. Where the store cannot be reached, SinkUnavailableError. A job without lines gives empty pages.
    """

    def newest(self, job_id: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None) -> Page:
        """The newest lines. Of a fold only the newest tally is given."""

    def after(
        self, job_id: str, cursor: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """What became readable since `cursor`, page by page in the order in which it did, within a page by time.

        Never a line left out or given twice; what `newest` or `before` have given counts as given. The cursor moves
        past lines that `selection` leaves out, too. Tallies come as they are written: a reader shows the newest of
        each fold.
        """

    def before(
        self, job_id: str, earlier: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """The lines before a page, newest of them last."""

    def summary(self, job_id: str, audience: Audience = "all", namespace: str | None = None) -> Summary:
        """Counts and times of one job's log."""

    def delete(self, job_id: str, namespace: str | None = None) -> int:
        """Delete one job's lines; how many. In short transactions."""

    def prune(
        self, older_than: float, keep: int | None = None, dry_run: bool = False, namespace: str | None = None
    ) -> int:
        """Delete lines created before `older_than`, and of each job all but the newest `keep`; how many."""
