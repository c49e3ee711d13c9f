"""Watch what workers do with the jobs' NATS streams, and write it into each job's log.

Runs until interrupted. Several may run: one writes, the others wait. docs/nats-events.md has the permissions it needs.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from typing import Any, Final

from ...exceptions import ConfigurationError, SinkUnavailableError
from ...handlers import JobLogHandler, is_wanted
from ...sinks.opening import ENVIRONMENT, open_store
from .monitor import Monitor
from .told import LOGGER

__all__ = ["add_arguments", "run"]

_URL: Final = "nats://127.0.0.1:4222"
_SERVERS: Final = "NATS_URL"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument(
        "server",
        nargs="*",
        metavar="URL",
        help=f"servers of one cluster (default: the environment's {_SERVERS}, which keeps a password out of the list "
        f"of processes, else {_URL})",
    )
    parser.add_argument("--creds", metavar="FILE", help="credentials file of the monitor's user")
    parser.add_argument("--interval", type=float, default=10.0, metavar="SECONDS", help="between two looks (10)")
    parser.add_argument(
        "--pattern", action="append", metavar="NAME", help="how names carry a job's id, as job_{job_id}"
    )
    parser.add_argument(
        "--shared", action="append", metavar="STREAM", help="a stream whose messages name their jobs by a header"
    )
    parser.add_argument("--name", default="JOBLOG_MONITOR", help="of the streams that monitors share (JOBLOG_MONITOR)")
    parser.add_argument("--no-recorder", action="store_true", help="listen only; miss what happens while none runs")
    parser.add_argument("--quiet", action="store_true", help="do not print what is written")
    parser.add_argument(
        "--store",
        metavar="STORE",
        help="where to write, as jsonl:DIRECTORY (default: the handlers that the project configures, else the "
        f"environment's {ENVIRONMENT})",
    )


def run(options: argparse.Namespace, console: Any) -> int:
    """See `joblog_router.cli`."""
    _configure(options, console)
    servers = options.server or os.environ.get(_SERVERS, _URL).split(",")
    extra = {"user_credentials": options.creds} if options.creds else {}
    monitor = Monitor(
        servers,
        interval=options.interval,
        patterns=options.pattern,
        name=options.name,
        shared=options.shared or (),
        recorder=not options.no_recorder,
        **extra,
    )
    try:
        asyncio.run(_watch(monitor))
    except OSError as error:
        raise SinkUnavailableError(f"NATS: {type(error).__name__}: {error}") from error
    return 0


async def _watch(monitor: Monitor) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    starting = asyncio.ensure_future(monitor.start())
    waiting = asyncio.ensure_future(ended.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    elif starting.exception() is None:
        await waiting
    await monitor.stop()
    if starting.done() and not starting.cancelled():
        starting.result()


def _configure(options: argparse.Namespace, console: Any) -> None:
    """Have the lines written: by the project's handlers, or into the store that is named. This is our own process."""
    LOGGER.disabled = False
    if not LOGGER.isEnabledFor(logging.INFO):
        LOGGER.setLevel(logging.INFO)
    probe = LOGGER.makeRecord(LOGGER.name, logging.INFO, "", 0, "", (), None)
    if options.store or not is_wanted(probe):
        if not (options.store or os.environ.get(ENVIRONMENT)):
            raise ConfigurationError(
                f"monitor: there is nowhere to write. Name a store, --store jsonl:DIRECTORY or {ENVIRONMENT}, or run "
                "it with the project's settings and a JobLogHandler in LOGGING"
            )
        store: Any = open_store(options.store)
        LOGGER.addHandler(JobLogHandler(sink=store))
    if not options.quiet:
        LOGGER.addHandler(_Echo(console))


class _Echo(logging.Handler):
    """Prints what is written."""

    def __init__(self, console: Any) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Called with each line of a job's log."""
        job = getattr(record, "job_log_id", None)
        if job is not None:
            self._console.line(f"[{job}] {record.getMessage()}", record.levelno)
            self._console.flush()
