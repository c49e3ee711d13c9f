"""Why does a job not get on? One sentence, what shows it, what to do, and how sure that is.

Looks at the job's row, its NATS stream and consumer, Redis, Celery and its log, as far as JOBLOG_ROUTER["DOCTOR"] and
the environment's NATS_URL name them. Takes nothing from any queue and changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import Final

from .._pipeline.public import flush
from .._pipeline.router import router
from ..doctor.case import Diagnosis, span
from ..doctor.telling import tell_changes
from ..doctor.verdict import Verdict, examine_now
from ..exceptions import ConfigurationError
from . import arguments
from .console import Console
from .status import jobs_of

__all__ = ["add_arguments", "run", "write"]

_ERROR: Final = 40
_WARNING: Final = 30
_INFO: Final = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="id of a job")
    parser.add_argument("--all-active", action="store_true", help="every job of JOB_MODEL that has not ended")
    parser.add_argument(
        "--tell", action="store_true", help="write a verdict that has changed into the job's log; for cron"
    )
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where something is wrong with a job, or not understood."""
    jobs = jobs_of(options)
    store = arguments.store_of(options)
    if options.tell and not router.sinks():
        raise ConfigurationError("--tell needs the project's logging with its job handler: run manage.py joblog doctor")
    status = 0
    for job in jobs:
        if options.tell:
            (verdict,) = asyncio.run(tell_changes([job], store, namespace=options.namespace))
        else:
            verdict = examine_now(job, store=store, namespace=options.namespace)
        if options.json:
            console.json(verdict.as_dict())
        else:
            write(verdict, console)
        console.flush()
        if verdict.is_finding:
            status = 1
    if options.tell:
        flush()
    return status


def write(verdict: Verdict, console: Console) -> None:
    """The verdict for people."""
    diagnosis = verdict.diagnosis
    level = _INFO if not diagnosis.is_finding else _WARNING if diagnosis.sure != "certain" else _ERROR
    console.line(f"job {verdict.job_id}: {diagnosis.sentence}", level)
    console.line(f"  what to do: {diagnosis.advice}")
    console.line(f"  how sure:   {diagnosis.sure} ({diagnosis.cause})")
    _write_evidence(diagnosis, console)
    for name, error in verdict.failures.items():
        console.line(f"  not known:  {name}: {error}", _WARNING)
    for other in verdict.others:
        console.line(f"  also:       {other.sentence} ({other.cause}, {other.sure})")


def _write_evidence(diagnosis: Diagnosis, console: Console) -> None:
    for one in diagnosis.evidence:
        age = "" if one.age is None else " (now)" if one.age < 0.05 else f" ({span(one.age)})"
        console.line(f"  {one.source + ':':<11} {one.text}{age}")
