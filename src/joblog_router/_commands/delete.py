"""Delete the logs of jobs."""

from __future__ import annotations

import argparse

from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    arguments.add_jobs(parser)
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where a job had no lines."""
    store = arguments.store_of(options)
    status = 0
    for job in options.jobs:
        count = store.delete(job, options.namespace)
        if options.json:
            console.json({"job_id": job, "lines": count})
        else:
            console.line(f"job {job}: {count} lines deleted")
        status = status if count else 1
    return status
