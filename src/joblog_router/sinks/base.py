"""What a sink is, and what it may do besides. Sinks run on the writer thread, one call at a time, never on the thread
that logs. Imports `entry`; the pipeline asks by these protocols what a sink can do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..entry import Entry

__all__ = ["HoldingSink", "IdleSink", "KnowingSink", "PlacedSink", "Sink"]


@runtime_checkable
class Sink(Protocol):
    """Writes entries somewhere. Made from `options` at configuration; may be used again after `close()`.

    `__init__` checks its options and raises ConfigurationError for what is wrong in them; it opens nothing. What a sink
    may have besides, each for itself: `idle` (see `IdleSink`), `place` (`PlacedSink`), `not_stored` (`KnowingSink`),
    `held_from` (`HoldingSink`).
    """

    def write(self, entries: Sequence[Entry]) -> None:
        """Store all of `entries`, in order, before returning; the same entry may come again and must not be doubled.

        Raise SinkUnavailableError where the store cannot be reached: the batch is kept and tried again, and so it is
        for any OSError (a full disk, a lost connection), until it goes: one that is about a single entry must be
        raised as another error, or it holds up all that comes behind. Any other error makes the writer offer the
        entries one by one. One that is refused alone is offered once more without its contents, to see whether it is
        the entry or the store; EntryRefusedError says at once that it is the entry.
        """

    def close(self) -> None:
        """Let go of files and connections. `write` may be called again later."""


@runtime_checkable
class IdleSink(Protocol):
    """For a sink that should not keep its connection open while there is nothing to write."""

    def idle(self) -> None:
        """Nothing was written for a second, or the process is about to fork. `write` may be called again."""


@runtime_checkable
class PlacedSink(Protocol):
    """For two sinks that write to the same place though their options are spelled differently.

    With the same `place`, which is not "", they share one buffer and store a line once.
    """

    place: str


@runtime_checkable
class KnowingSink(Protocol):
    """For a sink that does not notice by itself in `write` that an entry comes again after a kill."""

    def not_stored(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Those of a batch out of a dead process's spool that it does not have yet: they are all that is written."""


@runtime_checkable
class HoldingSink(Protocol):
    """For a sink that takes entries before it can store them: the spool keeps them so long."""

    def held_from(self, origin: str) -> int | None:
        """The lowest `seq` of the entries of `origin` that are not stored yet, or None."""
