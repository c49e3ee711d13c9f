"""Who may see what on the site of the browser tests: by the job's name."""

from __future__ import annotations

from django.http import HttpRequest


def may_see(request: HttpRequest, job_id: str) -> bool | str:
    """Nobody `private…`, everything of `staff…`, the lines for all of everything else."""
    if job_id.startswith("private"):
        return False
    return "staff" if job_id.startswith("staff") else True
