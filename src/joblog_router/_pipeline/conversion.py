"""From the items of a channel's buffer to entries as the sink may see them, a batch at a time.

Runs on the writer thread, for every line: what is the same for a batch is looked up once for it. Called by `delivery`
with what is its own; may import what a line meets here (`folding`, `rules`), nothing of sinks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Final

from ..entry import LATEST, Entry
from . import settings
from .attributes import completed
from .exceptions import render_exception
from .tally import TallyRow, no_tally
from .text import clean

if TYPE_CHECKING:
    from .channel import Item
    from .folding import Folder
    from .missing import Missing
    from .rules import Asked, Rules, SeveralRules

# As Entry(...), without the Python function that a NamedTuple has for it.
_new: Final = tuple.__new__
_parts: Final = attrgetter("pathname", "lineno", "created")
_MAX_WHOLE: Final = 2**31 - 1


def convert(
    items: Iterable[Item],
    origin: str,
    asked: Asked,
    folder: Folder,
    missing: Missing,
    *,
    failed: Callable[[str, Exception], None],
) -> list[Entry]:
    """What is to be stored for `items`: lines, tallies in the place of lines. `failed` is told of what fails."""
    made: list[Entry] = []
    rules, fold, unfolded = asked
    limit = rules.limit()
    is_folded = settings.current.fold if fold is None else fold
    cleaned: dict[str, str] = {}  # loggers and paths, of which a batch has few
    for record, scope, seq, n, message, more, name, given in items:
        try:
            if isinstance(record, Entry):
                made.append(record._replace(seq=seq))
                continue
            missing.saw(scope)
            try:
                path, number, created = record.pathname, record.lineno, record.created
            except AttributeError:
                path, number, created = _parts(completed(record))
            level = given
            is_sound = type(level) is type(number) is int and type(created) is float and 0 < created < LATEST
            if not is_sound:
                created, level, number = _sound(created, level, number)
            if (logger := cleaned.get(name)) is None:
                logger = cleaned[name] = clean(name)
            if (place := cleaned.get(path)) is None:
                place = cleaned[path] = clean(path)
            extra, raised = more or _NOTHING
            fields = {**scope.fields, **extra} if extra else dict(scope.fields)
            line = _new(
                Entry,
                (
                    scope.job_id,
                    created,
                    level,
                    logger,
                    clean(message),
                    None if raised is None else clean(render_exception(raised)),
                    no_tally(fields) if fields else fields,
                    place,
                    number,
                    origin,
                    seq,
                    n,
                    scope.namespace,
                    "all",
                ),
            )
            entry: Entry | None = line
            if is_folded and not (unfolded and unfolded.wants(name)):
                entry = folder.pass_on(line, scope)
            if limit and entry is not None and not isinstance(entry, TallyRow):
                entry = folder.within(entry, scope, limit)
            if entry is not None:
                made.append(entry)
        except Exception as error:
            failed(scope.job_id, error)
    try:
        return rules.finish(made)
    except Exception:
        return _finished_one_by_one(rules, made, failed)


_NOTHING: Final = (None, None)


def _sound(created: object, level: object, number: object) -> tuple[float, int, int]:
    """What every store can hold for what somebody wrote into a record that was made by hand."""
    try:
        moment = float(created)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        moment = 0.0
    if not 0 < moment < LATEST:
        moment = time.time()
    return moment, _whole(level, logging.INFO), _whole(number, 0)


def _whole(value: object, otherwise: int) -> int:
    try:
        return min(max(int(value), -_MAX_WHOLE), _MAX_WHOLE)  # type: ignore[call-overload, no-any-return]
    except (TypeError, ValueError, OverflowError):
        return otherwise


def _finished_one_by_one(
    rules: Rules | SeveralRules, entries: Iterable[Entry], failed: Callable[[str, Exception], None]
) -> list[Entry]:
    finished = []
    for entry in entries:
        try:
            finished += rules.finish([entry])
        except Exception as error:
            failed(entry.job_id, error)
    return finished
