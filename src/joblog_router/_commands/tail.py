"""The newest lines of one or more jobs; with -f also those that come, until it is interrupted.

Of several jobs, each line begins with its job, on a terminal in a colour of its own.
"""

from __future__ import annotations

import argparse
import time
from typing import Final

from ..entry import Entry
from ..exceptions import SinkUnavailableError
from ..sinks.store import Store
from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]

_PAGE: Final = 1000
_PAUSE: Final = 0.5
_PAUSE_WHILE_AWAY: Final = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    arguments.add_jobs(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on with lines that come")
    parser.add_argument("-n", "--lines", type=arguments.whole, default=10, metavar="N", help="how many (default: 10)")
    arguments.add_selection(parser)
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where no job has a line and none is waited for."""
    store = arguments.store_of(options)
    tail = _Tail(store, options, console)
    found = tail.begin()
    console.flush()
    if not options.follow:
        if not found:
            for job in options.jobs:
                console.problem(arguments.nothing_found(job, options))
        return 0 if found else 1
    try:
        tail.follow()
    except KeyboardInterrupt:
        pass  # the way to end it
    return 0


class _Tail:
    def __init__(self, store: Store, options: argparse.Namespace, console: Console) -> None:
        self._store = store
        self._console = console
        self._selection = arguments.selection_of(options)
        self._options = options
        self._cursors = dict.fromkeys(options.jobs, "")
        self._hues = {job: number for number, job in enumerate(self._cursors)}

    def begin(self) -> int:
        """Write the newest lines of each job; how many."""
        entries: list[Entry] = []
        for job in self._cursors:
            lines = self._options.lines
            page = self._store.newest(job, self._selection, max(1, lines), self._options.namespace)
            self._cursors[job] = page.cursor
            entries += page.entries if lines else ()
        self._write(entries)
        return len(entries)

    def follow(self) -> None:
        """Write what comes, until interrupted. A store that is away is waited for."""
        is_away = False
        while True:
            try:
                more = self._poll()
                is_away = False
            except SinkUnavailableError as error:
                if not is_away:
                    self._console.problem(f"{error}. Trying again")
                is_away, more = True, False
            self._console.flush()
            if not more:
                time.sleep(_PAUSE_WHILE_AWAY if is_away else _PAUSE)

    def _poll(self) -> bool:
        entries: list[Entry] = []
        more = False
        for job, cursor in self._cursors.items():
            page = self._store.after(job, cursor, self._selection, _PAGE, self._options.namespace)
            self._cursors[job] = page.cursor
            entries += page.entries
            more = more or page.more
        self._write(entries)
        return more

    def _write(self, entries: list[Entry]) -> None:
        for entry in sorted(entries, key=lambda entry: entry.created):
            if self._options.json:
                self._console.json(entry.as_dict())
            else:
                self._console.entry(entry, hue=self._hues.get(entry.job_id, 0) if len(self._hues) > 1 else None)
