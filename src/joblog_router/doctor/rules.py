"""The rules in their order: root causes before their consequences.

The first diagnosis that is at least likely is the verdict; what comes after it, and what is merely possible, is told as
what else it may be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from . import endings, failing, progressing, queueing, servers, working
from .case import Case, Diagnosis

__all__ = ["RULES"]

RULES: Final[tuple[Callable[[Case], Diagnosis | None], ...]] = (
    endings.no_such_job,
    endings.orphaned,
    endings.canceling,
    endings.settled,
    servers.nats_away,
    servers.nats_silent,
    servers.broker_away,
    servers.broker_refuses,
    servers.redis_away,
    servers.redis_lost,
    servers.redis_refuses,
    servers.database_refuses,
    servers.log_away,
    servers.rest_away,
    working.celery_elsewhere,
    queueing.never_started,
    queueing.limits_reached,
    queueing.no_stream,
    queueing.nothing_in_stream,
    queueing.consumer_missing,
    queueing.paused,
    queueing.filter_mismatch,
    queueing.wrong_place,
    queueing.removed,
    queueing.endpoint_empty,
    working.celery_trouble,
    working.celery_failing,
    working.celery_behind,
    working.acked_twice,
    working.crash_loop,
    working.ack_pending_full,
    working.exhausted,
    working.redelivered,
    working.nobody_polls,
    queueing.partly_queued,
    working.celery_silent,
    endings.process_gone,
    endings.not_marked,
    servers.logging_broken,
    failing.task_failed,
    failing.nothing_done,
    queueing.drift,
    working.several_consumers,
    servers.rest_differs,
    servers.clocks_apart,
    progressing.moving,
    progressing.waiting,
    progressing.logging_on,
)
