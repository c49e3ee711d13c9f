"""The job across the wire: the header that names it, on messages to the subjects that a setting lists.

Called by `publishing` on the event loop, once per message where that setting is used. The caller's own headers stay.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

from ...._pipeline.subjects import takes
from ....context import JobScope
from ..naming import header_text, namespace_header
from .state import Settings

# Where they stand among the arguments of `publish(subject, payload, timeout, stream, headers)`.
HEADERS: Final = 4


def with_header(
    settings: Settings, scope: JobScope, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of `publish(subject, payload, timeout, stream, headers)`, with the headers where they belong.

    Not where the caller has set it, where the subject names another job, or where the id is nothing a receiver takes.
    """
    subject = args[0] if args else kwargs.get("subject")
    if type(subject) is not str or not _is_listed(settings.header_subjects, subject):
        return args, kwargs
    job, name = scope.job_id, settings.header
    headers = args[HEADERS] if len(args) > HEADERS else kwargs.get("headers")
    if (headers and name in headers) or not _is_sendable(job):
        return args, kwargs
    # Without its namespace the id would name the receiver's job.
    if scope.namespace and not _is_sendable(scope.namespace):
        return args, kwargs
    if settings.patterns.jobs_in(subject) - {job}:
        return args, kwargs
    headers = {**(headers or {}), name: job}
    if scope.namespace:
        headers[namespace_header(name)] = scope.namespace
    if len(args) > HEADERS:
        return (*args[:HEADERS], headers, *args[HEADERS + 1 :]), kwargs
    return args, {**kwargs, "headers": headers}


def _is_sendable(value: str) -> bool:
    return header_text(value) == value and value.isascii()


@lru_cache(maxsize=4096)
def _is_listed(patterns: tuple[str, ...], subject: str) -> bool:
    return any(takes(pattern, subject) for pattern in patterns)
