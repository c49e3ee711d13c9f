"""The row that stands for lines which are counted and not stored; how it looks `Entry.tally` knows.

Made and looked at on the writer thread, by everything there that counts lines.
"""

from __future__ import annotations

from typing import Any

from ..entry import TALLY_MARKS, Entry


class TallyRow(Entry):
    """An entry that stands for folded lines, or for those left out of a long log. Not a line: it is counted nowhere."""

    __slots__ = ()


def no_tally(fields: dict[str, Any]) -> dict[str, Any]:
    """`fields` of a line of the application, which must not pass for a tally."""
    if not any(name in fields for name in TALLY_MARKS):
        return fields
    return {f"{name}_" if name in TALLY_MARKS else name: value for name, value in fields.items()}
