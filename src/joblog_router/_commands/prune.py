"""Delete old lines of all jobs, and of each job all but the newest."""

from __future__ import annotations

import argparse
import os
import time

from .._pipeline.dotted import load
from ..exceptions import ConfigurationError
from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]

_DAY = 86_400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("--older-than", type=arguments.age, metavar="AGE", help="lines older than 30d, 12h, ...")
    parser.add_argument("--keep", type=arguments.whole, metavar="N", help="all but the newest N lines of each job")
    parser.add_argument(
        "--orphans",
        action="store_true",
        help="instead: the logs in the table of jobs that are not in JOB_MODEL any more, without a line for a day, or "
        "for --older-than",
    )
    parser.add_argument("--dry-run", action="store_true", help="tell how many, delete none")
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`."""
    if options.orphans:
        count = _orphans(options)
    elif options.older_than is None and options.keep is None:
        raise ConfigurationError("prune: say what goes, --older-than 30d, --keep 10000 or --orphans")
    else:
        store = arguments.store_of(options)
        count = store.prune(options.older_than or 0.0, options.keep, options.dry_run, options.namespace)
    if options.json:
        console.json({"lines": count, "dry_run": options.dry_run})
    else:
        console.line(f"{count} lines {'would be' if options.dry_run else 'were'} deleted")
    return 0


def _orphans(options: argparse.Namespace) -> int:
    if options.store or options.keep is not None or options.namespace is not None:
        raise ConfigurationError("prune: --orphans goes with --older-than and --dry-run only, in a Django project")
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        raise ConfigurationError("prune: --orphans asks JOB_MODEL which jobs there are: run manage.py joblog prune")
    quiet_since = time.time() - _DAY if options.older_than is None else options.older_than
    count: int = load("joblog_router.contrib.django.jobs.prune_orphans")(quiet_since, options.dry_run)
    return count
