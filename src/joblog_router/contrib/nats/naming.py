"""Which job does a NATS name name? The one module that knows name patterns and the server's own subjects.

Called by the other modules of this package on the event loop, for every message received; answers from a
cache. Imports neither nats-py nor a running state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ...context import JobScope, known_namespace
from ...exceptions import ConfigurationError

DEFAULT_PATTERNS: Final = ("job_{job_id}", "job.{job_id}.", "job-{job_id}-")
DEFAULT_HEADER: Final = "Joblog-Job-Id"

_PLACE: Final = "{job_id}"
_UUID: Final = r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"
# The first group of a UUID alone must never pass for an id.
_JOB_ID: Final = rf"({_UUID}|(?!{_UUID})[0-9A-Za-z]+)"
_SEPARATORS: Final = frozenset("._-")
_MAX_CACHE: Final = 8192
_MAX_HEADER: Final = 200
# What could stand in the place of a wildcard.
_EXAMPLES: Final = {"*": "0", ">": "0.0"}
_NOBODY: Final[frozenset[str]] = frozenset()

# What the server says about a stream, or a stream's consumer, stands in the subject behind the kind of event.
_ABOUT: Final = re.compile(
    r"\$JS\.(?:EVENT\.(?:ADVISORY|METRIC)\.(?:STREAM|CONSUMER)\.[^.]+|(?:[^.]+\.)?API\.CONSUMER\.MSG\.NEXT)"
    r"\.([^.]+)(?:\.([^.]+))?\Z"
)


class Job(NamedTuple):
    """Which job: ids are a tenant's own. False without an id."""

    namespace: str
    job_id: str

    def __bool__(self) -> bool:
        return bool(self.job_id)

    @classmethod
    def of(cls, scope: JobScope) -> Job:
        """The job of a scope."""
        return cls(scope.namespace, scope.job_id)

    @classmethod
    def named(cls, job_id: str) -> Job | None:
        """The job of that id in the namespace in force here; None where that cannot be known."""
        namespace = known_namespace()
        return None if namespace is None else cls(namespace, job_id)


class Named(NamedTuple):
    """What a message's headers say: a job's id, and its namespace unless the sender did not know of any."""

    job_id: str
    namespace: str | None


class NamePatterns:
    """The patterns by which streams, consumers and subjects carry a job's id.

    `{job_id}` stands for a run of letters and digits, or a UUID. A pattern begins where a segment begins
    (segments are parted by dots). One that ends in a letter, a digit or `{job_id}` ends where a segment ends,
    so that `job_1` is not `job_11` and `job_12_dlq` names nobody; one that ends in `.`, `_` or `-` may be
    followed by anything. Raises ConfigurationError for anything but texts with one `{job_id}` beside other
    characters.
    """

    __slots__ = ("jobs_in", "patterns")

    jobs_in: Callable[[str], frozenset[str]]

    def __init__(self, patterns: Iterable[str] = DEFAULT_PATTERNS) -> None:
        if isinstance(patterns, str) or not isinstance(patterns, list | tuple):
            raise ConfigurationError(f"NATS: patterns must be a list of texts such as 'job_{_PLACE}', not {patterns!r}")
        self.patterns: Final = tuple(patterns)
        expressions = [_compiled(pattern) for pattern in patterns]

        @lru_cache(maxsize=_MAX_CACHE)
        def jobs_in(name: str) -> frozenset[str]:
            found = {match[1] for expression in expressions for match in expression.finditer(name)}
            return frozenset(found) if found else _NOBODY

        self.jobs_in = jobs_in

    def open_to_several(self, subject: str) -> bool:
        """Whether a stream's `subject` has a wildcard in the place of a job's id, and so serves many jobs."""
        if "*" not in subject and ">" not in subject:
            return False
        tokens = [_EXAMPLES.get(token, token) for token in subject.split(".")]
        return bool(self.jobs_in(".".join(tokens)) - self.jobs_in(subject))


def _compiled(pattern: Any) -> re.Pattern[str]:
    if not isinstance(pattern, str) or pattern.count(_PLACE) != 1:
        raise ConfigurationError(
            f"NATS: the pattern {pattern!r} must be a text that holds {_PLACE} once, such as 'job_{_PLACE}'"
        )
    before, after = pattern.split(_PLACE)
    if not (before + after).strip("."):
        raise ConfigurationError(
            f"NATS: the pattern {pattern!r} would take any name for a job's: write letters beside {_PLACE}"
        )
    end = "" if after[-1:] in _SEPARATORS else r"(?=\.|\Z)"
    return re.compile(rf"(?:\A|(?<=\.)){re.escape(before)}{_JOB_ID}{re.escape(after)}{end}")


def stream_of_reply(reply: str) -> tuple[str, str] | None:
    """Stream and consumer that delivered a message, by its `$JS.ACK` reply subject; None for core messages.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<sseq>.<cseq>.<time>.<pending>`, or the same behind
    `<domain>.<account>` with a token at the end (ADR-15).
    """
    if not reply.startswith("$JS.ACK."):
        return None
    tokens = reply.split(".")
    if len(tokens) == 9:
        return tokens[2], tokens[3]
    if len(tokens) >= 11:
        return tokens[4], tokens[5]
    return None


class Delivery(NamedTuple):
    """What a `$JS.ACK` reply subject says about one delivery of a message. `attempt` is 1 for the first."""

    stream: str
    consumer: str
    attempt: int
    stream_seq: int
    consumer_seq: int


def delivery_of_reply(reply: str) -> Delivery | None:
    """The delivery that a message's reply subject describes; None for core messages."""
    if not reply.startswith("$JS.ACK."):
        return None
    tokens = reply.split(".")
    if len(tokens) >= 11:
        del tokens[2:4]
    elif len(tokens) != 9:
        return None
    try:
        return Delivery(tokens[2], tokens[3], int(tokens[4]), int(tokens[5]), int(tokens[6]))
    except ValueError:
        return None


def stream_of_subject(subject: str) -> tuple[str, str] | None:
    """Stream and consumer (or "") that a message of the server is about: an advisory, a pull, an ack."""
    if not subject.startswith("$JS."):
        return None
    about = _ABOUT.match(subject)
    if about is not None:
        return about[1], about[2] or ""
    return stream_of_reply(subject)


def namespace_header(name: str) -> str:
    """The header that holds the namespace of the job that the header `name` names."""
    return f"{name}-Namespace"


def job_in_header(headers: Mapping[str, Any] | None, name: str) -> Named | None:
    """The job that the header `name` names, or None. Values that are no plain short text count as absent."""
    if not headers:
        return None
    job_id = header_text(headers.get(name))
    return None if job_id is None else Named(job_id, header_text(headers.get(namespace_header(name))))


def header_text(value: object) -> str | None:
    """A header's value if it can be a job's id or a namespace."""
    if not isinstance(value, str):
        return None
    value = value.strip()
    return value if value and len(value) <= _MAX_HEADER and value.isprintable() else None
