"""What every program may ask of its process's router: to store what waits, and what became of the lines.

Any thread; nothing here raises. Imports the router; exported by the package itself.
"""

from __future__ import annotations

from typing import Any

from .router import router

__all__ = ["aflush", "completeness", "flush", "stats"]


def flush(timeout: float = 5.0) -> bool:
    """Wait until every line captured before this call is stored; False if that did not happen in `timeout` seconds.

    Blocks the calling thread: in coroutines use `aflush`. Never raises.
    """
    return router.flush(timeout)


async def aflush(timeout: float = 5.0) -> bool:
    """`flush` without blocking the event loop."""
    return await router.aflush(timeout)


def completeness(job_id: object, namespace: str | None = None) -> dict[str, dict[str, int]]:
    """What became of the lines that this process logged for a job: by sink, `emitted` and the five it is the sum of.

    emitted = stored + folded + dropped + quarantined + waiting. Of the five thousand jobs that were logged for last.
    """
    return router.completeness(job_id, namespace)


def stats() -> dict[str, Any]:
    """This process's counters since its start.

    `captured` lines were taken from logging calls; each of them is `stored`, `folded` (counted in a tally row, or in
    the marker of a log that has `max_lines`), `waiting`, `dropped` (the buffer was full) or `quarantined` (the sink
    refused that one line). `late` records came from closed scopes, `marked` too but were kept by the late policy,
    `conflicts` named another job than the one open, `services` came from shared service loops, `generators` from tasks
    or threads that inherited the scope of a generator that was not running: these, without `marked`, are in no job's
    log. A Celery task whose message names another job than its argument is a conflict, too, and runs in the argument's.
    """
    return router.stats()
