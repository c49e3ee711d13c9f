"""The frame of every `instrument()`: methods of other libraries that ours stand in for, the way back, and its options.

Used by the contribs when they are switched on and off, under the lock of each; imports the core alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Protocol, TypeVar

from ..exceptions import ConfigurationError

DEFAULT_PARAMETERS: Final = ("job_id",)
"""The parameters of tasks that hold a job's id, where nobody says otherwise."""

_NO_IDS: Final = (bool, Mapping, list, tuple, set, frozenset)


class Installation(Protocol):
    """What `instrument()` made."""

    def end(self) -> None:
        """Take it back."""


class Patches:
    """What one installation replaced, undone by `end()` in the opposite order."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def put(self, owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
        """Put `wrap(what is there)` in its place. Nothing where there is no such method: another version has none."""
        original = getattr(owner, name, None)
        if not callable(original):
            return
        own = vars(owner).get(name)
        patched = wrap(original if own is None else own)
        setattr(owner, name, patched)

        def undo() -> None:
            # Where somebody patched over ours, ours stays below it, and has to pass on only.
            if vars(owner).get(name) is not patched:
                return
            if own is None:
                delattr(owner, name)
            else:
                setattr(owner, name, own)

        self._undo.append(undo)

    def end(self) -> None:
        """Take everything back."""
        while self._undo:
            self._undo.pop()()


T = TypeVar("T", bound=Installation)


class Installed(Generic[T]):
    """The one installation of a contrib in this process, and the lock under which it comes and goes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now: T | None = None

    def end(self) -> None:
        """Take back what it did, where there is one."""
        with self.lock:
            if self.now is not None:
                self.now.end()
                self.now = None


def names_job(value: object) -> bool:
    """Whether the argument of a task can be a job's id: a parameter of that name may hold something else."""
    return value is not None and value != "" and not isinstance(value, _NO_IDS)


def checked_parameters(library: str, options: dict[str, Any]) -> tuple[str, ...] | None:
    """The option `parameters`, None where it was not given. Raises ConfigurationError."""
    unknown = sorted(set(options) - {"parameters"})
    if unknown:
        raise ConfigurationError(f"{library}: no option {unknown[0]!r}; there is: parameters")
    if "parameters" not in options:
        return None
    names = options["parameters"]
    if (
        not isinstance(names, list | tuple)
        or not names
        or not all(isinstance(name, str) and name.isidentifier() for name in names)
    ):
        raise ConfigurationError(
            f"{library}: parameters must be a list of names of task parameters, such as ['job_id'], not {names!r}"
        )
    return tuple(names)
