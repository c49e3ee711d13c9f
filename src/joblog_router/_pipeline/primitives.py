"""Turn values of the application into text, numbers and containers of them, at the moment they are logged.

Called on the logging thread for `extra` and scope fields, so it runs no code of the application's objects: their `repr`
might query a database, log, or show a secret. Imports `text`. Never raises.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import numbers
import pathlib
import uuid
from collections.abc import Mapping
from itertools import islice
from types import MappingProxyType
from typing import Any

from .text import MAX_FIELD, clean, clip

_MAX_DEPTH = 4
_MAX_ITEMS = 100
_MAX_TOTAL = 1000
_EXACT = frozenset({int, bool, type(None)})
_DATES = (datetime.datetime, datetime.date, datetime.time)
_MAX_DIGITS = 10**300


def field_name(key: object) -> str:
    """The name of a field as it is stored."""
    return clean(key) if type(key) is str else str(freeze(key))


def freeze_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy of `fields` that holds primitives only. Never raises."""
    return MappingProxyType({field_name(key): freeze(value) for key, value in fields.items()})


def freeze(value: Any) -> Any:
    """A JSON-ready copy of `value`; what is neither text, number, date nor container becomes `<name of its type>`.

    Containers are cut after 100 items, 4 levels and 1,000 items in all, text after 10,000 characters. Never raises.
    """
    kind = type(value)
    if kind is str:
        return clean(clip(value, MAX_FIELD))
    if kind in _EXACT:
        return value if kind is not int or -_MAX_DIGITS < value < _MAX_DIGITS else "<huge int>"
    return _Freezer().freeze(value, 0)


class _Freezer:
    """One value's copy, with a budget: nested containers may hold more than anybody wants to wait for."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MAX_TOTAL

    def freeze(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is str:
            return clean(clip(value, MAX_FIELD))
        if kind in _EXACT:
            return value if kind is not int or -_MAX_DIGITS < value < _MAX_DIGITS else "<huge int>"
        if kind is float:
            return value if math.isfinite(value) else str(value)
        try:
            return self._other(value, kind, depth)
        except Exception:
            return _name_of(kind)

    def _other(self, value: Any, kind: type, depth: int) -> Any:
        # By type, never by isinstance: that asks a proxy for its class, which may load what it stands for.
        if issubclass(kind, enum.Enum):
            return self.freeze(value.value, depth + 1) if depth < _MAX_DEPTH else _name_of(kind)
        if issubclass(kind, str):
            return clean(clip(str.__str__(value), MAX_FIELD))
        if issubclass(kind, _DATES):
            return value.isoformat()
        if issubclass(kind, datetime.timedelta):
            return value.total_seconds()
        if issubclass(kind, uuid.UUID | decimal.Decimal | pathlib.PurePath):
            return clean(clip(str(value), MAX_FIELD))
        if issubclass(kind, dict | MappingProxyType):
            return self._mapping(value, depth)
        if issubclass(kind, list | tuple | set | frozenset):
            return self._sequence(value, depth)
        if issubclass(kind, numbers.Integral):
            return self.freeze(int(value), depth)
        if issubclass(kind, numbers.Real):
            return self.freeze(float(value), depth)
        return _name_of(kind)

    def _mapping(self, value: Any, depth: int) -> Any:
        if depth >= _MAX_DEPTH:
            return _name_of(type(value))
        frozen: dict[str, Any] = {}
        for key, item in islice(value.items(), self._take(len(value))):
            name = self.freeze(key, _MAX_DEPTH)
            frozen[name if type(name) is str else str(name)] = self.freeze(item, depth + 1)
        if len(value) > len(frozen):
            frozen["…"] = f"{len(value) - len(frozen)} more"
        return frozen

    def _sequence(self, value: Any, depth: int) -> Any:
        if depth >= _MAX_DEPTH:
            return _name_of(type(value))
        frozen = [self.freeze(item, depth + 1) for item in islice(value, self._take(len(value)))]
        if len(value) > len(frozen):
            frozen.append(f"… {len(value) - len(frozen)} more")
        return frozen

    def _take(self, length: int) -> int:
        taken = max(0, min(length, _MAX_ITEMS, self._left))
        self._left -= taken
        return taken


def _name_of(kind: type) -> str:
    return f"<{kind.__module__}.{kind.__qualname__}>" if kind.__module__ != "builtins" else f"<{kind.__qualname__}>"
