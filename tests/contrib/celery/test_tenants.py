"""Two tenants with a job of the same id: a task is its sender's, whatever namespace is in force in the worker."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, signals
from celery.app.task import Context

from joblog_router import job_context
from joblog_router.context import use_namespace
from joblog_router.contrib.celery import instrument, uninstrument
from tests.contrib.celery.valkey import ValkeyServer
from tests.contrib.celery.worker import TaskFailedError, Worker, until
from tests.helpers import configure, entries

log = logging.getLogger("shop.work")


class Tenant:
    """Whose turn it is in this process."""

    name = "public"


@pytest.fixture(autouse=True)
def _tenants() -> Iterator[None]:
    Tenant.name = "public"
    use_namespace(lambda: Tenant.name)
    instrument(parameters=["job_id"])
    yield
    uninstrument()
    use_namespace("")


def stored(worker: Worker, namespace: str) -> list[dict[str, Any]]:
    """All lines of a tenant's jobs."""
    paths = sorted((worker.directory / namespace).glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def wait_for(worker: Worker, namespace: str, message: str, count: int = 1) -> list[dict[str, Any]]:
    """Those lines, once enough of them are there."""
    until(lambda: [message in line["message"] for line in stored(worker, namespace)].count(True) >= count, message)
    return stored(worker, namespace)


def test_a_worker_for_all_tenants(broker: ValkeyServer, tmp_path: Path) -> None:
    """By argument and by header, with sub-tasks, retries, chords, failures, receivers and a killed process."""
    with Worker(broker.database(), tmp_path, "-P", "prefork", "-c", "1", NAMESPACE="public") as worker:
        for name in ("a", "b"):
            Tenant.name = name
            with job_context(7):
                Tenant.name = "public"
                worker.run("no_job", f"by header of {name}")
                worker.run("work", job_id=7, name=f"by argument of {name}")
            Tenant.name = name
            worker.run("work", job_id=7, name=f"outside a scope of {name}")
            worker.run("sends", 7, f"sub-task of {name}")
            worker.run("starts_chord", 7, [7, 7], f"chord of {name}")
            for task in ("fails", "retrying"):
                with pytest.raises(TaskFailedError):
                    worker.run(task, 7)
            with pytest.raises(TaskFailedError):
                worker.run("ends", 7, "vanish")
            wait_for(worker, name, f"summary of chord of {name}")
            lines = wait_for(worker, name, "was lost")
            messages = [line["message"] for line in lines]
            for part in ("by header", "by argument", "outside a scope", "sub-task", "chord"):
                assert any(f"{part} of {name}" in message for message in messages), (part, messages)
            for message in ("through a task logger", "try 1", "postrun, connected after"):
                assert message in messages
            other = "b" if name == "a" else "a"
            assert not [message for message in messages if f" of {other}" in message]
            assert {line["job_id"] for line in lines} == {"7"}
        for _ in range(2):
            worker.run("counters")  # behind whatever there was
        assert stored(worker, "public") == []
        uninstrument()
        # A sender before this: its message names an id and no namespace.
        worker.run("no_job", "old", headers={"joblog_job_id": "7"})
        wait_for(worker, "public", "nobody's old")
        # It retries within another tenant's job.
        worker.run("retries_inside", 7, "8", "c")
        wait_for(worker, "public", "outside, try 1")
        assert {line["job_id"] for line in stored(worker, "c")} == {"8"}
        assert worker.all_lines() == []


def test_an_eager_task_is_its_callers_tenants() -> None:
    """Within a scope its namespace; receivers behind ours, too."""
    app = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True)
    configure(loggers=["shop"])

    @app.task(shared=False)
    def work(job_id: Any = None) -> None:
        log.info("working")

    @signals.task_postrun.connect(weak=False, dispatch_uid="test")
    def after(**_: Any) -> None:
        log.info("after")

    try:
        for name in ("a", "b"):
            Tenant.name = name
            work.delay(job_id=7)
            with job_context(7):
                Tenant.name = "public"
                work.delay(job_id=7)
                work.delay()
    finally:
        signals.task_postrun.disconnect(dispatch_uid="test")
        app.close()
    found = [(entry.namespace, entry.job_id) for entry in entries()]
    assert found == [("a", "7")] * 6 + [("b", "7")] * 6


def test_a_chords_body_is_its_starters_tenants() -> None:
    """Whichever of its tasks ends last and sends it; headers of its own stay."""
    chord: dict[str, Any] = {"options": {"headers": {"mine": 1}}}
    embedded: dict[str, Any] = {"chord": chord}
    Tenant.name = "a"
    signals.before_task_publish.send(sender="part", headers={}, body=((), {}, embedded))
    headers = {"joblog_job_id": "", "joblog_namespace": "a", "mine": 1}
    assert embedded == {"chord": {"options": {"headers": headers}}}
    assert chord == {"options": {"headers": {"mine": 1}}}


def test_a_receiver_behind_ours_is_in_the_tasks_namespace() -> None:
    """In a worker's process, after the end of the task's scope."""
    app = Celery("tail", broker="memory://", set_as_current=False)
    configure(loggers=["shop"])

    @app.task(shared=False)
    def work(job_id: Any) -> None: ...

    def late(**_: Any) -> None:
        log.info("late")

    request = Context({"id": "1", "task": work.name, "args": [7], "kwargs": {}, "is_eager": False})
    work.request_stack.push(request)
    Tenant.name = "a"
    try:
        signals.task_prerun.send(sender=work, task_id="1", task=work, args=[7], kwargs={})
        Tenant.name = "public"
        signals.task_postrun.connect(late, weak=False)
        signals.task_postrun.send(sender=work, task_id="1", task=work, args=[7], kwargs={}, retval=None)
    finally:
        signals.task_postrun.disconnect(late)
        work.request_stack.pop()
        app.close()
    assert [(entry.namespace, entry.message) for entry in entries()] == [("a", "late")]
