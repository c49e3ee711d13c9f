"""What a sink is. Sinks run on the writer thread, one call at a time, never on the thread that logs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from ..entry import Entry

__all__ = ["Sink"]


@runtime_checkable
class Sink(Protocol):
    """Writes entries somewhere. Made from `options` at configuration; may be used again after `close()`.

    `__init__` checks its options and raises ConfigurationError for what is wrong in them; it opens nothing. A
    sink may also have a method `idle()`: the writer calls it when nothing was written for a second, for a sink
    that should not keep its connection open meanwhile. And a text `place`, the same for two sinks that write to the
    same place though their options are spelled differently: they then share one buffer and store a line once. One
    that does not notice by itself that an entry comes again after a kill may have `not_stored(entries)`: those of a
    batch out of a dead process's spool that it does not have yet, which are then all that is written. And one that
    takes entries before it can store them may have `held_from(origin)`: the lowest `seq` of those of `origin`, or None;
    the spool keeps them so long.
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
