"""What scopes and the question "whose record is it?" cost, as ratios within one run.

    python benchmarks/scopes.py            # a minute
    python benchmarks/scopes.py --smoke    # seconds, for CI

Two tables. Against a bare log call to a NullHandler: a bare contextvar read and `resolve()`, whose difference is the
price of all rules. Against `with contextlib.nullcontext()`: opening and closing a scope.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import logging
import sys
from collections.abc import Callable
from contextvars import ContextVar

import harness

from joblog_router import job_context
from joblog_router._pipeline.resolve import guard_services, resolve

MORE_THAN_A_READ = 0.03
SCOPE = "with job_context(7)"
LIMITS = {SCOPE: 3.0}

_variable: ContextVar[object] = ContextVar("bare", default=None)


def bare_call() -> Callable[[int], None]:
    """A function that logs n times to a NullHandler."""
    logger = logging.getLogger("bench.scopes")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [logging.NullHandler()]

    def call(n: int) -> None:
        info = logger.info
        for _ in range(n):
            info("user %s processed item %d", "alice", 42)

    return call


def beside_the_call(question: Callable[[logging.LogRecord], object]) -> Callable[[int], None]:
    """The bare call, with `question(record)` asked by its handler."""
    logger = logging.getLogger(f"bench.scopes.{id(question)}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = logging.NullHandler()
    handler.handle = question  # type: ignore[method-assign, assignment]
    logger.handlers[:] = [handler]

    def call(n: int) -> None:
        info = logger.info
        for _ in range(n):
            info("user %s processed item %d", "alice", 42)

    return call


async def resolving(rounds: int) -> list[harness.Result]:
    """In a job's own task, with all rules on: service loops are guarded too."""
    get = _variable.get

    def read(record: logging.LogRecord) -> object:
        return get()

    end = guard_services([copy.copy.__code__])
    try:
        with job_context(7):
            variants = [
                harness.Variant("a bare contextvar read", beside_the_call(read)),
                harness.Variant("resolve(), in the job's own task", beside_the_call(resolve)),
            ]
            return harness.run(bare_call(), variants, rounds)
    finally:
        end()


def nothing(n: int) -> None:
    """Enter and leave a context manager that does nothing."""
    for _ in range(n):
        with contextlib.nullcontext():
            pass


def scope(n: int) -> None:
    """Open and close a scope."""
    for _ in range(n):
        with job_context(7):
            pass


def nested(n: int) -> None:
    """Open and close a scope inside another one of the same job."""
    with job_context(7):
        for _ in range(n):
            with job_context(7):
                pass


def main() -> int:
    """Run, print, and tell by the exit status whether a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds instead of a minute")
    arguments = parser.parse_args()
    rounds = 150 if arguments.smoke else 1500
    harness.pin_to_one_cpu()
    print(f"Python {sys.version.split()[0]}, {rounds} rounds")
    answers = asyncio.run(resolving(rounds))
    print("bare log call = 1")
    harness.print_table(answers, {})
    more = answers[2].median - answers[1].median
    print(f"resolve() over a bare contextvar read: {more:+.3f}, limit {MORE_THAN_A_READ:+.3f}")
    opened = harness.run(
        nothing,
        [harness.Variant(SCOPE, scope, 100), harness.Variant("the same inside another of that job", nested, 100)],
        rounds,
    )
    print("with contextlib.nullcontext() = 1")
    harness.print_table(opened, LIMITS)
    if not harness.is_conclusive(answers) or not harness.is_conclusive(opened):
        print("inconclusive: the control is off by more than 2 %, the machine was too busy")
        return 0
    slack = 1.3 if arguments.smoke else 1.0
    is_over = more > slack * MORE_THAN_A_READ or opened[1].low > slack * LIMITS[SCOPE]
    return 1 if is_over else 0


if __name__ == "__main__":
    sys.exit(main())
