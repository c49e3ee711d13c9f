"""Why does a job not get on? Probes look at its queue, its row and its log; rules find the cause."""

from __future__ import annotations

from .case import Diagnosis, Evidence
from .probing import Probe, ProbeResult
from .telling import keep_telling, tell_changes
from .verdict import Verdict, examine, examine_now

__all__ = [
    "Diagnosis",
    "Evidence",
    "Probe",
    "ProbeResult",
    "Verdict",
    "examine",
    "examine_now",
    "keep_telling",
    "tell_changes",
]
