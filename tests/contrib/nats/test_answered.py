"""Which messages were answered, kept in bits: the same as a set of numbers would say."""

from __future__ import annotations

import random

import pytest

from joblog_router.contrib.nats.monitoring import answered
from joblog_router.contrib.nats.monitoring.answered import Answered


@pytest.mark.parametrize("seed", range(5))
def test_it_says_what_a_set_would(seed: int) -> None:
    """One by one and many at once, some twice, while the server's floor rises."""
    chance = random.Random(seed)
    bits, known, floor = Answered(), set[int](), 0
    for _ in range(300):
        seqs = [chance.randint(floor + 1, floor + 60) for _ in range(chance.randint(0, 12))]
        if bits.base > 1 and chance.random() < 0.3:
            seqs.append(chance.randrange(1, bits.base))  # answered long ago
        if chance.random() < 0.5:
            again = [seq for n, seq in enumerate(seqs) if seq in known or seq in seqs[:n]]
            assert bits.add_all(seqs) == again
        else:
            for seq in seqs:
                assert bits.add(seq) is (seq not in known)
                known.add(seq)
        known |= set(seqs)
        if chance.random() < 0.3:
            floor += chance.randint(0, 25)
            known |= set(range(floor + 1))
            bits.raise_to(floor)
        last = floor + chance.randint(1, 90)
        assert bits.missing(floor + 1, last) == [seq for seq in range(floor + 1, last + 1) if seq not in known]
        assert all((seq in bits) is (seq in known) for seq in (*range(bits.base), *range(floor + 1, last + 1)))


def test_what_is_too_much_to_name_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without names it is counted alone: never some of many as if they were all."""
    bits = Answered()
    bits.add_all(list(range(25_000)))
    assert bits.missing(0, 25_000 + 9_999) == list(range(25_000, 35_000))
    assert bits.missing(0, 25_000 + 10_000) is None
    monkeypatch.setattr(answered, "_MAX_BITS", 80_000)
    assert bits.add(79_999)
    assert bits.missing(0, 100) == []
    assert bits.add(80_000)
    assert bits.missing(0, 100) is None
