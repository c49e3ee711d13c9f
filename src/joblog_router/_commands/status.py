"""Where a job is, on one screen: its row, its queue, its counters and its log, with ages and what has changed.

Twice looked at, some tenths of a second apart where there is a queue: what moved meanwhile stands behind the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from .._pipeline.dotted import load
from ..doctor.case import Case, since, span
from ..doctor.configuration import configured
from ..doctor.effective import Setting, shortened
from ..doctor.verdict import Verdict, examine
from ..exceptions import ConfigurationError
from ..sinks.store import Store
from . import arguments
from .console import Console
from .stages import Paces, bar, lines_of, stages_of

__all__ = ["add_arguments", "jobs_of", "run", "screen"]

_ACTIVE: Final = "joblog_router.contrib.django.diagnosis.active_jobs"
_AT_ONCE: Final = 8
_FEW: Final = 5
# Those with lines of their own; what a probe of the project's says is shown as it is.
_SHOWN: Final = frozenset(
    {"job", "nats", "redis", "celery", "log", "pipeline", "rest", "tasks", "workers", "processes", "settings"}
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="id of a job")
    parser.add_argument("--all-active", action="store_true", help="every job of JOB_MODEL that has not ended")
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`. 1 where something is wrong with a job."""
    jobs = jobs_of(options)
    if not jobs:
        console.line("no active jobs")
        return 0
    verdicts = asyncio.run(_all(jobs, arguments.store_of(options), options.namespace))
    for verdict in verdicts:
        if options.json:
            console.json(verdict.as_dict())
        else:
            for line in screen(verdict):
                console.line(line)
            for name, reason in verdict.failures.items():
                console.line(f"  {name:<9} not known: {reason}", 30)
    return 1 if any(verdict.is_finding for verdict in verdicts) else 0


def jobs_of(options: argparse.Namespace) -> list[str]:
    """The jobs named, and with `--all-active` the unfinished ones. Raises ConfigurationError where there are none."""
    jobs = list(options.jobs)
    if options.all_active:
        if not os.environ.get("DJANGO_SETTINGS_MODULE"):
            raise ConfigurationError("--all-active asks JOB_MODEL which jobs there are: run manage.py joblog status")
        jobs += [job for job in load(_ACTIVE)() if job not in jobs]
    elif not jobs:
        raise ConfigurationError("name a job, or say --all-active")
    return jobs


async def _all(jobs: list[str], store: Store, namespace: str | None) -> list[Verdict]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(job: str) -> Verdict:
        async with gate:
            return await examine(job, store, namespace=namespace)

    return list(await asyncio.gather(*(one(job) for job in jobs)))


def screen(verdict: Verdict, before: Verdict | None = None, paces: Paces | None = None) -> Iterator[str]:
    """The lines of a job's screen. With `before` the figures tell what has changed since then; `paces` give rates."""
    case = _case(verdict)
    earlier = _case(before) if before is not None else None
    yield f"job {verdict.job_id}: {verdict.diagnosis.sentence}"
    if case.job.get("exists"):
        yield _row(case, earlier)
    stages = stages_of(case)
    if paces is not None or len(stages) > 1:
        for line in lines_of(stages, paces):
            yield f"            {line}"
    for stream in case.streams:
        yield (
            f"  nats      {stream['name']}: {stream['messages']:,} messages, last published "
            f"{since(stream['last_published'])}"
        )
        for consumer in stream["consumers"]:
            yield f"            {_consumer(consumer)}"
            if doings := _doings(case, consumer):
                yield f"            {doings}"
            where = f"{stream['name']}/{consumer['name']}"
            yield f"            {_settings([one for one in verdict.settings if one.where == where])}"
    if case.knows_nats and not case.streams:
        yield "  nats      no stream"
        if verdict.settings:
            yield f"            {_settings(verdict.settings)}"
    if case.redis:
        old = (earlier.redis.get("values") if earlier else None) or {}
        values = ", ".join(
            f"{name} {'-' if value is None else value}{_delta(value, old.get(name))}"
            for name, value in case.redis["values"].items()
        )
        yield f"  redis     {values}"
    if case.celery:
        depth = ", ".join(f"{name} {0 if count is None else count:,}" for name, count in case.celery["depth"].items())
        yield (
            f"  celery    {len(case.celery['workers'])} workers answer, {case.celery['busy']} tasks in work "
            f"({len(case.celery['active'])} of this job), waiting: {depth}"
        )
    yield from _elsewhere(case)
    if "lines" in case.log:
        old_lines = earlier.log.get("lines") if earlier else None
        yield (
            f"  log       {case.log['lines']:,} lines{_delta(case.log['lines'], old_lines)}, "
            f"{case.log['errors']:,} errors, last line {since(case.silent_for)}"
        )
        for line in case.log["newest"][-1:]:
            yield f"            {line['message']}"
    for name, result in verdict.results.items():
        if name not in _SHOWN and not result.error:
            yield f"  {name:<9} {', '.join(f'{key} {value}' for key, value in result.facts.items())}"


def _elsewhere(case: Case) -> Iterator[str]:
    """What the project's interface and workers elsewhere show."""
    rest, tasks, workers = case.facts("rest"), case.facts("tasks"), case.workers
    if rest:
        progress = rest.get("progress")
        share = f", progress {progress:g}" if isinstance(progress, int | float) else ""
        yield f"  rest      {rest.get('status')}{share} ({rest['url']})"
    if tasks:
        yield (
            f"  tasks     {tasks['count']:,} would be given ({tasks['url']})"
            if tasks["peeked"]
            else f"  tasks     cannot be peeked at ({tasks['url']}): {tasks['why']}"
        )
    nats = workers.get("nats") or {}
    if nats.get("is_watched"):
        seen = f"{nats['workers']} seen, " if nats["workers"] else ""
        rate = f", {nats['rate']:g} acknowledged/s" if nats["rate"] else ""
        yield f"  workers   {seen}last sign {since(case.age(nats['last']))}{rate} (NATS monitor)"
    for worker in workers.get("remote", ())[:_FEW]:
        yield f"  workers   {worker['worker']}: last line {since(case.age(worker['last']))}: {worker['message']}"


def _case(verdict: Verdict) -> Case:
    return Case(verdict.job_id, verdict.results, verdict.at, configured().PATIENCE)


def _row(case: Case, earlier: Case | None) -> str:
    parts = [f"  job       {case.job.get('status')}"]
    if case.progress is not None:
        parts.append(f"{bar(case.progress)} {100 * case.progress:.1f} %")
    if case.total is not None and case.handled is not None:
        delta = _delta(case.handled, earlier.handled if earlier else None)
        failed = f", {case.job['failed']:,} failed" if case.job.get("failed") else ""
        parts.append(f"({case.handled:,} of {case.total:,}{delta}{failed})")
    finished = case.job.get("finished")
    if finished is not None:
        parts.append(f"ended {since(max(0.0, case.now - finished))}")
    elif case.running_for is not None:
        parts.append(f"for {span(case.running_for)}")
    return " ".join(parts)


def _doings(case: Case, consumer: Mapping[str, Any]) -> str:
    """What workers did while it was watched; nothing where they did nothing."""
    done = [
        (consumer["newly_delivered"], "taken"),
        (consumer["acks"], "acknowledged"),
        (consumer["naks"], "sent back"),
        (consumer["in_progress"], "extended"),
    ]
    words = ", ".join(f"{count:,} {what}" for count, what in done if count > 0)
    return f"while watched ({case.nats['window']:g} s): {words}" if words else ""


def _consumer(consumer: Mapping[str, Any]) -> str:
    return (
        f"{consumer['name']}: {consumer['num_pending']:,} waiting, {consumer['num_ack_pending']:,} in work"
        f"{_delta(consumer['delivered'], consumer['delivered'] - consumer['newly_delivered'])}, "
        f"{consumer['num_redelivered']:,} delivered again, {consumer['num_waiting']} pulls waiting, last delivered "
        f"{since(consumer['last_delivered'])}"
    )


def _settings(settings: Sequence[Setting]) -> str:
    """The settings in force, who asked for them, and where the server has others."""
    return ", ".join(map(shortened, settings)) + (" (server)" if settings and settings[0].where else "")


def _delta(now: object, before: object) -> str:
    if not isinstance(now, int | float) or not isinstance(before, int | float) or now == before:
        return ""
    return f" ({now - before:+,})"
