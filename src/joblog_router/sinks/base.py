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
    that should not keep its connection open meanwhile.
    """

    def write(self, entries: Sequence[Entry]) -> None:
        """Store all of `entries`, in order, before returning; the same entry may come again and must not be doubled.

        Raise SinkUnavailableError where the store cannot be reached: the batch is kept and tried again. Any other
        error makes the writer look for the single entry that cannot be stored.
        """

    def close(self) -> None:
        """Let go of files and connections. `write` may be called again later."""
