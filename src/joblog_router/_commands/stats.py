"""What is in the logs of jobs: how many lines of each level, from when to when, by whom, the first error."""

from __future__ import annotations

import argparse
import logging

from ..sinks.store import Summary
from . import arguments
from .console import Console, line_of, time_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    arguments.add_jobs(parser)
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where a job has no lines."""
    store = arguments.store_of(options)
    status = 0
    for job in options.jobs:
        summary = store.summary(job, "staff", options.namespace)
        if not summary.lines:
            status = 1
        if options.json:
            console.json(_as_dict(summary))
        else:
            _write(summary, console)
    return status


def _as_dict(summary: Summary) -> dict[str, object]:
    error = summary.first_error
    return {
        "job_id": summary.job_id,
        "lines": summary.lines,
        "levels": {logging.getLevelName(level): count for level, count in summary.levels.items()},
        "first": summary.first,
        "last": summary.last,
        "first_error": None if error is None else error.as_dict(),
        "origins": list(summary.origins),
    }


def _write(summary: Summary, console: Console) -> None:
    console.line(f"job {summary.job_id}: {summary.lines} lines")
    if summary.first is None or summary.last is None:
        return
    console.line(f"  from {time_of(summary.first)} to {time_of(summary.last)}")
    for level, count in summary.levels.items():
        console.line(f"  {logging.getLevelName(level):<8} {count:>10}", level)
    if summary.first_error is not None:
        console.line(f"  first error: {line_of(summary.first_error)}", summary.first_error.level)
    console.line(f"  {len(summary.origins)} process(es): {', '.join(summary.origins)}")
