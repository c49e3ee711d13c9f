"""Why does a job not get on? One sentence, what shows it, what to do, and how sure that is.

Looks at the job's row, its NATS stream and consumer, Redis, Celery and its log, as far as JOBLOG_ROUTER["DOCTOR"] and
the environment's NATS_URL name them. Takes nothing from any queue and changes nothing.
"""

from __future__ import annotations

import argparse
from typing import Final

from ..doctor.case import Diagnosis, span
from ..doctor.verdict import Verdict, examine_now
from . import arguments
from .console import Console

__all__ = ["add_arguments", "run", "write"]

_ERROR: Final = 40
_WARNING: Final = 30
_INFO: Final = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    arguments.add_jobs(parser)
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where something is wrong with a job, or not understood."""
    store = arguments.store_of(options)
    status = 0
    for job in options.jobs:
        verdict = examine_now(job, store=store, namespace=options.namespace)
        if options.json:
            console.json(verdict.as_dict())
        else:
            write(verdict, console)
        console.flush()
        if verdict.is_finding:
            status = 1
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
