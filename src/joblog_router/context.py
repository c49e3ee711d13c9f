"""Scopes: which job the code that runs right now works for.

Where the application and contribs import from; the work is done in `_pipeline`: `scopes` (which scope counts here),
`lifetime` (opening and closing), `carrying`, `streams`, `namespaces`.
"""

from __future__ import annotations

from ._pipeline.carrying import carry, serves_everybody
from ._pipeline.lifetime import before_close, detached, job_context, job_context_in
from ._pipeline.namespaces import current_namespace, known_namespace, namespace_varies, use_namespace
from ._pipeline.scopes import JobScope, current_job, still_open
from ._pipeline.streams import wrap_stream

__all__ = [
    "JobScope",
    "before_close",
    "carry",
    "current_job",
    "current_namespace",
    "detached",
    "job_context",
    "job_context_in",
    "known_namespace",
    "namespace_varies",
    "serves_everybody",
    "still_open",
    "use_namespace",
    "wrap_stream",
]
