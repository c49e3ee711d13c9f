"""Entries as JSON and as lines of a page. Log text is hostile: what it may do to a reader is undone here.

Called by the views. Escaping for HTML is the template's, which escapes everything.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from django.utils import timezone

from ..._pipeline.reading import fold_of, stands_for
from ..._pipeline.text import UNPRINTABLE
from ...entry import TALLY_FIELDS, Audience, Entry
from .levels import level_class

__all__ = ["Row", "as_json", "day_and_time", "rows", "visible"]

# One answer holds about so many characters of log text; a line beyond that only its beginning.
_BUDGET: Final = 4_000_000
_LONG: Final = 20_000
_SHORT: Final = 500

_COLOURS: Final = re.compile(r"\x1b\[[0-9;:]*m")


class _Budget:
    """Cuts texts so that all of them together stay bounded."""

    def __init__(self) -> None:
        self._left = _BUDGET
        self.is_cut = False

    def cut(self, text: str) -> str:
        limit = max(_SHORT, min(_LONG, self._left))
        self._left -= min(limit, len(text))
        if len(text) <= limit:
            return text
        self.is_cut = True
        return f"{text[:limit]}… [{len(text) - limit} more characters]"


def as_json(entries: Iterable[Entry], audience: Audience) -> list[dict[str, Any]]:
    """Entries as the endpoint gives them; where in the code a line was logged is for staff."""
    budget = _Budget()
    found = []
    for entry in entries:
        budget.is_cut = False
        line: dict[str, Any] = {
            **entry.as_dict(),
            "levelno": entry.level,
            "message": budget.cut(entry.message),
            "exception": None if entry.exception is None else budget.cut(entry.exception),
        }
        fields = json.dumps(line["fields"], default=str)
        if budget.cut(fields) != fields:
            line["fields"] = {name: line["fields"][name] for name in TALLY_FIELDS if name in line["fields"]}
        if budget.is_cut:
            line["cut"] = True
        if audience == "staff":
            line["audience"] = entry.audience
        else:
            del line["path"], line["line"]
        found.append(line)
    return found


def as_streams(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Entries as two lists of texts, ERROR and above in the second; the newest first, for pages written that way."""
    budget = _Budget()
    found: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for entry in reversed(list(entries)):
        moment = dt.datetime.fromtimestamp(entry.created, timezone.get_current_timezone())
        text = f"[{moment:%Y-%m-%d %H:%M:%S}] {entry.level_name} {budget.cut(entry.message)}{stands_for(entry)}"
        found["stderr" if entry.level >= logging.ERROR else "stdout"].append(text)
    return found


class Row(NamedTuple):
    """A line of the page, as text."""

    anchor: str
    time: str
    iso: str
    level: str
    css: str
    logger: str
    message: str
    exception: str
    fields: Sequence[tuple[str, str]]
    folded: int
    is_for_staff: bool


def rows(entries: Iterable[Entry]) -> list[Row]:
    """Entries as lines of a page, their times in the zone that is active for this request."""
    budget = _Budget()
    zone = timezone.get_current_timezone()
    moments = [(entry, dt.datetime.fromtimestamp(entry.created, zone)) for entry in entries]
    # In the night in which clocks are put back the same hour comes twice.
    is_ambiguous = len({moment.utcoffset() for _, moment in moments}) > 1
    return [_row(entry, moment, budget, is_ambiguous) for entry, moment in moments]


def _row(entry: Entry, moment: dt.datetime, budget: _Budget, with_offset: bool) -> Row:
    return Row(
        anchor=f"{entry.origin}:{entry.seq}",
        time=_text_of(moment, with_offset),
        iso=moment.isoformat(timespec="milliseconds"),
        level=visible(entry.level_name),
        css=level_class(entry.level),
        logger=visible(budget.cut(entry.logger)),
        message=visible(budget.cut(entry.message)),
        exception=visible(budget.cut(entry.exception or "")),
        fields=_fields(entry, budget),
        folded=folded if fold_of(entry) and isinstance(folded := entry.fields["folded"], int) else 0,
        is_for_staff=entry.audience != "all",
    )


def _fields(entry: Entry, budget: _Budget) -> list[tuple[str, str]]:
    hidden = TALLY_FIELDS if fold_of(entry) else ()
    shown = {name: value for name, value in entry.fields.items() if name not in hidden}
    return [(visible(budget.cut(name)), visible(budget.cut(_text(value)))) for name, value in shown.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def day_and_time(created: float) -> str:
    """A time as the page shows it, in the active zone, with its offset."""
    return _text_of(dt.datetime.fromtimestamp(created, timezone.get_current_timezone()), with_offset=True)


def _text_of(moment: dt.datetime, with_offset: bool) -> str:
    text = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"
    return f"{text} {moment:%z}" if with_offset else text


def visible(text: str) -> str:
    """`text` without colour codes; what a terminal must not obey is shown here, too. joblog.js does the same."""
    if text.isascii() and text.isprintable():
        return text
    return UNPRINTABLE.sub(_shown, _COLOURS.sub("", text.replace("\r\n", "\n")))


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return "\u2421" if code == 0x7F else f"\\u{code:04x}"
