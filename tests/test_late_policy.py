"""What becomes of records of closed scopes, and of work that comes after a job's end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading

import pytest

from joblog_router import ConfigurationError, JobContextFilter, JobLogHandler, carry, job_context, leak_report, stats
from joblog_router._pipeline import leaks, resolve
from tests.helpers import configure, entries, job_handler, messages

results = logging.getLogger("app.results")
noise = logging.getLogger("app.results.noise")
other = logging.getLogger("other")


def after_close(job_id: str, **fields: str) -> None:
    """Three loggers' records, logged in the closed scope of `job_id`."""
    with job_context(job_id, **fields):

        @carry
        def log_late() -> None:
            for logger in (results, noise, other):
                logger.info("from %s", logger.name)

    log_late()


def test_late_records_are_dropped_unless_asked_for() -> None:
    """The default: in no job's log, counted."""
    configure()
    before = stats()
    after_close("1")
    assert messages() == []
    assert (stats()["late"] - before["late"], stats()["marked"] - before["marked"]) == (3, 0)


def test_late_records_of_some_loggers_are_kept_and_marked() -> None:
    """By the longest prefix; the field says so, the scope's fields and numbers go on."""
    configure(late={"app": "mark", "app.results.noise": "drop"})
    before = stats()
    after_close("1", stage="save")
    (entry,) = entries()
    assert (entry.job_id, entry.message, entry.n) == ("1", "from app.results", 1)
    assert dict(entry.fields) == {"stage": "save", "late": True}
    assert (stats()["late"] - before["late"], stats()["marked"] - before["marked"]) == (2, 1)


def test_the_policy_for_all_loggers() -> None:
    """The empty name stands for all of them."""
    configure(late={"": "mark"})
    after_close("1")
    assert messages() == ["from app.results", "from app.results.noise", "from other"]


@pytest.mark.parametrize("grace", [5, 0])
def test_the_grace_ends(grace: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many seconds after the scope has closed, the record is in no job's log again; with none, at once."""
    now = [100.0]
    monkeypatch.setattr(resolve.time, "monotonic", lambda: now[0])
    configure(late={"app": "mark"}, late_grace=grace)
    with job_context("1"):
        log_late = carry(lambda: results.info("at %s", now[0]))
    log_late()
    now[0] = 100.0 + grace
    log_late()
    now[0] = 100.1 + grace
    log_late()
    assert messages() == ["at 100.0", f"at {100.0 + grace}"]


def test_filter_and_handler_agree_on_a_late_record() -> None:
    """The console's record has the job and the mark as well."""
    configure(late={"app": "mark"})
    record = results.makeRecord("app.results", logging.INFO, "f.py", 1, "m", (), None)
    with job_context(1):

        @carry
        def handle() -> None:
            JobContextFilter().filter(record)
            job_handler().handle(record)

    handle()
    assert (record.job_id, record.late) == ("1", True)  # type: ignore[attr-defined]
    assert messages() == ["m"]


def test_the_policy_ends_with_its_handler() -> None:
    """A later configuration that says nothing has the default again."""
    configure(late={"": "mark"})
    configure()
    after_close("1")
    assert messages() == []


@pytest.mark.parametrize(
    ("keyword", "value", "words"),
    [
        ("late", ["app"], "late must be a dictionary"),
        ("late", {"app": "keep"}, "'drop' or 'mark'"),
        ("late_grace", -1, "late_grace must be a number of seconds"),
        ("late_grace", True, "late_grace must be a number of seconds"),
        ("services", "app.poll", "services must be a list of dotted names"),
        ("services", ["app poll"], "which is not a dotted name"),
        ("generator_drivers", [1], "generator_drivers must be a list"),
        ("report_tasks", 1, "report_tasks must be True or False"),
        ("evidence", "job_id", "evidence must be a list of keys"),
    ],
)
def test_what_the_configuration_alone_shows_raises(keyword: str, value: object, words: str) -> None:
    """With the name of the keyword and what it takes; and nothing of the handler stays behind."""
    with pytest.raises(ConfigurationError, match=words):
        JobLogHandler(sink="memory", **{keyword: value})  # type: ignore[arg-type]


def test_results_after_the_end_are_stored_and_marked() -> None:
    """A scope that is opened for a job that has ended marks its lines, nested scopes of the job too."""
    configure()
    for is_finished in (False, True):
        with job_context(1, after_end=is_finished):
            results.info("saved")
            with job_context(1, stage="ack"):
                results.info("acknowledged")
    assert [dict(entry.fields) for entry in entries()] == [
        {},
        {"stage": "ack"},
        {"after_end": True},
        {"after_end": True, "stage": "ack"},
    ]


def test_the_leak_report_names_the_places() -> None:
    """Call sites with late records, conflicts and records that name a job but have none, with counts."""
    configure()
    leaks.forget()
    assert not leak_report()
    after_close("1")
    after_close("2")
    with job_context(3):
        results.info("of four", extra={"job_id": 4})
    record = results.makeRecord("app.results", logging.INFO, "f.py", 7, "m", (), None, extra={"job_id": 5})
    JobContextFilter().filter(record)
    report = leak_report()
    assert report
    assert {(site.logger, site.count, site.job_id) for site in report.late} == {("app.results", 6, "2")}
    assert [(site.job_id, site.named, site.count) for site in report.conflicts] == [("3", "4", 1)]
    assert [(site.path, site.line, site.named) for site in report.unaddressed] == [("f.py", 7, "5")]
    text = str(report)
    assert "f.py:7 (app.results) named job '5' where no job is open, 1 times" in text
    assert "test_late_policy.py" in text
    assert report.as_dict()["late"][0]["count"] == 6


def test_a_stamped_record_is_not_unaddressed() -> None:
    """A record that was judged before, and one whose scope agrees, are no findings."""
    configure()
    leaks.forget()
    record = results.makeRecord("app.results", logging.INFO, "f.py", 7, "m", (), None, extra={"job_id": 1})
    with job_context(1):
        JobContextFilter().filter(record)
    JobContextFilter().filter(record)
    plain = results.makeRecord("app.results", logging.INFO, "f.py", 8, "m", (), None)
    JobContextFilter().filter(plain)
    JobContextFilter().filter(plain)
    assert not leak_report()


def test_the_leak_report_is_bounded() -> None:
    """So many places; what comes from further ones is only counted."""
    configure()
    leaks.forget()
    with job_context(1):
        log_late = carry(lambda record: JobContextFilter().filter(record))
    for line in range(1100):
        log_late(results.makeRecord("x", logging.INFO, "f.py", line, "m", (), None))
    report = leak_report()
    assert (len(report.late), report.beyond) == (1000, 100)
    assert "and 100 records of other places" in str(report)


def test_the_leak_report_counts_exactly_from_many_threads() -> None:
    """No lock, and no count lost."""
    configure()
    leaks.forget()

    def many() -> None:
        for _ in range(200):
            results.info("late")

    with job_context(1):
        threads = [threading.Thread(target=carry(many)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [site.count for site in leak_report().late] == [1600]


async def _poll(go: asyncio.Event) -> None:
    await go.wait()


async def _outlive() -> None:
    go = asyncio.Event()
    with job_context("1"):
        with job_context("1"):
            inner = asyncio.create_task(asyncio.sleep(0))
        await inner
        tasks = [asyncio.create_task(_poll(go), name=f"poll-{number}") for number in range(2)]
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the last test is for older Pythons")
@pytest.mark.parametrize("wanted", [True, False])
def test_tasks_that_outlive_their_scope_are_reported_by_name(wanted: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Once per coroutine function, with its place; not those of an inner scope of the same job; off by default."""
    configure(report_tasks=wanted)
    asyncio.run(_outlive())
    entries()
    told = [line for line in capfd.readouterr().err.splitlines() if "goes on after it" in line]
    assert len(told) == wanted
    assert all("_poll (" in line and "job '1'" in line for line in told)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the last test is for older Pythons")
def test_only_tasks_of_the_job_that_has_ended_are_reported(capfd: pytest.CaptureFixture[str]) -> None:
    """Not one of nobody, nor one with a job of its own by now; one of an inner scope when the outer one ends."""
    configure(report_tasks=True)

    async def of_nobody(go: asyncio.Event) -> None:
        await go.wait()

    async def on_its_own(go: asyncio.Event) -> None:
        with job_context("2"):
            await go.wait()

    async def work() -> None:
        go = asyncio.Event()
        tasks = [asyncio.create_task(of_nobody(go))]
        with job_context("1"):
            tasks.append(asyncio.create_task(on_its_own(go)))
            with job_context("1"):
                tasks.append(asyncio.create_task(_poll(go)))
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(work())
    entries()
    (told,) = [line for line in capfd.readouterr().err.splitlines() if "goes on after it" in line]
    assert "_poll (" in told


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the last test is for older Pythons")
def test_tasks_that_cannot_be_looked_at_are_said_to_be(capfd: pytest.CaptureFixture[str]) -> None:
    """Once; the block ends as ever."""
    configure(report_tasks=True)

    class Opaque(asyncio.Task[None]):
        def get_context(self) -> contextvars.Context:
            raise RuntimeError("not shown")

    async def work() -> None:
        for _ in range(2):
            with job_context("1"):
                task = Opaque(_poll(asyncio.Event()))
            task.cancel()

    asyncio.run(work())
    entries()
    assert capfd.readouterr().err.count("tasks that outlive their job could not be listed: RuntimeError") == 1


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="there it can be had")
def test_an_old_python_says_that_it_cannot_report_tasks(capfd: pytest.CaptureFixture[str]) -> None:
    """One line, and everything else works."""
    configure(report_tasks=True)
    asyncio.run(_outlive())
    entries()
    told = capfd.readouterr().err
    assert told.count("report_tasks needs Python 3.12") == 1
    assert "outlive" not in told
