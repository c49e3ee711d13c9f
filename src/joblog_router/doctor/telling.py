"""The periodic look: a verdict that has changed is written into the job's own log.

For Celery beat, a command in a cron table, or a coroutine beside the application. What was told last is read from the
job's log, so that any process may look.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from .._pipeline.namespaces import in_force
from .._pipeline.resolve import address
from .._pipeline.text import clean
from ..sinks.opening import open_store
from ..sinks.store import Selection, Store
from .builtin import OWN_LOGGER
from .case import SURE
from .configuration import Configuration
from .probing import in_thread
from .verdict import Verdict, examine

__all__ = ["keep_telling", "tell_changes"]

EVENT: Final = "doctor.verdict"

_logger = logging.getLogger(OWN_LOGGER)


async def tell_changes(
    jobs: Iterable[str],
    store: Store | None = None,
    configuration: Configuration | None = None,
    namespace: str | None = None,
) -> list[Verdict]:
    """Examine jobs one after the other and log the verdict where its cause is another than the one told last.

    Of a job that was never told of, only a finding is told. Gives all verdicts. What is told is for staff: a verdict
    quotes lines that may be for staff alone, and names servers.
    """
    store = store or open_store()
    # Asked here: threads that read the log have no namespace in force.
    namespace = in_force(namespace)
    verdicts = []
    for job in jobs:
        verdict = await examine(job, store, configuration, namespace)
        verdicts.append(verdict)
        told = await in_thread(_told, store, job, namespace)
        if _is_news(verdict, told):
            tell(verdict, namespace)
    return verdicts


async def keep_telling(
    jobs: Callable[[], Awaitable[Iterable[str]]], every: float = 60.0, configuration: Configuration | None = None
) -> None:
    """`tell_changes` for ever, of the jobs that `jobs()` names each time. Ends by cancellation; a failure is logged."""
    while True:
        try:
            await tell_changes(await jobs(), configuration=configuration)
        except Exception:
            _logger.exception("The periodic look at jobs failed; the next one is in %s s", every)
        await asyncio.sleep(every)


def tell(verdict: Verdict, namespace: str) -> None:
    """One line in the log of the job of that very namespace."""
    diagnosis = verdict.diagnosis
    level = logging.INFO if not diagnosis.is_finding else logging.WARNING
    extra = {
        **address(namespace, clean(verdict.job_id)),
        # It quotes lines that may be for staff alone.
        "job_log": "staff",
        "event": EVENT,
        "cause": diagnosis.cause,
        "sure": diagnosis.sure,
        "advice": diagnosis.advice,
    }
    sentence = diagnosis.sentence if diagnosis.sure == SURE else f"{diagnosis.sentence} ({diagnosis.sure})"
    _logger.log(level, "%s", sentence, extra=extra)


def _told(store: Store, job: str, namespace: str) -> tuple[str, bool]:
    """The cause told last, and whether it was a finding."""
    page = store.newest(job, Selection(logger=OWN_LOGGER, audience="staff"), 1, namespace)
    for entry in page.entries:
        return str(entry.fields.get("cause", "")), entry.level > logging.INFO
    return "", False


def _is_news(verdict: Verdict, told: tuple[str, bool]) -> bool:
    cause, was_finding = told
    # A job that gets on well says so itself; that it does again is worth a line.
    return verdict.diagnosis.cause != cause if verdict.is_finding else was_finding
