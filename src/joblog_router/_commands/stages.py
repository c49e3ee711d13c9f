"""How far a job is, stage by stage, how fast that goes and how long it will take: what `status` and `watch` show.

Pure functions and small objects on what the doctor saw.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from ..doctor.case import Case, span

__all__ = ["Paces", "Stage", "bar", "lines_of", "stages_of"]

_WIDTH: Final = 20
_NAME: Final = 12
# A rate is that of the last minute: what was before is no measure of what comes.
_REMEMBERED: Final = 60.0


class Stage(NamedTuple):
    """`share` from 0 to 1; `done` of `total` where it is counted, else None."""

    name: str
    share: float
    done: int | None = None
    total: int | None = None
    status: str = ""


class Paces:
    """What was counted at earlier looks, by stage. For one thread."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, float]]] = {}

    def add(self, stages: list[Stage], at: float | None = None) -> None:
        """Remember what is counted now."""
        now = time.monotonic() if at is None else at
        for stage in stages:
            seen = self._seen.setdefault(stage.name, deque(maxlen=1000))
            value = stage.share if stage.done is None else float(stage.done)
            if seen and value < seen[-1][1]:
                seen.clear()  # it began anew
            seen.append((now, value))
            while now - seen[0][0] > _REMEMBERED:
                seen.popleft()

    def rate(self, stage: Stage) -> float | None:
        """Per second: of tasks, or of the share where nothing is counted. None before there is a second look."""
        seen = self._seen.get(stage.name)
        if not seen or len(seen) < 2:
            return None
        (first, before), (last, now) = seen[0], seen[-1]
        return (now - before) / (last - first) if last > first else None


def stages_of(case: Case) -> list[Stage]:
    """The stages that the job, its interface or its counters tell of; else the job as one."""
    told = case.job.get("stages") or case.facts("rest").get("stages") or ()
    found = [_stage(stage) for stage in told]
    if not found and (total := case.total):
        counted = {name: case.counter(name) for name in ("process", "results")}
        found = [
            Stage(name, _share(total - left, total), total - left, total)
            for name, left in counted.items()
            if left is not None
        ]
    if not found and case.total and case.handled is not None:
        found = [Stage("tasks", _share(case.handled, case.total), case.handled, case.total)]
    if not found and case.progress is not None:
        found = [Stage("job", case.progress)]
    if not found:
        found = [
            Stage("queue", _share(consumer["ack_floor"], stream["last_seq"]), consumer["ack_floor"], stream["last_seq"])
            for stream, consumer in case.consumers[:1]
            if stream["last_seq"] and consumer["ack_floor"] <= stream["last_seq"]
        ]
    return found


def lines_of(stages: list[Stage], paces: Paces | None = None) -> Iterator[str]:
    """A bar for each, with what is counted; with `paces` the rate and how long it will take at that."""
    for stage in stages:
        parts = [f"{stage.name[:_NAME]:<{_NAME}} {bar(stage.share)} {100 * stage.share:5.1f} %"]
        if stage.done is not None and stage.total is not None:
            parts.append(f"{stage.done:,} of {stage.total:,}")
        if stage.status:
            parts.append(stage.status)
        rate = paces.rate(stage) if paces is not None else None
        if rate is not None and stage.share < 1:
            parts.append(_rate(stage, rate))
            if rate > 0:
                left = (1 - stage.share) if stage.done is None else (stage.total or 0) - stage.done
                parts.append(f"about {span(left / rate)} to go")
        yield "  ".join(parts)


def bar(share: float) -> str:
    """A share as characters."""
    full = round(_WIDTH * min(1.0, max(0.0, share)))
    return f"[{'#' * full}{'.' * (_WIDTH - full)}]"


def _rate(stage: Stage, rate: float) -> str:
    if rate <= 0:
        return "0/s"
    if stage.done is None:
        return f"{6000 * rate:.1f} %/min"
    return f"{rate:,.1f}/s" if rate >= 0.1 else f"{60 * rate:.1f}/min"


def _share(done: float, total: float) -> float:
    return min(1.0, max(0.0, done / total)) if total else 0.0


def _stage(told: Mapping[str, Any]) -> Stage:
    name = str(told.get("key") or told.get("name") or "stage")
    total, done, left = (_whole(told.get(key)) for key in ("total", "processed", "remaining"))
    if done is None and total is not None and left is not None:
        done = total - left
    share = told.get("progress")
    if not isinstance(share, int | float) or isinstance(share, bool):
        share = _share(done, total) if done is not None and total else 0.0
    return Stage(name, _share(share, 1), done if total else None, total or None, str(told.get("status") or ""))


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
