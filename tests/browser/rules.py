"""Who may see what on the site of the browser tests, and what it tells of jobs: by the job's name."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest


def may_see(request: HttpRequest, job_id: str) -> bool | str:
    """Nobody `private…`, everything of `staff…`, the lines for all of everything else."""
    if job_id.startswith("private"):
        return False
    return "staff" if job_id.startswith("staff") else True


def header(request: HttpRequest, job_id: str) -> dict[str, Any] | None:
    """Of two jobs only."""
    if job_id not in ("failed", "staff-failed"):
        return None
    stages = [{"name": "collect", "progress": 1.0}, {"name": "process", "progress": 0.25, "status": "stopped"}]
    verdict = "The disk was full."
    return {"status": "FAILURE", "failed": True, "progress": 0.5, "stages": stages, "done": True, "verdict": verdict}
