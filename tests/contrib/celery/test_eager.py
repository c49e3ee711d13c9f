"""Tasks that run in their caller (`task_always_eager`, `apply`), and switching on and off in one process."""

from __future__ import annotations

import contextvars
import logging
import logging.handlers
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery, Task, signals
from celery.app.log import Logging
from celery.app.trace import build_tracer

from joblog_router import ConfigurationError, MissingExtraError, current_job, job_context, stats
from joblog_router.contrib.celery import instrument, instrumentation, uninstrument
from tests.helpers import configure, job_handler, messages, run_python

log = logging.getLogger("shop.work")


@pytest.fixture
def app() -> Iterator[Celery]:
    """An application that runs tasks at once, instrumented."""
    app = Celery("eager", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(task_always_eager=True, task_eager_propagates=False)
    instrument(parameters=["job_id"])
    yield app
    uninstrument()
    app.close()


@pytest.fixture
def work(app: Celery) -> Task:
    """A task that says which job it runs in, and may fail or leave a scope open."""

    @app.task(shared=False)
    def work(job_id: Any = None, fail: bool = False, leave: bool = False) -> str | None:
        log.info("working")
        job = current_job()
        if leave:
            job_context("left").__enter__()
        if fail:
            raise ValueError(job)
        return None if job is None else job.job_id

    return work


def test_an_eager_task_has_its_own_job_and_the_callers_is_back_afterwards(work: Task) -> None:
    """In every end state, also where the task leaves a scope open."""
    configure(loggers=["shop"])
    with job_context("caller") as caller:
        assert work.delay(job_id="own").get() == "own"
        assert current_job() is caller
        assert work.delay(job_id="own", fail=True).failed()
        assert current_job() is caller
        work.delay("own", leave=True)
        assert current_job() is caller
        log.info("after")
    assert current_job() is None
    assert messages("caller") == ["after"]
    assert messages("own").count("working") == 3


def test_an_eager_task_without_a_job_runs_in_its_callers(work: Task) -> None:
    """As a sent one does by its header."""
    assert work.delay().get() is None
    with job_context("caller"):
        assert work.delay().get() == "caller"
        assert work.apply(kwargs={"job_id": None}).get() == "caller"
        assert work.apply(args=["other"]).get() == "other"


def test_receivers_after_an_eager_task_are_in_its_job(work: Task) -> None:
    """Also those that were connected after ours."""
    seen: list[str | None] = []

    @signals.task_postrun.connect(weak=False, dispatch_uid="test")
    def after(**_: Any) -> None:
        job = current_job()
        seen.append(job and job.job_id)

    try:
        with job_context("caller"):
            work.delay(job_id="own")
    finally:
        signals.task_postrun.disconnect(dispatch_uid="test")
    assert seen == ["own"]


def test_what_goes_on_after_a_task_is_in_no_job_and_no_mistake(app: Celery) -> None:
    """A receiver hands its context on: what is logged there later is not late, nor of the job that frees it."""
    configure(loggers=["shop"])
    holding = logging.handlers.MemoryHandler(100, flushLevel=logging.CRITICAL, target=job_handler())
    held = logging.getLogger("shop.held")
    held.addHandler(holding)
    contexts: list[contextvars.Context] = []

    def after(**_: Any) -> None:
        log.info("after")
        contexts.append(contextvars.copy_context())

    @app.task(shared=False)
    def work(job_id: str) -> None:
        # Behind ours, which look after that before each task only.
        signals.task_postrun.connect(after, weak=False, dispatch_uid="test")

    try:
        # As a worker runs it, not as its caller would.
        build_tracer(work.name, work, app=app)("id", (), {"job_id": "own"}, {"id": "id", "task": work.name})
    finally:
        signals.task_postrun.disconnect(dispatch_uid="test")
    late = stats()["late"]
    contexts[0].run(held.warning, "after all")
    with job_context("caller"):
        holding.flush()
    assert (messages("own"), messages("caller")) == (["after"], [])
    assert stats()["late"] == late


def test_calling_a_task_as_a_function_changes_nothing(work: Task) -> None:
    """It is no task run, but a call in the caller's job."""
    assert work(job_id="own") is None
    with job_context("caller"):
        assert work(job_id="own") == "caller"


@pytest.mark.parametrize(
    ("arguments", "job"),
    [({"survey": 5}, "5"), ({"job": 6, "survey": 5}, "6"), ({"job": None, "survey": 5}, "5"), ({"job_id": 7}, None)],
)
def test_the_names_of_the_parameters_are_an_option(app: Celery, arguments: dict[str, Any], job: str | None) -> None:
    """The first that is given counts; with others than job_id that one says nothing."""

    @app.task(shared=False)
    def named(**kwargs: Any) -> str | None:
        found = current_job()
        return None if found is None else found.job_id

    instrument(parameters=("job", "survey"))
    assert named.apply(kwargs=arguments).get() == job


def test_defaults_and_what_is_no_id(app: Celery) -> None:
    """A default counts like an argument; a flag or a container is no id."""

    @app.task(shared=False)
    def defaulted(first: int, *rest: int, job_id: Any = "usual") -> str | None:
        job = current_job()
        return None if job is None else job.job_id

    assert defaulted.apply(args=[1, 2, 3]).get() == "usual"
    assert defaulted.apply(args=[1], kwargs={"job_id": 8}).get() == "8"
    for other in (True, {"id": 1}, [1], ""):
        assert defaulted.apply(args=[1], kwargs={"job_id": other}).get() is None


def receivers() -> list[tuple[str, int]]:
    """How many receivers each signal has."""
    return [
        (name, len(signal.receivers)) for name, signal in vars(signals).items() if isinstance(signal, signals.Signal)
    ]


def test_instrumenting_twice_connects_once_and_uninstrumenting_takes_all_back() -> None:
    """Both are idempotent."""
    before = receivers()
    original = Logging.setup_logging_subsystem
    assert not signals.setup_logging.receivers  # one would turn Celery's own set-up off
    instrument()
    connected = receivers()
    assert connected != before
    assert not signals.setup_logging.receivers
    instrument()
    assert receivers() == connected
    uninstrument()
    uninstrument()
    assert receivers() == before
    assert Logging.setup_logging_subsystem is original


def test_uninstrumenting_inside_a_task_ends_its_scope(app: Celery) -> None:
    """What the task logs from then on is in no job's log."""
    configure(loggers=["shop"])

    @app.task(shared=False)
    def ends(job_id: int) -> bool:
        uninstrument()
        log.info("without")
        return current_job() is None

    assert ends.delay(job_id=1).get()
    assert messages("1") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"parameter": ["x"]}, "Celery: no option 'parameter'; there is: parameters"),
        ({"parameters": "job_id"}, "Celery: parameters must be a list of names of task parameters"),
        ({"parameters": []}, "Celery: parameters must be"),
        ({"parameters": ["job id"]}, "Celery: parameters must be"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    """At once, naming the option."""
    with pytest.raises(ConfigurationError, match=words):
        instrument(**options)
    assert instrumentation._installed.now is None


def test_without_celery_the_extra_is_named() -> None:
    """Importing works, instrumenting says what to install."""
    result = run_python(
        """
        import sys
        sys.modules["celery"] = None
        from joblog_router.contrib.celery import instrument
        instrument()
        """
    )
    assert "MissingExtraError: celery is not installed. Run: pip install 'joblog-router[celery]'" in result.stderr
    assert MissingExtraError.__name__ in result.stderr


def test_a_handler_configured_after_celerys_set_up_serves_task_loggers() -> None:
    """Where Celery was set up before: task loggers are cut off from the root logger by then."""
    result = run_python(
        """
        import logging
        from celery import Celery
        from celery.utils.log import get_task_logger
        from joblog_router import JobLogHandler, flush, job_context
        from joblog_router.contrib.celery import instrument
        Celery("x").log.setup(loglevel="INFO")
        logging.getLogger().addHandler(handler := JobLogHandler(sink="memory"))
        instrument()
        with job_context(1):
            get_task_logger("shop").info("of a task")
        flush()
        print([entry.message for entry in handler.sink.entries(1)])
        """
    )
    assert result.stdout.strip() == "['of a task']", result.stderr


def test_an_application_that_sets_logging_up_itself_is_left_alone() -> None:
    """With a receiver of setup_logging Celery does nothing, and nothing is put back."""
    result = run_python(
        """
        import logging
        from celery import Celery, signals
        from joblog_router import JobLogHandler
        from joblog_router.contrib.celery import instrument
        logging.getLogger().addHandler(JobLogHandler(sink="memory"))
        instrument()
        @signals.setup_logging.connect
        def own(**_):
            logging.getLogger().handlers[:] = [logging.NullHandler()]
        Celery("x").log.setup(loglevel="INFO")
        print([type(handler).__name__ for handler in logging.getLogger().handlers])
        print([type(handler).__name__ for handler in logging.getLogger("celery.task").handlers])
        """
    )
    assert result.stdout.splitlines() == ["['NullHandler']", "['NullHandler']"], result.stderr
