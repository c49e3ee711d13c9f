"""The command `joblog`: `python -m joblog_router` and `manage.py joblog` are the same.

Exit status: 0 fine, 1 a finding (no such log, a store that cannot be read), 2 misuse. A command is a module with
`add_arguments(parser)` and `run(options, console) -> int`, loaded when it is asked for, and a row in `COMMANDS`. Runs
on the main thread; commands are imported by name.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from ._commands.console import Console
from ._pipeline.dotted import load
from .exceptions import ConfigurationError, JobLogError, SinkUnavailableError
from .sinks.opening import ENVIRONMENT

__all__ = ["COMMANDS", "Command", "main"]

FINE: Final = 0
FINDING: Final = 1
MISUSE: Final = 2
_INTERRUPTED: Final = 130


class Command(NamedTuple):
    """A sub-command: its name, what the list of commands says of it, and the dotted path of its module."""

    name: str
    summary: str
    module: str


COMMANDS: Final = (
    Command("tail", "the newest lines of a job's log, and with -f those that come", "joblog_router._commands.tail"),
    Command("show", "a job's log with its tracebacks", "joblog_router._commands.show"),
    Command("export", "a job's log as JSON lines", "joblog_router._commands.export"),
    Command("stats", "what is in a job's log: counts, times, the first error", "joblog_router._commands.stats"),
    Command("status", "where jobs are: progress, queue, counters, log", "joblog_router._commands.status"),
    Command("watch", "follow a job on the screen until it ends", "joblog_router._commands.watch"),
    Command("doctor", "why a job does not get on, and what to do", "joblog_router._commands.doctor"),
    Command("recover", "store what killed processes left in the spool", "joblog_router._commands.recover"),
    Command("prune", "delete old lines", "joblog_router._commands.prune"),
    Command("delete", "delete the logs of jobs", "joblog_router._commands.delete"),
    Command("backfill", "take over old lines from a JSON column", "joblog_router._commands.backfill"),
    Command("token", "a token for a worker elsewhere to write a job's log", "joblog_router._commands.token"),
    Command("monitor", "write what NATS workers do into the jobs' logs", "joblog_router.contrib.nats.command"),
)

_SET_UP: Final = "joblog_router.contrib.django.project.set_up"


class _CommandParser(argparse.ArgumentParser):
    """The parser of a sub-command. Its arguments come with its module, once it is asked for."""

    module = ""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self.module:
            module = importlib.import_module(self.module)
            self.description = self.description or module.__doc__
            module.add_arguments(self)
            self.set_defaults(run=module.run)
            self.module = ""
        return super().parse_known_args(args, namespace)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Read and keep job logs.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_CommandParser)
    for command in COMMANDS:
        one = commands.add_parser(
            command.name, help=command.summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        one.module = command.module
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "joblog", console: Console | None = None) -> int:
    """Run a command; its exit status. For console scripts: never raises but SystemExit, for misuse and `--help`."""
    console = console or Console()
    options = _parser(prog).parse_args(arguments)
    try:
        try:
            if os.environ.get("DJANGO_SETTINGS_MODULE") and not (
                getattr(options, "store", None) or os.environ.get(ENVIRONMENT)
            ):
                load(_SET_UP)()
            status: int = options.run(options, console)
            console.flush()
            return status
        except ConfigurationError as error:
            console.problem(str(error))
            return MISUSE
        except SinkUnavailableError as error:
            console.problem(f"{error}. {error.advice}" if error.advice else str(error))
            return FINDING
        except JobLogError as error:
            console.problem(str(error))
            return FINDING
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read has seen enough. What is still buffered must not fail once more when the interpreter ends.
        console.give_up()
        return FINE


def run() -> None:
    """The console script."""
    sys.exit(main())
