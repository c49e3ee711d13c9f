"""The rows of a table of the project's own as a store. Selections beyond the job are made here, not in the database.

Called by the sink "model" for readers, on their threads, with Django's connection there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import connections, models

from ... import context
from ..._pipeline import reading
from ..._pipeline.text import clean
from ...entry import Audience, Entry
from ...exceptions import ConfigurationError, JobLogError, SinkUnavailableError
from ...sinks.store import ALL, Page, Selection, Summary
from .model_columns import NAMESPACE_ADVICE, Columns
from .ordering import settled_floor

__all__ = ["ModelReader"]

_KIND: Final = "t1"
_CHUNK: Final = 1_000
_MAX_MARKS: Final = 1_000


class ModelReader:
    """Reads the rows of `columns` in the database `alias`."""

    def __init__(self, columns: Columns, alias: str) -> None:
        self._columns = columns
        self._alias = alias
        self._model = columns.model()
        self._created = columns.name_of("created")

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
        settled = self._floor()
        if old > settled:
            # Made up, or older than the table: no further than the rows that there are.
            old = min(old, self._last())
        floor = max(old, settled)
        space, rows = self._shown(job_id, namespace)
        found = list(rows.filter(pk__gt=old).exclude(pk__in=marks).order_by("pk")[: limit + 1])
        more = len(found) > limit
        if more:
            found.pop()
            floor = max(old, min(floor, found[-1].pk))
        marks = [pk for pk in (*marks, *(row.pk for row in found)) if pk > floor][-_MAX_MARKS:]
        wanted = reading.chooser(selection, 0.0)
        entries = [entry for entry in map(self._entries_of(job_id, space), found) if wanted(entry)]
        return Page(reading.in_order(entries), reading.encode(_KIND, floor, marks), None, more)

    def summary(self, job_id: str, audience: Audience = "all", namespace: str | None = None) -> Summary:
        """See Store. Reads every row of the job."""
        wanted = reading.chooser(Selection(audience=audience), 0.0)
        space, rows = self._shown(job_id, namespace)
        entries = map(self._entries_of(job_id, space), rows.iterator(_CHUNK))
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
        until = self._columns.moment(self._model, older_than)
        rows = self._all(self._space(namespace)).filter(**{f"{self._created}__lt": until})
        return rows.count() if dry_run else int(rows.delete()[0])

    def _space(self, namespace: str | None) -> str:
        """Whose lines are meant. Raises ConfigurationError where the table does not say whose they are."""
        space = context.current_namespace() if namespace is None else clean(namespace)
        if space and not self._columns.has_namespace():
            raise ConfigurationError(f"{self._columns.no_namespace()}: {NAMESPACE_ADVICE}")
        return space

    def _all(self, space: str) -> models.QuerySet[Any]:
        """The rows of a namespace. Those that do not say whose they are, as other code adds them, have none."""
        rows = self._model._base_manager.using(self._alias)
        name = self._columns.lookup("namespace")
        if name is None:
            return rows
        stated = models.Q(**{name: space})
        return rows.filter(stated if space else stated | models.Q(**{f"{name}__isnull": True}))

    def _shown(self, job_id: str, namespace: str | None) -> tuple[str, models.QuerySet[Any]]:
        """The namespace, and the rows of a job in it that are not older than the job."""
        space = self._space(namespace)
        rows = self._rows(job_id, space)
        if (since := reading.shown_since(job_id, space)) > 0:
            rows = rows.filter(**{f"{self._created}__gte": self._columns.moment(self._model, since)})
        return space, rows

    def _rows(self, job_id: str, space: str) -> models.QuerySet[Any]:
        rows = self._all(space)
        field = self._columns.job_field(self._model)
        try:
            key = field.target_field.to_python(job_id) if isinstance(field, models.ForeignKey) else clean(job_id)
            return rows.filter(**{field.attname: key})
        except (ValidationError, ValueError):
            return rows.none()

    def _floor(self) -> int:
        try:
            return settled_floor(connections[self._alias], self._model._meta.db_table)
        except JobLogError as error:
            raise SinkUnavailableError(str(error)) from error

    def _last(self) -> int:
        return int(self._model._base_manager.using(self._alias).aggregate(last=models.Max("pk"))["last"] or 0)

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
        entry_of, wanted = self._entries_of(*job), reading.chooser(selection, 0.0)

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

    def _entries_of(self, job_id: str, space: str) -> Callable[[Any], Entry]:
        return self._columns.entries_of(self._model, job_id, space)


def _ids(value: Any) -> list[int]:
    if not isinstance(value, list) or len(value) > _MAX_MARKS or not all(map(reading.is_number, value)):
        raise ValueError("no ids")
    return value
