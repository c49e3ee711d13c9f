"""What the rules see: the results of all probes, by name, and the few things that most rules ask of them.

Made by `verdict`, read by the rules; imports `places`. No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .._nats_events import NatsEvent
from .places import number
from .probing import ProbeResult

__all__ = ["LIKELY", "POSSIBLE", "SURE", "Case", "Diagnosis", "Evidence", "since", "span"]

SURE: Final = "certain"
LIKELY: Final = "likely"
POSSIBLE: Final = "possible"


class Evidence(NamedTuple):
    """A figure or a line that shows it, whose it is, and how old in seconds (None: unknown)."""

    source: str
    text: str
    age: float | None = None


class Diagnosis(NamedTuple):
    """One cause: its name, one sentence, what shows it, what to do.

    `sure` is "certain", "likely" or "possible"; what is merely possible never becomes the verdict. `is_finding` is
    False where all is well.
    """

    cause: str
    sentence: str
    advice: str
    evidence: tuple[Evidence, ...] = ()
    sure: str = SURE
    is_finding: bool = True


_NOTHING: Final[Mapping[str, Any]] = {}
# So far clocks of machines may be apart before it matters, in seconds.
_CLOCKS: Final = 5.0
_LATELY: Final = 10
_OPEN: Final = frozenset({"queued", "running", "unknown"})


class Case:
    """One job at one moment. Made from results alone, so that a rule can be tried on any."""

    workers: Mapping[str, Any]
    processes: Mapping[str, Any]
    job: Mapping[str, Any]
    log: Mapping[str, Any]
    nats: Mapping[str, Any]
    redis: Mapping[str, Any]
    celery: Mapping[str, Any]
    pipeline: Mapping[str, Any]
    streams: list[Any]
    consumers: list[tuple[Any, Any]]
    before: Case | None

    def __init__(
        self,
        job_id: str,
        results: Mapping[str, ProbeResult],
        now: float,
        patience: float,
        before: Mapping[str, ProbeResult] | None = None,
    ) -> None:
        self.job_id = job_id
        self.results = results
        self.now = now
        self.patience = patience
        # An earlier look at the same job.
        self.before = Case(job_id, before, now, patience) if before else None
        # Outside the project's own process its interface is what tells of the row.
        self.job = self.facts("job") or self.facts("rest")
        self.log = self.facts("log")
        self.nats = self.facts("nats")
        self.redis = self.facts("redis")
        self.celery = self.facts("celery")
        self.pipeline = self.facts("pipeline")
        self.workers = self.facts("workers")
        self.processes = self.facts("processes")
        self.phase: str = self.job.get("phase", "unknown") if self.job.get("exists") else "unknown"
        self.streams = [stream for stream in self.nats.get("streams", ()) if stream["exists"]]
        self.consumers = [(stream, consumer) for stream in self.streams for consumer in stream["consumers"]]

    def facts(self, name: str) -> Mapping[str, Any]:
        """What the probe said, nothing where it was not asked or could not say."""
        result = self.results.get(name)
        return result.facts if result is not None and not result.error else _NOTHING

    def failed(self, name: str, fact: str) -> str:
        """Why the probe could not say, if `fact` is the reason; else ""."""
        result = self.results.get(name)
        return result.error if result is not None and result.error and result.facts.get(fact) else ""

    @property
    def knows_nats(self) -> bool:
        """Whether NATS answered."""
        return bool(self.nats)

    @property
    def is_open(self) -> bool:
        """Whether work may be expected of the job now."""
        return self.phase in _OPEN

    @property
    def total(self) -> int | None:
        """How many tasks the job has, if it or its counters say so."""
        return self._whole("total") or self.counter("total") or None

    @property
    def handled(self) -> int | None:
        """How many tasks are done or have failed, if the job says so."""
        done, total = self._whole("done"), self.total
        handled = None if done is None else done + (self._whole("failed") or 0)
        left = self.counter("results")
        if left is None or total is None or self.redis.get("lost"):
            return handled
        # The row may be written at the end only.
        return max(handled or 0, total - left)

    @property
    def progress(self) -> float | None:
        """From 0 to 1."""
        if self.total is not None and self.handled is not None:
            return min(1.0, self.handled / self.total)
        value = number(self.job.get("progress"))
        if value is not None:
            return float(value) if value <= 1 else min(1.0, value / 100)
        return None

    @property
    def has_moved(self) -> bool:
        """Whether the job got on between two looks: its progress, or its lines where there is none to be seen."""
        if self.before is None:
            return False
        for now, then in (
            (self.progress, self.before.progress),
            (self.handled, self.before.handled),
            (self.log.get("calm"), self.before.log.get("calm")),
        ):
            if now is not None and then is not None:
                return bool(now > then)
        return False

    @property
    def running_for(self) -> float | None:
        """Seconds since the job was started, or made."""
        return self.age(self.job.get("started") or self.job.get("created"))

    @property
    def silent_for(self) -> float | None:
        """Seconds since the last line of the log."""
        return self.age(self.log.get("last"))

    @property
    def calm_for(self) -> float | None:
        """Seconds since the last line of the log that is no error: errors alone are no getting on."""
        return self.age(self.log.get("calm", self.log.get("last")))

    def age(self, at: float | None) -> float | None:
        """How many seconds ago that was; None for a time to come: whoever wrote it has another clock."""
        if at is None or at > self.now + _CLOCKS:
            return None
        return max(0.0, self.now - at)

    def recent(self, name: NatsEvent) -> int:
        """Of how many messages a NATS event spoke of late: within ten times what one has patience for."""
        seen = self.event(name).get("seen") or ()
        return sum(count for at, count in seen if self.now - at <= _LATELY * self.patience)

    def event(self, name: NatsEvent) -> Mapping[str, Any]:
        """What the log tells of a NATS event; nothing where it tells of none."""
        found: Mapping[str, Any] = self.log.get("events", _NOTHING).get(name, _NOTHING)
        return found

    def is_old(self, seconds: float | None) -> bool:
        """Whether that is more than one has patience for; False where it is not known."""
        return seconds is not None and seconds > self.patience

    def counter(self, name: str) -> int | None:
        """A number that is kept in Redis. A set that is empty is not there: nothing is left in it."""
        values = self.redis.get("values") or {}
        if name not in values:
            return None
        value = values[name]
        return value if isinstance(value, int) else 0 if value is None and not self.redis.get("lost") else None

    def _whole(self, name: str) -> int | None:
        value = number(self.job.get(name))
        return None if value is None else int(value)


def span(seconds: float | None) -> str:
    """A duration as people say it: `4 min 10 s`."""
    if seconds is None:
        return "an unknown time"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172_800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} days"


def since(seconds: float | None) -> str:
    """`4 min 10 s ago`, or that it never was."""
    return "never" if seconds is None else f"{span(seconds)} ago"
