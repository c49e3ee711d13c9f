"""Entries to a function of the application, which is called on the writer thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .._pipeline.dotted import load
from ..entry import Entry
from ..exceptions import ConfigurationError

__all__ = ["CallableSink"]


class CallableSink:
    """Calls `target` with a list of entries, on the writer thread; at least once for each entry.

    `target` is a callable or its dotted path, imported when the first entries come: the configuration is read before
    an application's own modules can be imported. If it raises, the entries are offered again, alone if need be: raise
    EntryRefusedError for a line (a job) that can never be stored, OSError or SinkUnavailableError while nothing can.
    """

    def __init__(self, target: str | Callable[[list[Entry]], Any]) -> None:
        if isinstance(target, str):
            if "." not in target:
                raise ConfigurationError(
                    f"sink 'callable': target {target!r} is not a dotted path like 'app.logs.keep'"
                )
        elif not callable(target):
            raise ConfigurationError(f"sink 'callable': target must be a callable or a dotted path, not {target!r}")
        self._target = target

    def write(self, entries: Sequence[Entry]) -> None:
        """Hand the entries over."""
        target = self._target
        if isinstance(target, str):
            target = load(target)
            if not callable(target):
                raise TypeError(f"sink 'callable': {self._target} is not callable")
            self._target = target
        target(list(entries))

    def close(self) -> None:
        """Nothing to let go of."""
