"""The levels of log lines: their order, numbers and appearance, for everything that shows or filters lines.

Pure functions, called on any thread. Imports nothing of ours.
"""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["STANDARD", "level_class", "level_named", "level_number"]

STANDARD: Final = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
"""Those that readers can choose from, the least first."""

_CLASSES: Final = ((50, "critical"), (40, "error"), (30, "warning"), (20, "info"))


def level_named(name: object) -> int | None:
    """The number of a level by its name, in whatever case; None for what is no level's name here."""
    return logging.getLevelNamesMapping().get(str(name).upper())


def level_class(level: int) -> str:
    """The name of a level's appearance, also for levels of the project's own."""
    return next((name for least, name in _CLASSES if level >= least), "debug")


def level_number(text: str) -> int:
    """A level by name or number. Raises ValueError."""
    if text.isdecimal() and len(text) < 6:
        return int(text)
    found = level_named(text)
    if found is None:
        known = logging.getLevelNamesMapping()
        raise ValueError(f"level must be a number or one of {', '.join(sorted(known, key=known.__getitem__))}")
    return found
