"""Sentry, OpenTelemetry, New Relic and RQ beside this library, as docs/other-tools.md has it."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import sentry_sdk
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import TracerProvider
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from joblog_router import JobContextFilter, current_job, job_context
from tests.contrib.celery.valkey import ValkeyServer
from tests.helpers import SRC, configure, entries, messages

DOCUMENT = Path(__file__).parents[1] / "docs" / "other-tools.md"


def recipe(heading: str) -> str:
    """The Python block under a heading of the document."""
    section = DOCUMENT.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


class InMemory(Transport):
    """Keeps events instead of sending them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[dict[str, object]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """What Sentry would send."""
        self.events += [event for item in envelope.items if (event := item.get_event()) is not None]


def test_sentry_sees_each_record_once_with_its_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is one event with the job as its tag, and it is in the job's log once; breadcrumbs are not doubled."""
    configure()
    # Sentry replaces it for good; other tests are to find it as it was.
    monkeypatch.setattr(logging.Logger, "callHandlers", logging.Logger.callHandlers)
    names: dict[str, object] = {}
    exec(recipe("Sentry"), names)
    transport = InMemory()
    client_options = {"integrations": [LoggingIntegration(level=logging.INFO, event_level=logging.ERROR)]}
    sentry_sdk.init(
        "http://key@127.0.0.1:9/1",
        transport=transport,
        default_integrations=False,
        before_send=names["before_send"],  # type: ignore[arg-type]
        **client_options,  # type: ignore[arg-type]
    )
    try:
        logger = logging.getLogger("tests.sentry")
        with sentry_sdk.isolation_scope(), job_context(7, step="load"):
            logger.info("on its way")
            logger.error("broken")
        logger.error("outside")
        sentry_sdk.flush(5)
    finally:
        sentry_sdk.init()
    assert messages("7") == ["on its way", "broken"]
    first, second = transport.events
    assert first["tags"] == {"job_id": "7"}
    assert [crumb["message"] for crumb in first["breadcrumbs"]["values"]] == ["on its way"]  # type: ignore[index]
    assert "job_id" not in (second.get("tags") or {})  # type: ignore[operator]


def test_opentelemetry_exports_each_record_once_and_traces_go_into_fields() -> None:
    """A record with its job as an attribute; the trace id of the recipe is a field of the job's lines."""
    configure()
    exporter = InMemoryLogRecordExporter()
    provider = LoggerProvider()
    provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it is moving to another package, as it is
        handler = LoggingHandler(logger_provider=provider)
    handler.addFilter(JobContextFilter())
    logging.getLogger().addHandler(handler)
    names: dict[str, object] = {}
    exec(recipe("OpenTelemetry"), names)

    class Job:
        pk = 7

        def run(self) -> None:
            logging.getLogger("tests.otel").info("working")

    tracer = TracerProvider().get_tracer("tests")
    with tracer.start_as_current_span("job") as span:
        names["run"](Job())  # type: ignore[operator]
    assert current_job() is None
    (exported,) = [one.log_record for one in exporter.get_finished_logs() if one.log_record.body == "working"]
    assert exported.attributes is not None
    assert exported.attributes["job_id"] == "7"
    assert exported.trace_id == span.get_span_context().trace_id
    (entry,) = entries("7")
    assert entry.fields["trace_id"] == f"{exported.trace_id:032x}"


AGENT = """
[newrelic]
app_name = tests
developer_mode = true
log_file = stderr
log_level = error
application_logging.forwarding.context_data.enabled = true
application_logging.local_decorating.enabled = true
"""

MONITORED = """
import json, logging
import newrelic.agent
newrelic.agent.initialize("newrelic.ini")
application = newrelic.agent.register_application(timeout=20)
import recipe
from joblog_router import job_context
from joblog_router.testing import capture_job_logs
log = logging.getLogger("app.work")
logging.getLogger().setLevel("INFO")
with capture_job_logs() as logs:
    with job_context(7, step="load"):
        log.info("working on %d", 3)
        with newrelic.agent.BackgroundTask(application, "job"):
            log.error("broken")
    log.info("outside")
    kept = logs.messages(7)
from newrelic.core.agent import agent_instance
events = agent_instance().application("tests")._stats_engine.log_events.samples
seen = [(e.message, e.attributes.get("context.job_id"), e.attributes.get("context.step")) for e in events]
print(json.dumps([kept, sorted(seen)]))
"""


def test_new_relic_forwards_each_record_once_with_its_job(tmp_path: Path) -> None:
    """The agent in developer mode, which sends nothing: what it would forward, in a transaction and outside of one."""
    (tmp_path / "newrelic.ini").write_text(AGENT)
    (tmp_path / "recipe.py").write_text(recipe("New Relic"))
    (tmp_path / "monitored.py").write_text(MONITORED)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NEW_RELIC")}
    done = subprocess.run(
        [sys.executable, "monitored.py"],
        cwd=tmp_path,
        env={**inherited, "PYTHONPATH": str(SRC), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept, seen = json.loads(done.stdout.splitlines()[-1])
    assert kept == ["working on 3", "broken"]
    assert seen == [["broken", "7", "load"], ["outside", None, None], ["working on 3", "7", "load"]]


WORKER = """
import logging, logging.config, os, sys
sys.path.insert(0, ".")
from redis import Redis
from rq import Queue
import recipe
logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
    "handlers": {"job": {"class": "joblog_router.JobLogHandler", "sink": "jsonl", "fold": False,
                         "options": {"directory": "logs"}}},
    "root": {"level": "INFO", "handlers": ["job"]}})
connection = Redis(unix_socket_path=os.environ["VALKEY"])
queue = Queue("images", connection=connection)
import tasks
for job_id in range(1, 6):
    queue.enqueue(tasks.work, kwargs={"job_id": job_id})
queue.enqueue(tasks.fail, kwargs={"job_id": 6})
nameless = queue.enqueue(tasks.work, kwargs={"job_id": 0})
recipe.JobLogWorker([queue], connection=connection).work(burst=True, logging_level="WARNING")
print(nameless.id)
"""

TASKS = """
import logging
logger = logging.getLogger("shop.work")

def work(job_id):
    for number in range(50):
        logger.info("job %d line %d", job_id, number)

def fail(job_id):
    logger.info("about to fail")
    raise ValueError("broken")
"""


def test_the_recipe_for_rq(tmp_path: Path) -> None:
    """A real worker that forks for each job, with a real Valkey: all lines of each job are in its log, once."""
    (tmp_path / "recipe.py").write_text(recipe("RQ"))
    (tmp_path / "tasks.py").write_text(TASKS)
    server = ValkeyServer()
    try:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(WORKER)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(SRC), "VALKEY": str(server.socket)},
            capture_output=True,
            text=True,
            timeout=50,
            check=False,
        )
    finally:
        server.close()
    assert done.returncode == 0, done.stderr
    found = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in (tmp_path / "logs").glob("*.jsonl")
    }
    for job in range(1, 6):
        lines = [entry for entry in found[str(job)] if entry["logger"] == "shop.work"]
        assert [entry["message"] for entry in lines] == [f"job {job} line {number}" for number in range(50)]
        assert {entry["fields"]["queue"] for entry in lines} == {"images"}
    assert "about to fail" in [entry["message"] for entry in found["6"]]
    nameless = done.stdout.split()[-1]
    assert any(entry["message"] == "job 0 line 0" for entry in found[nameless])
