"""Reading job logs out of the table: pages, a cursor that never skips a line, sums, deletion.

Called by readers on their own threads, with Django's connection of that thread.

Ids are handed out before commit: a row with a smaller id may appear after one with a larger. A cursor is therefore a
settled floor (every row up to it was visible, see `ordering`) and, of this job's rows above it that were given, the
last id of each origin: an origin writes one transaction after the other, so that its rows appear in the order of ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from django.db import DatabaseError, InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.models import Max, Q, QuerySet, TextField
from django.db.models.functions import Cast

from ..._pipeline import reading
from ..._pipeline.namespaces import in_force
from ..._pipeline.report import report_once
from ..._pipeline.text import clean
from ...entry import Audience, Entry
from ...exceptions import ConfigurationError, JobLogError, SinkUnavailableError
from ...sinks.store import ALL, Page, Selection, Summary
from . import conf, sums
from .connection import PrivateConnection
from .faults import unavailable, unknown_alias
from .keys import stored_key
from .models import JobLogEntry, JobLogQuerySet, JobLogSum, forget_sums, has_sums
from .ordering import settled_floor
from .rows import READ_COLUMNS, StoredRow, entry_of, place_of
from .times import MICROSECONDS

__all__ = ["DjangoStore"]

_KIND: Final = "d1"
# Rows in one deleting transaction: some tens of milliseconds, in which no other process writes to SQLite.
_CHUNK: Final = 5_000
# Origins in a cursor, whose length this bounds. What more of them write at one moment is given a little later. More in
# a cursor are made up: each is a condition that every row of the log would be held against.
_MAX_MARKS: Final = 100


class _Seen(NamedTuple):
    """What a reader has: rows up to `floor`, and of each origin in `marks` those up to that id."""

    floor: int
    marks: dict[str, int]

    def has(self, row_id: int, origin: str) -> bool:
        return row_id <= self.floor or row_id <= self.marks.get(origin, 0)


class DjangoStore:
    """The job logs in a database alias; None takes that of JOBLOG_ROUTER["DATABASE"], each time it is used."""

    def __init__(self, database: str | None = None) -> None:
        given: object = database
        if given is not None and (not isinstance(given, str) or not given):
            raise ConfigurationError(f"DjangoStore: database must be an alias in DATABASES, not {database!r}")
        self._database = database

    @property
    def alias(self) -> str:
        """The database alias read from."""
        return self._database or conf.database_alias()

    def newest(self, job_id: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None) -> Page:
        """See Store."""
        with self.opened(job_id, namespace) as log:
            # Before the rows: what is committed from here on is given by `after`.
            floor = log.settled_floor()
            above = log.rows.filter(id__gt=floor).order_by()
            # Not by the column itself: SQLite may go through the whole table by its index to have groups in order.
            by_origin = above.annotate(of=Cast("origin", TextField())).values_list("of").annotate(last=Max("id"))
            seen = _Seen(floor, dict(by_origin[:_MAX_MARKS]))
            return log.page_down(selection, limit, seen, None, reading.Folds())

    def before(
        self, job_id: str, earlier: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store. Rows that were committed since the page before are left to `after`."""
        seen, more = _decoded(earlier, 3)
        created, row_id, folds = more
        with self.opened(job_id, namespace) as log:
            return log.page_down(selection, limit, seen, (created, row_id), folds)

    def after(
        self, job_id: str, cursor: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        seen = _decoded(cursor, 0)[0] if cursor else _Seen(0, {})
        limit = reading.positive(limit)
        with self.opened(job_id, namespace) as log:
            settled = log.settled_floor()
            seen = log.possible(seen, settled)
            floor = max(seen.floor, settled)
            rows = log.selected(selection).filter(id__gt=seen.floor)
            if seen.marks:
                given = Q()
                for origin, last in seen.marks.items():
                    given |= Q(origin=origin, id__lte=last)
                rows = rows.exclude(given)
            found = read_rows(rows.order_by("id"), limit + 1)
            more = len(found) > limit
            if more:
                # Rows behind this page may be below the floor of now.
                found.pop()
                floor = max(seen.floor, min(floor, place_of(found[-1])[0]))
            marks = {origin: last for origin, last in seen.marks.items() if last > floor}
            entries = []
            for row in found:
                row_id, _, origin = place_of(row)
                if row_id > floor:
                    if origin not in marks and len(marks) >= _MAX_MARKS:
                        continue
                    marks[origin] = row_id
                entries.append(log.entry_of(row))
            return Page(reading.in_order(entries), _encoded(_Seen(floor, marks)), None, more)

    def summary(self, job_id: str, audience: Audience = "all", namespace: str | None = None) -> Summary:
        """See Store. Looks at the rows that no sums are kept of: at most some thousands, if their writer keeps them."""
        with self.opened(job_id, namespace) as log:
            self._keep_sums(log)
            counting, error_id, error = log.add_up(audience)
            # One that sums tell of and that is gone: there may be others.
            if error_id is not None and error is None and sums.check(log.place):
                counting, _, error = log.add_up(audience)
            return counting.summary(None if error is None else log.entry_of(error))

    def _keep_sums(self, log: _Log) -> None:
        """Have the sums over a long log kept, for this reader and the next ones; a database may refuse it."""
        try:
            sums.extend(log.place)
        except (DatabaseError, JobLogError) as error:
            report_once(
                ("sums", log.alias),
                f"no sums over long logs are kept in database {log.alias!r}, their figures take longer: {error}",
            )

    def delete(self, job_id: str, namespace: str | None = None) -> int:
        """See Store. Lines that are being written at the moment may come after it."""
        with self.opened(job_id, namespace) as log:
            return _delete_summed(log.rows, log.place.sums)

    def prune(
        self, older_than: float, keep: int | None = None, dry_run: bool = False, namespace: str | None = None
    ) -> int:
        """See Store."""
        until = round(older_than * MICROSECONDS)
        space = in_force(namespace)
        with self._reading() as all_rows:
            rows = all_rows.filter(namespace=stored_key(space))
            old = rows.filter(created__lt=until)
            kept = JobLogSum.objects.using(self.alias).filter(namespace=stored_key(space))
            count = old.count() if dry_run else _delete_summed(old, kept.filter(oldest__lt=until))
            if keep is not None:
                for job in _jobs_of(rows):
                    of_job = rows.filter(job_id=job)
                    # The first that is one too many; rows of one moment are told apart by id.
                    last = of_job.order_by("-created", "-id").values_list("created", "id")[keep : keep + 1].first()
                    if last is not None:
                        created, row_id = last
                        beyond = of_job.filter(created__lte=created).exclude(created=created, id__gt=row_id)
                        if dry_run:
                            count += beyond.filter(created__gte=until).count()
                        else:
                            count += _delete_summed(beyond, kept.filter(job_id=job, oldest__lte=created))
            if not dry_run and has_sums(self.alias):
                for job in list(kept.order_by().values_list("job_id", flat=True).distinct()):
                    sums.check(sums.Log(self.alias, stored_key(space), job))
            return count

    def jobs(self, namespace: str) -> list[str]:
        """The ids of all jobs that have lines in a namespace."""
        with self._reading() as rows:
            return list(_jobs_of(rows.filter(namespace=stored_key(namespace))))

    def count(self, job_id: str, namespace: str) -> int:
        """How many rows a job's log has."""
        with self.opened(job_id, namespace) as log:
            return log.rows.count()

    @contextmanager
    def opened(self, job_id: str, namespace: str | None) -> Iterator[_Log]:
        """The rows of a job while they are read. What the database says becomes SinkUnavailableError."""
        job = clean(str(job_id))
        space = in_force(namespace)
        with self._reading() as rows:
            place = sums.Log(self.alias, stored_key(space), stored_key(job))
            yield _Log(self.alias, job, space, rows.filter(namespace=place.namespace, job_id=place.job_id), place)

    @contextmanager
    def _reading(self) -> Iterator[JobLogQuerySet]:
        """All rows of the alias. Turns what the database says into SinkUnavailableError."""
        alias = self.alias
        if alias not in connections.settings:
            raise unknown_alias(alias)
        try:
            private = PrivateConnection(alias) if _has_old_snapshot(connections[alias]) else None
            if private is None:
                yield JobLogEntry.objects.using(alias)
                return
            try:
                with private.in_place():
                    yield JobLogEntry.objects.using(alias)
            finally:
                private.close()
        except (DatabaseError, InterfaceError) as error:
            if not connections[alias].in_atomic_block:
                connections[alias].close()  # the next call begins with a new one: the server may have been restarted
            raise unavailable(alias, error, "cannot be read") from error


class _Log:
    """The rows of one job."""

    def __init__(self, alias: str, job_id: str, namespace: str, rows: JobLogQuerySet, place: sums.Log) -> None:
        self.alias = alias
        self.job_id = job_id
        self.namespace = namespace
        self.rows = rows
        self.place = place

    def settled_floor(self) -> int:
        try:
            return settled_floor(connections[self.alias], JobLogEntry._meta.db_table)
        except JobLogError as error:
            raise SinkUnavailableError(str(error)) from error

    def possible(self, seen: _Seen, settled: int) -> _Seen:
        """`seen` of a cursor, which may be made up or older than the table: no further than the rows that there are.

        Where rows that a reader has are gone, those that come have larger ids all the same.
        """
        if max((seen.floor, *seen.marks.values())) <= settled:
            return seen
        last = JobLogEntry.objects.using(self.alias).aggregate(last=Max("id"))["last"] or 0
        return _Seen(min(seen.floor, last), {origin: min(at, last) for origin, at in seen.marks.items()})

    def since(self) -> int:
        """From when on lines are shown, in microseconds."""
        return max(0, round(reading.shown_since(self.job_id, self.namespace) * MICROSECONDS))

    def add_up(self, audience: Audience) -> tuple[reading.Counting, int | None, StoredRow | None]:
        counting = reading.Counting(self.job_id)
        error_id = sums.add_up(self.place, counting, audience, self.since())
        errors = [] if error_id is None else read_rows(self.rows.filter(pk=error_id), 1)
        return counting, error_id, errors[0] if errors else None

    def selected(self, selection: Selection) -> JobLogQuerySet:
        rows = self.rows
        if (since := self.since()) > 0:
            rows = rows.filter(created__gte=since)
        if selection.level > 0:
            rows = rows.filter(level__gte=min(selection.level, 2**15 - 1))
        if selection.audience != "staff":
            rows = rows.filter(audience="all")
        if selection.logger:
            rows = rows.filter(Q(logger=selection.logger) | Q(logger__startswith=f"{selection.logger}."))
        if selection.origin:
            rows = rows.filter(origin=clean(selection.origin))
        if selection.text:
            text = clean(selection.text)
            rows = rows.filter(Q(message__icontains=text) | Q(exception__icontains=text))
        return rows

    def page_down(
        self, selection: Selection, limit: int, seen: _Seen, end: tuple[int, int] | None, folds: reading.Folds
    ) -> Page:
        """The page before the row at `end`, or the newest, of those rows that `seen` has."""
        limit = reading.positive(limit)
        entries, last = reading.take_newest(self._downwards(selection, limit, seen, end), limit, folds)
        earlier = None if last is None else _encoded(seen, *last, folds.seen())
        return Page(entries, _encoded(seen), earlier)

    def _downwards(
        self, selection: Selection, limit: int, seen: _Seen, end: tuple[int, int] | None
    ) -> Iterator[tuple[tuple[int, int], Entry]]:
        rows = self.selected(selection).order_by("-created", "-id")
        while True:
            # Two conditions, of which the first is a range of the index.
            part = rows if end is None else rows.filter(created__lte=end[0]).exclude(created=end[0], id__gte=end[1])
            found = read_rows(part, limit + 1)
            for row in found:
                row_id, created, origin = place_of(row)
                end = (created, row_id)
                # Not asked of the database: with it in the query SQLite takes an index in another order, and sorts.
                if seen.has(row_id, origin):
                    yield end, self.entry_of(row)
            if len(found) <= limit:
                return

    def entry_of(self, row: StoredRow) -> Entry:
        return entry_of(row, self.job_id, self.namespace)


def read_rows(rows: JobLogQuerySet, most: int) -> list[StoredRow]:
    """The first `most` of `rows`, in their order."""
    return list(rows.values_list(*READ_COLUMNS)[:most])


def _has_old_snapshot(connection: BaseDatabaseWrapper) -> bool:
    """Whether the caller's transaction sees the table as it was earlier, while who is writing is told as of now."""
    if connection.vendor != "postgresql" or not connection.in_atomic_block:
        return False
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_isolation")
        return cursor.fetchone()[0] not in ("read committed", "read uncommitted")


def _delete_summed(rows: JobLogQuerySet, kept: QuerySet[JobLogSum]) -> int:
    """Delete `rows` and the sums over them: before, as it may be interrupted, and what a reader made meanwhile."""
    forget_sums(kept.all())
    count = _delete(rows)
    forget_sums(kept.all())
    return count


def _delete(rows: JobLogQuerySet) -> int:
    """Delete `rows`, a few at a time, each in a transaction of its own (unless the caller has one open)."""
    rows = rows.order_by("id")
    count = 0
    while True:
        ids = list(rows.values_list("id", flat=True)[:_CHUNK])
        if not ids:
            return count
        count += rows.order_by().filter(id__lte=ids[-1]).delete_oldest()
        if len(ids) < _CHUNK:
            return count


def _jobs_of(rows: JobLogQuerySet) -> Iterator[str]:
    """The ids of all jobs, from one to the next by the index: the table may hold millions of rows of each."""
    job = rows.order_by("job_id").values_list("job_id", flat=True).first()
    while job is not None:
        yield job
        job = rows.filter(job_id__gt=job).order_by("job_id").values_list("job_id", flat=True).first()


# --- cursors -------------------------------------------------------------------------------------------------


def _encoded(seen: _Seen, *more: Any) -> str:
    return reading.encode(_KIND, seen.floor, seen.marks, *more)


def _decoded(text: str, more: int) -> tuple[_Seen, Any]:
    """What `_encoded` took: a cursor, or with three more parts an `earlier`."""
    try:
        floor, marks, *rest = reading.decode(text, _KIND)
        if not reading.is_number(floor) or len(rest) != more:
            raise ValueError("no position")
        seen = _Seen(floor, reading.marks_of(marks, _MAX_MARKS))
        if not more:
            return seen, ()
        created, row_id, folds = rest
        if type(created) is not int or abs(created) >= 2**63 or not reading.is_number(row_id):
            raise ValueError("no position")
        return seen, (created, row_id, reading.Folds(folds))
    except (ValueError, TypeError) as error:
        raise reading.foreign(text) from error
