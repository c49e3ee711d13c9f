"""The doctor's look at the job's own row, and what the project's settings say to the doctor.

Reads in a thread that nothing waits for, with database connections of its own that are closed again; `phase_in_row` for
the head of the page, in the reader's thread and connection.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.db import DatabaseError, connections, router
from django.db.models import Model

from ..._pipeline.dotted import load
from ...context import current_namespace
from ...doctor.configuration import Configuration
from ...doctor.phases import phase_of
from ...doctor.places import PLACES, facts_from, places_with
from ...doctor.probing import ProbeResult, in_thread
from ...doctor.verdict import Verdict, examine_now
from ...exceptions import ConfigurationError, JobLogError
from . import conf
from .times import seconds_of

__all__ = ["JobProbe", "active_jobs", "configuration", "panel", "phase_in_row"]

_LEAST_ROOM: Final = 64 * 1024
_PANEL_AGE: Final = 10.0
_MAX_PANELS: Final = 1000
_panels: dict[tuple[str, str], tuple[float, dict[str, Any] | None]] = {}


class JobProbe:
    """The row of JOB_MODEL, or of `model`, that has the job's id.

    `fields` says where a fact is if not in its usual place: `{"total": "images_total", "progress":
    "progress.summary.progress"}`; `statuses` what a status means: `{"BUSY": "running"}`; `hook` is a function (or its
    dotted path) of the row that gives facts of its own, which beat all others.
    """

    name = "job"

    def __init__(
        self,
        model: str | type[Model] | None = None,
        fields: Mapping[str, str] | None = None,
        statuses: Mapping[str, str] | None = None,
        hook: Any = None,
    ) -> None:
        self._model = _model(model)
        self._places = places_with(fields, "DOCTOR['JOB']['fields']")
        self._statuses = statuses
        self._hook = load(hook) if isinstance(hook, str) else hook

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `exists, status, phase, total, done, failed, progress, stages`, the times in epoch seconds.

        `refuses_writes` is why the database takes none, "" where nothing speaks against it.
        """
        return ProbeResult(self.name, await in_thread(self._look, job_id))

    def _look(self, job_id: str) -> dict[str, Any]:
        try:
            try:
                row = self._model._default_manager.get(pk=job_id)
            except (ObjectDoesNotExist, ValueError, ValidationError):
                return {"exists": False, "model": self._model._meta.label}
            return {**self.facts_of(row), "refuses_writes": _refuses_writes(row)}
        finally:
            connections.close_all()

    def facts_of(self, row: Model) -> dict[str, Any]:
        """The facts of one row."""
        facts: dict[str, Any] = {"exists": True, "model": self._model._meta.label}
        facts |= facts_from(row, self._places, _epoch, str)
        if self._hook is not None:
            facts.update(self._hook(row) or {})
        facts.setdefault("phase", phase_of(facts["status"], self._statuses))
        return facts

    def phase(self, job_id: str) -> str:
        """What the status in the row of a job means; "unknown" where there is neither. On the caller's connection."""
        places = self._places["status"]
        named = {path.partition(".")[0] for path in places} & {one.name for one in self._model._meta.concrete_fields}
        rows = self._model._default_manager.only("pk", *named) if named else self._model._default_manager
        try:
            row = rows.get(pk=job_id)
        except (ObjectDoesNotExist, ValueError, OverflowError, ValidationError):
            return "unknown"
        status = facts_from(row, {"status": places}, _epoch, str)["status"]
        return phase_of(status, self._statuses)

    def active(self, limit: int) -> list[str]:
        """The ids of jobs that are neither done nor given up, the newest first."""
        field = self._places["status"][0] if len(self._places["status"]) == 1 else None
        names = {one.name for one in self._model._meta.concrete_fields}
        field = field or next((name for name in PLACES["status"] if name in names), None)
        if field is None:
            return []
        try:
            statuses = self._model._default_manager.order_by().values_list(field, flat=True).distinct()
            wanted = [
                status
                for status in statuses
                if phase_of(str(status), self._statuses) in {"created", "queued", "running", "canceling"}
            ]
            rows = self._model._default_manager.filter(**{f"{field}__in": wanted}).order_by("-pk")
            return [str(pk) for pk in rows.values_list("pk", flat=True)[:limit]]
        finally:
            connections.close_all()


def configuration() -> Configuration:
    """What DOCTOR says, and what follows from other settings."""
    given = conf.current()
    found = Configuration.of(given.DOCTOR, f"{conf.SETTING}['DOCTOR']")
    if found.JOB is None and given.JOB_MODEL:
        found = replace(found, JOB=True)
    if isinstance(found.NATS, Mapping) and isinstance(given.NATS, Mapping) and "patterns" in given.NATS:
        found = replace(found, NATS={"patterns": given.NATS["patterns"], **found.NATS})
    return found


def phase_in_row(job_id: str) -> str:
    """The phase of a job by its row in JOB_MODEL, or "unknown": one query, on the caller's connection."""
    found = configuration().JOB
    return JobProbe(**(found if isinstance(found, Mapping) else {})).phase(job_id) if found else "unknown"


def active_jobs(limit: int = 100) -> list[str]:
    """The project's unfinished jobs, the newest first. Raises ConfigurationError where there is no model of jobs."""
    found = configuration()
    probe = JobProbe(**(found.JOB if isinstance(found.JOB, Mapping) else {}))
    return probe.active(limit)


def panel(job_id: str) -> dict[str, Any] | None:
    """The verdict for a page and the summary endpoint, not older than a few seconds; None where none can be had.

    For readers who may see every line: it quotes the log and names servers. Blocks for up to DOCTOR's TIMEOUT; callers
    that come meanwhile are given the last one.
    """
    key = (current_namespace(), job_id)
    now = time.monotonic()
    until, found = _panels.get(key, (0.0, None))
    if now < until:
        return found
    while len(_panels) >= _MAX_PANELS:
        _panels.pop(next(iter(_panels)), None)
    _panels[key] = (now + _PANEL_AGE, found)
    with ThreadPoolExecutor(1) as thread:  # there may be an event loop in this one
        verdict = thread.submit(_examined, job_id, key[0]).result()
    found = None if verdict is None else verdict.as_dict(with_results=False)
    _panels[key] = (time.monotonic() + _PANEL_AGE, found)
    return found


def _examined(job_id: str, namespace: str) -> Verdict | None:
    try:
        return examine_now(job_id, namespace=namespace)
    except JobLogError:
        return None
    finally:
        connections.close_all()


def _model(name: str | type[Model] | None) -> type[Model]:
    if isinstance(name, type):
        return name
    name = name or conf.current().JOB_MODEL
    if not name:
        raise ConfigurationError(
            f"{conf.SETTING}['JOB_MODEL'] must name the model of the jobs ('app.Model'): the doctor is to look at it"
        )
    try:
        return apps.get_model(name)
    except (LookupError, ValueError) as error:
        raise ConfigurationError(f"{conf.SETTING}: there is no model {name!r}: {error}") from error


def _refuses_writes(row: Model) -> str:
    """Why the database that the project writes such rows to takes none; "" where it does or nothing is known."""
    alias = router.db_for_write(type(row))
    connection = connections[alias]
    try:
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_is_in_recovery(), current_setting('transaction_read_only')")
                in_recovery, read_only = cursor.fetchone()
            if in_recovery:
                return f"the server of {alias!r} is a standby"
            return f"transactions of {alias!r} are read-only" if read_only == "on" else ""
        if connection.vendor == "sqlite":
            return _sqlite_refuses(str(connection.settings_dict["NAME"]))
    except (DatabaseError, OSError):
        pass  # that it can be read is known, more is not
    return ""


def _sqlite_refuses(name: str) -> str:
    path = Path(name)
    if not path.is_file():
        return ""  # in memory
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        return f"{path.name} or its directory is not writable for this user"
    room = shutil.disk_usage(path.parent).free
    return f"the disk of {path.name} is full" if room < _LEAST_ROOM else ""


def _epoch(value: Any) -> float | None:
    return seconds_of(value) if isinstance(value, dt.datetime) else None
