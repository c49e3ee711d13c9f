"""Delete old lines of all jobs, and of each job all but the newest."""

from __future__ import annotations

import argparse

from ..exceptions import ConfigurationError
from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("--older-than", type=arguments.age, metavar="AGE", help="lines older than 30d, 12h, ...")
    parser.add_argument("--keep", type=arguments.whole, metavar="N", help="all but the newest N lines of each job")
    parser.add_argument("--dry-run", action="store_true", help="tell how many, delete none")
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`."""
    if options.older_than is None and options.keep is None:
        raise ConfigurationError("prune: say what goes, --older-than 30d or --keep 10000")
    store = arguments.store_of(options)
    count = store.prune(options.older_than or 0.0, options.keep, options.dry_run, options.namespace)
    if options.json:
        console.json({"lines": count, "dry_run": options.dry_run})
    else:
        console.line(f"{count} lines {'would be' if options.dry_run else 'were'} deleted")
    return 0
