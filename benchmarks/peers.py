"""What a logging call costs with this library, and with what else one might use: one run, one table, one chart.

    python benchmarks/peers.py [--rounds 400] [--tries 5] [--chart docs/peers.svg]

The bare call is a `logger.info` with two arguments to a NullHandler. In each variant the line ends where a user could
read it later, or in memory where a peer is given its cheapest end; ours has the job open, all rules on, and its writer
storing to SQLite beside it. A variant that does its work later is timed on the calling thread only. A run that was
disturbed is repeated; the chart is drawn from the first that was not, and the exit status is 1 if there was none.
"""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import queue
import sqlite3
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
import loguru
import structlog

from joblog_router import JobLogHandler, flush, job_context

_BAR = 520
_ROW = 26


class InsertHandler(logging.Handler):
    """One INSERT per line in a transaction of its own, WAL, as a handler of an afternoon does it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        self._connection.execute("CREATE TABLE log (job INTEGER, created REAL, level INTEGER, message TEXT)")

    def emit(self, record: logging.LogRecord) -> None:
        """Store the line before the call returns."""
        row = (7, record.created, record.levelno, record.getMessage())
        self._connection.execute("INSERT INTO log VALUES (?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file too."""
        self._connection.close()
        super().close()


class SqliteSink:
    """A sink that stores batches in SQLite with the standard library."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def write(self, entries: Any) -> None:
        """One transaction a batch."""
        if self._connection is None:
            self._connection = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute("CREATE TABLE log (job TEXT, created REAL, level INTEGER, message TEXT)")
        rows = [(entry.job_id, entry.created, entry.level, entry.message) for entry in entries]
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO log VALUES (?, ?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()


def stdlib(name: str, *handlers: logging.Handler) -> Any:
    """n calls of a standard library logger with these handlers."""
    logger = logging.getLogger(f"peers.{name}")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.handlers[:] = list(handlers)

    def call(n: int) -> None:
        info = logger.info
        for _ in range(n):
            info("user %s processed item %d", "alice", 42)

    return call


def variants(folder: Path) -> list[harness.Variant]:
    """Ours and the peers."""
    made = []
    ours = JobLogHandler(sink=SqliteSink(folder / "ours.sqlite3"), fold=False)
    opened: list[job_context] = []

    def open_job() -> None:
        opened.append(job_context(7))
        opened[-1].__enter__()

    def close_job() -> None:
        opened.pop().__exit__(None, None, None)
        flush(10)

    made.append(
        harness.Variant(
            "joblog-router, job open, stored by its writer",
            stdlib("ours", ours),
            after=close_job,
            before=open_job,
        )
    )
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sending = stdlib("queue", logging.handlers.QueueHandler(waiting))
    made.append(harness.Variant("stdlib QueueHandler, taken off by nobody", sending, after=lambda: drain(waiting)))
    loguru.logger.remove()
    loguru.logger.add(lambda message: None, format="{message}")

    def loguru_call(n: int) -> None:
        info = loguru.logger.info
        for _ in range(n):
            info("user {} processed item {}", "alice", 42)

    made.append(harness.Variant("loguru, text to a function that does nothing", loguru_call))
    structured = structlog.wrap_logger(
        structlog.ReturnLogger(),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    ).bind()

    def structlog_call(n: int) -> None:
        info = structured.info
        for _ in range(n):
            info("user processed item", user="alice", item=42)

    made.append(harness.Variant("structlog, JSON text, returned", structlog_call))
    one_by_one = stdlib("insert", InsertHandler(folder / "insert.sqlite3"))
    made.append(harness.Variant("one INSERT per line, SQLite", one_by_one))
    return made


def drain(waiting: queue.SimpleQueue[Any]) -> None:
    """Take everything off."""
    while not waiting.empty():
        waiting.get()


def chart(results: list[harness.Result]) -> str:
    """The ratios as bars, on a logarithmic scale, since one of them is far away."""
    import math

    top = math.log(max(result.median for result in results) * 1.1)
    rows = []
    for number, result in enumerate(results):
        y = 30 + number * _ROW
        width = max(2.0, _BAR * math.log(max(result.median, 1.001)) / top)
        rows.append(
            f'<text x="330" y="{y + 14}" text-anchor="end">{result.name}</text>'
            f'<rect x="340" y="{y}" width="{width:.0f}" height="18" rx="3" fill="#4a7dbd"/>'
            f'<text x="{346 + width:.0f}" y="{y + 14}">{result.median:.2f}</text>'
        )
    height = 40 + len(results) * _ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="940" height="{height}" font-family="sans-serif" '
        f'font-size="13"><rect width="940" height="{height}" fill="white"/>'
        '<text x="10" y="18">Cost of a logging call on the calling thread; a bare call = 1; logarithmic</text>'
        + "".join(rows)
        + "</svg>\n"
    )


def measure(rounds: int) -> list[harness.Result]:
    """One run: the control, then each variant."""
    with tempfile.TemporaryDirectory() as name:
        results = harness.run(stdlib("bare", logging.NullHandler()), variants(Path(name)), rounds)
        flush(10)
        for logger_name in ("peers.ours", "peers.insert"):
            for handler in logging.getLogger(logger_name).handlers:
                handler.close()
        flush(10)
    return results


def main() -> int:
    """Run, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--tries", type=int, default=5, help="how many runs may be disturbed before it gives up")
    parser.add_argument("--chart", type=Path, help="write an SVG here")
    arguments = parser.parse_args()
    harness.pin_to_one_cpu()
    for _ in range(arguments.tries):
        results = measure(arguments.rounds)
        print(f"Python {sys.version.split()[0]}, {arguments.rounds} rounds, bare call = 1")
        harness.print_table(results, {})
        if harness.is_conclusive(results):
            if arguments.chart:
                arguments.chart.write_text(chart(results[1:]), encoding="utf-8")
            return 0
        print("inconclusive: the control is off by more than 2 %, or few samples were undisturbed")
    return 1


if __name__ == "__main__":
    sys.exit(main())
