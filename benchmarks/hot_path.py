"""What one logging call costs more when this library is there.

    python benchmarks/hot_path.py            # a minute or so, the figures of the README
    python benchmarks/hot_path.py --smoke    # seconds, for CI: fails where a limit is missed by far in a conclusive run

The bare call is `logger.info("user %s processed item %d", "alice", 42)` to a NullHandler. Each variant is the same
call on a logger that has one handler more (or a filter on its handler). All rules are on: evidence in `extra`, closed
scopes, service loops. The buffer is emptied between samples and no writer runs: this is the caller's cost alone.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import logging
import logging.handlers
import queue
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import harness

from joblog_router import JobContextFilter, JobLogHandler, job_context
from joblog_router._pipeline.services import guard_services

NO_JOB = "handler, no job open"
JOB = "handler, inside a job"
SPOOLED = "handler with a spool, inside a job"
FILTER = "JobContextFilter alone, no job"
FURTHER = "a further handler that does nothing"
MORE_FOR_THE_FILTER = 0.06
LIMITS = {NO_JOB: 1.10, JOB: 1.25, SPOOLED: 1.60}


class TextbookHandler(logging.Handler):
    """What one would write first: everything in emit(), no job test before the lock."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep nothing."""


def asking(question: Callable[[logging.LogRecord], object]) -> logging.Handler:
    """A handler that does nothing but ask `question(record)`."""
    handler = logging.NullHandler()
    handler.handle = question  # type: ignore[method-assign, assignment]
    return handler


def two_attributes(record: logging.LogRecord) -> bool:
    """What a filter that adds two values of the project's cannot be cheaper than."""
    record.stage = "process"
    record.attempt = 1
    return True


def make_logger(name: str, *handlers: logging.Handler) -> logging.Logger:
    """A logger of its own with a NullHandler and `handlers`."""
    logger = logging.getLogger(f"bench.{name}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [logging.NullHandler(), *handlers]
    return logger


def caller(logger: logging.Logger) -> Callable[[int], None]:
    """A function that logs n times."""

    def call(n: int) -> None:
        info = logger.info
        for _ in range(n):
            info("user %s processed item %d", "alice", 42)

    return call


def job_handler(spool: str | None = None, spool_redact: bool = False) -> JobLogHandler:
    """A handler whose buffer nobody empties but the benchmark."""
    capacity = 50_000 if spool else 1_000_000
    handler = JobLogHandler(sink="memory", capacity=capacity, spool=spool, spool_redact=spool_redact)
    handler._channel.awake = True
    handler._channel.is_first = True  # as in a process that has but one
    handler.renew()
    return handler


def variants(folder: str) -> list[harness.Variant]:
    """All variants, with what sets them up and cleans up untimed."""
    made: list[harness.Variant] = []

    def add(name: str, logger: logging.Logger, handler: Any = None, scope: Any = None, calls: int = 25) -> None:
        opened: list[Any] = []

        def before() -> None:
            if scope is not None:
                opened.append(scope())
                opened[-1].__enter__()

        def after() -> None:
            if opened:
                opened.pop().__exit__(None, None, None)
            if isinstance(handler, JobLogHandler):
                channel = handler._channel
                if channel.spool is not None and channel.buffer:
                    channel.spool.acknowledge(channel.buffer[-1][2])
                channel.buffer.clear()

        made.append(harness.Variant(name, caller(logger), calls, after, before))

    def job() -> job_context:
        return job_context(7)

    def job_with_fields() -> job_context:
        return job_context(7, stage="process", attempt=1)

    handler = job_handler()
    add(NO_JOB, make_logger("nojob", handler), handler)
    handler = job_handler()
    add(JOB, make_logger("job", handler), handler, job)
    handler = job_handler(f"{folder}/spool")
    add(SPOOLED, make_logger("spool", handler), handler, job)
    handler = job_handler(f"{folder}/masked", spool_redact=True)
    add("the same with spool_redact", make_logger("masked", handler), handler, job)
    handler = job_handler()
    filtered = job_handler()
    filtered.addFilter(JobContextFilter())
    add("handler with JobContextFilter, inside a job", make_logger("jobfilter", filtered), filtered, job_with_fields)
    stamping = JobContextFilter()
    add(FURTHER, make_logger("further", asking(lambda record: True)))
    add(FILTER, make_logger("filter-nojob", asking(stamping.filter)))
    add("JobContextFilter alone, inside a job", make_logger("filter-job", asking(stamping.filter)), None, job)
    add(
        "JobContextFilter alone, inside a job with 2 fields",
        make_logger("filter-fields", asking(stamping.filter)),
        None,
        job_with_fields,
    )
    add("two attributes of their own on each record, by hand", make_logger("by-hand", asking(two_attributes)))
    handler = job_handler()
    add(
        "JobContextFilter on a handler before the JobLogHandler, inside a job",
        make_logger("before", asking(stamping.filter), handler),
        handler,
        job,
    )
    narrowed = JobLogHandler(sink="memory", loggers=["shop"], capacity=1_000_000)
    add("handler for other loggers, inside a job", make_logger("narrow", narrowed), narrowed, job)
    add("textbook emit() handler", make_logger("textbook", TextbookHandler()))
    for_queue = queue.SimpleQueue[Any]()
    queued = logging.handlers.QueueHandler(for_queue)

    def drain() -> None:
        while not for_queue.empty():
            for_queue.get()

    made.append(harness.Variant("logging.handlers.QueueHandler", caller(make_logger("queue", queued)), 25, drain))
    return made


async def in_child_task(rounds: int) -> list[harness.Result]:
    """The same inside a task that was started in the job, with a running loop: the dearest way through the rules."""
    handler = job_handler()
    call = caller(make_logger("task", handler))
    bare = caller(make_logger("task-bare"))

    async def child() -> list[harness.Result]:
        variant = harness.Variant("handler, child task of a job", call, 25, handler._channel.buffer.clear)
        return harness.run(bare, [variant], rounds)

    with job_context(7):
        return await asyncio.create_task(child())


def main() -> int:
    """Run, print, and tell by the exit status whether a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds instead of a minute")
    parser.add_argument("--rounds", type=int, default=0)
    arguments = parser.parse_args()
    rounds = arguments.rounds or (150 if arguments.smoke else 1500)
    harness.pin_to_one_cpu()
    end = guard_services([copy.copy.__code__])
    try:
        with tempfile.TemporaryDirectory() as folder:
            results = harness.run(caller(make_logger("bare")), variants(folder), rounds)
        in_task = asyncio.run(in_child_task(rounds))
    finally:
        end()
    print(f"Python {sys.version.split()[0]}, {rounds} rounds, bare call = 1")
    harness.print_table([*results, *in_task[1:]], LIMITS)
    of = {result.name: result.median for result in results}
    more = of[FILTER] - of[FURTHER]
    print(f"the filter where no job is open, over {FURTHER}: {more:+.3f}, limit {MORE_FOR_THE_FILTER:+.3f}")
    if not harness.is_conclusive(results):
        print("inconclusive: the control is off by more than 2 %, the machine was too busy")
        return 0
    # Few rounds on a machine that others use too: the short run looks for a mistake, not for the last percent.
    slack = 1.15 if arguments.smoke else 1.0
    over = [result.name for result in results if result.low > slack * LIMITS.get(result.name, float("inf"))]
    return 1 if over or more > (1.5 if arguments.smoke else 1.2) * MORE_FOR_THE_FILTER else 0


if __name__ == "__main__":
    sys.exit(main())
