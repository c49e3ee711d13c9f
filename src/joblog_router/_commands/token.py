"""Hand out a token with which a worker elsewhere may write into one job's log, or revoke it.

The token is for that job only and expires. --revoke refuses all tokens that were handed out for the job so far.
"""

from __future__ import annotations

import argparse
import os
import time

from .._pipeline.dotted import load
from ..exceptions import ConfigurationError
from . import arguments
from .console import Console

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """See `joblog_router.cli`."""
    parser.add_argument("job", metavar="JOB", help="id of a job")
    parser.add_argument("--expires", type=_span, default="1d", metavar="SPAN", help="how long it holds: 45m, 12h, 7d")
    parser.add_argument("--staff", action="store_true", help="lines written with it are for staff only")
    arguments.add_namespace(parser)
    parser.add_argument("--revoke", action="store_true", help="refuse the tokens of this job instead")
    arguments.add_json(parser)


def run(options: argparse.Namespace, console: Console) -> int:
    """See `joblog_router.cli`."""
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        raise ConfigurationError("job tokens are signed by a Django project: run manage.py joblog token JOB")
    if options.revoke:
        load("joblog_router.contrib.remote.tokens.revoke_job")(options.job, options.namespace)
        if options.json:
            console.json({"job_id": options.job, "revoked": True})
        else:
            console.line(f"job {options.job}: the tokens handed out so far are refused")
        return 0
    token: str = load("joblog_router.contrib.remote.tokens.issue_token")(
        options.job,
        expires=options.expires,
        audience="staff" if options.staff else "all",
        namespace=options.namespace,
    )
    if options.json:
        console.json({"job_id": options.job, "token": token, "expires": round(time.time() + options.expires)})
    else:
        console.line(token)
    return 0


def _span(text: str) -> float:
    seconds = arguments.seconds_in(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no span of time: 45m, 12h, 7d or 2w")
    return float(seconds)
