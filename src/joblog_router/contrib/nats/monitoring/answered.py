"""Which messages of one consumer have had their final answer: one bit for each, from a base upwards.

Kept by `following` for whoever watches a consumer from outside; on the event loop. What is below the base is
answered: the server's `ack_floor` says so.
"""

from __future__ import annotations

from typing import Final

# Wider than this, and what is missing is counted but not named.
_MAX_BITS: Final = 8_000_000
_MAX_NAMED: Final = 10_000


class Answered:
    """The stream sequences that were acknowledged or terminated."""

    __slots__ = ("_bits", "base", "is_complete")

    base: int
    is_complete: bool

    def __init__(self) -> None:
        self.base = 0
        self._bits = bytearray()
        # False once an answer could not be kept.
        self.is_complete = True

    def add(self, seq: int) -> bool:
        """Book a final answer; False if it was booked before."""
        place = seq - self.base
        if place < 0:
            return False
        if place >= len(self._bits) * 8:
            if place >= _MAX_BITS:
                self.is_complete = False
                return True
            self._bits.extend(bytes(max((place >> 3) + 1 - len(self._bits), len(self._bits))))
        byte, bit = place >> 3, 1 << (place & 7)
        if self._bits[byte] & bit:
            return False
        self._bits[byte] |= bit
        return True

    def add_all(self, seqs: list[int]) -> list[int]:
        """Book many; those that were booked before, mostly none."""
        base, bits = self.base, self._bits
        if not seqs or max(seqs) - base >= len(bits) * 8 or min(seqs) < base:
            return [seq for seq in seqs if not self.add(seq)]
        again = []
        for seq in seqs:
            place = seq - base
            byte, bit = place >> 3, 1 << (place & 7)
            if bits[byte] & bit:
                again.append(seq)
            bits[byte] |= bit
        return again

    def __contains__(self, seq: int) -> bool:
        place = seq - self.base
        if place < 0:
            return True
        return place < len(self._bits) * 8 and bool(self._bits[place >> 3] & (1 << (place & 7)))

    def raise_to(self, floor: int) -> None:
        """Everything up to `floor` is answered: forget about it."""
        whole = (floor + 1 - self.base) >> 3
        if whole > 0:
            del self._bits[:whole]
            self.base += whole * 8

    def missing(self, first: int, last: int) -> list[int] | None:
        """The sequences without an answer, in order; None if they are too many to name or some were not kept."""
        if not self.is_complete:
            return None
        found: list[int] = []
        seq, end = max(first, self.base), self.base + len(self._bits) * 8
        while seq <= last:
            if seq < end and not (seq - self.base) & 7 and self._bits[(seq - self.base) >> 3] == 0xFF:
                seq += 8
                continue
            if seq not in self:
                if len(found) >= _MAX_NAMED:
                    return None
                found.append(seq)
            seq += 1
        return found
