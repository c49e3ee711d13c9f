"""Why does a job not get on? Probes look at its queue, its row and its log; rules find the cause.

Called by commands, the page and whoever looks periodically, on their threads or loop, never by the writer. Imports
stores, the pipeline for its figures, contribs by name. What looks is a probe (`probing`, `builtin`, `rest`, contribs)
and may fail alone; what finds the cause is a pure function of what the probes saw (`rules` and the modules that it
lists); `verdict` puts both together.
"""

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
