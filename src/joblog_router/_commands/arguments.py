"""Arguments that several commands share.

Called by commands; imports what the arguments name.
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from pathlib import Path

from .._pipeline.report import report
from .._pipeline.router import router
from ..entry import EARLIEST
from ..sinks.opening import ENVIRONMENT, open_store
from ..sinks.store import Selection, Store

__all__ = [
    "add_jobs",
    "add_json",
    "add_namespace",
    "add_selection",
    "add_store",
    "age",
    "nothing_found",
    "seconds_in",
    "selection_of",
    "store_of",
    "whole",
]

# Seconds that one who reads waits for what killed processes left.
_RECOVERY = 2.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DIGITS = 9


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """The jobs whose logs are meant."""
    parser.add_argument("jobs", nargs="+", metavar="JOB", help="id of a job")


def add_store(parser: argparse.ArgumentParser) -> None:
    """Where the logs are."""
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="where the logs are: jsonl:DIRECTORY, django, django:ALIAS, or the dotted path of a store "
        f"(default: the environment's {ENVIRONMENT}, else the project's settings)",
    )
    add_namespace(parser)


def add_namespace(parser: argparse.ArgumentParser) -> None:
    """Whose jobs are meant."""
    parser.add_argument("--namespace", metavar="NAME", help="whose jobs are meant (default: NAMESPACE of the settings)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """JSON instead of text."""
    parser.add_argument("--json", action="store_true", help="write JSON, one object a line")


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which lines are wanted."""
    parser.add_argument("--level", type=level, default=0, metavar="LEVEL", help="this level and above, as WARNING")
    parser.add_argument("--logger", default="", metavar="NAME", help="this logger and those below it")
    parser.add_argument("--text", default="", metavar="TEXT", help="lines that contain this, in message or traceback")
    parser.add_argument("--origin", default="", metavar="ORIGIN", help="lines of this process")


def selection_of(options: argparse.Namespace) -> Selection:
    """What `add_selection` found. Who runs commands sees every line."""
    return Selection(options.level, options.logger, options.text, options.origin, "staff")


def nothing_found(job: str, options: argparse.Namespace) -> str:
    """What to say where a job has no line."""
    if any((options.level, options.logger, options.text, options.origin)):
        return f"job {job!r} has no such lines"
    kind, _, directory = (options.store or os.environ.get(ENVIRONMENT, "")).partition(":")
    is_nowhere = kind == "jsonl" and directory and not Path(directory).exists()
    return f"nothing is stored for job {job!r}" + (f": there is no directory {directory!r}" if is_nowhere else "")


def store_of(options: argparse.Namespace) -> Store:
    """The store that `add_store` found. What killed processes left for sinks that are open here is stored first."""
    store = open_store(options.store)
    if not router.recovery.run(_RECOVERY):
        report("lines of killed processes are still in the spool; joblog recover waits until they are stored")
    return store


def level(text: str) -> int:
    """A level's name or number."""
    found = logging.getLevelNamesMapping().get(text.upper())
    if found is not None:
        return found
    number = _number(text)
    if number is None:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is no level: DEBUG, INFO, WARNING, ERROR, CRITICAL or a number"
        )
    return number


def whole(text: str) -> int:
    """A whole number from 0 on, no larger than a database or a clock takes."""
    number = _number(text)
    if number is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number from 0 to {10**_DIGITS - 1:,}")
    return number


def age(text: str) -> float:
    """The time that lies `30d`, `12h`, ... back, in seconds since the epoch."""
    seconds = seconds_in(text)
    if seconds is None:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no age: 30d, 12h, 90m, 45s or 2w")
    return max(EARLIEST, time.time() - seconds)


def seconds_in(text: str) -> int | None:
    """How many seconds `30d`, `12h`, ... are; None for other text."""
    number, unit = _number(text[:-1]), text[-1:]
    return None if number is None or unit not in _UNITS else number * _UNITS[unit]


def _number(text: str) -> int | None:
    """A whole number of few digits, whatever zeros stand before them; None for other text."""
    digits = text.lstrip("0")
    if not (text.isascii() and text.isdecimal()) or len(digits) > _DIGITS:
        return None
    return int(digits or 0)
