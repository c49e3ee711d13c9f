"""The row that stands for lines which are counted and not stored."""

from __future__ import annotations

from ..entry import Entry


class TallyRow(Entry):
    """An entry that stands for folded lines, or for those left out of a long log. Not a line: it is counted nowhere."""

    __slots__ = ()
