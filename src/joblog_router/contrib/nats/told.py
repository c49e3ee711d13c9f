"""What can be told in a job's log: every event's level and sentence, and the words that sentences share.

The one module that knows them, as docs/nats-events.md has them in its tables; nothing reads a sentence back, the fields
and the names (`_nats_events`) are for that. `tell` is called on the event loop by the modules that notice events, and
makes one ordinary record.
"""

from __future__ import annotations

import logging
from logging import ERROR, INFO, WARNING
from typing import Any, Final, NamedTuple

from ..._nats_events import LOGGER_NAME, NatsEvent
from ..._pipeline.resolve import address
from .naming import Job

LOGGER: Final = logging.getLogger(LOGGER_NAME)

_MAX_SHOWN: Final = 3
_MAX_NAMES: Final = 5
_MAX_LISTED: Final = 1_000
_MAX_REASON: Final = 200


class Told(NamedTuple):
    """One event, one sentence."""

    event: NatsEvent
    level: int
    sentence: str


# Streams and consumers: what this process asks for (`%s`: "NATS stream s", "consumer c of NATS stream s").
STREAM_CREATED: Final = Told("nats.stream.created", INFO, "Created %s (subjects %s, max age %s)")
STREAM_REUSED: Final = Told("nats.stream.reused", INFO, "Reusing %s (last_seq=%s, %s messages)")
STREAM_VANISHED: Final = Told(
    "nats.stream.vanished",
    ERROR,
    "NATS stream %s %s: the %s message%s that this job had published into it %s gone, unless delivered before",
)
CONSUMER_CREATED: Final = Told("nats.consumer.created", INFO, "Created %s (%s)")
CONSUMER_REUSED: Final = Told("nats.consumer.reused", INFO, "Reusing %s: %s (%s)")
CONSUMER_DRIFTED: Final = Told(
    "nats.consumer.drift",
    WARNING,
    "Consumer %s of NATS stream %s was there and keeps its configuration; what was passed is ignored: %s",
)
CONSUMER_FINAL: Final = Told("nats.consumer.final", INFO, "Deleting %s: %s%s")
DELETED: Final = {
    "stream": Told("nats.stream.deleted", INFO, "Deleted %s"),
    "consumer": Told("nats.consumer.deleted", INFO, "Deleted %s"),
}
WAS_GONE: Final = {
    "stream": Told("nats.stream.delete_failed", INFO, "%s was already gone"),
    "consumer": Told("nats.consumer.delete_failed", INFO, "%s was already gone"),
}
FAILED: Final = {
    "stream": Told("nats.stream.failed", WARNING, "Could not %s %s: %s"),
    "consumer": Told("nats.consumer.failed", WARNING, "Could not %s %s: %s"),
}
DELETE_FAILED: Final = {
    "stream": Told("nats.stream.delete_failed", WARNING, "Could not %s %s: %s"),
    "consumer": Told("nats.consumer.delete_failed", WARNING, "Could not %s %s: %s"),
}

# Publishing.
PUBLISHING: Final = Told("nats.publish.progress", INFO, "Queued %s%s messages to %s so far%s%s")
PUBLISH_FAILED: Final = Told("nats.publish.failed", WARNING, "Publishing to %s%s%s: %s%s")
PUBLISHED: Final = Told("nats.publish.summary", INFO, "Published %s%s%s%s%s")
PUBLISHED_SOME: Final = PUBLISHED._replace(level=WARNING)

# Fetching and answering, in this process.
FETCHED_FIRST: Final = Told(
    "nats.fetch.first",
    INFO,
    "Worker %s fetched its first batch from %s: %s of %s messages asked for (consumer_seq %s)",
)
RECEIVED_FIRST: Final = Told("nats.fetch.first", INFO, "Worker %s received its first message from %s (consumer_seq %s)")
FETCHING: Final = Told("nats.fetch.progress", INFO, "Worker %s has taken %s from %s")
FETCHED: Final = Told("nats.fetch.summary", INFO, "Worker %s has taken %s from %s")
FETCHED_NOTHING: Final = Told("nats.fetch.empty", INFO, "Worker %s found nothing to fetch on %s: %s")
FETCH_TROUBLE: Final = FETCHED_NOTHING._replace(level=WARNING)
FETCH_FAILED: Final = Told("nats.fetch.failed", WARNING, "Fetching from %s failed: %s%s")
REDELIVERED: Final = Told(
    "nats.redelivery",
    WARNING,
    "Redelivery of %s message%s on %s (sent back, or not acknowledged %s, as when a worker dies): %s",
)
GAVE_UP: Final = Told("nats.exhausted", ERROR, "Gave up %s message%s of %s after %s attempts: %s")
GAVE_UP_AMONG: Final = Told("nats.exhausted", ERROR, "Gave up %s messages of %s after %s attempts, among these: %s")
SENT_BACK: Final = Told("nats.nak", WARNING, "Sent back message seq %s of %s (%s)%s%s")
TERMINATED: Final = Told(
    "nats.terminated", WARNING, "Message seq %s of %s is terminated (%s), it will not come again%s%s"
)
ANSWER_FAILED: Final = Told("nats.ack.failed", WARNING, "Answering for message seq %s of %s (%s) failed: %s%s")

# Connections.
CONNECTION_LOST: Final = Told("nats.connection.lost", ERROR, "The connection to NATS is lost (%s); %s")
CONNECTION_BREAK: Final = CONNECTION_LOST._replace(level=WARNING)
CONNECTION_RESTORED: Final = Told("nats.connection.restored", INFO, "The connection to NATS is restored after %s")
CONNECTION_CLOSED: Final = Told(
    "nats.connection.closed", ERROR, "The connection to NATS could not be restored, given up after %s"
)
CONNECTING_REFUSED: Final = Told("nats.connection.refused", WARNING, "No connection to NATS%s so far: %s")
CONNECTED_LATE: Final = Told("nats.connection.refused", WARNING, "Connected to NATS%s after %s and %s: %s")
CONNECTING_GIVEN_UP: Final = Told(
    "nats.connection.refused", ERROR, "Could not connect to NATS%s: %sgiven up after %s: %s"
)

# What the monitor sees others do.
SEEN_FETCHING: Final = Told("nats.fetch.first", INFO, "%s of %s %s for messages for the first time, %s at a time%s: %s")
SEEN_REDELIVERED: Final = Told("nats.redelivery", WARNING, "Redelivery of %s message%s on %s: %s")
SEEN_SENT_BACK: Final = Told("nats.nak", WARNING, "Sent back %s message%s of %s: %s")
SEEN_IN_PROGRESS: Final = Told("nats.in_progress", INFO, "Workers asked for more time for %s message%s of %s: %s")
SEEN_TERMINATED: Final = Told(
    "nats.terminated", WARNING, "%s message%s of %s terminated, and will not come again: %s%s"
)
SEEN_GIVEN_UP: Final = Told("nats.exhausted", ERROR, "Gave up %s message%s of %s after %s attempt%s: %s")
WORKED_ON_TWICE: Final = Told(
    "nats.ack.twice", WARNING, "%s message%s of %s worked on twice: %s; ack_wait (%s) is too short for the work"
)
STALLED: Final = Told(
    "nats.stalled",
    WARNING,
    "No worker asks for messages of %s: %s delivered and not acknowledged for %s (ack_wait %s), %s never delivered",
)
PAUSED: Final = Told("nats.consumer.paused", WARNING, "Consumer %s of %s is paused: no worker gets anything from it")
RESUMED: Final = Told("nats.consumer.resumed", INFO, "Consumer %s of %s goes on")
SNAPSHOT: Final = Told("nats.snapshot", INFO, "Consumer %s of %s: %s")
DRAINED: Final = Told("nats.drained", INFO, "Nothing is left for consumer %s of %s: %s")
CAME_AND_WENT: Final = Told(
    "nats.fetch.summary", INFO, "Workers asked %s times for messages of %s, which is gone now: %s"
)
LEADER_ELECTED: Final = Told("nats.leader.elected", INFO, "%s has a new leader in its cluster: %s")
QUORUM_LOST: Final = Told(
    "nats.quorum.lost",
    ERROR,
    "NATS stream %s has no leader, too few servers of its cluster answer: nothing is stored or delivered",
)
QUORUM_RESTORED: Final = Told("nats.quorum.restored", INFO, "NATS stream %s has a leader again%s, after %s")
# By the server's advisories.
SEEN_CHANGES: Final = {
    "STREAM.CREATED": Told("nats.stream.created", INFO, "%s was created"),
    "STREAM.UPDATED": Told("nats.stream.updated", INFO, "%s was changed"),
    "STREAM.DELETED": Told("nats.stream.deleted", INFO, "%s was deleted"),
    "CONSUMER.CREATED": Told("nats.consumer.created", INFO, "%s was created"),
    "CONSUMER.UPDATED": Told("nats.consumer.updated", INFO, "%s was changed"),
    "CONSUMER.DELETED": Told("nats.consumer.deleted", INFO, "%s was deleted"),
}


def tell(job: Job, told: Told, *args: Any, error: BaseException | None = None, **fields: Any) -> None:
    """Log `told.sentence % args` about `job`; `fields` are plain numbers and texts, None ones are left out."""
    if not LOGGER.isEnabledFor(told.level):
        return
    extra: dict[str, Any] = {**address(job.namespace, job.job_id), "event": told.event}
    extra.update((name, value) for name, value in fields.items() if value is not None)
    LOGGER.log(told.level, told.sentence, *args, exc_info=error, extra=extra, stacklevel=2)


def duration(value: float | None) -> str:
    """A duration in words."""
    if not value:
        return "none"
    if value < 0.9995:
        return f"{value * 1000:.0f} ms" if value >= 0.0015 else "1 ms"
    if value < 120:
        return f"{value:.3g} s"
    if value < 7200:
        return f"{value / 60:.3g} min"
    return f"{value / 3600:.4g} h"


def some(names: list[str]) -> str:
    """Names in words, cut where there are many; "none" without any."""
    return _cut(names, _MAX_NAMES) or "none"


def shown(items: list[str]) -> str:
    """The first of what a line is about."""
    return _cut(items, _MAX_SHOWN)


def _cut(items: list[str], most: int) -> str:
    text = ", ".join(items[:most])
    return f"{text}, … {len(items) - most:,} more" if len(items) > most else text


def listed(items: list[Any]) -> str:
    """All of it as one field: at most a thousand, since a field holds no more."""
    return ", ".join(map(str, items[:_MAX_LISTED]))


def attempt_of(attempt: int, most: int) -> str:
    """An attempt of so many, or of no limit (0)."""
    return f"attempt {attempt} of {most}" if most > 0 else f"attempt {attempt}"


def named(stream: str, consumer: str) -> str:
    """A stream, or a consumer of it, at the beginning of a sentence."""
    return f"Consumer {consumer} of NATS stream {stream}" if consumer else f"NATS stream {stream}"


def failure(error: BaseException, words: str) -> str:
    """An error by its name, and what it says, if anything."""
    name = type(error).__name__
    return f"{name} ({words})" if words else name


def so_far(count: int, what: str = "") -> str:
    """How often by now, where that is more than once."""
    return f", {count:,}{what} so far" if count > 1 else ""


def reason_of(payload: bytes | str) -> str:
    """Why a worker terminated a message, in plain characters: it may send anything."""
    text = payload.decode(errors="replace") if isinstance(payload, bytes) else payload
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:_MAX_REASON]
