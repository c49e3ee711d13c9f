"""A job's state, from the probes to the verdict: what `joblog doctor`, the page and the periodic look use.

Called on any thread or loop that may wait; imports all of the doctor but `telling`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..sinks.opening import open_store
from ..sinks.store import Store
from .case import POSSIBLE, Case, Diagnosis, Evidence
from .configuration import Configuration, configured, probes_of
from .effective import Setting, effective
from .probing import ProbeResult, ask
from .progressing import TOO_EARLY
from .rules import RULES
from .unexplained import unexplained

__all__ = ["Verdict", "diagnose", "examine", "examine_now"]

_FEW: Final = 3
# Something is gone: looked at once more, with what the row and the log say then.
_FLEETING: Final = frozenset({"stream_deleted", "consumer_deleted", "redis_lost"})
_QUICK: Final = frozenset({"job", "log"})
_MOMENT: Final = 0.4
# What tells how far a job is, looked at once more after so long where a single look decides nothing.
_MOVING: Final = frozenset({"job", "log", "redis", "rest"})
_WHILE: Final = 0.8
# What comes of facts that are not as our probes give them.
_OTHER_FACTS: Final = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Verdict:
    """What is known of one job: the verdict, what else it may be, and what each probe said. `at` is epoch seconds."""

    job_id: str
    diagnosis: Diagnosis
    others: tuple[Diagnosis, ...] = ()
    results: Mapping[str, ProbeResult] = field(default_factory=dict)
    settings: tuple[Setting, ...] = ()
    at: float = 0.0
    took: float = 0.0

    @property
    def is_finding(self) -> bool:
        """Whether something is to be done, or is not understood."""
        return self.diagnosis.is_finding

    @property
    def failures(self) -> dict[str, str]:
        """The probes that could not say anything, and why."""
        return {name: result.error for name, result in self.results.items() if result.error}

    def as_dict(self, with_results: bool = True) -> dict[str, Any]:
        """Plain data for JSON."""
        found: dict[str, Any] = {
            "job_id": self.job_id,
            "at": self.at,
            "took": self.took,
            **_as_dict(self.diagnosis),
            "others": [_as_dict(one) for one in self.others],
            "failures": self.failures,
            "settings": [one._asdict() for one in self.settings],
        }
        if with_results:
            found["probes"] = {name: result._asdict() for name, result in self.results.items()}
        return found


def diagnose(
    job_id: str,
    results: Mapping[str, ProbeResult],
    now: float,
    patience: float,
    before: Mapping[str, ProbeResult] | None = None,
) -> Verdict:
    """The verdict on what probes saw, now and `before`. A rule that fails is left out: it must not cost the answer."""
    case = Case(job_id, results, now, patience, before)
    found: list[Diagnosis] = []
    for rule in RULES:
        try:
            diagnosis = rule(case)
        except _OTHER_FACTS:
            continue  # a probe of the project's own took the place of ours and says other things
        if diagnosis is not None:
            found.append(diagnosis)
    verdict = next((one for one in found if one.sure != POSSIBLE), None) or unexplained(case)
    others = [one for one in found if one is not verdict and one.is_finding]
    return Verdict(job_id, verdict, tuple(others[:_FEW]), results, _settings(case), now)


def _settings(case: Case) -> tuple[Setting, ...]:
    try:
        return effective(case)
    except _OTHER_FACTS:
        return ()  # as for the rules


async def examine(
    job_id: str,
    store: Store | None = None,
    configuration: Configuration | None = None,
    namespace: str | None = None,
    before: Mapping[str, ProbeResult] | None = None,
) -> Verdict:
    """Ask all probes about a job and judge. Raises ConfigurationError for a setting that cannot be used.

    `before` are the results of an earlier look, which show whether the job has got on since; without them it is looked
    at once more where nothing else tells. An empty mapping: neither.
    """
    configuration = configuration or configured()
    clock = time.monotonic()
    probes = probes_of(configuration, store or open_store(), namespace)
    results = await ask(probes, job_id, configuration.TIMEOUT)
    verdict = diagnose(job_id, results, time.time(), configuration.PATIENCE, before)
    if verdict.diagnosis.cause == TOO_EARLY and before is None:
        before = results
        await asyncio.sleep(_WHILE)
        later = [probe for probe in probes if probe.name in _MOVING]
        results = {**results, **await ask(later, job_id, configuration.TIMEOUT)}
        verdict = diagnose(job_id, results, time.time(), configuration.PATIENCE, before)
    if verdict.diagnosis.cause in _FLEETING:
        # A job that just ends takes its queue away first, and says so a moment later.
        await asyncio.sleep(_MOMENT)
        later = [probe for probe in probes if probe.name in _QUICK]
        results = {**results, **await ask(later, job_id, configuration.TIMEOUT)}
        verdict = diagnose(job_id, results, time.time(), configuration.PATIENCE, before)
    return Verdict(**{**verdict.__dict__, "took": round(time.monotonic() - clock, 3)})


def examine_now(job_id: str, **given: Any) -> Verdict:
    """`examine` for code without an event loop."""
    return asyncio.run(examine(job_id, **given))


def _as_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    return {**diagnosis._asdict(), "evidence": [one._asdict() for one in _evidence(diagnosis)]}


def _evidence(diagnosis: Diagnosis) -> Sequence[Evidence]:
    return list(diagnosis.evidence)
