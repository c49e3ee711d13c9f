"""What scopes and the question "whose record is it?" cost, as ratios within one run.

    python benchmarks/scopes.py            # a minute
    python benchmarks/scopes.py --smoke    # seconds, for CI: fails where a limit is missed by far in a conclusive run

Against a bare log call to a NullHandler: `resolve()`, and what it cannot be cheaper than: a contextvar read and a look
into the record's dictionary, where `extra` stands. Against `with contextlib.nullcontext()`: opening and closing a
scope, and what that cannot be cheaper than: a class that sets a contextvar and sets it back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import copy
import logging
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import harness

from joblog_router import job_context
from joblog_router._pipeline.resolve import resolve, use_resolvers
from joblog_router._pipeline.services import guard_services

READ = "a bare contextvar read"
RESOLVE = "resolve(), in the job's own task"
SCOPE = "with job_context(7)"
# Over the read, and against nullcontext; the floors below were measured at +0.04 and 3.0.
MORE_THAN_A_READ = 0.08
MORE_FOR_A_RESOLVER = 0.03
LIMITS = {SCOPE: 3.5}

_variable: ContextVar[Any] = ContextVar("bare", default=None)


def caller(question: Callable[[logging.LogRecord], object] | None = None) -> Callable[[int], None]:
    """A function that logs n times to a NullHandler, which asks `question(record)`."""
    logger = logging.getLogger(f"bench.scopes.{id(question)}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    handler = logging.NullHandler()
    if question is not None:
        handler.handle = question  # type: ignore[method-assign, assignment]
    logger.handlers[:] = [handler]

    def call(n: int) -> None:
        info = logger.info
        for _ in range(n):
            info("user %s processed item %d", "alice", 42)

    return call


def questions() -> list[harness.Variant]:
    """What may be asked about a record."""
    get = _variable.get

    def read(record: logging.LogRecord) -> object:
        return get()

    def look(record: logging.LogRecord) -> object:
        return get() is None and len(record.__dict__)

    return [
        harness.Variant(READ, caller(read)),
        harness.Variant("the same and a look into the record's dictionary", caller(look)),
        harness.Variant(RESOLVE, caller(resolve)),
    ]


async def in_the_jobs_own_task(rounds: int) -> list[harness.Result]:
    """Open a job and ask."""
    with job_context(7):
        return harness.run(caller(), questions(), rounds)


async def with_guarded_services(rounds: int) -> list[harness.Result]:
    """The same while service loops are guarded: the running task is looked at."""
    end = guard_services([copy.copy.__code__])
    try:
        with job_context(7):
            return harness.run(caller(), [harness.Variant(f"{RESOLVE}, services guarded", caller(resolve))], rounds)
    finally:
        end()


def with_resolvers(rounds: int) -> list[harness.Result]:
    """Where no job is open, and some resolvers know of none: what one more of them costs."""

    def make(count: int) -> harness.Variant:
        def set_up() -> None:
            use_resolvers([lambda record: None for _ in range(count)])

        name = f"resolve(), no job, {count} resolver{'s' if count != 1 else ''}"
        return harness.Variant(name, caller(resolve), after=lambda: use_resolvers([]), before=set_up)

    return harness.run(caller(), [make(count) for count in (0, 1, 2, 3)], rounds)


def while_a_generator_holds_a_scope(rounds: int) -> list[harness.Result]:
    """The same while some generator is suspended inside its scope: the stack is walked."""

    def items() -> Iterator[None]:
        with job_context(8):
            yield

    generator = items()
    next(generator)
    with job_context(7):
        return harness.run(
            caller(), [harness.Variant("resolve(), while a generator holds a scope", caller(resolve))], rounds
        )


class Bare:
    """A context manager that sets a contextvar and sets it back."""

    __slots__ = ("_before", "job_id")

    def __init__(self, job_id: object) -> None:
        self.job_id = job_id

    def __enter__(self) -> Self:
        self._before = _variable.get()
        _variable.set(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        _variable.set(self._before)


def nothing(n: int) -> None:
    """Enter and leave a context manager that does nothing."""
    for _ in range(n):
        with contextlib.nullcontext():
            pass


def bare(n: int) -> None:
    """Set a contextvar and set it back."""
    for _ in range(n):
        with Bare(7):
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
    opened = harness.run(
        nothing,
        [
            harness.Variant("a class that sets a contextvar and sets it back", bare, 100),
            harness.Variant(SCOPE, scope, 100),
            harness.Variant("the same inside another scope of that job", nested, 100),
        ],
        rounds,
    )
    answers = asyncio.run(in_the_jobs_own_task(rounds))
    answers += asyncio.run(with_guarded_services(rounds // 3))[1:]
    answers += with_resolvers(rounds)[1:]
    answers += while_a_generator_holds_a_scope(rounds // 3)[1:]
    print(f"Python {sys.version.split()[0]}, {rounds} rounds")
    print("with contextlib.nullcontext() = 1")
    harness.print_table(opened, LIMITS)
    print("bare log call = 1")
    harness.print_table(answers, {})
    of = {answer.name: answer.median for answer in answers}
    more = of[RESOLVE] - of[READ]
    print(f"resolve() over a bare contextvar read: {more:+.3f}, limit {MORE_THAN_A_READ:+.3f}")
    first = of["resolve(), no job, 1 resolver"] - of["resolve(), no job, 0 resolvers"]
    print(f"the first resolver: {first:+.3f}")
    each = (of["resolve(), no job, 3 resolvers"] - of["resolve(), no job, 1 resolver"]) / 2
    print(f"each further resolver: {each:+.3f}, limit {MORE_FOR_A_RESOLVER:+.3f}")
    if not harness.is_conclusive(answers) or not harness.is_conclusive(opened):
        print("inconclusive: the control is off by more than 2 %, the machine was too busy")
        return 0
    slack = 1.3 if arguments.smoke else 1.0
    is_over = more > slack * MORE_THAN_A_READ or each > slack * MORE_FOR_A_RESOLVER
    is_over = is_over or opened[2].low > slack * LIMITS[SCOPE]
    return 1 if is_over else 0


if __name__ == "__main__":
    sys.exit(main())
