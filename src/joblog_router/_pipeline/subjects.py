"""Which subjects a pattern of NATS takes.

Asked by `contrib.nats` where a client publishes, on the event loop, and by the doctor. Imports nothing.
"""

from __future__ import annotations


def takes(pattern: str, subject: str) -> bool:
    """Whether `subject` is one of those of `pattern`: `*` is one token, `>` at the end is the rest, one at least."""
    wanted, given = pattern.split("."), subject.split(".")
    for position, part in enumerate(wanted):
        if part == ">":
            return len(given) > position
        if position >= len(given) or part not in ("*", given[position]):
            return False
    return len(wanted) == len(given)
