"""Take over old log lines that a column of the jobs holds as JSON. Running it again adds only what is new.

A line is text like "[2025-01-31 10:00:00] INFO message", other text, or an object with message, level and created.
"""

from __future__ import annotations

import argparse
import os

from .._pipeline.dotted import load
from ..exceptions import ConfigurationError
from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("model", metavar="MODEL", help="the model of the jobs, as app.Job")
    parser.add_argument("column", metavar="COLUMN", help="its JSON column with the list of lines")
    parser.add_argument("--path", default="", metavar="KEY", help="where in the value the list is, as stdout")
    parser.add_argument("--newest-first", action="store_true", help="the list begins with the newest line")
    parser.add_argument("--dry-run", action="store_true", help="only count")
    arguments.add_json(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where a value was no list of lines."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        raise ConfigurationError("backfill reads a Django project's model: run manage.py joblog backfill")
    found = load("joblog_router.contrib.django.backfill.backfill")(
        options.model,
        options.column,
        path=options.path,
        newest_first=options.newest_first,
        dry_run=options.dry_run,
    )
    if options.json:
        console.json({**found._asdict(), "dry_run": options.dry_run})
    else:
        would = "would be taken over" if options.dry_run else "are in the log"
        console.line(f"{found.lines} lines of {found.jobs} jobs {would}; {found.unusable} values hold no list of lines")
    return 1 if found.unusable else 0
