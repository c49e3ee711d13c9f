"""What goes where in a table of the project's own: which field of its model takes what of an entry, there and back.

Called by the sink "model" on the writer thread and by readers on theirs. Imports no model; makes no query.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import models

from ..._pipeline.primitives import freeze
from ...entry import Entry
from ...exceptions import ConfigurationError, EntryRefusedError, SinkUnavailableError
from .levels import level_named
from .times import MICROSECONDS, datetime_of, seconds_of

__all__ = ["NAMESPACE_ADVICE", "Columns"]

NAMESPACE_ADVICE: Final = "map one of its fields to 'namespace', or a JSON column to 'context', or leave NAMESPACE out"

_SOURCES: Final = frozenset({*Entry._fields, "level_name", "text", "context"})
_KEYS: Final = frozenset({"job_id", "namespace"})
_OURS: Final = "joblog"
"""The key of a "context" column under which stands what has no column of its own."""
_KEPT: Final = ("logger", "path", "line", "origin", "seq", "n", "namespace", "audience")


class Columns:
    """Which fields of `label` ("app.Model") take what; `fields` is as ModelStore has it.

    Raises ConfigurationError for what is wrong in them; that there is such a model is seen when it is used.
    """

    label: str
    fields: Mapping[str, str]

    def __init__(self, label: str, fields: Mapping[str, str]) -> None:
        if not isinstance(label, str) or label.count(".") != 1:
            raise ConfigurationError(f"sink 'model': model must be like 'app.Model', not {label!r}")
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
        self.label = label
        self.fields = dict(fields)
        self._names = {source: name for name, source in fields.items()}

    def model(self) -> type[models.Model]:
        """The model. Raises SinkUnavailableError where there is none, or none with such fields."""
        if not apps.ready_event.wait(2):
            raise SinkUnavailableError("sink 'model': Django's apps are not loaded", "call django.setup() at the start")
        try:
            model = apps.get_model(self.label)
            for name in self.fields:
                model._meta.get_field(name)
        except (LookupError, FieldDoesNotExist) as error:
            raise SinkUnavailableError(f"sink 'model': {error}", "correct the handler's options") from error
        return model

    def name_of(self, source: str) -> str:
        """The name of the field that takes `source`."""
        return self._names[source]

    def job_field(self, model: type[models.Model]) -> Any:
        """The field that says which job a line is of: a foreign key, or text."""
        return model._meta.get_field(self._names["job_id"])

    def moment(self, model: type[models.Model], created: float) -> Any:
        """A time as the field for `created` has it."""
        return _moment(model._meta.get_field(self._names["created"]), created)

    def lookup(self, source: str) -> str | None:
        """How to filter by what of an entry: its column, or its place in the context."""
        if source in self._names:
            return self._names[source]
        return f"{self._names['context']}__{_OURS}__{source}" if "context" in self._names else None

    def has_namespace(self) -> bool:
        """Whether a row can say whose job it is of."""
        return self.lookup("namespace") is not None

    def no_namespace(self) -> str:
        """What is wrong where it cannot, and NAMESPACE is set."""
        return f"sink 'model': NAMESPACE is set, but {self.label} has no place that says whose job a line is of"

    # --- there ---------------------------------------------------------------------------------------------------

    def row_of(self, model: type[models.Model], entry: Entry) -> models.Model:
        """A row with the entry. Raises EntryRefusedError where the table cannot say what must not be left out."""
        if entry.audience != "all" and self.lookup("audience") is None:
            raise EntryRefusedError(f"{self.label} has no place that says that a line is for staff only")
        row = model()
        for name, source in self.fields.items():
            field: Any = model._meta.get_field(name)
            try:
                setattr(row, field.attname, self._value(field, source, entry))
            except ValidationError as error:
                raise EntryRefusedError(f"job {entry.job_id!r} is no id for {self.label}.{name}") from error
        return row

    def _value(self, field: Any, source: str, entry: Entry) -> Any:
        if source == "context":
            ours = {name: getattr(entry, name) for name in _KEPT if name not in self._names}
            if ours.get("audience") == "all":
                del ours["audience"]
            if entry.exception and not {"exception", "text"} & self._names.keys():
                ours["exception"] = entry.exception
            if "level" not in self._names:
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
                raise EntryRefusedError(f"{source} {value!r} is too long for {self.label}.{field.name}")
            return value[: field.max_length - 1] + "…"
        return dict(value) if source == "fields" else value

    # --- and back ------------------------------------------------------------------------------------------------

    def entries_of(self, model: type[models.Model], job_id: str, namespace: str) -> Callable[[Any], Entry]:
        """What makes lines of that job of rows."""
        names = self._names
        created_field = model._meta.get_field(names["created"])

        def entry_of(row: Any) -> Entry:
            context_of = getattr(row, names["context"], None) if "context" in names else None
            fields = dict(context_of) if isinstance(context_of, dict) else {}
            ours = fields.pop(_OURS, None)
            if not isinstance(ours, dict):
                ours = {}

            def get(name: str, default: Any) -> Any:
                return getattr(row, names[name]) if name in names else ours.get(name, default)

            level = get("level", None)
            if level is None:
                level = level_named(get("level_name", "INFO"))
            own_fields = get("fields", {})
            return Entry(
                job_id=job_id,
                created=_seconds(created_field, getattr(row, names["created"])),
                level=logging.INFO if level is None else int(level),
                logger=get("logger", ""),
                message=str(getattr(row, names.get("message") or names["text"])),
                exception=get("exception", None) or None,
                fields={**fields, **own_fields} if isinstance(own_fields, dict) else fields,
                path=get("path", ""),
                line=get("line", 0),
                origin=str(get("origin", "table")),
                seq=int(get("seq", row.pk)),
                n=int(get("n", 0)),
                namespace=namespace,
                audience="all" if get("audience", "all") == "all" else "staff",
            )

        return entry_of


def _moment(field: Any, created: float) -> Any:
    """`created` as the field has times: a date and time, seconds, or microseconds."""
    if isinstance(field, models.DateTimeField):
        return datetime_of(created)
    return created if isinstance(field, models.FloatField) else round(created * MICROSECONDS)


def _seconds(field: Any, value: Any) -> float:
    if isinstance(value, dt.datetime):
        return seconds_of(value)
    return float(value) if isinstance(field, models.FloatField) else float(value) / MICROSECONDS
