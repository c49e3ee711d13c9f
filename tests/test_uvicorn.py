"""A real uvicorn: requests on a kept connection begin in the context of an earlier one, and not in its job."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.uvicorn import Uvicorn

APPLICATION = """
import logging, logging.config, os
from joblog_router import current_job, job_context, stats
from joblog_router._pipeline import scopes
logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
    "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                         "options": {"directory": os.environ["JOBLOG_DIRECTORY"]}}},
    "root": {"level": "INFO", "handlers": ["job"]}})
log = logging.getLogger("shop")

async def application(scope, receive, send):
    if scope["type"] != "http":
        return
    # What a plain context variable would show: the scope of an earlier request, closed by now.
    inherited = scopes.get_scope()
    log.info("a request begins")
    assert current_job() is None
    number = scope["path"].strip("/")
    with job_context(number):
        size, more = 0, True
        while more:
            # uvicorn registers the socket anew inside of this call, and with it this context.
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        log.info("job %s got %d bytes", number, size)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"%d %d" % (inherited is not None, stats()["late"])})
"""


@pytest.mark.parametrize(("http", "loop"), [("h11", "asyncio"), ("httptools", "asyncio"), ("httptools", "uvloop")])
def test_requests_on_a_kept_connection_never_begin_in_an_earlier_ones_job(tmp_path: Path, http: str, loop: str) -> None:
    """Bodies of 400 KB on one connection: the closed scope is inherited, and no line gets into its log."""
    (tmp_path / "application.py").write_text(APPLICATION)
    logs = tmp_path / "logs"
    options = ("--http", http, "--loop", loop)
    with Uvicorn(tmp_path, "application:application", *options, JOBLOG_DIRECTORY=str(logs)) as server:
        connection = server.connection()
        inherited = 0
        for number in range(12):
            connection.request("POST", f"/{number}", body=b"x" * 400_000)
            response = connection.getresponse()
            answer = response.read().split()
            assert response.status == 200, server.text()
            inherited += int(answer[0])
        connection.close()
    # Without this the test would show nothing: uvicorn 0.54 with asyncio's loop passes the context on.
    assert inherited or loop == "uvloop", "no request began in the context of an earlier one"
    assert int(answer[1]) == inherited, "the lines that a dead scope was asked for are counted as late"
    lines = [json.loads(line) for path in logs.glob("*.jsonl") for line in path.read_text().splitlines()]
    assert Counter((line["job_id"], line["message"]) for line in lines) == {
        (str(number), f"job {number} got 400000 bytes"): 1 for number in range(12)
    }
