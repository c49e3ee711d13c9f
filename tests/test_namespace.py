from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from joblog_router import current_job, flush, job_context, wrap_stream
from joblog_router.context import current_namespace, known_namespace, namespace_varies, use_namespace
from tests.helpers import configure, entries, job_handler

logger = logging.getLogger("shop")


class Tenant:
    """Whose turn it is."""

    name: object = "a"


@pytest.fixture(autouse=True)
def _tenants() -> Iterator[None]:
    Tenant.name = "a"
    use_namespace(lambda: Tenant.name)
    yield
    use_namespace("")


def found() -> list[tuple[str, str, str]]:
    """What was logged: namespace, job and message."""
    return [(entry.namespace, entry.job_id, entry.message) for entry in entries()]


def test_a_scope_keeps_the_namespace_it_was_opened_in() -> None:
    """Whatever is in force when a line is logged."""
    configure()
    with job_context(1):
        Tenant.name = "b"
        logger.info("x")
        assert current_namespace() == "b"
    assert found() == [("a", "1", "x")]


def test_who_reads_knows_whether_there_are_several_and_which_is_in_force() -> None:
    """A function has several, and maybe no answer; a name is one, and none is the nameless one."""
    use_namespace(lambda: Tenant.name)
    assert (namespace_varies(), known_namespace(), current_namespace()) == (True, "a", "a")
    Tenant.name = None
    assert (known_namespace(), current_namespace()) == (None, "")
    use_namespace("fixed")
    assert (namespace_varies(), known_namespace(), current_namespace()) == (False, "fixed", "fixed")
    use_namespace("")
    assert (namespace_varies(), known_namespace(), current_namespace()) == (False, "", "")


def test_a_scope_opened_again_stays_in_it() -> None:
    """Also in that without a name, which is one as well."""
    configure()
    Tenant.name = ""
    scope = job_context(1)
    with scope:
        logger.info("x")
    Tenant.name = "b"
    with scope:
        logger.info("y")
    assert found() == [("", "1", "x"), ("", "1", "y")]


def test_the_same_id_in_another_namespace_is_another_job() -> None:
    """Fields are not inherited, numbers are counted apart, and a closed scope does not give way to the other's."""
    configure()
    with job_context(1, stage="outer") as outer:
        Tenant.name = "b"
        inner = job_context(1)
        with inner:
            logger.info("b")
            assert inner.fields == {}
        inner.__enter__()
        late = current_job()
        assert late is not None
        late.closed = True
        logger.info("late")
        assert current_job() is None
        late.closed = False
        inner.__exit__(None, None, None)
        assert current_job() is outer
        Tenant.name = "a"
        with job_context(1) as again:
            assert again.fields == {"stage": "outer"}
            logger.info("a")
    assert found() == [("b", "1", "b"), ("a", "1", "a")]
    assert [entry.n for entry in entries()] == [1, 1]


def test_an_addressed_record_is_in_the_namespace_around_it() -> None:
    """That of the open scope; without one, the one in force."""
    configure()
    with job_context(1):
        Tenant.name = "b"
        logger.info("x", extra={"job_log_id": 2})
        logger.info("y", extra={"job_log_id": 1})
    logger.info("z", extra={"job_log_id": 1})
    assert found() == [("a", "2", "x"), ("a", "1", "y"), ("b", "1", "z")]


def test_a_pickled_record_keeps_it() -> None:
    """Behind a process boundary a stamped record names its namespace, too."""
    configure()
    record = logging.LogRecord("shop", 20, "", 0, "x", (), None)
    with job_context(1):
        job_handler().filters.clear()
        job_handler().handle(record)
    copy = pickle.loads(pickle.dumps(record))
    del copy._joblog["channels"]
    job_handler().handle(copy)
    assert found() == [("a", "1", "x")] * 2


def test_a_stream_stays_in_its_namespace() -> None:
    """All items are made in that in which it was wrapped."""
    configure()

    def items() -> Iterator[int]:
        for number in range(2):
            logger.info("item %d", number)
            yield number

    for _ in wrap_stream(1, items()):
        Tenant.name = "b"
    assert [namespace for namespace, _, _ in found()] == ["a", "a"]


def test_a_stream_is_of_the_namespace_it_was_wrapped_in() -> None:
    """A body is sent when its request is over and another namespace, or the one without a name, is in force."""
    configure()

    def items() -> Iterator[int]:
        logger.info("sync")
        yield 1

    async def async_items() -> AsyncIterator[int]:
        logger.info("async")
        yield 1

    async def consume(stream: AsyncIterator[int]) -> None:
        async for _ in stream:
            pass

    for name in ("acme", ""):
        Tenant.name = name
        stream, async_stream = wrap_stream(1, items(), stage="s"), wrap_stream(1, async_items())
        Tenant.name = "b"
        assert list(stream) == [1]
        asyncio.run(consume(async_stream))
    assert found() == [("acme", "1", "sync"), ("acme", "1", "async"), ("", "1", "sync"), ("", "1", "async")]
    assert [entry.fields for entry in entries()] == [{"stage": "s"}, {}] * 2


def test_folding_keeps_namespaces_apart() -> None:
    """Lines of the same job id and shape in two namespaces are two runs."""
    configure(fold=True)
    for name in ("a", "b"):
        Tenant.name = name
        with job_context(1):
            for number in range(20):
                logger.info("Published %d", number)
    tallies = [entry for entry in entries() if "folded" in entry.fields]
    assert {entry.namespace: entry.fields["folded"] for entry in tallies} == {"a": 15, "b": 15}


def test_a_namespace_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Escaped like a job's id, so that neither leaves the directory nor meets another's file."""
    configure(sink="jsonl", options={"directory": str(tmp_path)})
    for name in ("a", "../B", "", None):
        Tenant.name = name
        with job_context("../1"):
            logger.info("of %s", name)
    assert flush(10)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jsonl")}
    assert found == {"a/~2e~2e~2f1.jsonl", "~2e~2e~2f~42/~2e~2e~2f1.jsonl", "~2e~2e~2f1.jsonl"}
    store = job_handler().sink
    assert [entry.message for entry in store.newest("../1", namespace="../B").entries] == ["of ../B"]  # type: ignore[attr-defined]
    assert [entry.message for entry in store.newest("../1").entries] == ["of ", "of None"]  # type: ignore[attr-defined]


def test_a_callable_that_fails_costs_the_namespace_and_not_the_job(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is raised into the block; it is said once."""
    configure()

    def broken() -> str:
        raise RuntimeError("no tenant")

    use_namespace(broken)
    for _ in range(2):
        with job_context(1):
            logger.info("x")
    assert found() == [("", "1", "x")] * 2
    assert capfd.readouterr().err.count("no tenant") == 1
