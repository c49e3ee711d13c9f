"""What is remembered is bounded: of a dictionary that grew too long the oldest entries go.

Called on the event loop by the modules of both halves, where something was added; imports the standard library only.
"""

from __future__ import annotations

from typing import Any


def shrink(kept: dict[Any, Any], most: int) -> None:
    """Forget the oldest entries beyond `most`. Threads with loops of their own may do so at once."""
    while len(kept) > most:
        kept.pop(next(iter(kept)), None)
