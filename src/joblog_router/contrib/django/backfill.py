"""Old log lines, kept as JSON in a column of the jobs, into the log. For the command `joblog backfill`.

Called on the main thread of a command. A line is known by its list (model, column, path, namespace), its job and its
place among the job's lines, counted from the oldest: running it again, also after it was interrupted, adds only what is
new.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.utils.dateparse import parse_datetime

from ..._pipeline import rules
from ..._pipeline.primitives import freeze
from ..._pipeline.text import MAX_MESSAGE, clean, clip
from ...context import current_namespace
from ...entry import Entry
from ...exceptions import ConfigurationError
from ...sinks.opening import readable_sinks
from .levels import level_named
from .model_store import ModelStore
from .sink import DjangoSink
from .times import seconds_of

__all__ = ["Found", "backfill"]

_LINE: Final = re.compile(r"\[(?P<time>[^\]]{8,40})\] (?P<level>[A-Z]{1,20}) (?P<message>.*)", re.DOTALL)
_TIMES: Final = ("created", "created_at", "time", "timestamp", "asctime")
_TEXTS: Final = ("message", "msg", "text")
_BATCH: Final = 1_000


class Found(NamedTuple):
    """How many jobs had lines, how many lines, and how many values were no list of lines."""

    jobs: int
    lines: int
    unusable: int


def backfill(model: str, column: str, *, path: str = "", newest_first: bool = False, dry_run: bool = False) -> Found:
    """Write the lines in `column` of each row of `model` ("app.Model") into the log of the job with the row's key.

    A line is text like "[2025-01-31 10:00:00] INFO message", any other text, or an object with `message`, and perhaps
    `level` and `created`. `path` leads to the list inside the value ("stdout"). Goes to the table of a handler's sink
    "model" if there is one, else to this app's. Raises ConfigurationError where there is no such model or column.
    """
    try:
        source = apps.get_model(model)
        source._meta.get_field(column)
    except (LookupError, ValueError, FieldDoesNotExist) as error:
        raise ConfigurationError(f"{model} {column}: {error}") from error
    sink = _sink()
    # All that tells two lists apart: a column may hold several, and the tables of two tenants jobs of the same ids.
    parts = (f"{source._meta.label}.{column}", path, current_namespace())
    prefix = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    jobs = lines = unusable = 0
    batch: list[Entry] = []
    rows = source._base_manager.exclude(**{column: None}).order_by("pk").values_list("pk", column)
    for pk, value in rows.iterator(chunk_size=100):
        found = _list_in(value, path)
        if found is None:
            unusable += 1
            continue
        jobs += bool(found)
        lines += len(found)
        if dry_run:
            continue
        for entry in _entries(str(pk), found[::-1] if newest_first else found, prefix):
            batch.append(entry)
            if len(batch) >= _BATCH:
                sink.write(batch)
                batch = []
    if batch:
        sink.write(batch)
    sink.close()
    return Found(jobs, lines, unusable)


def _sink() -> DjangoSink | ModelStore:
    """A sink object of our own: the handler's belongs to the writer thread."""
    for sink in readable_sinks():
        if isinstance(sink, ModelStore):
            return sink.anew()
    return DjangoSink()


def _list_in(value: Any, path: str) -> list[Any] | None:
    for name in path.split(".") if path else ():
        if not isinstance(value, dict):
            return None
        value = value.get(name, [])
    return value if isinstance(value, list) else None


def _entries(job_id: str, found: list[Any], prefix: str) -> Iterator[Entry]:
    parsed = [_parsed(line) for line in found]
    created = next((created for created, *_ in parsed if created is not None), time.time())
    origin = f"backfill:{prefix}:{hashlib.sha256(job_id.encode()).hexdigest()[:16]}"
    for at, (own, level, message, fields) in enumerate(parsed, 1):
        created = created if own is None else own
        entry = Entry(
            job_id=clean(job_id),
            created=created,
            level=level,
            logger="backfill",
            message=clean(clip(message, MAX_MESSAGE)),
            exception=None,
            fields=fields,
            path="",
            line=0,
            origin=origin,
            seq=at,
            n=0,
            namespace=current_namespace(),
        )
        yield from rules.Rules().finish([entry])


def _parsed(line: Any) -> tuple[float | None, int, str, dict[str, Any]]:
    if isinstance(line, dict):
        rest = dict(line)
        created = next((rest.pop(name) for name in _TIMES if name in rest), None)
        message = next((rest.pop(name) for name in _TEXTS if name in rest), "")
        level = rest.pop("level", rest.pop("levelname", "INFO"))
        fields = freeze(rest)
        return _time(created), _level(level), str(message), fields if isinstance(fields, dict) else {}
    match = _LINE.fullmatch(str(line))
    if match is None or _time(match["time"]) is None:
        return None, logging.INFO, str(line), {}
    return _time(match["time"]), _level(match["level"]), match["message"], {}


def _level(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return min(max(value, 0), 1_000)
    return logging.INFO if (named := level_named(value)) is None else named


def _time(value: Any) -> float | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value) if 0 <= value < 1e11 else None
    try:
        found = parse_datetime(value) if isinstance(value, str) else None
        return None if found is None else seconds_of(found)
    except (ValueError, OverflowError):
        return None
