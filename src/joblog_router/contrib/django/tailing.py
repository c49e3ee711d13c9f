"""Following logs: one thread of the process reads what is new of each watched job, once an interval, for all viewers.

`Hub.watch` is called by the views, on any thread or event loop; viewers take what was put for them with `Viewer.take`.
All reading happens on the hub's thread, which ends when nobody watches. A viewer that does not keep up is told how many
lines it missed; it holds up nobody and its messages stay bounded.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal

from django.db import connections

from ..._pipeline import reading
from ..._pipeline.report import report_once
from ...entry import Entry
from ...sinks.store import Page, Selection, Store
from .rendering import as_json

__all__ = ["INTERVAL", "Hub", "Viewer", "event", "identity"]

INTERVAL: Final = 0.3
_PAGE: Final = 1000
# How much of one job is read in one interval: a viewer that comes back after long catches up over several.
_PAGES: Final = 10
# Pages kept for those who are behind, for one interval.
_MOST_PAGES: Final = 30
_MAX_WAITING: Final = 4_000_000
_MAX_RECENT: Final = 8_000_000
# What all viewers of a process together are sent in a second: where hundreds look at a job that logs a thousand lines a
# second each gets the newest of them, in time. Nobody reads more. What was not used is left for later, for so long.
_MAX_SENT: Final = 32_000_000
_BURST: Final = 2.0
_EVERYTHING: Final = Selection(audience="staff")


def event(name: Literal["lines", "skipped", "reset", "end"], data: object, cursor: str = "") -> bytes:
    """One event of a stream. JSON has no line breaks, so that nothing in `data` can end the event."""
    return f"event: {name}\n{identity(cursor)}data: {json.dumps(data)}\n\n".encode()


def identity(cursor: str) -> str:
    """The line of an event that says where to go on; none for a cursor that would end it and begin another."""
    return f"id: {cursor}\n" if cursor and cursor.isprintable() else ""


class Viewer:
    """Somebody who follows one job: which lines are wanted, none of before `since`, and what waits to be sent."""

    def __init__(self, cursor: str, selection: Selection, wake: Callable[[], None], since: float = 0.0) -> None:
        self.cursor = cursor
        self.selection = selection
        self.wanted: tuple[Selection, float] = (selection, since)
        self.is_over = False
        self._wants = reading.chooser(selection, since)
        self._wake = wake
        self._messages: deque[bytes] = deque()
        # Each is written by one thread: the hub's, the viewer's.
        self._given = 0
        self._taken = 0
        self._skipped = 0

    @property
    def _size(self) -> int:
        return self._given - self._taken

    def put(self, message: bytes, lines: int) -> None:
        """Have `message` sent, or count its lines as skipped where too much waits. On the hub's thread."""
        if self._size > _MAX_WAITING:
            self._skipped += lines
            return
        if self._skipped:
            skipped, self._skipped = self._skipped, 0
            self._append(event("skipped", {"lines": skipped}))
        self._append(message)
        # The viewer's loop may be gone.
        with contextlib.suppress(RuntimeError):
            self._wake()

    def take(self) -> bytes:
        """All that waits, as one; empty if nothing does. On the viewer's thread or loop."""
        parts = []
        while self._messages:
            part = self._messages.popleft()
            self._taken += len(part)
            parts.append(part)
        return b"".join(parts)

    def chosen(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of `entries` that this viewer wants and may see."""
        return [entry for entry in entries if self._wants(entry)]

    def _append(self, message: bytes) -> None:
        self._messages.append(message)
        self._given += len(message)


class _Batch:
    """What was new at one time: from which cursor on, up to which, and what each kind of viewer is sent of it."""

    def __init__(self, after: str, page: Page) -> None:
        self.after = after
        self.page = page
        self.size = sum(len(entry.message) + len(entry.exception or "") + 500 for entry in page.entries)
        # Encoded once for all who want the same.
        self.encoded: dict[tuple[Selection, float], tuple[bytes, int]] = {}


class _Job:
    """A watched log. `cursor` is how far the viewers that are up to date have read, None while there are none.

    `recent` are the last batches: a viewer that comes back after a moment, as all do whose stream ended, is given them
    without another look at the store.
    """

    def __init__(self) -> None:
        self.cursor: str | None = None
        self.recent: deque[_Batch] = deque()
        # What each viewer may still be sent, in bytes, and when that was reckoned.
        self.room = 0.0
        self.reckoned = 0.0
        self.behind: list[Viewer] = []
        self.current: list[Viewer] = []

    def viewers(self) -> list[Viewer]:
        return [*self.behind, *self.current]

    def make_room(self, share: float) -> None:
        """Each viewer of the job has a right to `share` bytes a second; some are owed from before."""
        now = time.monotonic()
        self.room = min(self.room + share * min(now - self.reckoned, _BURST), share * _BURST)
        self.reckoned = now

    def remember(self, batch: _Batch) -> None:
        self.recent.append(batch)
        while sum(batch.size for batch in self.recent) > _MAX_RECENT:
            self.recent.popleft()

    def since(self, cursor: str) -> list[_Batch] | None:
        """The batches after `cursor`, None where they are not known any more."""
        if cursor == self.cursor:
            return []
        recent = list(self.recent)
        places = [place for place, batch in enumerate(recent) if batch.after == cursor]
        return recent[places[0] :] if places else None


class Hub:
    """All that is watched in this process. The views use the one in `streaming`."""

    def __init__(self, store: Callable[[], Store], interval: float = INTERVAL) -> None:
        self._store = store
        self._interval = interval
        self._forget()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, str], _Job] = {}
        self._count = 0
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._process = os.getpid()

    def watch(self, namespace: str, job_id: str, viewer: Viewer, most: int) -> bool:
        """Serve `viewer` from its cursor on; False where `most` are watching already. `unwatch` it in the end."""
        if self._process != os.getpid():
            self._forget()  # the parent's viewers, and a thread that a fork does not copy
        with self._lock:
            if self._count >= most:
                return False
            self._count += 1
            self._jobs.setdefault((namespace, job_id), _Job()).behind.append(viewer)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="joblog-tail", daemon=True)
                self._thread.start()
        self._hurry.set()
        return True

    def unwatch(self, namespace: str, job_id: str, viewer: Viewer) -> None:
        """Forget `viewer`. May be called twice."""
        with self._lock:
            job = self._jobs.get((namespace, job_id))
            for viewers in (job.behind, job.current) if job is not None else ():
                if viewer in viewers:
                    viewers.remove(viewer)
                    self._count -= 1
            if job is not None and not job.viewers():
                del self._jobs[namespace, job_id]

    def watching(self) -> int:
        """How many viewers there are."""
        return self._count

    def _run(self) -> None:
        pause = self._interval
        while True:
            self._hurry.wait(pause)
            self._hurry.clear()
            with self._lock:
                watched = list(self._jobs.items())
                if not watched:
                    self._thread = None
                    break
            began = time.monotonic()
            for (namespace, job_id), job in watched:
                try:
                    self._read(namespace, job_id, job)
                except Exception as error:
                    self._report(job_id, error)
            took = time.monotonic() - began
            # A new viewer need not wait, but this long, so that many do not make it a loop without rest.
            time.sleep(min(0.05, self._interval))
            pause = max(took / 2, self._interval - took)
        for connection in connections.all(initialized_only=True):
            connection.close()

    def _read(self, namespace: str, job_id: str, job: _Job) -> None:
        """Give every viewer of `job` what is new: first those that are behind, from where each of them is."""
        store = self._store()
        if not job.current:
            # Nobody knows what came since. From the store: a viewer's cursor is out of a URL, and may be made up.
            job.cursor = store.newest(job_id, _EVERYTHING, 1, namespace).cursor
            job.recent.clear()
        given: dict[Viewer, set[tuple[str, int]]] = {}
        # Many who come back at one time stand at the same place.
        pages: dict[str, _Batch] = {}
        for viewer in list(job.behind):
            batches = job.since(viewer.cursor)
            if batches is not None:
                given[viewer] = set()
                for batch in batches:
                    self._give(viewer, batch)
                continue
            try:
                lines = self._catch_up(store, namespace, job_id, viewer, pages)
            except Exception as error:
                # The store is away, or this cursor is too much for it: it holds up nobody, and is the last next time.
                self._report(job_id, error)
                with self._lock:
                    if viewer in job.behind:
                        job.behind.remove(viewer)
                        job.behind.append(viewer)
                break
            if lines is not None:
                given[viewer] = lines
        with self._lock:
            for viewer in given:
                if viewer in job.behind:
                    job.behind.remove(viewer)
                    job.current.append(viewer)
        if job.cursor is None or not job.current:
            return
        job.make_room(_MAX_SENT / max(1, self._count))
        for _ in range(_PAGES):
            page = store.after(job_id, job.cursor, _EVERYTHING, _PAGE, namespace)
            batch = _Batch(job.cursor, page)
            job.cursor = page.cursor
            if page.entries:
                job.remember(batch)
            elif job.recent and batch.after != page.cursor:
                job.recent.clear()  # the place moved without a line: what is remembered does not lead there
            room = job.room
            for viewer in list(job.current):
                self._give(viewer, batch, given.get(viewer), room)
            job.room -= max((len(message) for message, _ in batch.encoded.values()), default=0)
            if not page.more:
                break

    def _give(
        self, viewer: Viewer, batch: _Batch, without: set[tuple[str, int]] | None = None, room: float = math.inf
    ) -> None:
        """Send `viewer` what it wants of `batch`, without lines that it got already, as far as there is `room`."""
        page = batch.page
        viewer.cursor = page.cursor
        message = None if without else batch.encoded.get(viewer.wanted)
        if message is None:
            chosen = viewer.chosen(page.entries)
            if without:
                chosen = [entry for entry in chosen if (entry.origin, entry.seq) not in without]
            message = (self._bounded(chosen, viewer, page.cursor, room) if chosen else b"", len(chosen))
            if not without:
                batch.encoded[viewer.wanted] = message
        if message[1]:
            viewer.put(*message)

    def _catch_up(
        self, store: Store, namespace: str, job_id: str, viewer: Viewer, pages: dict[str, _Batch]
    ) -> set[tuple[str, int]] | None:
        """Give `viewer` what it lacks. Once it is up to date: the lines it got now, some of which all others lack."""
        given: set[tuple[str, int]] = set()
        for _ in range(_PAGES):
            batch = pages.get(viewer.cursor)
            if batch is None:
                try:
                    page = store.after(job_id, viewer.cursor, _EVERYTHING, _PAGE, namespace)
                except ValueError:
                    viewer.is_over = True
                    viewer.put(event("reset", {}), 0)
                    self.unwatch(namespace, job_id, viewer)
                    return None
                batch = _Batch(viewer.cursor, page)
                if len(pages) < _MOST_PAGES:
                    pages[viewer.cursor] = batch
            page = batch.page
            self._give(viewer, batch)
            given.update((entry.origin, entry.seq) for entry in page.entries)
            if not page.more:
                return given
        return None

    @staticmethod
    def _report(job_id: str, error: Exception) -> None:
        report_once(("tail", repr(error)), f"the log of job {job_id!r} cannot be followed: {error}")

    def _bounded(self, entries: list[Entry], viewer: Viewer, cursor: str, room: float) -> bytes:
        """The event with `entries`, or the newest of them where there are too many viewers for all."""
        message = self._lines(entries, viewer, cursor)
        if len(message) <= room or len(entries) < 2:
            return message
        kept = entries[-max(1, int(len(entries) * room / len(message))) :]
        return event("skipped", {"lines": len(entries) - len(kept)}) + self._lines(kept, viewer, cursor)

    @staticmethod
    def _lines(entries: list[Entry], viewer: Viewer, cursor: str) -> bytes:
        data: dict[str, Any] = {"entries": as_json(entries, viewer.selection.audience)}
        return event("lines", data, cursor)
