"""What the server says by itself: streams and consumers that are made, changed and deleted, messages given up.

`Advisories.advised` is a tap, called for each such message on the monitor's event loop while a term lasts; it books
into `inventory`. Imports no connection.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...._pipeline.report import report_once
from .. import told
from ..naming import Job
from ..told import Told, named, tell

if TYPE_CHECKING:
    from .inventory import Inventory
    from .lease import Lease

SUBJECTS: Final = ("$JS.EVENT.ADVISORY.STREAM.>", "$JS.EVENT.ADVISORY.CONSUMER.>")


class _Change(NamedTuple):
    job: Job
    sentence: Told | None
    stream: str
    consumer: str


class Advisories:
    """Those of one term."""

    def __init__(self, inventory: Inventory, lease: Lease) -> None:
        self._inventory = inventory
        self._lease = lease
        # Told behind what is left to say about the consumers.
        self._deleted: list[_Change] = []

    def advised(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        """An advisory, as a tap has it. Never raises."""
        try:
            self._advised(subject, json.loads(payload))
        except Exception as error:
            report_once(("nats-monitor", "advisory", type(error)), f"NATS monitor: {subject}: {error!r} was ignored")

    def tell_deleted(self) -> bool:
        """The lines about what was deleted since the last time; whether there was anything."""
        deleted, self._deleted = self._deleted, []
        for change in deleted:
            self._tell(change)
        return bool(deleted)

    def _advised(self, subject: str, advisory: dict[str, Any]) -> None:
        tokens = subject.split(".")
        about, kind, stream = tokens[3], tokens[4], tokens[5]
        consumer = tokens[6] if about == "CONSUMER" and len(tokens) > 6 else ""
        watch = self._inventory.watch
        job = watch.job_of(stream, consumer)
        if kind == "DELETED":
            self._inventory.forget(stream, consumer)
            if job is not None:
                self._deleted.append(_Change(job, told.SEEN_CHANGES.get(f"{about}.{kind}"), stream, consumer))
            return
        followed = watch.meet(stream, consumer) if consumer else None
        is_new = advisory.get("action") in {None, "create"}
        if followed is not None:
            followed.is_changed = True
            if kind == "MAX_DELIVERIES":
                followed.give_up(int(advisory["stream_seq"]), int(advisory.get("deliveries") or 0), is_dropped=True)
            elif kind == "CREATED":
                followed.is_seen_whole = followed.is_seen_whole or is_new
        if job is not None:
            kind = kind if is_new or kind != "CREATED" else "UPDATED"
            self._tell(_Change(job, told.SEEN_CHANGES.get(f"{about}.{kind}"), stream, consumer))
        elif not consumer and kind in {"CREATED", "UPDATED"}:
            watch.is_stale = True  # its subjects may say whose it is

    def _tell(self, change: _Change) -> None:
        job, sentence, stream, consumer = change
        if sentence is None or not self._lease.is_held:
            return
        tell(job, sentence, named(stream, consumer), stream=stream, consumer=consumer or None, source="monitor")
