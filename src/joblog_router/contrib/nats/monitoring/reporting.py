"""The lines about a consumer that is watched from outside: what happened since the last ones, in a few sentences.

Called by `term` on the monitor's event loop, once an interval for each consumer with news, never per message; what a
monitor before has told is taken over by `inventory`. No I/O.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any, Final

from .. import told
from ..pacing import Pace
from ..told import Told, duration, listed, shown, tell
from .following import Described, Followed

_COUNTS: Final = ("pulls", "acked", "sent_back", "terminated", "in_progress", "redelivered")
_KINDS: Final = ("redelivery", "nak", "terminated", "in_progress", "twice", "exhausted", "snapshot", "drained")


@dataclasses.dataclass(slots=True, eq=False)
class Telling:
    """What was told about one consumer."""

    paces: dict[str, Pace] = dataclasses.field(default_factory=lambda: {kind: Pace() for kind in _KINDS})
    acked: int = 0
    delivered: int = 0
    unnamed: int = 0
    lines: int = 0
    at: float = dataclasses.field(default_factory=time.monotonic)
    snapshot: tuple[Any, ...] = ()
    is_drained: bool = False
    is_stalled: bool = False
    is_paused: bool = False


def report(followed: Followed, tasks: dict[int, str], *, is_last: bool = False) -> bool:
    """Tell what is new; whether there was anything. `tasks`: ids of tasks by sequence.

    `is_last`: nothing more will come, hold nothing back.
    """
    telling = _telling(followed)
    before = telling.lines
    # What was held back belongs before the line that nothing is left.
    is_over = is_last or _is_newly_drained(followed, telling)

    def is_due(kind: str) -> bool:
        return is_over or telling.paces[kind].is_due()

    _tell_workers(followed)
    for kind, sentence, found in (
        ("redelivery", told.SEEN_REDELIVERED, followed.redeliveries),
        ("nak", told.SEEN_SENT_BACK, followed.naks),
        ("in_progress", told.SEEN_IN_PROGRESS, followed.progress),
    ):
        if found and is_due(kind):
            _tell_attempts(followed, telling.paces[kind], sentence, found)
    if followed.terms and is_due("terminated"):
        _tell_terminated(followed, telling.paces["terminated"], tasks)
    if followed.doubles and is_due("twice"):
        _tell_twice(followed, telling.paces["twice"])
    if (followed.to_give_up or followed.unnamed > telling.unnamed) and is_due("exhausted"):
        _tell_given_up(followed, telling, tasks)
    if followed.described is not None:
        _tell_state(followed, telling, followed.described, is_last=is_last)
    return telling.lines > before


def finish(followed: Followed, tasks: dict[int, str]) -> None:
    """The last words: the consumer is gone, or the monitor is."""
    report(followed, tasks, is_last=True)
    if followed.described is not None or not (followed.pulls or followed.acked):
        return
    # It came and went while nobody watched.
    numbers = [(followed.acked, "acknowledged"), (followed.sent_back, "sent back"), (followed.terminated, "terminated")]
    _line(
        followed,
        told.CAME_AND_WENT,
        f"{followed.pulls:,}",
        followed.stream,
        ", ".join(f"{number:,} {what}" for number, what in numbers if number) or "none acknowledged",
        fetches=followed.pulls,
        acknowledged=followed.acked,
        naked=followed.sent_back or None,
        terminated=followed.terminated or None,
        redelivered=followed.redelivered or None,
    )


def mark_of(followed: Followed) -> dict[str, Any]:
    """What was told about a consumer, as the next monitor needs it."""
    telling = _telling(followed)
    return {
        "workers": [inbox for inbox, worker in followed.workers.items() if worker.is_told],
        "given_up": [seq for seq in followed.given_up if seq not in followed.to_give_up],
        "given_up_count": followed.given_up_count - len(followed.to_give_up),
        "unnamed": telling.unnamed,
        "counts": [getattr(followed, name) for name in _COUNTS],
        "delivered": telling.delivered,
        "acked": telling.acked,
        "snapshot": list(telling.snapshot),
        "flags": [telling.is_drained, telling.is_stalled, telling.is_paused],
    }


def apply_mark(followed: Followed, mark: dict[str, Any]) -> None:
    """Take over what the monitor before told: nothing of it is told again."""
    telling = _telling(followed)
    for worker in followed.workers.values():
        worker.is_told = True
    for found in (followed.redeliveries, followed.naks, followed.progress, followed.terms, followed.doubles):
        found.clear()
    try:
        for inbox in mark.get("workers") or ():
            followed.seen(str(inbox), 1)
            followed.workers[str(inbox)].is_told = True
        followed.given_up.update(dict.fromkeys(map(int, mark.get("given_up") or ())))
        followed.given_up_count = max(int(mark.get("given_up_count") or 0), len(followed.given_up))
        followed.unnamed = telling.unnamed = int(mark.get("unnamed") or 0)
        for name, count in zip(_COUNTS, mark.get("counts") or (), strict=False):
            setattr(followed, name, max(getattr(followed, name), int(count)))
        telling.delivered, telling.acked = int(mark.get("delivered") or 0), int(mark.get("acked") or 0)
        telling.snapshot = tuple(mark.get("snapshot") or ())
        telling.is_drained, telling.is_stalled, telling.is_paused = map(bool, mark.get("flags") or (False,) * 3)
    except (TypeError, ValueError, AttributeError):
        return  # not of this version: then some lines may come again
    for seq in [seq for seq in followed.to_give_up if seq in followed.given_up]:
        del followed.to_give_up[seq]


def tasks_wanted(followed: Followed) -> list[int]:
    """The messages whose tasks' ids the next report names."""
    return sorted({*followed.to_give_up, *followed.terms})


def _line(followed: Followed, sentence: Told, *args: Any, **fields: Any) -> None:
    _telling(followed).lines += 1
    tell(followed.job, sentence, *args, **followed.fields, **fields)


def _telling(followed: Followed) -> Telling:
    if followed.telling is None:
        followed.telling = Telling()
    telling: Telling = followed.telling
    return telling


def _tell_workers(followed: Followed) -> None:
    new = {inbox: worker for inbox, worker in followed.workers.items() if not worker.is_told}
    if not new:
        return
    for worker in new.values():
        worker.is_told = True
    batches = sorted({worker.batch for worker in new.values()})
    several = len(new) > 1
    names = [worker.name or inbox for inbox, worker in new.items()]
    if len(set(names)) < len(names):  # subscriptions of one client, or clients of one name
        names = [f"{worker.name} ({inbox})" if worker.name else inbox for inbox, worker in new.items()]
    _line(
        followed,
        told.SEEN_FETCHING,
        f"{len(new)} workers" if several else "A worker",
        followed.stream,
        "ask" if several else "asks",
        "-".join(map(str, batches[:1] + batches[-1:] if len(batches) > 1 else batches)),
        f" ({followed.described.waiting} waiting)" if followed.described and followed.described.waiting else "",
        shown(names),
        worker=listed(names),
        count=len(new),
        batch=batches[-1],
        waiting=followed.described.waiting if followed.described else None,
    )


def _tell_attempts(followed: Followed, pace: Pace, sentence: Told, found: dict[int, int]) -> None:
    comes_again = sentence is told.SEEN_REDELIVERED
    seqs, items = sorted(found), sorted(found.items())
    if comes_again:
        items.sort(key=lambda item: -item[1])  # the worst first
    found.clear()
    pace.told()
    _line(
        followed,
        sentence,
        f"{len(items):,}",
        "s" if len(items) > 1 else "",
        followed.stream,
        shown([f"seq {seq} ({followed.of_max(attempt)})" for seq, attempt in items]),
        count=len(items),
        stream_seq=items[0][0],
        attempt=max(attempt for _, attempt in items),
        max_deliver=(followed.max_deliver or None) if comes_again else None,
        stream_seqs=listed(seqs),
    )


def _tell_terminated(followed: Followed, pace: Pace, tasks: dict[int, str]) -> None:
    items = sorted(followed.terms.items())
    followed.terms = {}
    pace.told()
    reasons = sorted({reason for _, (_, reason) in items if reason})
    _line(
        followed,
        told.SEEN_TERMINATED,
        f"{len(items):,}",
        "s" if len(items) > 1 else "",
        f"{followed.stream} {'are' if len(items) > 1 else 'is'}",
        shown([f"seq {seq}{_task(tasks, seq)} ({followed.of_max(attempt)})" for seq, (attempt, _) in items]),
        f"; {shown(reasons)}" if reasons else "",
        count=len(items),
        stream_seq=items[0][0],
        attempt=max(attempt for _, (attempt, _) in items),
        stream_seqs=listed([seq for seq, _ in items]),
        task_ids=listed([tasks[seq] for seq, _ in items if seq in tasks]) or None,
        reason=listed(reasons) or None,
    )


def _tell_twice(followed: Followed, pace: Pace) -> None:
    items = sorted(followed.doubles.items())
    followed.doubles = {}
    pace.told()
    _line(
        followed,
        told.WORKED_ON_TWICE,
        f"{len(items):,}",
        "s" if len(items) > 1 else "",
        f"{followed.stream} {'were' if len(items) > 1 else 'was'}",
        shown(
            [f"seq {seq} (attempt {twice.first} answered after attempt {twice.second} began)" for seq, twice in items]
        ),
        duration(followed.ack_wait) if followed.ack_wait else "unknown",
        count=len(items),
        stream_seq=items[0][0],
        attempt=items[0][1].second,
        ack_wait=followed.ack_wait or None,
        stream_seqs=listed([seq for seq, _ in items]),
    )


def _tell_given_up(followed: Followed, telling: Telling, tasks: dict[int, str]) -> None:
    items = sorted(followed.to_give_up.items())
    followed.to_give_up = {}
    telling.paces["exhausted"].told()
    unnamed, telling.unnamed = max(followed.unnamed - telling.unnamed, 0), max(followed.unnamed, telling.unnamed)
    attempts = max((deliveries for _, deliveries in items), default=followed.max_deliver)
    count = len(items) or unnamed
    _line(
        followed,
        told.SEEN_GIVEN_UP,
        f"{count:,}",
        "s" if count > 1 else "",
        followed.stream,
        attempts,
        "s" if attempts > 1 else "",
        shown([f"seq {seq}{_task(tasks, seq)}" for seq, _ in items]) or "which ones is not known",
        count=count,
        stream_seq=items[0][0] if items else None,
        attempt=attempts,
        max_deliver=followed.max_deliver or None,
        stream_seqs=listed([seq for seq, _ in items]) or None,
        task_ids=listed([tasks[seq] for seq, _ in items if seq in tasks]) or None,
    )


def _task(tasks: dict[int, str], seq: int) -> str:
    return f" (task {tasks[seq]})" if seq in tasks else ""


def _is_newly_drained(followed: Followed, telling: Telling) -> bool:
    known = followed.described
    return known is not None and known.is_drained and not telling.is_drained and telling.paces["drained"].is_due()


def _tell_state(followed: Followed, telling: Telling, known: Described, *, is_last: bool) -> None:
    if known.paused != telling.is_paused:
        telling.is_paused = known.paused
        _line(followed, told.PAUSED if known.paused else told.RESUMED, followed.consumer, followed.stream)
    _tell_stalled(followed, telling, known)
    snapshot = (known.delivered, known.pending, known.open, known.counters.get("ack_floor"), followed.acked)
    is_news = snapshot != telling.snapshot and known.delivered > 0
    is_drained = known.is_drained and not followed.to_give_up
    if is_drained and not telling.is_drained and (is_last or telling.paces["drained"].is_due()):
        telling.paces["drained"].told()
        _tell_snapshot(followed, telling, known, told.DRAINED)
        telling.is_drained, telling.snapshot = True, snapshot
    elif is_news and not is_drained and (is_last or telling.paces["snapshot"].is_due()):
        telling.paces["snapshot"].told()
        _tell_snapshot(followed, telling, known, told.SNAPSHOT)
        telling.snapshot = snapshot
    if not is_drained:
        telling.is_drained = False


def _tell_stalled(followed: Followed, telling: Telling, known: Described) -> None:
    """Nobody asks for messages, and some are delivered and overdue. Once, until somebody asks again."""
    if known.waiting or not known.open or known.paused or known.last_delivery is None:
        telling.is_stalled = telling.is_stalled and not known.waiting
        return
    waited = known.now - known.last_delivery
    if telling.is_stalled or not followed.ack_wait or waited <= followed.ack_wait:
        return
    telling.is_stalled = True
    _line(
        followed,
        told.STALLED,
        followed.stream,
        f"{known.open:,} {'are' if known.open > 1 else 'is'}",
        duration(waited),
        duration(followed.ack_wait),
        f"{known.pending:,}",
        **known.counters,
    )


def _tell_snapshot(followed: Followed, telling: Telling, known: Described, sentence: Told) -> None:
    now = time.monotonic()
    acked, delivered = followed.acked - telling.acked, known.delivered - telling.delivered
    # None at the first look: what has come by then came in a time that nobody measured.
    rate = round(acked / (now - telling.at), 1) if acked and now > telling.at and telling.snapshot else None
    telling.acked, telling.delivered, telling.at = followed.acked, known.delivered, now
    redelivered = known.counters.get("num_redelivered") or 0
    parts = [f"{known.delivered:,} deliveries{_plus(delivered, known.delivered)}"]
    parts.append(f"{followed.acked:,} acknowledged{_plus(acked, followed.acked, rate)}{_unseen(followed, known)}")
    parts += [f"{number:,} {what}" for number, what in _rest(followed, known, redelivered) if number]
    _line(
        followed,
        sentence,
        followed.consumer,
        followed.stream,
        ", ".join(parts),
        **known.counters,
        acknowledged=followed.acked,
        naked=followed.sent_back or None,
        terminated=followed.terminated or None,
        redelivered=followed.redelivered or None,
        given_up=followed.given_up_count or followed.unnamed or None,
        rate=rate,
        workers=len(followed.workers) or None,
        waiting=known.waiting,
    )


def _unseen(followed: Followed, known: Described) -> str:
    """How far all is answered by the server's word, where the monitor did not see it happen."""
    floor = known.counters.get("ack_floor_consumer_seq") or 0
    if followed.parent is not None or floor <= followed.acked + followed.sent_back + followed.terminated:
        return ""
    return f" that the monitor saw (all up to delivery {floor:,} is answered)"


def _rest(followed: Followed, known: Described, redelivered: int) -> list[tuple[int, str]]:
    return [
        (known.open, "not acknowledged"),
        (redelivered if known.open else 0, "of them delivered again"),
        (followed.sent_back, "sent back"),
        (followed.terminated, "terminated"),
        (followed.given_up_count or followed.unnamed, "given up"),
        (known.pending, "not delivered yet"),
        (len(followed.workers), "workers seen" if len(followed.workers) > 1 else "worker seen"),
    ]


def _plus(number: int, of: int, rate: float | None = None) -> str:
    """What came since the last line, where there was one."""
    if rate is not None:
        return f" (+{number:,}, {rate:,.0f}/s)" if rate >= 1 else f" (+{number:,})"
    return f" (+{number:,})" if 0 < number < of else ""
