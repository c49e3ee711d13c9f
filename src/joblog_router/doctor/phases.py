"""What a job's status means, whatever a project calls it.

Called by probes; pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..exceptions import ConfigurationError

__all__ = ["PHASES", "phase_of"]

PHASES: Final = ("created", "queued", "running", "canceling", "done", "failed", "canceled")

_WORDS: Final[Mapping[str, str]] = {
    word: phase
    for phase, words in {
        "created": "created new draft",
        "queued": "pending queued waiting scheduled received submitted",
        "running": "started running processing in_progress active retry busy",
        "canceling": "canceling cancelling revoking stopping aborting",
        "done": "success succeeded done finished complete completed ok",
        "failed": "failure failed error errored crashed",
        "canceled": "revoked canceled cancelled aborted stopped",
    }.items()
    for word in words.split()
}


def phase_of(status: str | None, own: Mapping[str, str] | None = None) -> str:
    """One of PHASES, or "unknown". `own` are the project's words. Raises ConfigurationError for a phase of its own."""
    if status is None:
        return "unknown"
    for word, phase in (own or {}).items():
        if phase not in PHASES:
            raise ConfigurationError(f"DOCTOR['JOB']['statuses'][{word!r}] must be one of {', '.join(PHASES)}")
        if word == status:
            return phase
    word = status.strip().lower().replace(" ", "_").replace("-", "_")
    return _WORDS.get(word.rpartition(".")[2], "unknown")
