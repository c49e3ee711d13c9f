"""What a sink's options are called in a spool segment: the same in the next process, which has other addresses, other
hash seeds and objects of its own.

Called where logging is configured, never on the way of a record. Imports nothing of ours.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from collections.abc import Mapping
from typing import Any, Final

_DEEPEST: Final = 8
_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")
_SIMPLE: Final = (str, bytes, int, float, complex, bool, type(None))


def digest(value: object) -> str:
    """A short name of `value`; it also keeps passwords among the options out of the segment."""
    return hashlib.blake2b(describe(value).encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


def describe(value: Any, depth: int = 0) -> str:
    """`value` as text without anything that is of this process alone: functions by dotted path, sets sorted."""
    if type(value) in _SIMPLE:
        return repr(value)
    name = _dotted(type(value))
    if depth == _DEEPEST:
        return name
    deeper = depth + 1
    if isinstance(value, Mapping):
        return name + _joined(sorted(f"{describe(key, deeper)}: {describe(value[key], deeper)}" for key in value))
    if isinstance(value, set | frozenset):
        return name + _joined(sorted(describe(item, deeper) for item in value))
    if isinstance(value, list | tuple):
        return name + _joined([describe(item, deeper) for item in value])
    if isinstance(value, type):
        return _dotted(value)
    if isinstance(value, functools.partial):
        return name + describe((value.func, value.args, value.keywords), deeper)
    if inspect.ismethod(value):
        return f"{_dotted(value.__func__)} of {describe(value.__self__, deeper)}"
    if inspect.isfunction(value):
        return _dotted(value) + _told_apart(value, deeper)
    try:
        return f"{name} {_ADDRESS.sub('', repr(value))}"
    except Exception:
        return name


def _told_apart(function: Any, depth: int) -> str:
    """What tells one function from another of the same path: what it closes over, and a lambda's own code."""
    if "<" not in function.__qualname__:
        return ""
    held = [describe(_content(cell), depth) for cell in function.__closure__ or ()]
    if function.__name__ == "<lambda>":
        code = function.__code__
        held += [describe(code.co_names), describe([const for const in code.co_consts if type(const) in _SIMPLE])]
    return _joined(held)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # not filled yet


def _dotted(named: Any) -> str:
    return f"{getattr(named, '__module__', '')}.{getattr(named, '__qualname__', '')}"


def _joined(parts: list[str]) -> str:
    return f"({', '.join(parts)})"
