"""Ratios of tiny costs on a noisy machine.

One process, one CPU. Every sample of a variant stands between two samples of the bare call taken within a fraction of
a millisecond; what is kept is its ratio to their mean. Pairs whose two bare samples differ by more than 15 % saw an
interruption and are thrown away. An A/A control runs in every round: unless its median is 1.00 +- 0.02, the run says
nothing ("inconclusive"), which is not the same as a failure.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_MAX_DIFFERENCE = 0.15
_CONTROL_BAND = 0.02
_WARM_UP = 5


@dataclass
class Variant:
    """Something to time against the bare call: `call(n)` makes n calls; `after` runs untimed after each sample."""

    name: str
    call: Callable[[int], None]
    calls: int = 25
    after: Callable[[], None] | None = None
    before: Callable[[], None] | None = None
    ratios: list[float] = field(default_factory=list)
    extra_ns: list[float] = field(default_factory=list)


@dataclass
class Result:
    """Median and quartiles of a variant's ratio to the bare call, and the median cost added in nanoseconds."""

    name: str
    median: float
    low: float
    high: float
    added_ns: float
    kept: int


def pin_to_one_cpu() -> None:
    """Keep this process on one CPU where the system can."""
    if hasattr(os, "sched_setaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[-1]})


def run(bare: Callable[[int], None], variants: Sequence[Variant], rounds: int, seed: int = 1) -> list[Result]:
    """Time `variants` against `bare`; the first result is the A/A control."""
    control = Variant("A/A control", bare)
    everything = [control, *variants]
    order = random.Random(seed)
    for variant in everything:  # warm up
        _sample(variant.call, variant)
    for _ in range(rounds):
        gc.collect()
        order.shuffle(everything)
        for variant in everything:
            first = _time(bare, variant.calls)
            taken = _sample(variant.call, variant)
            second = _time(bare, variant.calls)
            mean = (first + second) / 2
            if abs(first - second) <= _MAX_DIFFERENCE * mean:
                variant.ratios.append(taken / mean)
                variant.extra_ns.append((taken - mean) / variant.calls)
    return [_result(variant) for variant in [control, *variants]]


def is_conclusive(results: Sequence[Result]) -> bool:
    """Whether the control of this run says that its other figures mean something."""
    return abs(results[0].median - 1) <= _CONTROL_BAND and results[0].kept >= 30


def print_table(results: Sequence[Result], limits: dict[str, float]) -> None:
    """Print every result and, where there is a limit, whether its lower quartile keeps it."""
    print(f"{'variant':<52}{'ratio':>8}{'25 %':>8}{'75 %':>8}{'added ns':>10}{'kept':>6}  limit")
    for result in results:
        limit = limits.get(result.name)
        verdict = "" if limit is None else f"{limit:.2f} {'ok' if result.low <= limit else 'OVER'}"
        print(
            f"{result.name:<52}{result.median:>8.3f}{result.low:>8.3f}{result.high:>8.3f}"
            f"{result.added_ns:>10.0f}{result.kept:>6}  {verdict}"
        )


def _sample(call: Callable[[int], None], variant: Variant) -> float:
    if variant.before is not None:
        variant.before()
    # The bare call runs all the time, a variant once a round: warm, as it is, the caches are compared with warm ones.
    variant.call(_WARM_UP)
    taken = _time(call, variant.calls)
    if variant.after is not None:
        variant.after()
    return taken


def _time(call: Callable[[int], None], calls: int) -> float:
    start = time.perf_counter_ns()
    call(calls)
    return time.perf_counter_ns() - start


def _result(variant: Variant) -> Result:
    if len(variant.ratios) < 4:
        return Result(variant.name, float("nan"), float("nan"), float("nan"), float("nan"), len(variant.ratios))
    low, median, high = statistics.quantiles(variant.ratios, n=4)
    return Result(variant.name, median, low, high, statistics.median(variant.extra_ns), len(variant.ratios))
