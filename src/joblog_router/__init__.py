"""Put every record that is about a job into that job's own log, with no change at any call site.

    with job_context(job.pk):
        queue_images(job)          # any module logger called below lands in this job's log

Importing this package imports the standard library only.
"""

from __future__ import annotations

from ._pipeline.leaks import CallSite, LeakReport, leak_report
from ._pipeline.lifecycle import flush_on_sigterm
from ._pipeline.public import aflush, completeness, flush, stats
from ._pipeline.secrets import register_secret
from .context import JobScope, carry, current_job, detached, job_context, serves_everybody, wrap_stream
from .entry import Entry
from .exceptions import ConfigurationError, EntryRefusedError, JobLogError, MissingExtraError, SinkUnavailableError
from .filters import JobContextFilter, JobOnlyFilter
from .handlers import JobLogHandler

__version__ = "0.1.0"

__all__ = [
    "CallSite",
    "ConfigurationError",
    "Entry",
    "EntryRefusedError",
    "JobContextFilter",
    "JobLogError",
    "JobLogHandler",
    "JobOnlyFilter",
    "JobScope",
    "LeakReport",
    "MissingExtraError",
    "SinkUnavailableError",
    "aflush",
    "carry",
    "completeness",
    "current_job",
    "detached",
    "flush",
    "flush_on_sigterm",
    "job_context",
    "leak_report",
    "register_secret",
    "serves_everybody",
    "stats",
    "wrap_stream",
]
