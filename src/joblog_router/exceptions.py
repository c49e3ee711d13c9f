"""One hierarchy of errors. Only configuration raises; what depends on the world is reported, counted and retried.

Imports nothing, so that everything may import it.
"""

from __future__ import annotations

__all__ = ["ConfigurationError", "EntryRefusedError", "JobLogError", "MissingExtraError", "SinkUnavailableError"]


class JobLogError(Exception):
    """Base of this library's errors: catch it to catch them all."""


class ConfigurationError(JobLogError, ValueError):
    """The configuration alone is wrong (a name, a type, a pattern): correct the setting the message names."""


class MissingExtraError(JobLogError, ImportError):
    """An optional package is not installed: run the pip line the message gives."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Run: pip install 'joblog-router[{extra}]'")


class EntryRefusedError(JobLogError):
    """For sinks to raise: this entry (or this job's entries) cannot be stored, others can."""


class SinkUnavailableError(JobLogError):
    """For sinks to raise: the store cannot be reached now; keep the whole batch and try again later.

    `advice` says what to do about it and is shown on stderr.
    """

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice
