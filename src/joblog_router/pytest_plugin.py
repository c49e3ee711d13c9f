"""Fixtures and a mark for tests of projects, found by pytest by itself. Needs no Django and changes no logging.

Called by pytest, on its own thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ._pipeline.dotted import load
from ._pipeline.leaks import leak_report
from ._pipeline.public import flush, stats
from ._pipeline.router import router
from .context import current_job
from .filters import JobContextFilter
from .testing import JobLogs, attached, capture_job_logs

__all__ = ["joblog", "no_job_leaks"]

_STORES = {"thread": "thread_handler", "inline": "inline_handler"}
_DJANGO = "joblog_router.contrib.django.testing"
_COUNTS = {
    "late": "logged in the scope of a job that had closed",
    "conflicts": "that named another job than the one open",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Tell pytest the ini option."""
    parser.addini(
        "joblog_no_leaks",
        "every test uses the fixture no_job_leaks: it fails where job log lines were late or in conflict, or a job "
        "was left open",
        type="bool",
        default=False,
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest the mark."""
    config.addinivalue_line(
        "markers",
        'joblog(store="memory", leaks=False): where the fixture joblog keeps lines ("memory", "thread": the test '
        "database, by the writer's thread, \"inline\": in the test's own transaction); leaks=True lets the test leave "
        "lines without a job although joblog_no_leaks is set",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have the records of caplog and of failure reports carry `job_id`."""
    plugin: Any = session.config.pluginmanager.getplugin("logging-plugin")
    for name in ("caplog_handler", "report_handler"):
        handler = getattr(plugin, name, None)
        if handler is not None:
            handler.addFilter(JobContextFilter())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With the ini option, add the fixture to every test."""
    if not config.getini("joblog_no_leaks"):
        return
    for item in items:
        names = getattr(item, "fixturenames", None)
        if names is not None and "no_job_leaks" not in names and not _option(item, "leaks", False):
            names.append("no_job_leaks")


@pytest.fixture
def joblog(request: pytest.FixtureRequest) -> Iterator[JobLogs]:
    """The job logs of this test: `entries(job)`, `messages(job)`, `assert_logged`, `assert_no_foreign_lines`.

    In memory, or where the mark says: `@pytest.mark.joblog("inline")`. Every line is kept, similar ones are not folded.
    Levels are left alone: `caplog.set_level("INFO")` lets the root logger pass more.
    """
    store = _option(request.node, "store", "memory")
    with ExitStack() as stack:
        stack.callback(_end_writer)
        if store == "memory":
            yield stack.enter_context(capture_job_logs(fold=False))
            return
        if store not in _STORES:
            raise pytest.UsageError(f"mark joblog: no store {store!r}; there are: memory, {', '.join(sorted(_STORES))}")
        handler = _django(_STORES[store])()
        rows = _django("rows")
        stack.callback(flush)
        stack.enter_context(attached(handler))

        def read(job_id: object) -> Any:
            if store == "inline":
                handler.store()
            return rows(job_id)

        yield JobLogs(read)


@pytest.fixture
def no_job_leaks() -> Iterator[None]:
    """Fail the test if lines were late or in conflict, or if it leaves a job open where it runs."""
    scope, before, known = current_job(), stats(), _places()
    yield
    now, found = current_job(), []
    if now is not None and now is not scope:
        found.append(f"job {now.job_id!r} is still open: a job_context was entered and not left")
    after = stats()
    for name, words in _COUNTS.items():
        if count := after[name] - before[name]:
            found.append(f"{count} record(s) {words}")
    if found:
        places = [f"\n  {place}" for place, count in _places().items() if count > known.get(place, 0)]
        pytest.fail("job logs leak: " + "; ".join(found) + "".join(places), pytrace=False)


def _places() -> dict[str, int]:
    """How often each place in the code was to blame in this process."""
    report = leak_report()
    return {
        f"{site.path}:{site.line} ({site.logger})": site.count for name in _COUNTS for site in getattr(report, name)
    }


def _option(item: Any, name: str, default: Any) -> Any:
    mark = item.get_closest_marker("joblog")
    if mark is None:
        return default
    if name == "store" and mark.args:
        return mark.args[0]
    return mark.kwargs.get(name, default)


def _django(name: str) -> Callable[..., Any]:
    try:
        made: Callable[..., Any] = load(f"{_DJANGO}.{name}")
    except ImportError as error:
        raise pytest.UsageError(f"mark joblog: this store is in Django's test database, but {error}") from error
    return made


def _end_writer() -> None:
    """No thread outlives the test; the writer's starts again with the next line. What is done around a fork."""
    router.before_fork()
    router.after_fork_in_parent()
