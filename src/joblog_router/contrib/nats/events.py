"""How the server's descriptions of streams and consumers are read: as the fields that events carry.

Called on the event loop by whoever got a reply of the JetStream API; no I/O, nothing is raised for what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NamedTuple

NANOSECONDS: Final = 1_000_000_000
_UNAVAILABLE: Final = 503


class Limits(NamedTuple):
    """What a consumer's configuration says; 0 where it sets no limit. `ack_wait` is seconds, the longest of them."""

    max_deliver: int
    ack_wait: float
    max_ack_pending: int


def limits_of(config: dict[str, Any]) -> Limits:
    """The limits in a consumer's configuration."""
    waits = [config.get("ack_wait") or 0, *(config.get("backoff") or ())]
    return Limits(
        max(config.get("max_deliver") or 0, 0),
        float(seconds(max(waits)) or 0),
        max(config.get("max_ack_pending") or 0, 0),
    )


def filters_of(config: Mapping[str, Any]) -> list[str]:
    """The subjects that a consumer takes; none: all of its stream."""
    return [*(config.get("filter_subjects") or ()), *filter(None, [config.get("filter_subject")])]


def stream_fields(reply: dict[str, Any]) -> dict[str, Any]:
    """The fields of a stream's description as the API gives it (create, update, info)."""
    config, state = reply.get("config") or {}, reply.get("state") or {}
    return {
        "subjects": ", ".join(config.get("subjects") or ()),
        "max_age": seconds(config.get("max_age")),
        "messages": state.get("messages"),
        "last_seq": state.get("last_seq"),
    }


def consumer_config(reply: dict[str, Any]) -> dict[str, Any]:
    """The fields of a consumer's configuration. Durations are seconds."""
    config = reply.get("config") or {}
    return {
        "max_deliver": config.get("max_deliver", -1),
        "ack_wait": seconds(config.get("ack_wait")),
        "max_ack_pending": config.get("max_ack_pending"),
        "deliver_policy": config.get("deliver_policy"),
        "ack_policy": config.get("ack_policy"),
    }


def consumer_counters(reply: dict[str, Any]) -> dict[str, Any]:
    """The fields of a consumer's state.

    `delivered` counts deliveries (repeated ones too), `delivered_stream_seq` is the newest message delivered;
    `ack_floor` is the stream sequence up to which everything is acknowledged, `ack_floor_consumer_seq` the
    same in deliveries. `num_ack_pending` messages are delivered and not acknowledged, `num_redelivered` of
    them more than once; `num_pending` were never delivered.
    """
    delivered, floor = reply.get("delivered") or {}, reply.get("ack_floor") or {}
    return {
        "delivered": delivered.get("consumer_seq"),
        "delivered_stream_seq": delivered.get("stream_seq"),
        "ack_floor": floor.get("stream_seq"),
        "ack_floor_consumer_seq": floor.get("consumer_seq"),
        "num_pending": reply.get("num_pending"),
        "num_ack_pending": reply.get("num_ack_pending"),
        "num_redelivered": reply.get("num_redelivered"),
    }


def seconds(nanoseconds: Any) -> float | int | None:
    """A duration of the API in seconds; whole ones as int."""
    if not isinstance(nanoseconds, int):
        return None
    value = nanoseconds / NANOSECONDS
    return int(value) if value.is_integer() else value


def timestamp(value: Any) -> float | None:
    """A time of the API (`2026-11-22T04:02:07.109092877Z`) as seconds since the epoch; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        return None


def is_unavailable(reply: dict[str, Any]) -> bool:
    """Whether an error of the API is no refusal: the cluster has no leader now."""
    return bool((reply.get("error") or {}).get("code") == _UNAVAILABLE)
