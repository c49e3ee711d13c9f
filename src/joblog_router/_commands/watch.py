"""Follow a job on the screen until it ends; the exit status says how: 0 well, 1 badly or canceled.

On a terminal (with rich installed) the screen is drawn anew: verdict, a bar for each stage with its rate and how long
it will take, figures with what has changed, what workers do, and the log's newest lines. Else what has changed is
written line by line, and each new verdict.
"""

from __future__ import annotations

import argparse
import time
from typing import Any, Final

from .._pipeline.dotted import load
from .._pipeline.text import printable
from ..doctor.case import SURE, Case
from ..doctor.verdict import Verdict, examine_now
from ..sinks.store import Selection, Store
from . import arguments
from .console import Console
from .stages import Paces, Stage, lines_of, stages_of
from .status import screen

__all__ = ["add_arguments", "run"]

_ENDED: Final = frozenset({"done", "failed", "canceled"})
_TAIL: Final = 8
_LOUD: Final = ("ERROR", "CRITICAL")
_PAGE: Final = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("job", metavar="JOB", help="id of a job")
    parser.add_argument("--every", type=_seconds, default=2.0, metavar="SECONDS", help="how often to look (default: 2)")
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. Interrupted: 1 if something was wrong with the job at the last look."""
    watch = _Watch(options, arguments.store_of(options), console)
    try:
        while True:
            started = time.monotonic()
            watch.look()
            console.flush()
            if watch.phase in _ENDED:
                return 0 if watch.phase == "done" else 1
            if watch.cause == "no_such_job":
                return 1
            time.sleep(max(0.0, options.every - (time.monotonic() - started)))
    except KeyboardInterrupt:
        return 1 if watch.is_finding else 0
    finally:
        watch.close()


class _Watch:
    def __init__(self, options: argparse.Namespace, store: Store, console: Console) -> None:
        self._options = options
        self._store = store
        self._console = console
        self._last: Verdict | None = None
        self._cursor: str | None = None
        self._tail: list[str] = []
        self._written: list[str] = []
        self._live: Any = None
        self._paces = Paces()
        self._stages: list[Stage] = []
        self.phase = "unknown"
        self.cause = ""
        self.is_finding = False

    def look(self) -> None:
        """Ask once and show it."""
        verdict = examine_now(self._options.job, store=self._store, namespace=self._options.namespace)
        case = Case(verdict.job_id, verdict.results, verdict.at, 1.0)
        self.phase = case.phase
        self._stages = stages_of(case)
        self._paces.add(self._stages)
        if self._options.json:
            self._console.json({**verdict.as_dict(with_results=False), "stages": self._rates()})
        elif self._console.terminal is not None:
            self._draw(verdict)
        else:
            self._write(verdict)
        self.cause, self.is_finding = verdict.diagnosis.cause, verdict.is_finding
        self._last = verdict

    def close(self) -> None:
        """Give the terminal back."""
        if self._live is not None:
            self._live.stop()

    def _draw(self, verdict: Verdict) -> None:
        if self._live is None:
            self._live = load("rich.live.Live")(console=self._console.terminal, auto_refresh=False)
            self._live.start()
        self._tail = (self._tail + self._new_lines())[-_TAIL:]
        text = load("rich.text.Text")()
        for number, line in enumerate(screen(verdict, self._last, self._paces)):
            style = _style(verdict) if not number else "cyan" if "[#" in line else ""
            text.append(f"{printable(line)}\n", style=style)
        for line in self._tail:
            text.append(f"  | {line}\n", style="red" if line.startswith(_LOUD) else "dim")
        self._live.update(text, refresh=True)

    def _write(self, verdict: Verdict) -> None:
        lines = list(screen(verdict, self._last, self._paces))
        if verdict.diagnosis.cause == self.cause:
            # The row and the stages alone: the rest is told where it becomes another.
            lines = lines[1:2] + [f"            {line}" for line in lines_of(self._stages, self._paces)]
        if lines == self._written:
            lines = []
        else:
            self._written = lines
        for line in lines:
            self._console.line(line)
        for line in self._new_lines():
            self._console.line(f"  | {line}")

    def _rates(self) -> list[dict[str, Any]]:
        return [{**stage._asdict(), "rate": self._paces.rate(stage)} for stage in self._stages]

    def _new_lines(self) -> list[str]:
        """The log's lines since the last look, on one line each."""
        selection = Selection(audience="staff")
        job, namespace = self._options.job, self._options.namespace
        if "log" in (self._last.failures if self._last is not None else {}):
            return []
        if self._cursor is None:
            page = self._store.newest(job, selection, _TAIL, namespace)
        else:
            page = self._store.after(job, self._cursor, selection, _PAGE, namespace)
        self._cursor = page.cursor
        return [printable(f"{one.level_name} {one.message}").replace("\n", " ")[:300] for one in page.entries][-_TAIL:]


def _style(verdict: Verdict) -> str:
    if not verdict.is_finding:
        return "green"
    return "bold red" if verdict.diagnosis.sure == SURE else "yellow"


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of seconds from 0.1 to 3600")
    return value
