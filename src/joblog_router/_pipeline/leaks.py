"""The places in the code whose records were in no job's log, or only just were: what `leak_report()` tells.

`note` runs on logging threads, only for records that something is wrong with: no lock, bounded, raises nothing. Imports
`stats`; called by `resolve`, by the router after a fork, and by who asks for the report, on any thread.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from .stats import Counter

LATE: Final = "late"
MARKED: Final = "marked"
CONFLICT: Final = "conflicts"
UNADDRESSED: Final = "unaddressed"
SERVICE: Final = "services"
GENERATOR: Final = "generators"

_MAX_SITES: Final = 1000

_WORDS: Final = {
    LATE: "logged {count} times in the closed scope of job {job_id!r}: await what works for the job inside its scope, "
    "or start what serves everybody in detached()",
    MARKED: "logged {count} times in the closed scope of job {job_id!r} and was kept with late=True",
    CONFLICT: "named job {named!r} inside the scope of job {job_id!r}, {count} times: address it with "
    "extra={{'job_log_id': ...}} or open that job's scope",
    UNADDRESSED: "named job {named!r} where no job is open, {count} times: open its scope with job_context()",
    SERVICE: "logged {count} times in a task or thread that serves everybody and had inherited job {job_id!r}",
    GENERATOR: "logged {count} times in a task or thread that inherited the scope of a generator: "
    "use wrap_stream() for that generator",
}


@dataclass(frozen=True, slots=True)
class CallSite:
    """A line of code and how many of its records it is about. `job_id` is the last scope's, `named` what it named."""

    logger: str
    path: str
    line: int
    count: int
    job_id: str | None
    named: str | None


@dataclass(frozen=True, slots=True)
class LeakReport:
    """What this process has seen since its start; false when it has seen nothing.

    `late`: records of closed scopes. `marked`: those kept by the late policy. `conflicts`: records that named another
    job than the open one. `unaddressed`: records that named a job where none was open (seen by JobContextFilter).
    `services`: shared loops that had inherited a job. `generators`: tasks and threads that inherited a generator's
    scope. `str()` gives a sentence for each place.
    """

    late: tuple[CallSite, ...] = ()
    marked: tuple[CallSite, ...] = ()
    conflicts: tuple[CallSite, ...] = ()
    unaddressed: tuple[CallSite, ...] = ()
    services: tuple[CallSite, ...] = ()
    generators: tuple[CallSite, ...] = ()
    # Records of further places, which are only counted.
    beyond: int = field(default=0)

    def __bool__(self) -> bool:
        return bool(self.late or self.marked or self.conflicts or self.unaddressed or self.services or self.generators)

    def __str__(self) -> str:
        lines = [
            f"{site.path}:{site.line} ({site.logger}) " + words.format(**asdict(site))
            for kind, words in _WORDS.items()
            for site in getattr(self, kind)
        ]
        if self.beyond:
            lines.append(f"and {self.beyond} records of other places")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Dictionaries, lists, text and numbers only."""
        return {kind: [asdict(site) for site in getattr(self, kind)] for kind in _WORDS} | {"beyond": self.beyond}


class _Site:
    __slots__ = ("counter", "job_id", "logger", "named")

    def __init__(self, logger: str) -> None:
        self.logger = logger
        self.counter = Counter()
        self.job_id: str | None = None
        self.named: str | None = None


_sites: dict[tuple[str, str, int], _Site] = {}
_beyond = Counter()


def note(kind: str, record: logging.LogRecord, job_id: str | None, named: str | None = None) -> None:
    """Count `record`'s place under `kind`. Any thread."""
    key = (kind, record.pathname, record.lineno)
    site = _sites.get(key)
    if site is None:
        if len(_sites) >= _MAX_SITES:
            _beyond.add()
            return
        site = _sites.setdefault(key, _Site(record.name))
    site.counter.add()
    site.job_id, site.named = job_id, named


def leak_report() -> LeakReport:
    """The places whose records went to no job's log, or went there late, since this process started. Never raises."""
    found: dict[str, list[CallSite]] = {kind: [] for kind in _WORDS}
    for (kind, path, line), site in list(_sites.items()):
        found[kind].append(CallSite(site.logger, path, line, site.counter.value(), site.job_id, site.named))
    ordered = {
        kind: tuple(sorted(sites, key=lambda site: (-site.count, site.path, site.line)))
        for kind, sites in found.items()
    }
    return LeakReport(**ordered, beyond=_beyond.value())


def forget() -> None:
    """Start anew: in the child of a fork, and for tests."""
    _sites.clear()
    _beyond.reset()
