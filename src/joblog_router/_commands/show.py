"""The log of a job, oldest line first, with its tracebacks and fields."""

from __future__ import annotations

import argparse

from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("job", metavar="JOB", help="id of a job")
    parser.add_argument(
        "-n", "--lines", type=arguments.whole, default=1000, metavar="N", help="the newest N lines (default: 1000)"
    )
    arguments.add_selection(parser)
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where there is no such line."""
    store = arguments.store_of(options)
    page = store.newest(options.job, arguments.selection_of(options), max(1, options.lines), options.namespace)
    for entry in page.entries:
        if options.json:
            console.json(entry.as_dict())
        else:
            console.entry(entry, fields=True)
    if not page.entries:
        console.problem(arguments.nothing_found(options.job, options))
    elif page.earlier:
        console.problem(f"these are the newest {len(page.entries)} lines: more with -n, all with joblog export")
    return 0 if page.entries else 1
