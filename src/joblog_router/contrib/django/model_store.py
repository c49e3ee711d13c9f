"""The sink and store "model": a project keeps its own table of log lines, and what reads it. Here is the writing.

    "job": {"class": "joblog_router.JobLogHandler", "sink": "model", "options": {
        "model": "jobs.JobLog",
        "fields": {"job": "job_id", "level": "level_name", "message": "text", "context": "context",
                   "created_at": "created"},
    }}

`write` runs on the writer thread, over a connection of its own like the sink "django"; lines whose job has no row yet
are parked (`model_parking`), which a thread of this module looks after. What goes where is in `model_columns`; readers
run on their own threads, in `model_reader`. No model is imported here.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from contextvars import Context
from typing import Final

from django.db import DatabaseError, IntegrityError, InterfaceError, models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import sql

from ..._pipeline.report import report_once
from ...entry import Entry
from ...exceptions import SinkUnavailableError
from ...sinks.store import Store
from .faults import is_about_values
from .model_columns import NAMESPACE_ADVICE, Columns
from .model_parking import KnownJobs, Parking
from .model_reader import ModelReader
from .ordering import MARK_WRITER
from .private_sink import PrivateSink

__all__ = ["ModelStore"]

_LOOK: Final = 0.25


class ModelStore(PrivateSink):
    """Writes and reads rows of `model` ("app.Model").

    `fields` maps names of its fields to what goes into them: an attribute of `Entry`, `"level_name"` (INFO),
    `"text"` (message and traceback), or `"context"`: for a JSON column, the fields of the line and, under `"joblog"`,
    whatever has no column of its own. A foreign key takes `"job_id"`; `created` becomes a date and time, seconds or
    microseconds, as the field is. With a context, or columns for `origin` and `seq`, a line that is delivered again is
    stored once, and lines for staff can be told from others; without a place for `audience` those are refused. Without
    a place for `namespace` NAMESPACE must not be set: lines wait, and readers raise ConfigurationError.

    A line whose job has no row (not committed yet) is parked in memory, `park_lines` of them for `park_seconds` at
    most: then, or if the job had been there before, it is dropped and counted (`dropped`, and once on stderr). With a
    spool it stays in there meanwhile: a killed process loses none, the next one parks it again.
    `database` and `tests` are as those of the sink "django".
    """

    place: str
    columns: Columns

    def __init__(
        self,
        model: str,
        fields: Mapping[str, str],
        *,
        database: str | None = None,
        tests: str = "memory",
        park_lines: int = 10_000,
        park_seconds: float = 60.0,
    ) -> None:
        super().__init__("model", database, tests)
        self.columns = Columns(model, fields)
        self.place = f"{model} {database or ''} {tests}"
        self._lock = threading.RLock()
        self._parked = Parking(park_lines, park_seconds)
        self._pid = os.getpid()
        self._looks = False
        self._jobs = KnownJobs()
        self._sure_origins: set[str] = set()
        # Registered before the router's: runs after its last flush.
        atexit.register(_last_try, weakref.ref(self))

    # --- writing ------------------------------------------------------------------------------------------------

    @property
    def alias(self) -> str:
        """The database alias written to: that of the model, unless `database` names one."""
        return self._database or router.db_for_write(self.columns.model())

    @property
    def parked(self) -> int:
        """How many lines wait for their job's row."""
        return len(self._parked)

    @property
    def dropped(self) -> int:
        """How many lines were given up, as their jobs have no row."""
        return self._parked.dropped

    def anew(self) -> ModelStore:
        """Another one of the same table, for whoever writes on a thread of its own."""
        return ModelStore(self.columns.label, self.columns.fields, database=self._database, tests=self._tests)

    def held_from(self, origin: str) -> int | None:
        """The lowest number of a parked line of `origin`: the spool keeps it, should this process be killed."""
        if not self._parked or self._pid != os.getpid():
            return None
        with self._lock:
            return self._parked.lowest(origin)

    def write(self, entries: Sequence[Entry]) -> None:
        """Add rows in one transaction, parking those of jobs without a row. Raises as the sink "django" does."""
        if self.is_in_memory():
            self._memory.write(entries)
            return
        if not self.columns.has_namespace() and any(entry.namespace for entry in entries):
            raise SinkUnavailableError(self.columns.no_namespace(), NAMESPACE_ADVICE)
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._looks = os.getpid(), False
                self._parked.forget()
            self._store_what_can_be(entries)

    def lacks_job(self, job_id: str) -> bool:
        """Whether the job has no row (yet): what is written now would be parked. Raises SinkUnavailableError."""
        if self.is_in_memory():
            return False
        field = self.columns.job_field(self.columns.model())
        if not isinstance(field, models.ForeignKey):
            return False
        connection = self._connection_to(self.alias)
        with self._lock:
            self._jobs.forget(job_id)
            try:
                with connection.in_place():
                    self._jobs.look_up(field, self.alias, {job_id})
            except (DatabaseError, InterfaceError) as error:
                connection.close()
                raise SinkUnavailableError(
                    f"the jobs of {self.columns.label} in database {connection.alias!r} cannot be read: {error}",
                    "see that the server runs",
                ) from error
            return job_id not in self._jobs

    def _store_what_can_be(self, entries: Sequence[Entry]) -> None:
        model = self.columns.model()
        connection = self._connection_to(self.alias)
        # Whoever gave the entries will give them again after an error, and nobody gives the parked ones again.
        before = self._parked.state()
        is_done = False
        try:
            with connection.in_place() as own:
                ready = self._ready(model, entries)
                try:
                    self._add(own, model, ready)
                except IntegrityError:
                    if not self._has_gone(model, ready):
                        raise
                    self._add(own, model, [entry for entry in ready if entry.job_id in self._jobs])
            is_done = True
        except (DatabaseError, InterfaceError) as error:
            self._sure_origins.clear()
            if is_about_values(error):
                raise
            connection.close()
            raise SinkUnavailableError(
                f"the table of {self.columns.label} in database {connection.alias!r} takes no lines: {error}",
                f"see that the server runs and that {self.columns.label} is migrated there",
            ) from error
        finally:
            if not is_done:
                self._parked.restore(before)

    def _ready(self, model: type[models.Model], entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries`, after what was parked, whose jobs have rows. The rest is parked, or dropped."""
        field = self.columns.job_field(model)
        if not isinstance(field, models.ForeignKey):
            return list(entries)
        self._jobs.look_up(field, self.alias, self._parked.jobs | {entry.job_id for entry in entries})
        ready = self._parked.take(self._jobs)
        for entry in entries:
            if entry.job_id in self._jobs:
                ready.append(entry)
            else:
                self._parked.park(entry)
        if self._parked and not self._looks:
            self._looks = True
            threading.Thread(target=Context().run, args=(self._look,), name="joblog-parked", daemon=True).start()
        self._parked.give_up()
        return ready

    def _has_gone(self, model: type[models.Model], entries: Sequence[Entry]) -> bool:
        """Whether a job that had a row has none any more: its lines are dropped and counted."""
        field = self.columns.job_field(model)
        if not isinstance(field, models.ForeignKey):
            return False
        jobs = {entry.job_id for entry in entries}
        self._jobs.forget()
        self._jobs.look_up(field, self.alias, jobs)
        gone = self._jobs.missing(jobs)
        for job_id in gone:
            self._parked.drop(job_id, sum(entry.job_id == job_id for entry in entries), "has been deleted")
        return bool(gone)

    def _look(self) -> None:
        """Try parked lines again until there are none. A thread of its own."""
        while True:
            time.sleep(_LOOK)
            try:
                with self._lock:
                    if self._parked and self._pid == os.getpid():
                        self._store_what_can_be(())
                    if not self._parked or self._pid != os.getpid():
                        # At once: while other threads live a process that ends leaves its segments to the next.
                        self._looks = False
                        return
            except Exception as error:
                report_once(("parked", repr(error)), f"parked lines could not be stored yet: {error!r}")

    def _add(self, own: BaseDatabaseWrapper, model: type[models.Model], entries: Sequence[Entry]) -> None:
        if not entries:
            return
        with transaction.atomic(using=own.alias):
            if own.vendor == "postgresql" and isinstance(model._meta.pk, models.AutoField):
                with own.cursor() as cursor:
                    quoted = own.ops.quote_name(model._meta.db_table)
                    cursor.execute(f"SELECT {MARK_WRITER}", [quoted])
            new = self._without_known(own.alias, model, entries)
            rows = [self.columns.row_of(model, entry) for entry in new]
            fields = [field for field in model._meta.concrete_fields if not isinstance(field, models.AutoField)]
            size = own.ops.bulk_batch_size(fields, rows) or len(rows)
            for at in range(0, len(rows), size):
                # As bulk_create, but raw: `auto_now_add` would put the time of writing for that of the line.
                query = sql.InsertQuery(model)
                query.insert_values(fields, rows[at : at + size], raw=True)
                query.get_compiler(using=own.alias).execute_sql()
        self._sure_origins.update(entry.origin for entry in entries)

    def not_stored(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those that are not there yet, of a process whose earlier lines this one did not write."""
        if self.is_in_memory():
            return list(entries)
        model = self.columns.model()
        connection = self._connection_to(self.alias)
        with self._lock:
            try:
                with connection.in_place():
                    return self._unknown(self.alias, model, entries, {entry.origin for entry in entries})
            except (DatabaseError, InterfaceError) as error:
                connection.close()
                raise SinkUnavailableError(
                    f"the table of {self.columns.label} in database {connection.alias!r} cannot be read: {error}",
                    f"see that the server runs and that {self.columns.label} is migrated there",
                ) from error

    def _without_known(self, alias: str, model: type[models.Model], entries: Sequence[Entry]) -> list[Entry]:
        """Those that are not there yet. Asked only for origins that were not written before, or last failed."""
        return self._unknown(alias, model, entries, {entry.origin for entry in entries} - self._sure_origins)

    def _unknown(
        self, alias: str, model: type[models.Model], entries: Sequence[Entry], origins: set[str]
    ) -> list[Entry]:
        found: set[tuple[str, int]] = set()
        names = self.columns.lookup("origin"), self.columns.lookup("seq")
        if names[0] is None or names[1] is None:
            return list(entries)
        for origin in origins:
            seqs = [entry.seq for entry in entries if entry.origin == origin]
            rows = model._base_manager.using(alias).filter(**{names[0]: origin})
            for at in range(0, len(seqs), 500):
                part = rows.filter(**{f"{names[1]}__in": seqs[at : at + 500]}).values_list(names[1], flat=True)
                found.update((origin, seq) for seq in part)
        return [entry for entry in entries if (entry.origin, entry.seq) not in found]

    def delegate(self) -> Store:
        """See StoreByDelegation."""
        return self._memory if self.is_in_memory() else ModelReader(self.columns, self.alias)


def _last_try(reference: weakref.ref[ModelStore]) -> None:
    """When the process ends: what is parked, once more; what is left is said."""
    store = reference()
    if store is None or not store._parked or store._pid != os.getpid():
        return
    try:
        with store._lock:
            store._store_what_can_be(())
    except Exception as error:
        report_once(("parked", "exit"), f"parked lines could not be stored: {error!r}")
    if store.parked:
        report_once(("parked", "left"), f"the process ends with {store.parked} lines whose jobs have no row")
