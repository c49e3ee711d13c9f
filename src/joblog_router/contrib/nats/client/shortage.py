"""Why did a fetch bring nothing? The consumer's own numbers, and what they mean in words.

Called by `fetching` on the event loop with the server's description of the consumer.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from .. import told
from ..events import consumer_counters, seconds, timestamp
from ..told import duration, tell
from .consumption import Consumption

GONE: Final = "gone"


class Shortage(NamedTuple):
    """One reason: its name, the sentence, and whether somebody should look at it."""

    reason: str
    words: str
    is_trouble: bool


def explain(info: dict[str, Any] | None) -> Shortage:
    """Why a consumer with this description gives nothing; None: it is not there any more."""
    if info is None:
        return Shortage(GONE, "the consumer or its stream is gone", True)
    counters, config = consumer_counters(info), info.get("config") or {}
    pending, waiting = counters["num_pending"] or 0, counters["num_ack_pending"] or 0
    most = config.get("max_ack_pending") or 0
    if info.get("paused"):
        return Shortage("paused", "the consumer is paused", True)
    if pending and 0 < most <= waiting:
        return Shortage(
            "max_ack_pending",
            f"{waiting:,} messages are delivered and not acknowledged, and no more may be (max_ack_pending {most:,}); "
            f"{pending:,} wait behind them",
            True,
        )
    if pending:
        return Shortage("pending", f"{pending:,} messages wait for delivery, but none came in time", True)
    if waiting:
        return _unacknowledged(info, waiting)
    redelivered = counters["num_redelivered"] or 0
    if redelivered and (config.get("max_deliver") or 0) > 1:
        given_up = f"{redelivered:,} message{'s were' if redelivered > 1 else ' was'} given up"
        return Shortage("given up", f"nothing is left; {given_up}", True)
    if not counters["delivered"]:
        return Shortage("nothing published", "nothing has been published for it yet", False)
    return Shortage("nothing left", "nothing is left, all messages are delivered and acknowledged", False)


def _unacknowledged(info: dict[str, Any], waiting: int) -> Shortage:
    delivered, floor = info.get("delivered") or {}, info.get("ack_floor") or {}
    words = f"all messages are delivered, {waiting:,} wait{'s' if waiting == 1 else ''} for an acknowledgement"
    now, active = timestamp(info.get("ts")), timestamp(delivered.get("last_active"))
    limit = seconds((info.get("config") or {}).get("ack_wait")) or 0
    if now is not None and active is not None and limit and now - active > limit:
        return Shortage("overdue", f"{words} for {duration(now - active)} (ack_wait {duration(limit)})", True)
    if not floor.get("last_active") and not floor.get("stream_seq"):
        return Shortage("no acks", f"{words}; no worker has acknowledged any so far", True)
    return Shortage("waiting for acks", words, False)


def tell_shortage(taken: Consumption, shortage: Shortage, info: dict[str, Any] | None, batch: int) -> None:
    """The line about an empty fetch."""
    counters = consumer_counters(info) if info is not None else {}
    tell(
        taken.job,
        told.FETCH_TROUBLE if shortage.is_trouble else told.FETCHED_NOTHING,
        taken.worker,
        taken.key.stream,
        shortage.words,
        **taken.fields,
        reason=shortage.reason,
        batch=batch,
        waiting=info.get("num_waiting") if info is not None else None,
        max_ack_pending=taken.limits.max_ack_pending or None if taken.limits is not None else None,
        **counters,
    )
