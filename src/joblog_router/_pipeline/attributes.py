"""Which attributes of a record are whose: those of every record, of formatters, of this library; the rest is `extra`.

The one place that knows the reserved words. On the hot path some are written out all the same: a literal is found
faster. Called on the logging thread by filter, handler and `capture`; imports `primitives`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from .primitives import field_name, freeze

if TYPE_CHECKING:
    from .scopes import JobScope

STAMP: Final = "_joblog"
"""Whose record it is, left by whichever of filter and handler meets it first."""
ADDRESS: Final = "job_log_id"
"""In `extra`: the job a record is about."""
AUDIENCE: Final = "job_log"
"""In `extra` and in a scope's fields: False for no job, or the audience of the line."""
JOB_ID: Final = "job_id"
"""What JobContextFilter writes for other handlers; in `extra` it is evidence, never an address."""

# A bare record: how many attributes it has, and the last of them. Whatever stands behind that one in a record's
# __dict__ was added: extra, a record factory's attributes, a formatter's, our stamp. Where it is missing somebody took
# attributes off (`taskName` is a common one), and the length tells nothing.
BARE: Final = logging.LogRecord("", 0, "", 0, "", (), None).__dict__
BARE_LENGTH: Final = len(BARE)
BARE_LAST: Final = next(reversed(BARE))
DOUBTS: Final[list[None]] = [None]
"""Empty while a record's length tells whether it is bare: after many lines, none of which lacked an attribute."""
_ENOUGH: Final = 1000
_seen = 0
_are_slimmed = False
_STAMPED_LENGTH: Final = BARE_LENGTH + 2


def _make_room() -> None:
    """Have the interpreter keep a place for our attributes in every record.

    An object's attributes stand in a fixed row until one comes for which there is none; then that object gets a hash
    table of its own, for a tenth of a logging call. The row is as long as the first few objects of a class need it.
    """
    record = logging.LogRecord("", 0, "", 0, "", (), None)
    setattr(record, STAMP, None)
    setattr(record, JOB_ID, None)


_make_room()
# Formatters leave the first ones; none of them is anybody's extra.
_NOT_EXTRA: Final = frozenset({"message", "asctime", "exc_text", "taskName", AUDIENCE, ADDRESS, JOB_ID, STAMP})


def is_bare(attributes: dict[str, Any]) -> bool:
    """Whether a record has what every record has, and nothing else. Written out on the hot path."""
    if len(attributes) == BARE_LENGTH and next(reversed(attributes)) == BARE_LAST:
        return True
    if len(attributes) <= BARE_LENGTH or (DOUBTS and not _are_slimmed and not BARE.keys() <= attributes.keys()):
        _doubt()
    return False


def _doubt() -> None:
    """Somebody takes attributes off: from now on the last one is looked at, too."""
    global _are_slimmed
    _are_slimmed = True
    if not DOUBTS:
        DOUBTS.append(None)


def ends_bare(attributes: dict[str, Any]) -> bool:
    """Whether nothing stands behind what every record has. For a record of that length, and only while in doubt."""
    global _seen
    if next(reversed(attributes)) != BARE_LAST:
        return False
    _seen += 1
    if _seen > _ENOUGH and not _are_slimmed:
        DOUBTS.clear()
    return True


def lacks_something(record: logging.LogRecord) -> bool:
    """Whether a record lacks what every record has."""
    return not BARE.keys() <= record.__dict__.keys()


def completed(record: logging.LogRecord) -> logging.LogRecord:
    """A copy of a record that lacks what every record has, with it."""
    whole = logging.LogRecord("", logging.INFO, "", 0, "", (), None)
    whole.__dict__.update(record.__dict__)
    return whole


def put_on(attributes: dict[str, Any], scope: JobScope) -> None:
    """What JobContextFilter leaves on a record that is about `scope`'s job; what is there already stays."""
    attributes.setdefault(JOB_ID, scope.job_id)
    attributes.setdefault(STAMP, scope)
    fields = scope.fields
    for name in fields:
        if name not in attributes:
            attributes[name] = fields[name]


def extras_of(added: dict[str, Any], fields: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the call passed in `extra`, frozen to primitives, without this library's own keys. None if nothing.

    `fields` are the scope's, which JobContextFilter has put on the record too.
    """
    if len(added) == _STAMPED_LENGTH and JOB_ID in added and STAMP in added and not DOUBTS:
        return None  # JobContextFilter has seen it, and nobody else
    found: dict[str, Any] | None = None
    for key in reversed(added):
        if key == BARE_LAST:
            break
        if key in BARE:
            continue  # the last one was taken off
        if key in _NOT_EXTRA and (key != AUDIENCE or not isinstance(added[key], str)):
            continue  # a text under "job_log" is the line's audience; the writer takes it out again
        value = added[key]
        if key in fields and fields[key] is value:
            continue
        name = key if type(key) is str and key.isidentifier() else field_name(key)
        if name[:1] == "_":
            continue
        if found is None:
            found = {}
        found[name] = freeze(value)
    return found
