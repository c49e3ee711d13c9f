"""The probes of what is ours: a job's log, and the pipeline of this process."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from .._pipeline.status import snapshot
from .._pipeline.text import clip
from ..entry import Entry
from ..exceptions import SinkUnavailableError
from ..sinks.store import Selection, Store
from .probing import ProbeResult, in_thread

__all__ = ["OWN_LOGGER", "LogProbe", "PipelineProbe"]

_LINES: Final = 50
_EVENTS: Final = 300
_SHOWN: Final = 5
_ERROR: Final = 40
_WIDTH: Final = 300
# The logger of what the NATS integration tells.
_EVENT_LOGGER: Final = "joblog_router.nats"
# What the doctor itself has written is no sign of life of the job.
OWN_LOGGER: Final = "joblog_router.doctor"


class LogProbe:
    """The job's log: how much, how old, its last lines, its errors, what NATS events it tells of."""

    name = "log"

    def __init__(self, store: Store, namespace: str | None = None, event_logger: str = _EVENT_LOGGER) -> None:
        self._store = store
        self._namespace = namespace
        self._event_logger = event_logger

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `lines, levels, first, last, newest, errors, last_error, events, origins`; `unreachable`."""
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
        return {
            "lines": summary.lines - (len(all_newest) - len(newest)),
            "levels": {str(level): count for level, count in summary.levels.items()},
            "first": summary.first,
            "last": last,
            "newest": [_line(entry) for entry in newest[-_SHOWN:]],
            "errors": sum(count for level, count in summary.levels.items() if level >= _ERROR),
            "last_error": _line(errors[-1]) if errors else None,
            "events": _events(events),
            "origins": list(summary.origins),
        }


class PipelineProbe:
    """How the lines of this process fare: whether they are captured at all, and what was lost or waits."""

    name = "pipeline"

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `stats` as `joblog_router.stats()`, `audit` as text, `time`."""
        seen = await in_thread(snapshot)
        audit = [str(finding.get("message", finding)) for finding in seen["audit"]]
        return ProbeResult(self.name, {"stats": seen["stats"], "audit": audit, "time": time.time()})


def _line(entry: Entry) -> dict[str, Any]:
    exception = (entry.exception or "").strip().rpartition("\n")[2]
    return {
        "created": entry.created,
        "level": entry.level,
        "logger": clip(entry.logger, _WIDTH),
        "message": clip(entry.message, _WIDTH),
        "exception": clip(exception, _WIDTH),
    }


def _events(entries: Iterable[Entry]) -> dict[str, dict[str, Any]]:
    """By name: how many there were, when the last was, and how many messages they speak of."""
    found: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = entry.fields.get("event")
        if not isinstance(name, str):
            continue
        event = found.setdefault(name, {"times": 0, "count": 0, "last": 0.0, "message": ""})
        count = entry.fields.get("count")
        event["times"] += 1
        event["count"] += count if isinstance(count, int) else 1
        if entry.created >= event["last"]:
            event["last"], event["message"] = entry.created, clip(entry.message, _WIDTH)
    return found
