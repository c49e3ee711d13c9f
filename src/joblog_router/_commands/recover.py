"""Store what killed processes left in the spool, and tell what is left after that.

A process of the project does the same when it starts; this is for the time until one does, and for spools that no
process uses any more. It names the spool's directory. Exit status 1 if something is left: its store is away, or it is
for another sink or version.
"""

from __future__ import annotations

import argparse
import os

from .._pipeline.router import router
from ..exceptions import ConfigurationError
from ..handlers import JobLogHandler
from ..sinks.opening import ENVIRONMENT
from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]

_SINK = "jsonl:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("--spool", metavar="DIRECTORY", help="the spool of a program without Django; needs --store")
    parser.add_argument(
        "--redact",
        metavar="PATTERN",
        action="append",
        help="with --spool: what else to mask, as the handler's redact",
    )
    parser.add_argument(
        "--staff", metavar="LOGGER", action="append", help="with --spool: lines for staff, as the handler's staff"
    )
    parser.add_argument("--timeout", type=arguments.whole, default=60, metavar="SECONDS", help="how long to try (60)")
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`."""
    handler = _handler(options) if options.spool else None
    try:
        spools = sorted(map(str, router.recovery.directories()))
        if not spools:
            raise ConfigurationError(
                "recover: no handler of this project has a spool; for a program without Django: "
                "joblog recover --spool DIRECTORY --store jsonl:DIRECTORY"
            )
        router.recovery.run(options.timeout)
        lines = router.stats()["recovered"]
        left = router.recovery.left_behind()
    finally:
        if handler is not None:
            handler.close()
    if options.json:
        console.json({"lines": lines, "left": left, "spools": spools})
    else:
        console.line(f"{lines} lines were recovered")
        for spool in spools:
            console.line(f"spool: {spool}")
        for path in left:
            console.line(f"left: {path}")
    return 1 if left else 0


def _handler(options: argparse.Namespace) -> JobLogHandler:
    store = options.store or os.environ.get(ENVIRONMENT, "")
    if not store.startswith(_SINK):
        raise ConfigurationError("recover: --spool needs --store jsonl:DIRECTORY, the place that its lines are for")
    # Whole: whether the program folds is not known here.
    return JobLogHandler(
        sink="jsonl",
        options={"directory": store.removeprefix(_SINK)},
        spool=options.spool,
        fold=False,
        redact=options.redact,
        staff=options.staff,
    )
