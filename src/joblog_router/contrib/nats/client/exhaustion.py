"""Messages that are given up: delivered as often as the consumer allows, and never acknowledged.

Called by `fetching`, `pushing` and `advisories` on the event loop. The server tells of it only at the next pull, and
only to who listens then. It is inferred instead: from the last attempts that this process saw, and the consumer's
numbers.
"""

from __future__ import annotations

import time
from typing import Any, Final

from .. import told
from ..bounded import shrink
from ..naming import Delivery
from ..task_ids import task_of
from ..told import listed, shown, tell
from .consumption import Consumption, LastAttempt

_MAX_LAST_ATTEMPTS: Final = 10_000
# Between the server's clock and ours.
GRACE: Final = 0.02


def note_last_attempt(taken: Consumption, delivery: Delivery, payload: Any, keys: tuple[str, ...]) -> None:
    """Remember a message that will not come again."""
    if taken.limits is None or not 0 < taken.limits.max_deliver <= delivery.attempt:
        return
    if len(taken.last_attempts) >= _MAX_LAST_ATTEMPTS or delivery.stream_seq in taken.given_up:
        return
    task = task_of(payload, keys)
    taken.last_attempts[delivery.stream_seq] = LastAttempt(task, time.monotonic())


def overdue(taken: Consumption, pulled: float) -> list[int]:
    """The last attempts that had run out when a pull was sent at `pulled`: the server has given them up by now."""
    if not taken.last_attempts or taken.limits is None:
        return []
    latest = pulled - taken.limits.ack_wait - GRACE
    return [seq for seq, last in taken.last_attempts.items() if last.received <= latest]


def infer(taken: Consumption, overdue: list[int], counters: dict[str, Any]) -> None:
    """Work out from the consumer's numbers which of the overdue messages were given up, and tell."""
    if not overdue or taken.limits is None:
        return
    waiting = counters.get("num_ack_pending") or 0
    if taken.limits.max_deliver == 1:
        # Then the consumer counts no redeliveries; only who sees the acknowledgements knows which are missing.
        at_most = at_least = len(overdue) if taken.acked and not waiting else 0
    else:
        at_most = (counters.get("num_redelivered") or 0) - len(taken.given_up)
        at_least = at_most - waiting
    if at_most <= 0:
        # All of them were acknowledged, by somebody else.
        if not waiting:
            for seq in overdue:
                taken.last_attempts.pop(seq, None)
        return
    if at_least < len(overdue) and not (taken.acked and at_most >= len(overdue)):
        if waiting:
            return  # cannot be told apart yet
        _tell_some(taken, overdue, at_most)
        return
    for seq in overdue:
        last = taken.last_attempts.pop(seq)
        give_up(taken, seq, taken.limits.max_deliver, last.task)
    tell_given_up(taken, source="inferred")


def give_up(taken: Consumption, seq: int, deliveries: int, task: str | None) -> None:
    """Book a message that is given up; a second time is none."""
    if seq in taken.given_up:
        return
    last = taken.last_attempts.pop(seq, None)
    if task is None and last is not None:
        task = last.task
    taken.given_up[seq] = None
    shrink(taken.given_up, _MAX_LAST_ATTEMPTS)
    taken.to_give_up[seq] = (deliveries, task)


def tell_given_up(taken: Consumption, source: str) -> None:
    """The messages that were given up since the last such line."""
    if not taken.to_give_up:
        return
    taken.tell_redeliveries()  # the story in its order
    found, taken.to_give_up = sorted(taken.to_give_up.items()), {}
    taken.given_up_pace.told()
    attempts = max(deliveries for _, (deliveries, _) in found)
    tasks = [task for _, (_, task) in found if task is not None]
    tell(
        taken.job,
        told.GAVE_UP,
        f"{len(found):,}",
        "s" if len(found) > 1 else "",
        taken.key.stream,
        attempts,
        shown([f"seq {seq}" + (f" (task {task})" if task is not None else "") for seq, (_, task) in found]),
        **taken.fields,
        count=len(found),
        stream_seq=found[0][0],
        attempt=attempts,
        max_deliver=taken.limits.max_deliver if taken.limits is not None else None,
        stream_seqs=listed([seq for seq, _ in found]),
        task_ids=listed(tasks) or None,
        source=source,
    )


def tell_held_back(taken: Consumption) -> None:
    """What was held back of it: what came again, what was given up."""
    taken.tell_redeliveries()
    tell_given_up(taken, source="inferred")


def _tell_some(taken: Consumption, overdue: list[int], count: int) -> None:
    """Some of these messages were given up; others of them were acknowledged where this process cannot see it."""
    for seq in overdue:
        taken.last_attempts.pop(seq, None)
    tell(
        taken.job,
        told.GAVE_UP_AMONG,
        f"{count:,}",
        taken.key.stream,
        taken.limits.max_deliver if taken.limits is not None else "all",
        shown([f"seq {seq}" for seq in sorted(overdue)]),
        **taken.fields,
        count=count,
        max_deliver=taken.limits.max_deliver if taken.limits is not None else None,
        stream_seqs=listed(sorted(overdue)),
        source="inferred",
    )
