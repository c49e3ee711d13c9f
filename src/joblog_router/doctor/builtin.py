"""The probes of what is ours: a job's log, and the pipeline of this process.

Run by `probing` on the loop of who asks, the store in a thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from .._inspection.snapshot import snapshot
from .._nats_events import LOGGER_NAME, NatsEvent
from .._pipeline.origins import worker_of
from .._pipeline.text import clip
from ..entry import Entry
from ..exceptions import SinkUnavailableError
from ..sinks.store import Selection, Store
from .places import number
from .probing import ProbeResult, in_thread

__all__ = ["OWN_LOGGER", "LogProbe", "PipelineProbe", "WorkersProbe"]

_LINES: Final = 50
_EVENTS: Final = 300
_SHOWN: Final = 5
_ERROR: Final = 40
_MAX_WORKERS: Final = 20
_MAX_SEEN: Final = 50
# Who tells that a Celery task failed: Celery, and our integration where Celery's words do not reach the log.
_TASK_LOGGERS: Final = ("celery.app.trace", "joblog_router.celery")
# What only a worker's doings bring about.
_SIGNS: Final[frozenset[NatsEvent]] = frozenset(
    {
        "nats.fetch.first",
        "nats.fetch.summary",
        "nats.nak",
        "nats.in_progress",
        "nats.terminated",
        "nats.ack.twice",
        "nats.snapshot",
        "nats.drained",
    }
)
_WITH_NUMBERS: Final[frozenset[NatsEvent]] = frozenset({"nats.snapshot", "nats.drained"})
_WIDTH: Final = 300
# What the doctor itself has written is no sign of life of the job.
OWN_LOGGER: Final = "joblog_router.doctor"


class LogProbe:
    """The job's log: how much, how old, its last lines, its errors, what NATS events it tells of."""

    name = "log"

    def __init__(self, store: Store, namespace: str | None = None, event_logger: str = LOGGER_NAME) -> None:
        self._store = store
        self._namespace = namespace
        self._event_logger = event_logger

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `lines, levels, first, last, newest, errors, last_error, task_error, calm, events, origins`.

        `last` is the newest line, `calm` the newest that is no error; `task_error` is Celery's last word of a task that
        failed or is tried again, with how many of `newest` there are; `unreachable` where it cannot be read.
        """
        try:
            return ProbeResult(self.name, await in_thread(self._look, job_id))
        except SinkUnavailableError as error:
            return ProbeResult(self.name, {"unreachable": True}, f"the log cannot be read: {error}")

    def _look(self, job_id: str) -> dict[str, Any]:
        store, namespace = self._store, self._namespace
        summary = store.summary(job_id, "staff", namespace)
        all_newest = store.newest(job_id, Selection(audience="staff"), _LINES, namespace).entries
        newest = [entry for entry in all_newest if entry.logger != OWN_LOGGER]
        last = newest[-1].created if newest else summary.last if summary.lines > len(all_newest) else None
        told = Selection(logger=self._event_logger, audience="staff")
        events = store.newest(job_id, told, _EVENTS, namespace).entries
        wrong = Selection(level=_ERROR, audience="staff")
        errors = store.newest(job_id, wrong, _SHOWN, namespace).entries
        tasks = [
            entry
            for logger in _TASK_LOGGERS
            for entry in store.newest(job_id, Selection(logger=logger, audience="staff"), _EVENTS, namespace).entries
            if entry.level >= _ERROR or entry.exception or " retry: " in entry.message
        ]
        tasks.sort(key=lambda entry: entry.created)
        calm = [entry.created for entry in newest if entry.level < _ERROR and not entry.exception]
        return {
            "lines": summary.lines - (len(all_newest) - len(newest)),
            "levels": {str(level): count for level, count in summary.levels.items()},
            "first": summary.first,
            "last": last,
            "newest": [_line(entry) for entry in newest[-_SHOWN:]],
            "errors": sum(count for level, count in summary.levels.items() if level >= _ERROR),
            "last_error": _line(errors[-1]) if errors else None,
            "task_error": {**_line(tasks[-1]), "times": len(tasks), "since": tasks[0].created} if tasks else None,
            "calm": max(calm, default=None),
            "events": _events(events),
            "origins": list(summary.origins),
        }


class PipelineProbe:
    """How the lines of this process fare: whether they are captured at all, and what was lost or waits."""

    name = "pipeline"

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `stats` as `joblog_router.stats()`, `audit` as text, `time`."""
        seen = await in_thread(snapshot)
        audit = [str(finding["text"]) for finding in seen["audit"]]
        return ProbeResult(self.name, {"stats": seen["stats"], "audit": audit, "time": time.time()})


class WorkersProbe:
    """When workers elsewhere were last seen: by the monitor of NATS, and by the lines that they send for the job."""

    name = "workers"

    def __init__(self, store: Store, namespace: str | None = None, event_logger: str = LOGGER_NAME) -> None:
        self._store = store
        self._namespace = namespace
        self._event_logger = event_logger

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `last` (None: never), `nats` (`last, workers, waiting, rate, is_watched`), `remote`: who sends."""
        try:
            return ProbeResult(self.name, await in_thread(self._look, job_id))
        except SinkUnavailableError as error:
            return ProbeResult(self.name, {}, f"the log cannot be read: {error}")

    def _look(self, job_id: str) -> dict[str, Any]:
        store, namespace = self._store, self._namespace
        told = Selection(logger=self._event_logger, audience="staff")
        events = store.newest(job_id, told, _EVENTS, namespace).entries
        watched = [entry for entry in events if entry.fields.get("source") == "monitor"]
        signs = [entry for entry in watched if entry.fields.get("event") in _SIGNS]
        numbers = [entry.fields for entry in watched if entry.fields.get("event") in _WITH_NUMBERS]
        newest = numbers[-1] if numbers else {}
        remote: list[dict[str, Any]] = []
        for origin in store.summary(job_id, "staff", namespace).origins:
            worker = worker_of(origin)
            if worker is not None and len(remote) < _MAX_WORKERS:
                lines = store.newest(job_id, Selection(origin=origin, audience="staff"), 1, namespace).entries
                remote += [
                    {
                        "worker": clip(worker, _WIDTH),
                        "last": line.created,
                        "message": clip(line.message, _WIDTH),
                        "clock_ahead": number(line.fields.get("clock_ahead")),
                    }
                    for line in lines
                ]
        remote.sort(key=lambda worker: -worker["last"])
        seen = [entry.created for entry in signs] + [worker["last"] for worker in remote]
        return {
            "last": max(seen, default=None),
            "nats": {
                "is_watched": bool(watched),
                "last": max((entry.created for entry in signs), default=None),
                "workers": number(newest.get("workers")),
                "waiting": number(newest.get("waiting")),
                "rate": number(newest.get("rate")),
            },
            "remote": remote,
        }


def _line(entry: Entry) -> dict[str, Any]:
    return {
        "created": entry.created,
        "level": entry.level,
        "logger": clip(entry.logger, _WIDTH),
        "message": clip(entry.message, _WIDTH),
        "exception": clip(_last_error(entry.exception or ""), _WIDTH),
    }


def _last_error(text: str) -> str:
    """The line of a traceback that names the error: the first behind its last frame, which may be followed by more."""
    lines = text.strip().splitlines()
    for index in range(len(lines) - 1, -1, -1):
        if lines[index].startswith("  File "):
            found = next((line for line in lines[index + 1 :] if line and not line[0].isspace()), "")
            return found or lines[-1]
    return lines[-1] if lines else ""


def _events(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """By name: how many there were, when the last was, how many messages they speak of, and the last one's numbers."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = entry.fields.get("event")
        if not isinstance(name, str):
            continue
        event = found.setdefault(
            name, {"times": 0, "count": 0, "last": 0.0, "message": "", "fields": {}, "attempt": 0, "seen": []}
        )
        given = number(entry.fields.get("count"))
        count = 1 if given is None else int(given)
        event["times"] += 1
        event["count"] += count
        event["attempt"] = max(event["attempt"], number(entry.fields.get("attempt")) or 0)
        event["seen"] = [*event["seen"], (entry.created, count)][-_MAX_SEEN:]
        if entry.created >= event["last"]:
            event["last"], event["message"] = entry.created, clip(entry.message, _WIDTH)
            event["fields"] = {
                name: value for name, value in entry.fields.items() if number(value) is not None or name == "source"
            }
    return found
