"""How an event is told: one ordinary log record, addressed to its job, with its numbers as fields.

Called on the event loop by the modules that notice events; the record takes the way of every other record, to
stdout and to the job's log. Also the wording of what the server tells about streams and consumers.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any, Final

from ..._pipeline.resolve import address
from .naming import Job

LOGGER: Final = logging.getLogger("joblog_router.nats")

_NANOSECONDS: Final = 1_000_000_000
_MAX_SHOWN: Final = 5


def tell(
    job: Job,
    level: int,
    event: str,
    message: str,
    *args: Any,
    error: BaseException | None = None,
    **fields: Any,
) -> None:
    """Log `message % args` about `job`; `fields` are plain numbers and texts, None ones are left out."""
    if not LOGGER.isEnabledFor(level):
        return
    extra: dict[str, Any] = {**address(job.namespace, job.job_id), "event": event}
    extra.update((name, value) for name, value in fields.items() if value is not None)
    LOGGER.log(level, message, *args, exc_info=error, extra=extra, stacklevel=2)


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
    value = nanoseconds / _NANOSECONDS
    return int(value) if value.is_integer() else value


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
    """A list in words, cut where it gets long."""
    shown = ", ".join(names[:_MAX_SHOWN])
    return f"{shown}, … {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else shown or "none"


def timestamp(value: Any) -> float | None:
    """A time of the API (`2026-11-22T04:02:07.109092877Z`) as seconds since the epoch; None if it is none."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value).timestamp()
    except ValueError:
        return None
