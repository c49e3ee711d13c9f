"""A stream that several jobs share: what went wrong with a message goes to the job that the message itself names.

Called by `term` on the monitor's event loop, once an interval for a consumer with news. Only what is rare is looked up
(sent back, terminated, more time, redelivered, worked on twice, given up), one question for each message.
Acknowledgements pass in thousands; they, the workers and the numbers are the consumer's, hence nobody's.
"""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Any, Final

from ...._pipeline.report import report_once
from ..bounded import shrink
from ..naming import Job, NamePatterns, job_in_header
from .following import Followed

_MAX_SHARES: Final = 1_000
_MAX_LOOKED_UP: Final = 1_000
_KEPT: Final = ("naks", "terms", "progress", "redeliveries", "doubles", "to_give_up")

# A message of a stream as `STREAM.MSG.GET` describes it; None if it is gone, or nobody answers.
Read = Callable[[str, int], Awaitable[dict[str, Any] | None]]


async def divide(shared: Followed, read: Read, patterns: NamePatterns, header: str) -> list[Followed]:
    """Hand what is new of a shared consumer to the shares of its jobs; those with something to tell."""
    _say_so(shared)
    kinds = [getattr(shared, kind) for kind in _KEPT]
    for seq in sorted(set().union(*kinds))[:_MAX_LOOKED_UP]:
        message = await read(shared.stream, seq)
        job = job_of(message, patterns, header) if message is not None else None
        share = _share(shared, job) if job is not None else None
        for name, kind in zip(_KEPT, kinds, strict=True):
            if seq in kind and share is not None:
                getattr(share, name)[seq] = kind[seq]
    for kind in kinds:
        kind.clear()
    return [share for share in shared.shares.values() if share.has_news]


def job_of(message: dict[str, Any], patterns: NamePatterns, header: str) -> Job | None:
    """The job that a stored message names: by its subject, or by a header that does not contradict it."""
    named = patterns.jobs_in(str(message.get("subject") or ""))
    said = job_in_header(_headers(message.get("hdrs")), header)
    if len(named) > 1 or (said is not None and named and said.job_id not in named):
        return None
    if named:
        return Job.named(next(iter(named)))
    if said is None:
        return None
    return Job.named(said.job_id) if said.namespace is None else Job(said.namespace, said.job_id)


def _share(shared: Followed, job: Job) -> Followed:
    share = shared.shares.get(job)
    if share is None:
        share = shared.shares[job] = Followed(job, shared.stream, shared.consumer)
        share.parent = shared
        shrink(shared.shares, _MAX_SHARES)
    share.max_deliver, share.ack_wait = shared.max_deliver, shared.ack_wait
    return share


def _headers(encoded: Any) -> dict[str, str]:
    try:
        lines = base64.b64decode(encoded or "").decode(errors="replace").split("\r\n")[1:]
    except (ValueError, TypeError):
        return {}
    return {name.strip(): value.strip() for name, mark, value in (line.partition(":") for line in lines) if mark}


def _say_so(shared: Followed) -> None:
    report_once(
        ("nats-monitor", "shared", shared.stream),
        f"NATS monitor: stream {shared.stream!r} is shared by several jobs, and its consumer {shared.consumer!r}, too. "
        "What goes wrong with a job's message is told in its log; workers, acknowledgements and progress are nobody's. "
        "Give a consumer a name or a filter of one job's to have all of it told; see docs/nats-events.md",
    )
