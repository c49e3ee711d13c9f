"""The names of the NATS integration's events, for who tells them and for who looks for them in a log.

`contrib.nats.told` tells every one of them, the doctor reads some; a type checker refuses a name that is not here.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

LOGGER_NAME: Final = "joblog_router.nats"

NatsEvent: TypeAlias = Literal[
    "nats.ack.failed",
    "nats.ack.twice",
    "nats.connection.closed",
    "nats.connection.lost",
    "nats.connection.refused",
    "nats.connection.restored",
    "nats.consumer.created",
    "nats.consumer.delete_failed",
    "nats.consumer.deleted",
    "nats.consumer.drift",
    "nats.consumer.failed",
    "nats.consumer.final",
    "nats.consumer.paused",
    "nats.consumer.resumed",
    "nats.consumer.reused",
    "nats.consumer.updated",
    "nats.drained",
    "nats.exhausted",
    "nats.fetch.empty",
    "nats.fetch.failed",
    "nats.fetch.first",
    "nats.fetch.progress",
    "nats.fetch.summary",
    "nats.in_progress",
    "nats.leader.elected",
    "nats.nak",
    "nats.publish.failed",
    "nats.publish.progress",
    "nats.publish.summary",
    "nats.quorum.lost",
    "nats.quorum.restored",
    "nats.redelivery",
    "nats.snapshot",
    "nats.stalled",
    "nats.stream.created",
    "nats.stream.delete_failed",
    "nats.stream.deleted",
    "nats.stream.failed",
    "nats.stream.reused",
    "nats.stream.updated",
    "nats.stream.vanished",
    "nats.terminated",
]
