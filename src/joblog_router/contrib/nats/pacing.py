"""When is it time for another line? What goes on and on is told ever more rarely.

Called on the event loop by the modules of both halves that tell; imports the standard library only.
"""

from __future__ import annotations

import time
from typing import Final

_SHORTEST: Final = 0.4
_LONGEST: Final = 60.0
_LINES: Final = 10


class Pace:
    """Whether it is time for another line: at once at first, ever more rarely where it goes on and on."""

    __slots__ = ("_last", "_lines")

    def __init__(self) -> None:
        self._last = float("-inf")
        self._lines = 0

    def is_due(self) -> bool:
        """True where enough time has passed since the last line."""
        pause = min(float(_SHORTEST * 2 ** min(self._lines // _LINES, 20)), _LONGEST)
        return bool(time.monotonic() - self._last >= pause)

    def told(self) -> None:
        """A line was told."""
        self._last = time.monotonic()
        self._lines += 1


def is_milestone(count: int) -> bool:
    """1, 10, 100, …"""
    return count > 0 and str(count).rstrip("0") == "1"
