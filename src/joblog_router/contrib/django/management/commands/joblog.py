"""`manage.py joblog` is the command `joblog` in the project."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connections

from ....._commands.console import Console
from .....cli import main


class Command(BaseCommand):
    """Hands its arguments on as they are; `call_command("joblog", "tail", "7")` works, too."""

    help = (
        "Read and keep job logs: tail, show, export, stats, status, watch, doctor, recover, prune, delete, monitor, "
        "token, backfill."
    )
    requires_system_checks: Any = []

    def run_from_argv(self, argv: list[str]) -> None:
        """Run and exit with the status of the command."""
        try:
            status = main(_without_own(argv[2:]), prog=f"{argv[0]} {argv[1]}")
        finally:
            connections.close_all()
        sys.exit(status)

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """For `call_command`."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *args: Any, **options: Any) -> None:
        """For `call_command`. SystemExit tells a status other than 0."""
        # Django's wrappers do all that is needed of a stream.
        console = Console(options.get("stdout") or sys.stdout, options.get("stderr") or sys.stderr)
        status = main(options["arguments"], prog="joblog", console=console)
        if status:
            sys.exit(status)


def _without_own(arguments: list[str]) -> list[str]:
    """Without --settings and --pythonpath, which manage.py has dealt with."""
    kept = []
    is_value = False
    for argument in arguments:
        if is_value:
            is_value = False
        elif argument in ("--settings", "--pythonpath"):
            is_value = True
        elif not argument.startswith(("--settings=", "--pythonpath=")):
            kept.append(argument)
    return kept
