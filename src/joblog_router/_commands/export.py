"""All lines of jobs as JSON lines, in the order in which they were stored, every tally included."""

from __future__ import annotations

import argparse

from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]

_PAGE = 2000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    arguments.add_jobs(parser)
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: an export is JSON")
    arguments.add_selection(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where a job has no such line."""
    store = arguments.store_of(options)
    selection = arguments.selection_of(options)
    status = 0
    for job in options.jobs:
        cursor, more, found = "", True, 0
        while more:
            page = store.after(job, cursor, selection, _PAGE, options.namespace)
            cursor, more = page.cursor, page.more
            found += len(page.entries)
            for entry in page.entries:
                console.json(entry.as_dict())
        if not found:
            console.problem(arguments.nothing_found(job, options))
            status = 1
    return status
