"""Faults of the example project itself, with all its servers and its own settings: the doctor names each.

Half of them run on SQLite and half on PostgreSQL; all on both are `soak`.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nats.js.api import AckPolicy, ConsumerConfig

from tests.faults.survey import Survey, SurveyJob
from tests.postgres import PORT, USER, PostgresServer

LIMIT = 10.0  # of a loaded machine; alone all are below three seconds
DATABASES = {"sqlite": pytest.mark.sqlite, "postgresql": pytest.mark.postgresql}


def on(first: str) -> Any:
    """The database of the ordinary run; the other one as well in the long one."""
    return pytest.mark.parametrize(
        "survey",
        [
            pytest.param(name, marks=[mark] if name == first else [mark, pytest.mark.soak])
            for name, mark in DATABASES.items()
        ],
        indirect=True,
    )


@pytest.fixture(scope="session")
def surveys(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Survey]]:
    """The project on either database, started when it is asked for first."""
    started: dict[str, Survey] = {}

    def of(name: str) -> Survey:
        if name not in started:
            url = ""
            if name == "postgresql":
                postgres: PostgresServer = request.getfixturevalue("postgres")
                database = postgres.create_database()
                url = f"postgres://{USER}@/{database}?host={postgres.host}&port={PORT}"
            started[name] = Survey(url)
        return started[name]

    yield of
    for survey in started.values():
        survey.close()


@pytest.fixture
def survey(surveys: Callable[[str], Survey], request: pytest.FixtureRequest) -> Survey:
    """The running project."""
    return surveys(request.param)


@pytest.fixture
def job(survey: Survey) -> SurveyJob:
    """A job that was not started yet."""
    return SurveyJob(survey)


def is_cause(verdict: dict[str, Any], cause: str, *sentence: str) -> None:
    """The verdict within three seconds, with evidence and advice."""
    assert verdict["cause"] == cause, json.dumps(verdict, indent=1)
    assert verdict["is_finding"]
    assert verdict["sure"] in {"certain", "likely"}
    assert verdict["took"] < LIMIT
    assert verdict["evidence"]
    assert verdict["advice"]
    for part in sentence:
        assert part in verdict["sentence"], verdict["sentence"]


@on("sqlite")
def test_never_sent(job: SurveyJob) -> None:
    """The row was made, and nobody asked to run it."""
    job.change(status="CREATED", age=3600)
    is_cause(job.doctor(), "never_queued", "neither the broker nor a worker has a task for it")


@on("postgresql")
def test_never_queued(job: SurveyJob) -> None:
    """It says that it runs; nothing was ever queued."""
    job.change(status="STARTED", age=3600)
    is_cause(job.doctor(), "never_queued", "NATS has no job_")


@on("sqlite")
def test_nobody_polls(survey: Survey, job: SurveyJob) -> None:
    """Queued by the real Celery task; no worker comes. The command says the same, and ends with 1."""
    job.run()
    job.settle()
    is_cause(job.doctor(), "nobody_polls", "No worker has polled yet: 24 tasks waiting")
    ran = survey.manage("joblog", "status", str(job.id))
    assert "24 waiting" in ran.stdout, ran.stdout + ran.stderr
    assert "cannot be peeked at" in ran.stdout
    assert "ack_wait 1.0 s [code], max_deliver 3 [code]" in ran.stdout
    assert ran.stderr == ""


@on("postgresql")
async def test_filter_mismatch(job: SurveyJob) -> None:
    """The consumer was made for another subject than the project publishes to."""
    job.run()

    async def replace(js: Any) -> None:
        await js.delete_consumer(job.stream, job.consumer)
        await js.add_consumer(
            job.stream,
            ConsumerConfig(
                durable_name=job.consumer, filter_subject=f"job.{job.id}.images.new", ack_policy=AckPolicy.EXPLICIT
            ),
        )

    await job.with_nats(replace)
    assert job.reserve() == []
    job.settle()
    is_cause(job.doctor(), "filter_mismatch", f"job.{job.id}.images")


@on("sqlite")
def test_crash_loop(job: SurveyJob) -> None:
    """Workers reserve and never send a result."""
    job.run()
    for _ in range(3):
        assert job.reserve()
    job.until(job.reserve, "delivered again")
    job.settle()
    is_cause(job.doctor(), "crash_loop", "never acknowledge", "of 3")


@on("postgresql")
def test_exhausted(job: SurveyJob) -> None:
    """One picture is too much for every worker; the rest is done, and the job waits."""
    job.run()
    poison = job.reserve(1)
    job.work(23)
    for _ in range(2):
        assert job.until(lambda: job.reserve(1), "delivered again")[0]["image"] == poison[0]["image"]
    time.sleep(1.1)  # its last ack_wait
    job.reserve(1)
    job.settle()
    is_cause(job.doctor(), "exhausted", "1 task was given up after 3 attempts")


@on("sqlite")
async def test_max_ack_pending(job: SurveyJob) -> None:
    """Somebody lowered it; what is reserved is not answered. That it is not the project's setting is told, too."""
    job.run()

    async def lower(js: Any) -> None:
        config = (await js.consumer_info(job.stream, job.consumer)).config
        config.max_ack_pending, config.ack_wait = 8, 30
        await js.add_consumer(job.stream, config)

    await job.with_nats(lower)
    assert len(job.reserve(20)) == 8
    assert job.reserve() == []
    job.settle()
    job.reserve()
    verdict = job.doctor()
    is_cause(verdict, "max_ack_pending", "8 tasks are reserved")
    drifts = {one["name"]: one["wanted_source"] for one in verdict["settings"] if one["drift"]}
    assert drifts == {
        "max_ack_pending": "code pipeline.queue.MAX_ACK_PENDING",
        "ack_wait": "code pipeline.queue.ACK_WAIT",
    }


@pytest.fixture
def broken_table(survey: Survey) -> Iterator[None]:
    """What results are saved to is not there."""
    survey.do("sql", statement="ALTER TABLE images_detection RENAME TO images_gone")
    yield
    survey.do("sql", statement="ALTER TABLE images_gone RENAME TO images_detection")


@on("sqlite")
def test_the_task_that_saves_results_fails(survey: Survey, job: SurveyJob, broken_table: None) -> None:
    """In the real worker: its error is quoted, while workers go on and the log is not silent."""
    is_failing(survey, job)


@on("postgresql")
def test_the_task_that_saves_results_fails_there(survey: Survey, job: SurveyJob, broken_table: None) -> None:
    """The same with the other database's words."""
    is_failing(survey, job)


def is_failing(survey: Survey, job: SurveyJob) -> None:
    """The error is quoted."""
    job.run()
    job.send(job.reserve())
    job.send(job.reserve())
    job.until(lambda: survey.log("celery").count("raised unexpected") >= 2, "failed")
    job.until(lambda: job.doctor()["probes"]["log"]["facts"]["task_error"], "told")
    job.reserve()  # workers go on
    is_cause(job.doctor(), "celery_task_failing", "images_detection")


@on("postgresql")
def test_celery_backed_up(survey: Survey, job: SurveyJob) -> None:
    """Its worker lives and waits for a lock that somebody holds; results pile up in the broker."""
    job.run()
    taken = job.reserve(24)
    results = survey.do("answers", tasks=taken)
    survey.do("lock")
    try:
        for result in results:
            survey.call(f"jobs/{job.id}/result/", {"results": [result]})
        job.settle()
        verdict = job.doctor()
    finally:
        survey.do("unlock")
    is_cause(verdict, "celery_backed_up", "tasks wait in the broker")


@on("sqlite")
def test_celery_dead(survey: Survey, job: SurveyJob) -> None:
    """Killed; the web server goes on taking results, and says so in the log."""
    job.run()
    taken = job.reserve(24)
    survey.kill("celery")
    try:
        for number in range(3):
            job.send(taken[8 * number : 8 * number + 8])
        job.settle()
        job.send(job.reserve() or taken[:8])
        verdict = job.doctor()
    finally:
        survey.start_celery()
    is_cause(verdict, "celery_dead", "No Celery worker answers: ")


@on("postgresql")
def test_redis_lost(survey: Survey, job: SurveyJob) -> None:
    """Somebody flushed the counters under the job."""
    job.run()
    job.change(age=3600, status="STARTED")
    with survey.redis as client:
        client.delete(*client.keys(f"job:{job.id}:*"))
    is_cause(job.doctor(), "redis_lost", "state in Redis is lost (total)")


@on("sqlite")
def test_redis_away(survey: Survey, job: SurveyJob) -> None:
    """The server of the counters hangs: they are not said to be lost."""
    job.run()
    survey.counters.pause()
    try:
        verdict = job.doctor()
    finally:
        survey.counters.resume()
    is_cause(verdict, "redis_unreachable", "not lost")


@on("postgresql")
def test_broker_away(survey: Survey, job: SurveyJob) -> None:
    """Celery's broker hangs."""
    job.run()
    survey.broker.pause()
    try:
        verdict = job.doctor()
    finally:
        survey.broker.resume()
    is_cause(verdict, "broker_unreachable")


@on("sqlite")
async def test_stream_deleted(job: SurveyJob) -> None:
    """By somebody else, in the middle of the job."""
    job.run()
    job.work(8)
    await job.with_nats(lambda js: js.delete_stream(job.stream))
    job.settle()
    is_cause(job.doctor(), "stream_deleted", "was deleted under the job")


@on("postgresql")
async def test_consumer_deleted(job: SurveyJob) -> None:
    """By somebody else, in the middle of the job."""
    job.run()
    job.work(8)
    await job.with_nats(lambda js: js.delete_consumer(job.stream, job.consumer))
    job.settle()
    is_cause(job.doctor(), "consumer_deleted", "was deleted under the job")


@on("sqlite")
async def test_canceling_and_still_serving(job: SurveyJob) -> None:
    """Only the status was set: workers that ask NATS themselves are still given tasks."""
    job.run()
    job.change(status="CANCELING", age=3600)

    async def take(js: Any) -> None:
        pull = await js.pull_subscribe_bind(consumer=job.consumer, stream=job.stream)
        await pull.fetch(2, timeout=1)

    await job.with_nats(take)
    is_cause(job.doctor(), "canceling_still_serving", "still serves tasks")


@on("postgresql")
def test_canceling_stuck(job: SurveyJob) -> None:
    """Only the status was set, and nobody does the rest."""
    job.run()
    job.change(status="CANCELING", age=3600)
    job.settle()
    is_cause(job.doctor(), "canceling_stuck")


@on("sqlite")
def test_finished_and_not_marked(survey: Survey, job: SurveyJob) -> None:
    """All is done; the end of the job was lost."""
    job.run()
    job.work(24)
    job.until(lambda: survey.do("row", job=job.id)["status"] == "SUCCESS", "done")
    job.change(status="STARTED", finished_at=None)
    job.settle()
    is_cause(job.doctor(), "not_marked")


@on("postgresql")
def test_orphaned_stream(job: SurveyJob) -> None:
    """The job ended an hour ago; nobody took its stream away."""
    job.run()
    job.change(status="FAILURE", age=3600)
    is_cause(job.doctor(), "orphaned_stream", f"job_{job.id}")


@on("sqlite")
def test_nats_hangs(survey: Survey, job: SurveyJob) -> None:
    """It takes connections and answers nothing."""
    job.run()
    survey.nats.pause()
    try:
        verdict = job.doctor()
    finally:
        survey.nats.resume()
    is_cause(verdict, "nats_down")


@on("postgresql")
def test_web_server_hangs(survey: Survey, job: SurveyJob) -> None:
    """Workers elsewhere know nothing else of the project."""
    job.run()
    job.settle()
    survey.signal("web", signal.SIGSTOP)
    try:
        verdict = job.doctor()
    finally:
        survey.signal("web", signal.SIGCONT)
    is_cause(verdict, "api_unreachable", "workers are given nothing")


@pytest.mark.postgresql
@pytest.mark.parametrize("survey", ["postgresql"], indirect=True)
def test_the_database_is_read_only(survey: Survey, job: SurveyJob, postgres: PostgresServer) -> None:
    """As after a fail-over: it answers, and nothing is saved, neither results nor lines of the log."""
    job.run()
    taken = job.reserve()
    name = survey.environment["DATABASE_URL"].partition("@/")[2].partition("?")[0]
    postgres.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    try:
        job.send(taken)
        job.settle()
        verdict = job.doctor()
    finally:
        postgres.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    is_cause(verdict, "database_read_only", "takes no writes")


@pytest.mark.parametrize("run", [0, *(pytest.param(run, marks=pytest.mark.soak) for run in range(1, 100))])
@on("sqlite")
def test_healthy_and_finished_are_no_findings(survey: Survey, job: SurveyJob, run: int) -> None:
    """A worker works, from the first picture to the last: no alarm at any time, and none when it is over."""
    job.run()
    images = [{"image": name, "reply": ""} for name in names(survey, job)]
    answers = {answer.pop("image"): answer for answer in survey.do("answers", tasks=images)}

    def work() -> None:
        while tasks := job.reserve(4):
            results = [{**answers[task["image"]], **task} for task in tasks]
            survey.call(f"jobs/{job.id}/result/", {"results": results})
            time.sleep(0.1)  # the work itself

    worker = threading.Thread(target=work)
    worker.start()
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + 30
    while not found or survey.do("row", job=job.id)["status"] != "SUCCESS":
        assert time.monotonic() < deadline, survey.log("celery")
        found.append(job.doctor(patience=5.0, window=0.1))
    worker.join(20)
    found.append(job.doctor())
    for verdict in found:
        assert not verdict["is_finding"], json.dumps(verdict, indent=1)
        assert not verdict["others"], json.dumps(verdict, indent=1)
    assert found[-1]["cause"] == "finished"


def names(survey: Survey, job: SurveyJob) -> list[str]:
    """The job's pictures, as its counters hold them."""
    with survey.redis as client:
        return sorted(name.decode() for name in client.smembers(f"job:{job.id}:process:pending"))
