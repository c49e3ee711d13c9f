"""A Celery application as a project has it: its own logging, receivers and tasks. Run by workers of the tests.

Knows nothing of joblog-router but the handler in its logging and the call of `instrument`.
"""

# ruff: noqa: D103 - an application's functions, not tests

from __future__ import annotations

import asyncio
import logging
import logging.config
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import redis
from celery import Celery, chord, group, signals
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_task_logger

from joblog_router import current_job, detached, job_context, stats
from joblog_router.context import use_namespace
from joblog_router.contrib.celery import instrument

DIRECTORY = Path(os.environ["JOBLOG_DIRECTORY"])

logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "job": {
                "class": "joblog_router.JobLogHandler",
                "fold": False,
                "spool": os.environ.get("JOBLOG_SPOOL"),
                "sink": os.environ.get("JOBLOG_SINK", "jsonl"),
                "options": {} if "JOBLOG_SINK" in os.environ else {"directory": str(DIRECTORY)},
            },
        },
        "root": {"level": "INFO", "handlers": ["job"]},
    }
)
log = logging.getLogger("shop.work")
receivers = logging.getLogger("shop.receivers")
task_log = get_task_logger("shop.tasks")

kept: list[Any] = []

app = Celery("worker_app", broker=os.environ["BROKER"], backend=os.environ.get("BACKEND", os.environ["BROKER"]))
app.conf.update(
    worker_hijack_root_logger=os.environ.get("HIJACK", "1") == "1",
    result_backend_transport_options={"retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0}},
    broker_connection_retry_on_startup=True,
    task_publish_retry=False,
)


@signals.task_prerun.connect(weak=False)
def prerun_before(**_: Any) -> None:
    receivers.info("prerun, connected before")


@signals.task_postrun.connect(weak=False)
def postrun_before(**_: Any) -> None:
    receivers.info("postrun, connected before")


instrument()
if "NAMESPACE" in os.environ:
    use_namespace(lambda: os.environ["NAMESPACE"])


@signals.task_postrun.connect(weak=False)
def postrun_after(task: Any, **_: Any) -> None:
    receivers.info("postrun, connected after")
    if task.name.endswith("cleans_up_after"):

        async def clean_up() -> None:
            receivers.info("postrun, in a coroutine")

        asyncio.run(clean_up())


@signals.task_failure.connect(weak=False)
def failure(**_: Any) -> None:
    receivers.info("failure")


@signals.task_success.connect(weak=False)
def success(**_: Any) -> None:
    receivers.info("success")


@contextmanager
def as_tenant(name: str) -> Iterator[None]:
    before = os.environ.get("NAMESPACE", "")
    os.environ["NAMESPACE"] = name
    try:
        yield
    finally:
        os.environ["NAMESPACE"] = before


@app.task
def work(job_id: Any = None, lines: int = 1, name: str = "") -> int:
    for line in range(lines):
        log.info("%s line %d of job %s", name, line, job_id)
    return os.getpid()


@app.task
def positional(count: int, job_id: Any) -> None:
    log.info("third of %d", count)


@app.task(bind=True)
def bound(self: Any, job_id: Any, count: int = 0) -> None:
    log.info("bound %s", self.name)


@app.task(bind=True, autoretry_for=(KeyError,), max_retries=1, default_retry_delay=0)
def retrying(self: Any, job_id: Any) -> None:
    log.info("try %d", self.request.retries)
    raise KeyError("again")


@app.task(bind=True, max_retries=1)
def retries_inside(self: Any, job_id: Any = None, other: str = "", tenant: str = "") -> None:
    """Looks at another job than its own, perhaps another tenant's, and goes on later."""
    log.info("outside, try %d", self.request.retries)
    with as_tenant(tenant), job_context(other):
        log.info("inside, try %d", self.request.retries)
        if not self.request.retries:
            no_job.delay("sent inside")
            raise self.retry(countdown=0)


@app.task(bind=True)
def replaces_inside(self: Any, other: str) -> NoReturn:
    with job_context(other):
        raise self.replace(no_job.si("replacement"))


@app.task
def other_name(survey: Any) -> None:
    log.info("survey %s", survey)


@app.task
def no_job(name: str = "") -> str | None:
    log.info("nobody's %s", name)
    job = current_job()
    return None if job is None else job.job_id


@app.task
def leaves_a_scope_open(job_id: Any) -> None:
    job_context("left open").__enter__()
    log.info("in the scope that is left open")


@app.task
def fails(job_id: Any) -> None:
    task_log.info("through a task logger")
    raise ValueError("no such survey")


@app.task
def ends(job_id: Any, how: str) -> None:
    log.info("about to %s", how)
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("no", requeue=False)
    if how == "exit":
        sys.exit(3)
    if how == "vanish":
        os._exit(3)
    if how == "be killed":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # ended from outside: that is the test


@app.task
def dies() -> None:
    log.info("about to die")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def sends_dying(job_id: Any) -> None:
    dies.delay()


@app.task(soft_time_limit=1)
def soft_limited(job_id: Any) -> None:
    time.sleep(60)  # ended from outside: that is the test


@app.task(time_limit=1)
def hard_limited(job_id: Any) -> None:
    log.info("works for long")
    time.sleep(60)  # ended from outside: that is the test


@app.task
def sends(job_id: Any, name: str) -> None:
    no_job.delay(name)
    with detached():
        no_job.delay(f"{name} detached")


@app.task
def starts_chord(job_id: Any, parts: list[Any], name: str) -> None:
    chord(group(work.s(part) for part in parts), summary.s(name)).delay()


@app.task
def summary(results: list[Any], name: str) -> None:
    log.info("summary of %s", name)


@app.task(bind=True)
def connects_a_receiver(self: Any, job_id: Any, leave: bool = False) -> None:
    kept.append(self.request)

    @signals.task_postrun.connect(weak=False, dispatch_uid="late")
    def late(**_: Any) -> None:
        signals.task_postrun.disconnect(dispatch_uid="late")
        receivers.info("postrun, connected by a task")
        job = current_job()
        receivers.info("the job is %s", job and job.job_id)
        if leave:
            job_context("left by a receiver").__enter__()


@app.task
def cleans_up_after(job_id: Any) -> None:
    pass


@app.task
def prints(job_id: Any) -> None:
    print("printed by the task")


@app.task
def counters() -> dict[str, Any]:
    return stats()


@app.task
def keeps_state(job_id: Any, port: int, progress: str) -> None:
    """What a library does: keeps the state of a job in Redis, and logs what goes wrong with its module logger."""
    library = logging.getLogger("shop.state")
    # One connection, no second try: what fails is shown as it is.
    state = redis.Redis("127.0.0.1", port, retry=None, retry_on_error=[], socket_timeout=20)
    number = 0
    while True:
        number += 1
        Path(progress).write_text(str(number))
        update_state(state, job_id, number, library)


def update_state(state: Any, job_id: Any, number: int, library: logging.Logger) -> None:
    try:
        state.set(f"job:{job_id}", number)
    except redis.ConnectionError:
        library.exception("updating the state of job %s failed", job_id)
        raise


@app.task(bind=True)
def tells_progress(self: Any, job_id: Any, progress: str) -> NoReturn:
    """Keeps its state in Celery's own result backend."""
    number = 0
    while True:
        number += 1
        Path(progress).write_text(str(number))
        self.update_state(state="PROGRESS", meta={"number": number})
