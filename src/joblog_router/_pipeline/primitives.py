"""Turn values of the application into text, numbers and containers of them, at the moment they are logged.

Called on the logging thread for `extra` and scope fields, so it runs no code of the application's objects:
their `repr` might query a database, log, or show a secret.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import math
import numbers
import os
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .text import MAX_FIELD, clean, clip

_MAX_DEPTH = 4
_MAX_ITEMS = 100
_EXACT = frozenset({int, bool, type(None)})
_TEXT_LIKE = (uuid.UUID, decimal.Decimal, os.PathLike)
_DATES = (datetime.datetime, datetime.date, datetime.time)
_MAX_DIGITS = 10**300


def freeze_fields(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """A read-only copy of `fields` that holds primitives only. Never raises."""
    return MappingProxyType({clean(str(key)): freeze(value) for key, value in fields.items()})


def freeze(value: Any, depth: int = 0) -> Any:
    """A JSON-ready copy of `value`; what is neither text, number, date nor container becomes `<name of its type>`.

    Containers are cut after 100 items and 4 levels, text after 10,000 characters. Never raises.
    """
    kind = type(value)
    if kind is str:
        return clean(clip(value, MAX_FIELD))
    if kind in _EXACT:
        return value if kind is not int or -_MAX_DIGITS < value < _MAX_DIGITS else "<huge int>"
    if kind is float:
        return value if math.isfinite(value) else str(value)
    try:
        return _freeze_other(value, depth)
    except Exception:
        return _name_of(value)


def _freeze_other(value: Any, depth: int) -> Any:
    if isinstance(value, enum.Enum):
        return freeze(value.value, depth + 1) if depth < _MAX_DEPTH else _name_of(value)
    if isinstance(value, str):
        return clean(clip(str.__str__(value), MAX_FIELD))
    if isinstance(value, _DATES):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, _TEXT_LIKE):
        return clean(clip(os.fspath(value) if isinstance(value, os.PathLike) else str(value), MAX_FIELD))
    if isinstance(value, dict | list | tuple | set | frozenset | MappingProxyType):
        return _freeze_container(value, depth)
    if isinstance(value, numbers.Integral):
        return freeze(int(value))
    if isinstance(value, numbers.Real):
        return freeze(float(value))
    return _name_of(value)


def _freeze_container(value: Any, depth: int) -> Any:
    if depth >= _MAX_DEPTH:
        return _name_of(value)
    more = len(value) - _MAX_ITEMS
    if isinstance(value, dict | MappingProxyType):
        items = list(value.items())[:_MAX_ITEMS]
        frozen = {_key(key): freeze(item, depth + 1) for key, item in items}
        if more > 0:
            frozen["…"] = f"{more} more"
        return frozen
    listed = [freeze(item, depth + 1) for item in list(value)[:_MAX_ITEMS]]
    if more > 0:
        listed.append(f"… {more} more")
    return listed


def _key(key: Any) -> str:
    frozen = freeze(key, _MAX_DEPTH)
    return frozen if isinstance(frozen, str) else str(frozen)


def _name_of(value: Any) -> str:
    kind = type(value)
    return f"<{kind.__module__}.{kind.__qualname__}>" if kind.__module__ != "builtins" else f"<{kind.__qualname__}>"
