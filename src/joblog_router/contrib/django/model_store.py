"""The sink and store "model": a project keeps its own table of log lines, and what reads it.

    "job": {"class": "joblog_router.JobLogHandler", "sink": "model", "options": {
        "model": "jobs.JobLog",
        "fields": {"job": "job_id", "level": "level_name", "message": "text", "context": "context",
                   "created_at": "created"},
    }}

`write` runs on the writer thread, over a connection of its own like the sink "django"; lines whose job has no row yet
are parked, which a thread of this module looks after. Readers run on their own threads. No model is imported here.
"""

from __future__ import annotations

import atexit
import datetime as dt
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import DatabaseError, IntegrityError, InterfaceError, connections, models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import sql
from django.utils import timezone

from ... import context
from ..._pipeline import reading
from ..._pipeline.primitives import freeze
from ..._pipeline.report import report_once
from ..._pipeline.text import clean
from ...entry import Entry
from ...exceptions import ConfigurationError, EntryRefusedError, JobLogError, SinkUnavailableError
from ...sinks.store import ALL, Page, Selection, Store, Summary
from . import sink as table_sink
from .ordering import MARK_WRITER, settled_floor
from .sink import DjangoSink

__all__ = ["ModelStore"]

_SOURCES: Final = frozenset({*Entry._fields, "level_name", "text", "context"})
_KEYS: Final = frozenset({"job_id", "namespace"})
_OURS: Final = "joblog"
"""The key of a "context" column under which stands what has no column of its own."""
_KEPT: Final = ("logger", "path", "line", "origin", "seq", "n", "namespace", "audience")
_KIND: Final = "t1"
_CHUNK: Final = 1_000
_MAX_MARKS: Final = 1_000
_KNOWN_JOBS: Final = 1_000
NAMESPACE_ADVICE: Final = "map one of its fields to 'namespace', or a JSON column to 'context', or leave NAMESPACE out"
_LOOK: Final = 0.25


class ModelStore(DjangoSink):
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
    dropped: int

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
        super().__init__(database, tests)
        table_sink._made.discard(self)  # the checks of the app's own table are not about this one
        if not isinstance(model, str) or model.count(".") != 1:
            raise ConfigurationError(f"sink 'model': model must be like 'app.Model', not {model!r}")
        if not isinstance(fields, Mapping) or not fields:
            raise ConfigurationError("sink 'model': fields must map names of the model's fields to what goes into them")
        for name, source in fields.items():
            if source not in _SOURCES:
                raise ConfigurationError(
                    f"sink 'model': fields[{name!r}] is {source!r}; known are {', '.join(sorted(_SOURCES))}"
                )
        for needed in ("job_id", "created"):
            if needed not in fields.values():
                raise ConfigurationError(f"sink 'model': no field takes {needed!r}")
        if not {"message", "text"} & set(fields.values()):
            raise ConfigurationError("sink 'model': no field takes 'message' or 'text'")
        self._model_name = model
        self._columns = {source: name for name, source in fields.items()}
        self._fields = dict(fields)
        self._park_lines, self._park_seconds = park_lines, park_seconds
        self.place = f"{model} {database or ''} {tests}"
        self.dropped = 0
        self._lock = threading.RLock()
        self._parked: dict[str, tuple[float, list[Entry]]] = {}
        self._pid = os.getpid()
        self._looks = False
        self._seen_jobs: dict[str, None] = {}
        self._sure_origins: set[str] = set()
        # Registered before the router's: runs after its last flush.
        atexit.register(_last_try, weakref.ref(self))

    # --- writing ------------------------------------------------------------------------------------------------

    @property
    def alias(self) -> str:
        """The database alias written to: that of the model, unless `database` names one."""
        return self._database or router.db_for_write(self._model())

    @property
    def parked(self) -> int:
        """How many lines wait for their job's row."""
        return sum(len(lines) for _, lines in list(self._parked.values()))

    def held_from(self, origin: str) -> int | None:
        """The lowest number of a parked line of `origin`: the spool keeps it, should this process be killed."""
        if not self._parked or self._pid != os.getpid():
            return None
        with self._lock:
            seqs = (entry.seq for _, lines in self._parked.values() for entry in lines if entry.origin == origin)
            return min(seqs, default=None)

    def write(self, entries: Sequence[Entry]) -> None:
        """Add rows in one transaction, parking those of jobs without a row. Raises as the sink "django" does."""
        if self.is_in_memory():
            self._memory.write(entries)
            return
        if not self.has_namespace() and any(entry.namespace for entry in entries):
            raise SinkUnavailableError(self.no_namespace(), NAMESPACE_ADVICE)
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._parked, self._looks = os.getpid(), {}, False  # the parent has them
            self._store_what_can_be(entries)

    def lacks_job(self, job_id: str) -> bool:
        """Whether the job has no row (yet): what is written now would be parked. Raises SinkUnavailableError."""
        if self.is_in_memory():
            return False
        model = self._model()
        field = self._job_field(model)
        if not isinstance(field, models.ForeignKey):
            return False
        connection = self._connection_to(self.alias)
        with self._lock:
            self._seen_jobs.pop(job_id, None)
            try:
                with connection.in_place():
                    self._look_up(field, {job_id})
            except (DatabaseError, InterfaceError) as error:
                connection.close()
                raise SinkUnavailableError(
                    f"the jobs of {self._model_name} in database {connection.alias!r} cannot be read: {error}",
                    "see that the server runs",
                ) from error
            return job_id not in self._seen_jobs

    def _store_what_can_be(self, entries: Sequence[Entry]) -> None:
        model = self._model()
        connection = self._connection_to(self.alias)
        # Whoever gave the entries will give them again after an error, and nobody gives the parked ones again.
        parked = {job_id: (since, list(lines)) for job_id, (since, lines) in self._parked.items()}
        dropped = self.dropped
        is_done = False
        try:
            with connection.in_place() as own:
                ready = self._ready(model, entries)
                try:
                    self._add(own, model, ready)
                except IntegrityError:
                    if not self._has_gone(model, ready):
                        raise
                    self._add(own, model, [entry for entry in ready if entry.job_id in self._seen_jobs])
            is_done = True
        except (DatabaseError, InterfaceError) as error:
            self._sure_origins.clear()
            if table_sink._is_about_values(error):
                raise
            connection.close()
            raise SinkUnavailableError(
                f"the table of {self._model_name} in database {connection.alias!r} takes no lines: {error}",
                f"see that the server runs and that {self._model_name} is migrated there",
            ) from error
        finally:
            if not is_done:
                self._parked, self.dropped = parked, dropped

    def _ready(self, model: type[models.Model], entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries`, after what was parked, whose jobs have rows. The rest is parked, or dropped."""
        waiting = {job_id: lines for job_id, (_, lines) in self._parked.items()}
        field = self._job_field(model)
        if not isinstance(field, models.ForeignKey):
            return list(entries)
        self._look_up(field, {*waiting, *(entry.job_id for entry in entries)})
        ready: list[Entry] = []
        for job_id, lines in waiting.items():
            if job_id in self._seen_jobs:
                ready += lines
                del self._parked[job_id]
        for entry in entries:
            if entry.job_id in self._seen_jobs:
                ready.append(entry)
            else:
                self._park(entry)
        self._give_up()
        return ready

    def _look_up(self, field: Any, jobs: set[str]) -> None:
        unknown = {}
        for job_id in jobs - self._seen_jobs.keys():
            try:
                unknown[field.target_field.to_python(job_id)] = job_id
            except ValidationError:
                continue  # no id of this model: given up when its time is over
        if not unknown:
            return
        related = field.remote_field.model._base_manager.using(self.alias)
        name = field.target_field.attname
        found = related.filter(**{f"{name}__in": list(unknown)}).values_list(name, flat=True)
        if len(self._seen_jobs) + len(unknown) > _KNOWN_JOBS:
            self._seen_jobs.clear()
            found = related.filter(
                **{f"{name}__in": [field.target_field.to_python(job) for job in jobs if _fits(field, job)]}
            ).values_list(name, flat=True)
            unknown = {field.target_field.to_python(job): job for job in jobs if _fits(field, job)}
        for key in found:
            self._seen_jobs[unknown[key]] = None

    def _has_gone(self, model: type[models.Model], entries: Sequence[Entry]) -> bool:
        """Whether a job that had a row has none any more: its lines are dropped and counted."""
        field = self._job_field(model)
        if not isinstance(field, models.ForeignKey):
            return False
        jobs = {entry.job_id for entry in entries}
        self._seen_jobs.clear()
        self._look_up(field, jobs)
        gone = jobs - self._seen_jobs.keys()
        for job_id in gone:
            self._drop(job_id, sum(entry.job_id == job_id for entry in entries), "has been deleted")
        return bool(gone)

    def _park(self, entry: Entry) -> None:
        if self.parked >= self._park_lines:
            self._drop(entry.job_id, 1, f"has no row, and {self._park_lines} lines wait for rows already")
            return
        if entry.job_id not in self._parked:
            # A line of a process that was killed has waited already; a row that is just being committed gets a second.
            waited = min(max(time.time() - entry.created, 0.0), self._park_seconds - min(1.0, self._park_seconds))
            self._parked[entry.job_id] = (time.monotonic() - waited, [])
        self._parked[entry.job_id][1].append(entry)
        if not self._looks:
            self._looks = True
            threading.Thread(target=Context().run, args=(self._look,), name="joblog-parked", daemon=True).start()

    def _give_up(self) -> None:
        until = time.monotonic() - self._park_seconds
        for job_id, (since, lines) in list(self._parked.items()):
            if since <= until:
                del self._parked[job_id]
                self._drop(job_id, len(lines), f"had no row for {self._park_seconds:g} seconds")

    def _drop(self, job_id: str, count: int, why: str) -> None:
        self.dropped += count
        report_once(("parked", job_id, why), f"{count} lines of job {job_id!r} are dropped: the job {why}")

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
            rows = [self._row(model, entry) for entry in new]
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
        model = self._model()
        connection = self._connection_to(self.alias)
        with self._lock:
            try:
                with connection.in_place():
                    return self._unknown(self.alias, model, entries, {entry.origin for entry in entries})
            except (DatabaseError, InterfaceError) as error:
                connection.close()
                raise SinkUnavailableError(
                    f"the table of {self._model_name} in database {connection.alias!r} cannot be read: {error}",
                    f"see that the server runs and that {self._model_name} is migrated there",
                ) from error

    def _without_known(self, alias: str, model: type[models.Model], entries: Sequence[Entry]) -> list[Entry]:
        """Those that are not there yet. Asked only for origins that were not written before, or last failed."""
        return self._unknown(alias, model, entries, {entry.origin for entry in entries} - self._sure_origins)

    def _unknown(
        self, alias: str, model: type[models.Model], entries: Sequence[Entry], origins: set[str]
    ) -> list[Entry]:
        found: set[tuple[str, int]] = set()
        names = self._lookup("origin"), self._lookup("seq")
        if names[0] is None or names[1] is None:
            return list(entries)
        for origin in origins:
            seqs = [entry.seq for entry in entries if entry.origin == origin]
            rows = model._base_manager.using(alias).filter(**{names[0]: origin})
            for at in range(0, len(seqs), 500):
                part = rows.filter(**{f"{names[1]}__in": seqs[at : at + 500]}).values_list(names[1], flat=True)
                found.update((origin, seq) for seq in part)
        return [entry for entry in entries if (entry.origin, entry.seq) not in found]

    def _row(self, model: type[models.Model], entry: Entry) -> models.Model:
        if entry.audience != "all" and self._lookup("audience") is None:
            raise EntryRefusedError(f"{self._model_name} has no place that says that a line is for staff only")
        row = model()
        for name, source in self._fields.items():
            field = _field(model, name)
            try:
                setattr(row, field.attname, self._value(field, source, entry))
            except ValidationError as error:
                raise EntryRefusedError(f"job {entry.job_id!r} is no id for {self._model_name}.{name}") from error
        return row

    def _value(self, field: Any, source: str, entry: Entry) -> Any:
        if source == "context":
            ours = {name: getattr(entry, name) for name in _KEPT if name not in self._columns}
            if ours.get("audience") == "all":
                del ours["audience"]
            if entry.exception and not {"exception", "text"} & self._columns.keys():
                ours["exception"] = entry.exception
            if "level" not in self._columns:
                ours["level"] = entry.level
            return {**freeze(dict(entry.fields)), _OURS: ours}
        if source == "created":
            return _moment(field, entry.created)
        if source == "text":
            value: Any = f"{entry.message}\n{entry.exception}" if entry.exception else entry.message
        else:
            value = getattr(entry, source)
        if source == "job_id" and not isinstance(field, models.CharField):
            return (field.target_field if isinstance(field, models.ForeignKey) else field).to_python(value)
        if source == "exception" and value is None and not field.null:
            return ""
        if isinstance(value, str) and field.max_length and len(value) > field.max_length:
            if source in _KEYS:  # cut, it could be another's
                raise EntryRefusedError(f"{source} {value!r} is too long for {self._model_name}.{field.name}")
            return value[: field.max_length - 1] + "…"
        return dict(value) if source == "fields" else value

    # --- the model ----------------------------------------------------------------------------------------------

    def _model(self) -> type[models.Model]:
        if not apps.ready_event.wait(2):
            raise SinkUnavailableError("sink 'model': Django's apps are not loaded", "call django.setup() at the start")
        try:
            model = apps.get_model(self._model_name)
            for name in self._fields:
                _field(model, name)
        except (LookupError, FieldDoesNotExist) as error:
            raise SinkUnavailableError(f"sink 'model': {error}", "correct the handler's options") from error
        return model

    def _job_field(self, model: type[models.Model]) -> Any:
        return _field(model, self._columns["job_id"])

    def _lookup(self, source: str) -> str | None:
        """How to filter by what of an entry: its column, or its place in the context."""
        if source in self._columns:
            return self._columns[source]
        return f"{self._columns['context']}__{_OURS}__{source}" if "context" in self._columns else None

    def has_namespace(self) -> bool:
        """Whether a row can say whose job it is of."""
        return self._lookup("namespace") is not None

    def no_namespace(self) -> str:
        """What is wrong where it cannot, and NAMESPACE is set."""
        return f"sink 'model': NAMESPACE is set, but {self._model_name} has no place that says whose job a line is of"

    def _store(self) -> Store:
        return self._memory if self.is_in_memory() else _Reader(self, self._model())


class _Reader:
    """The rows of a model as a store. Selections beyond the job are made here, not in the database."""

    def __init__(self, store: ModelStore, model: type[models.Model]) -> None:
        self._store = store
        self._model = model
        self._created = store._columns["created"]

    def newest(self, job_id: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None) -> Page:
        """See Store."""
        space, rows = self._shown(job_id, namespace)
        floor = self._floor()
        marks = list(rows.filter(pk__gt=floor).order_by("pk").values_list("pk", flat=True)[:_MAX_MARKS])
        return self._page_down(
            rows, (job_id, space), selection, limit, floor=floor, marks=marks, last=None, folds=reading.Folds()
        )

    def before(
        self, job_id: str, earlier: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        try:
            floor, marks, last, folds = reading.decode(earlier, _KIND)
            floor, last = _ids([floor, last])
            marks, folds = _ids(marks), reading.Folds(folds)
        except (ValueError, TypeError) as error:
            raise reading.foreign(earlier) from error
        space, rows = self._shown(job_id, namespace)
        return self._page_down(
            rows, (job_id, space), selection, limit, floor=floor, marks=marks, last=last, folds=folds
        )

    def after(
        self, job_id: str, cursor: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        try:
            old, marks = reading.decode(cursor, _KIND) if cursor else (0, [])
            (old,), marks = _ids([old]), _ids(marks)
        except (ValueError, TypeError) as error:
            raise reading.foreign(cursor) from error
        limit = min(reading.positive(limit), _MAX_MARKS // 2)
        floor = max(old, self._floor())
        space, rows = self._shown(job_id, namespace)
        found = list(rows.filter(pk__gt=old).exclude(pk__in=marks).order_by("pk")[: limit + 1])
        more = len(found) > limit
        if more:
            found.pop()
            floor = max(old, min(floor, found[-1].pk))
        marks = [pk for pk in (*marks, *(row.pk for row in found)) if pk > floor][-_MAX_MARKS:]
        wanted = reading.chooser(selection, 0.0)
        entries = [entry for entry in map(self._entry(job_id, space), found) if wanted(entry)]
        return Page(reading.in_order(entries), reading.encode(_KIND, floor, marks), None, more)

    def summary(self, job_id: str, audience: str = "all", namespace: str | None = None) -> Summary:
        """See Store. Reads every row of the job."""
        wanted = reading.chooser(Selection(audience=audience), 0.0)
        space, rows = self._shown(job_id, namespace)
        entries = map(self._entry(job_id, space), rows.iterator(_CHUNK))
        return reading.summarize(job_id, filter(wanted, entries))

    def delete(self, job_id: str, namespace: str | None = None) -> int:
        """See Store."""
        return int(self._rows(job_id, self._space(namespace)).delete()[0])

    def prune(
        self, older_than: float, keep: int | None = None, dry_run: bool = False, namespace: str | None = None
    ) -> int:
        """See Store."""
        if keep is not None:
            raise JobLogError("a log in a table of the project's own is pruned by age: leave --keep out")
        until = _moment(_field(self._model, self._created), older_than)
        rows = self._all(self._space(namespace)).filter(**{f"{self._created}__lt": until})
        return rows.count() if dry_run else int(rows.delete()[0])

    def _space(self, namespace: str | None) -> str:
        """Whose lines are meant. Raises ConfigurationError where the table does not say whose they are."""
        space = context.current_namespace() if namespace is None else clean(namespace)
        if space and not self._store.has_namespace():
            raise ConfigurationError(f"{self._store.no_namespace()}: {NAMESPACE_ADVICE}")
        return space

    def _all(self, space: str) -> models.QuerySet[Any]:
        """The rows of a namespace. Those that do not say whose they are, as other code adds them, have none."""
        rows = self._model._base_manager.using(self._store.alias)
        name = self._store._lookup("namespace")
        if name is None:
            return rows
        stated = models.Q(**{name: space})
        return rows.filter(stated if space else stated | models.Q(**{f"{name}__isnull": True}))

    def _shown(self, job_id: str, namespace: str | None) -> tuple[str, models.QuerySet[Any]]:
        """The namespace, and the rows of a job in it that are not older than the job."""
        space = self._space(namespace)
        rows = self._rows(job_id, space)
        if (since := reading.shown_since(job_id, space)) > 0:
            rows = rows.filter(**{f"{self._created}__gte": _moment(_field(self._model, self._created), since)})
        return space, rows

    def _rows(self, job_id: str, space: str) -> models.QuerySet[Any]:
        rows = self._all(space)
        field = self._store._job_field(self._model)
        try:
            key = field.target_field.to_python(job_id) if isinstance(field, models.ForeignKey) else clean(job_id)
            return rows.filter(**{field.attname: key})
        except (ValidationError, ValueError):
            return rows.none()

    def _floor(self) -> int:
        try:
            return settled_floor(connections[self._store.alias], self._model._meta.db_table)
        except JobLogError as error:
            raise SinkUnavailableError(str(error)) from error

    def _page_down(
        self,
        rows: models.QuerySet[Any],
        job: tuple[str, str],
        selection: Selection,
        limit: int,
        *,
        floor: int,
        marks: Sequence[int],
        last: int | None,
        folds: reading.Folds,
    ) -> Page:
        given = frozenset(marks)
        entry_of, wanted = self._entry(*job), reading.chooser(selection, 0.0)

        def downwards() -> Iterator[tuple[int, Entry]]:
            place = last
            while True:
                part = rows.order_by(f"-{self._created}", "-pk")
                if place is not None:
                    at = rows.filter(pk=place).values_list(self._created, flat=True).first()
                    if at is None:
                        return  # deleted meanwhile, and with it what is older
                    part = part.filter(**{f"{self._created}__lte": at}).exclude(**{self._created: at, "pk__gte": place})
                found = list(part[:_CHUNK])
                for row in found:
                    place = row.pk
                    if row.pk <= floor or row.pk in given:
                        entry = entry_of(row)
                        if wanted(entry):
                            yield row.pk, entry
                if len(found) < _CHUNK:
                    return

        entries, end = reading.take_newest(downwards(), reading.positive(limit), folds)
        earlier = None if end is None else reading.encode(_KIND, floor, list(marks), end, folds.seen())
        return Page(entries, reading.encode(_KIND, floor, list(marks)), earlier)

    def _entry(self, job_id: str, space: str) -> Callable[[Any], Entry]:
        columns = self._store._columns
        created_field = _field(self._model, self._created)

        def entry_of(row: Any) -> Entry:
            context_of = getattr(row, columns["context"], None) if "context" in columns else None
            fields = dict(context_of) if isinstance(context_of, dict) else {}
            ours = fields.pop(_OURS, None)
            if not isinstance(ours, dict):
                ours = {}

            def get(name: str, default: Any) -> Any:
                return getattr(row, columns[name]) if name in columns else ours.get(name, default)

            level = get("level", None)
            if level is None:
                level = logging.getLevelNamesMapping().get(str(get("level_name", "INFO")).upper(), logging.INFO)
            own_fields = get("fields", {})
            return Entry(
                job_id,
                _seconds(created_field, getattr(row, self._created)),
                int(level),
                get("logger", ""),
                str(getattr(row, columns.get("message") or columns["text"])),
                get("exception", None) or None,
                {**fields, **own_fields} if isinstance(own_fields, dict) else fields,
                get("path", ""),
                get("line", 0),
                str(get("origin", "table")),
                int(get("seq", row.pk)),
                int(get("n", 0)),
                space,
                str(get("audience", "all")),
            )

        return entry_of


def _field(model: type[models.Model], name: str) -> Any:
    return model._meta.get_field(name)


def _fits(field: Any, job_id: str) -> bool:
    try:
        field.target_field.to_python(job_id)
    except ValidationError:
        return False
    return True


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > _MAX_MARKS or not all(map(reading.is_number, value)):
        raise ValueError("no ids")
    return value


def _moment(field: Any, created: float) -> Any:
    """`created` as the column has times: a date and time (naive without USE_TZ), microseconds, or seconds."""
    if isinstance(field, models.DateTimeField):
        aware = dt.datetime.fromtimestamp(created, dt.UTC)
        from django.conf import settings

        return aware if settings.USE_TZ else timezone.make_naive(aware, timezone.get_default_timezone())
    return created if isinstance(field, models.FloatField) else round(created * 1_000_000)


def _seconds(field: Any, value: Any) -> float:
    if isinstance(value, dt.datetime):
        if timezone.is_naive(value):
            value = timezone.make_aware(value, timezone.get_default_timezone())
        return float(value.timestamp())
    return float(value) if isinstance(field, models.FloatField) else float(value) / 1_000_000


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
