"""What the writer does to the application beside it: the 99th percentile of a piece of work that logs one line.

    python benchmarks/latency.py [--rounds 5] [--seconds 3] [--postgresql]

One thread does 2,000 pieces of work a second, each about 85 us of computing and one logging call, and notes how long
each took. The control logs to a NullHandler; the others in a job's log, which the writer thread stores meanwhile. Each
case stands between two controls. Told is the median, over the rounds, of the ratio of the percentiles: the same
machine, the same seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import random
import statistics
import sys
import tempfile
import time
from typing import Any

from call_to_commit import Durable, set_up

RATE = 2_000
WORK = 85e-6

CASES: dict[str, dict[str, Any] | None] = {
    "the control itself": None,
    "all as by default": {},
    "without folding": {"fold": False},
    "without folding and spool": {"fold": False, "spool": None},
}


def piece(turns: int) -> int:
    """Some computing."""
    total = 0
    for number in range(turns):
        total += number * number % 7
    return total


def calibrate() -> int:
    """How many turns take about 85 us here."""
    turns, best = 1_000, 1.0
    for _ in range(50):
        start = time.perf_counter()
        piece(turns)
        best = min(best, time.perf_counter() - start)
    return max(1, int(turns * WORK / best))


def run(logger: logging.Logger, turns: int, seconds: float) -> list[float]:
    """The 50th and the 99th percentile, in seconds."""
    took: list[float] = []
    gc.collect()
    begin = time.perf_counter()
    for number in range(int(RATE * seconds)):
        due = begin + number / RATE
        while (left := due - time.perf_counter()) > 0:
            time.sleep(min(left, 0.0002))
        start = time.perf_counter()
        piece(turns)
        logger.info("user %s processed item %d of %s", "alice", number, "the batch")
        took.append(time.perf_counter() - start)
    cuts = statistics.quantiles(took, n=100)
    return [cuts[49], cuts[98]]


def measured(options: dict[str, Any] | None, turns: int, seconds: float) -> list[float]:
    """The percentiles with the job's log, or of the control."""
    from joblog_router import JobLogHandler, flush, job_context

    logger = logging.getLogger("bench.latency")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if options is None:
        logger.handlers[:] = [logging.NullHandler()]
        return run(logger, turns, seconds)
    handler = JobLogHandler(sink="django", **options)
    logger.handlers[:] = [handler]
    with job_context(7):
        found = run(logger, turns, seconds)
    if not flush(60):
        raise RuntimeError("not all lines were stored")
    handler.close()
    return found


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--postgresql", action="store_true")
    arguments = parser.parse_args()
    order = random.Random(1)
    ratios: dict[str, list[list[float]]] = {name: [] for name in CASES}
    controls: list[float] = []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        set_up(folder, stack.enter_context(Durable()) if arguments.postgresql else None)
        turns = calibrate()
        measured({}, turns, 0.5)
        for _ in range(arguments.rounds):
            names = list(CASES)
            order.shuffle(names)
            before = measured(None, turns, arguments.seconds)
            for name in names:
                found = measured(CASES[name], turns, arguments.seconds)
                after = measured(None, turns, arguments.seconds)
                ratios[name].append([2 * found[at] / (before[at] + after[at]) for at in range(2)])
                controls.append(after[1])
                before = after
        import django.db

        django.db.connections.close_all()
    kind = "PostgreSQL, with fsync" if arguments.postgresql else "SQLite"
    print(f"Python {sys.version.split()[0]}, {kind}, {RATE:,} lines a second, {arguments.rounds} rounds of "
          f"{arguments.seconds:g} s; p99 of the control {statistics.median(controls) * 1e6:.0f} us = 1")  # fmt: skip
    for name, pairs in ratios.items():
        middle, high = (statistics.median(one[at] for one in pairs) for at in range(2))
        every = " ".join(f"{one[1]:.2f}" for one in pairs)
        print(f"{name:<32}p50 {middle:>6.2f}   p99 {high:>6.2f}   (p99 of each round: {every})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
