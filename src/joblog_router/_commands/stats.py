"""What is in the logs of jobs: how many lines of each level, from when to when, by whom, the first error, what lacks.

Without a job: how the processes are that run at the moment and have a spool, as each said itself in the last seconds
while it logged. Exit status 1 where a job has no lines or lacks some, and where a process drops lines or its logging
is configured so that lines are lost.
"""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import Any

from .._pipeline.router import router
from .._pipeline.status_file import has_left, is_running, running
from ..exceptions import ConfigurationError
from ..sinks.account import Account, account_of
from ..sinks.store import Summary
from . import arguments
from .console import Console, line_of, time_of

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="id of a job; without one, the running processes")
    parser.add_argument("--spool", metavar="DIRECTORY", help="the spool of a program without Django")
    arguments.add_json(parser)
    arguments.add_store(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`."""
    if not options.jobs:
        return _processes(options, console)
    store = arguments.store_of(options)
    status = 0
    for job in options.jobs:
        summary = store.summary(job, "staff", options.namespace)
        account = account_of(store, job, options.namespace)
        if not summary.lines or not account.is_whole():
            status = 1
        if options.json:
            console.json({**_as_dict(summary), "completeness": account._asdict()})
        else:
            _write(summary, account, console)
    return status


def _as_dict(summary: Summary) -> dict[str, object]:
    error = summary.first_error
    return {
        "job_id": summary.job_id,
        "lines": summary.lines,
        "levels": {logging.getLevelName(level): count for level, count in summary.levels.items()},
        "first": summary.first,
        "last": summary.last,
        "first_error": None if error is None else error.as_dict(),
        "origins": list(summary.origins),
    }


def _write(summary: Summary, account: Account, console: Console) -> None:
    console.line(f"job {summary.job_id}: {summary.lines} lines")
    if summary.first is None or summary.last is None:
        return
    console.line(f"  from {time_of(summary.first)} to {time_of(summary.last)}")
    for level, count in summary.levels.items():
        console.line(f"  {logging.getLevelName(level):<8} {count:>10}", level)
    if summary.first_error is not None:
        console.line(f"  first error: {line_of(summary.first_error)}", summary.first_error.level)
    counts = {name: count for name, count in account._asdict().items() if name != "cut" and (count or name == "stored")}
    parts = ", ".join(f"{name} {count}" for name, count in counts.items())
    console.line(
        f"  {'nothing that was logged in the job is missing' if account.is_whole() else 'lines are missing'}: {parts}",
        _level(account),
    )
    if account.cut:
        console.line(f"  the beginning of {account.cut} process(es) is not there: pruned, or not recovered yet")
    console.line(f"  {len(summary.origins)} process(es): {', '.join(summary.origins)}")


def _level(account: Account) -> int:
    return logging.INFO if account.is_whole() else logging.WARNING


# --- processes -----------------------------------------------------------------------------------------------


def _processes(options: argparse.Namespace, console: Console) -> int:
    directories = [Path(options.spool)] if options.spool else sorted(router.recovery.directories())
    if not directories:
        raise ConfigurationError(
            "stats: name a job, or run it where a handler has a spool; for a program without Django: "
            "joblog stats --spool DIRECTORY"
        )
    found = [
        (directory, said) for directory in directories for said in running(directory) if said.get("pid") != os.getpid()
    ]
    is_fine = True
    for directory, said in found:
        counts: dict[str, Any] = said.get("stats") or {}
        findings = [str(one.get("text", "")) for one in said.get("audit") or [] if isinstance(one, dict)]
        is_alive = is_running(said.get("pid"))
        is_fine = is_fine and not findings and not counts.get("dropped")
        if options.json:
            console.json({**said, "alive": is_alive})
            continue
        state = "running" if is_alive else _gone(has_left(directory, str(said.get("origin"))))
        console.line(f"{said.get('program')} (pid {said.get('pid')}, {said.get('origin')}): {state}")
        console.line(f"  since {time_of(_number(said, 'started'))}, as of {time_of(_number(said, 'time'))}")
        console.line(
            "  " + ", ".join(f"{name} {count}" for name, count in counts.items() if count or name == "captured")
        )
        for finding in findings:
            console.line(f"  {finding}", logging.WARNING)
    if not found and not options.json:
        console.line(f"no process has said anything in {', '.join(map(str, directories))}")
    return 0 if is_fine else 1


def _gone(has_lines: bool) -> str:
    rest = "the next process of its project, or joblog recover, stores the rest" if has_lines else "it left nothing"
    return f"gone; {rest}"


def _number(said: dict[str, Any], name: str) -> float:
    value = said.get(name)
    return float(value) if isinstance(value, int | float) else 0.0
