"""Where the facts of a job mostly are, in a row as in what a REST interface answers.

Called by probes and rules; pure functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from .._pipeline.text import clip
from ..exceptions import ConfigurationError

__all__ = ["MISSING", "NUMBERS", "PLACES", "TIMES", "at", "facts_from", "first_at", "number", "places_with", "stages"]

MISSING: Final = object()
# Dotted paths go into JSON columns and objects.
PLACES: Final[Mapping[str, tuple[str, ...]]] = {
    "status": ("status", "state"),
    "created": ("created_at", "created"),
    "started": ("started_at", "started"),
    "finished": ("finished_at", "finished", "completed_at", "ended_at"),
    "updated": ("updated_at", "modified_at", "updated", "modified"),
    "progress": ("progress.summary.progress", "progress"),
    "stages": ("progress.stages", "stages"),
    "total": ("total",),
    "done": ("done", "processed"),
    "failed": ("failed",),
}
TIMES: Final = frozenset({"created", "started", "finished", "updated"})
NUMBERS: Final = frozenset({"progress", "total", "done", "failed"})

_STAGE: Final = ("key", "name", "status", "progress", "percentage", "total", "processed", "remaining", "failed")
_MAX_STAGES: Final = 20
_MAX_TEXT: Final = 100
# Beyond it there is neither a count nor a time, and a whole number may be more than a float can be.
_MAX_NUMBER: Final = 1e18


def places_with(fields: Mapping[str, str] | None, setting: str) -> dict[str, tuple[str, ...]]:
    """The places of all facts, some as `setting` says. Raises ConfigurationError for one that is no fact."""
    given = fields or {}
    unknown = set(given) - set(PLACES)
    if unknown:
        raise ConfigurationError(f"{setting} has no fact {min(unknown)!r}. Known: {', '.join(PLACES)}")
    return {**PLACES, **{name: (path,) for name, path in given.items()}}


def at(value: Any, path: str) -> Any:
    """What is at the dotted path, in keys and attributes; MISSING where there is nothing."""
    for part in path.split("."):
        value = value.get(part, MISSING) if isinstance(value, Mapping) else getattr(value, part, MISSING)
        if value is MISSING:
            return value
    return value


def first_at(value: Any, paths: Iterable[str]) -> Any:
    """What is at the first of these paths where anything is; None where nothing is."""
    return next((found for path in paths if (found := at(value, path)) is not MISSING), None)


def number(value: Any) -> int | float | None:
    """A number that can be reckoned with, or None for whatever else it is: JSON as Python reads it has Infinity."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) <= _MAX_NUMBER else None  # a NaN is not, either


def stages(value: Any) -> list[dict[str, Any]]:
    """Stages as plain facts, from a list of them or from a mapping by name."""
    if isinstance(value, Mapping):
        value = [
            {"name": name, **stage} if isinstance(stage, Mapping) else {"name": name, "progress": stage}
            for name, stage in value.items()
        ]
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        return []
    found = []
    for stage in list(value)[:_MAX_STAGES]:
        facts = {name: fact for name in _STAGE if (fact := at(stage, name)) is not MISSING and fact is not None}
        percentage = number(facts.pop("percentage", None))
        if percentage is not None:
            facts.setdefault("progress", percentage / 100)
        found.append(
            {
                name: fact if isinstance(fact, bool) or number(fact) is not None else clip(str(fact), _MAX_TEXT)
                for name, fact in facts.items()
            }
        )
    return found


def facts_from(
    source: Any,
    places: Mapping[str, Iterable[str]],
    epoch: Callable[[Any], float | None],
    text: Callable[[Any], str],
) -> dict[str, Any]:
    """What stands in the `places` of a row or an answer, each as its kind: `epoch` makes seconds, `text` text."""
    facts: dict[str, Any] = {}
    for name, paths in places.items():
        value = first_at(source, paths)
        if name in TIMES:
            value = epoch(value)
        elif name in NUMBERS:
            value = number(value)
        elif name == "stages":
            value = stages(value)
        elif value is not None:
            value = text(value)
        facts[name] = value
    return facts
