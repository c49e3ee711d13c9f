"""Which job a record is about: extra, stamp, scope, in that order; when in doubt, none."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import logging.config
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from joblog_router import JobContextFilter, JobLogHandler, flush, job_context, stats
from joblog_router._pipeline import attributes
from joblog_router._pipeline.naming import LoggerNames
from joblog_router._pipeline.primitives import field_name
from joblog_router._pipeline.resolve import DEFAULT_EVIDENCE, resolve, use_evidence, use_resolvers
from joblog_router._pipeline.services import guard_services, use_service_names
from joblog_router.sinks import MemorySink
from tests.helpers import configure, entries, job_handler, messages

log = logging.getLogger("app.module")


def test_extra_can_address_another_job() -> None:
    """`job_log_id` wins over the open scope and works outside any."""
    configure()
    log.info("from outside", extra={"job_log_id": 9})
    with job_context(1, stage="x"):
        log.info("for nine", extra={"job_log_id": 9})
        log.info("for one", extra={"job_log_id": "1"})
    assert [(entry.job_id, entry.message, entry.n, dict(entry.fields)) for entry in entries()] == [
        ("9", "from outside", 0, {}),
        ("9", "for nine", 0, {}),
        ("1", "for one", 1, {"stage": "x"}),
    ]


async def test_an_addressed_record_is_not_late() -> None:
    """From a task whose scope has closed, an addressed record goes to its job, and nothing is counted as late."""
    configure()
    before = stats()["late"]
    done = asyncio.Event()

    async def straggler() -> None:
        await done.wait()
        log.info("addressed", extra={"job_log_id": 2})

    with job_context(1):
        task = asyncio.create_task(straggler())
    done.set()
    await task
    assert [(entry.job_id, entry.message, entry.n) for entry in entries()] == [("2", "addressed", 0)]
    assert stats()["late"] == before


@pytest.mark.parametrize("nobody", [None, ""])
def test_addressing_nobody_is_nobody(nobody: object) -> None:
    """An empty address does not fall back to the scope: the code meant another job."""
    configure()
    with job_context(1):
        log.info("x", extra={"job_log_id": nobody})
    assert messages() == []


def test_extra_can_keep_a_record_out() -> None:
    """`job_log: False` keeps a record out of every job's log, even if it is addressed."""
    configure()
    with job_context(1):
        log.info("secret", extra={"job_log": False})
        log.info("secret", extra={"job_log": False, "job_log_id": 1})
        log.info("public", extra={"job_log": True})
    assert messages() == ["public"]


def test_a_plain_job_id_is_evidence_not_an_address(capfd: pytest.CaptureFixture[str]) -> None:
    """An equal id is fine, another one means no job and a counted conflict; without a scope it routes nothing."""
    configure()
    before = stats()["conflicts"]
    log.info("no scope", extra={"job_id": 1})
    with job_context(1):
        log.info("equal", extra={"job_id": 1})
        log.info("equal as text", extra={"job_id": "1"})
        log.info("unknown", extra={"job_id": None})
        log.info("of two", extra={"job_id": 2})
    assert messages() == ["equal", "equal as text", "unknown"]
    assert stats()["conflicts"] == before + 1
    assert "names job 2 in extra['job_id'] inside the scope of job '1'" in capfd.readouterr().err


def test_the_keys_of_evidence_are_a_setting() -> None:
    """`evidence` names other keys; the default comes back with the next configuration that says so."""
    configure(evidence=["task_id"])
    try:
        with job_context(1):
            log.info("of two", extra={"task_id": 2})
            log.info("other key", extra={"job_id": 2})
        assert messages() == ["other key"]
    finally:
        configure(evidence=("job_id",))


def test_the_filter_never_overwrites_what_the_call_said() -> None:
    """`record.job_id` from extra stays for other handlers, and is not read back as an address."""
    configure()
    record = log.makeRecord("x", logging.INFO, "f.py", 1, "m", (), None, extra={"job_id": 2, "stage": "mine"})
    with job_context(1, stage="scope"):
        JobContextFilter().filter(record)
        job_handler().handle(record)
    assert record.job_id == 2  # type: ignore[attr-defined]
    assert record.stage == "mine"  # type: ignore[attr-defined]
    assert messages() == []


def test_the_attribute_job_id_set_by_the_filter_is_not_evidence_later() -> None:
    """A record stamped in one scope and handled in another keeps its first answer."""
    configure()
    record = log.makeRecord("x", logging.INFO, "f.py", 1, "m", (), None)
    with job_context(1):
        JobContextFilter().filter(record)
    with job_context(2):
        job_handler().handle(record)
    assert [entry.job_id for entry in entries()] == ["1"]


def test_a_record_factory_with_attributes_of_its_own_changes_nothing() -> None:
    """Another library's record factory adds attributes: they become fields, the job stays right."""
    configure()
    factory = logging.getLogRecordFactory()

    def with_trace(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = factory(*args, **kwargs)
        record.trace_id = "t1"
        return record

    logging.setLogRecordFactory(with_trace)
    log.info("nobody")
    with job_context(1):
        log.info("x", extra={"k": 1})
    with job_context(2):
        pass
    assert [(entry.job_id, dict(entry.fields)) for entry in entries()] == [("1", {"k": 1, "trace_id": "t1"})]


@pytest.mark.parametrize("taken_off", [("taskName",), ("processName",), ("exc_text", "process"), ("msecs", "taskName")])
@pytest.mark.parametrize(("job_filter", "is_new"), [(False, False), (False, True), (True, True)])
def test_attributes_that_somebody_takes_off_records_hide_nothing_of_what_the_call_says(
    taken_off: tuple[str, ...], job_filter: bool, is_new: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many fewer as `extra` adds: the address, the audience, evidence and the fields count all the same.

    In a new process, and where many lines were whole before.
    """
    monkeypatch.setattr(attributes, "_are_slimmed", False)
    attributes.DOUBTS[:] = [None] * is_new
    configure()
    handler = job_handler()

    class Slim(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            for name in taken_off:
                record.__dict__.pop(name, None)
            return True

    slim = Slim()
    monkeypatch.setattr(log, "filters", [slim, JobContextFilter()] if job_filter else [slim])
    with job_context(7):
        log.info("a line as any other")
        log.info("of 8", extra={"job_log_id": 8})
        log.info("nobody's", extra={"job_log": False})
        log.info("for staff", extra={"job_log": "staff"})
        log.info("evidence", extra={"job_id": 8})
        log.info("a field", extra={"table": "users"})
        log.info("two %s", "fields", extra={"table": "users", "row": 1})
    assert flush(10)
    assert isinstance(handler.sink, MemorySink)
    assert [(entry.job_id, entry.audience, entry.message, dict(entry.fields)) for entry in handler.sink.entries()] == [
        ("7", "all", "a line as any other", {}),
        ("8", "all", "of 8", {}),
        ("7", "staff", "for staff", {}),
        ("7", "all", "a field", {"table": "users"}),
        ("7", "all", "two fields", {"table": "users", "row": 1}),
    ]


@pytest.mark.parametrize("spooled", [False, True])
@pytest.mark.parametrize("extra", [None, {"k": 1}])
@pytest.mark.parametrize("name", ["pathname", "lineno", "created", "exc_info", "stack_info", "exc_text", "name"])
def test_a_record_that_lacks_what_every_record_has_is_a_line_all_the_same(
    name: str, extra: dict[str, Any] | None, spooled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is raised where it is logged, and two handlers of one sink still take it once."""
    monkeypatch.setattr(attributes, "_are_slimmed", False)
    attributes.DOUBTS[:] = [None]  # as in a new process
    sink = MemorySink()
    handlers = [JobLogHandler(sink=sink, fold=False, spool=str(tmp_path / "spool") if spooled else None) for _ in "12"]
    record = log.makeRecord("app", logging.WARNING, "f.py", 1, "hello %s", ("you",), None, extra=extra)
    del record.__dict__[name]
    with job_context(7):
        for handler in handlers:
            handler.handle(record)
    assert flush(10)
    for handler in handlers:
        handler.close()
    assert [(entry.job_id, entry.message, dict(entry.fields)) for entry in sink.entries()] == [
        ("7", "hello you", extra or {})
    ]


def test_what_formatters_and_filters_behind_the_handler_make_of_a_record_is_not_stored(tmp_path: Path) -> None:
    """A name shortened in place, a level turned down: the line keeps its own, and stays with its readers."""
    sink = MemorySink()
    handler = JobLogHandler(sink=sink, fold=False, staff=["app.billing"], spool=str(tmp_path / "spool"))
    record = logging.getLogger("app.billing").makeRecord("app.billing", logging.ERROR, "f.py", 1, "card", (), None)
    addressed = log.makeRecord("app.billing", logging.ERROR, "f.py", 1, "card", (), None, extra={"k": 1})
    with job_context(7):
        for each in (record, addressed):
            handler.handle(each)
            each.name, each.levelno = "billing", logging.DEBUG
    assert flush(10)
    handler.close()
    assert [(entry.logger, entry.level, entry.audience) for entry in sink.entries()] == [
        ("app.billing", logging.ERROR, "staff")
    ] * 2


def test_formatters_before_the_handler_leave_no_fields(capfd: pytest.CaptureFixture[str]) -> None:
    """A console handler in front, with message and asctime on the record, adds nothing to the entry."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"job_context": {"()": "joblog_router.JobContextFilter"}},
            "formatters": {"full": {"format": "%(asctime)s [%(job_id)s] %(message)s"}},
            "handlers": {
                "console": {"class": "logging.StreamHandler", "formatter": "full", "filters": ["job_context"]},
                "job": {"class": "joblog_router.JobLogHandler", "sink": "memory"},
            },
            "root": {"level": "INFO", "handlers": ["console", "job"]},
        }
    )
    log.info("nobody")
    with job_context(1, stage="x"):
        try:
            raise ValueError("boom")
        except ValueError:
            log.exception("failed", extra={"k": 2})
    (entry,) = entries()
    assert dict(entry.fields) == {"stage": "x", "k": 2}
    assert "ValueError: boom" in (entry.exception or "")
    assert "[None] nobody" in (err := capfd.readouterr().err)
    assert "[1] failed" in err


def test_evidence_keys_end_with_the_handler_that_named_them() -> None:
    """A later configuration that says nothing has the default again."""
    configure(evidence=["order_id"])
    configure()
    with job_context(7):
        log.info("of eight", extra={"job_id": 8})
        log.info("of seven", extra={"order_id": 8})
    assert messages() == ["of seven"]


class _Id:
    def __str__(self) -> str:
        return "7"


class _Odd:
    """Comparing it gives no truth, as with arrays and columns."""

    def __eq__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("no truth")

    __hash__ = None  # type: ignore[assignment]


def test_evidence_is_compared_by_its_text_and_never_raises() -> None:
    """An id of any type agrees with the scope it names; values that cannot be compared raise nothing."""
    configure()
    value = _Id()
    with job_context(value):
        log.info("equal", extra={"job_id": value})
        log.info("odd", extra={"job_id": _Odd()})
        record = log.makeRecord("x", 20, "f", 1, "m", (), None, extra={"job_id": _Odd()})
        assert JobContextFilter().filter(record)
    assert messages() == ["equal"]


def test_an_owner_that_is_not_known_yet_is_no_evidence() -> None:
    """None and an empty text name nobody; 0 is an id like any other."""
    configure()
    conflicts = stats()["conflicts"]
    with job_context(7):
        log.info("none", extra={"job_id": None})
        log.info("empty", extra={"job_id": ""})
        log.info("zero", extra={"job_id": 0})
    assert messages() == ["none", "empty"]
    assert stats()["conflicts"] == conflicts + 1


@pytest.mark.parametrize("alone", [True, False])
def test_the_job_filter_on_the_job_handler_stamps_and_adds_nothing_to_the_entry(alone: bool) -> None:
    """Alone or beside another filter: the record carries the job, the entry the scope's fields and the call's extra."""
    seen: list[logging.LogRecord] = []
    handler = configure()
    handler.addFilter(JobContextFilter())
    if not alone:
        handler.addFilter(lambda record: True)
    behind = logging.NullHandler()
    behind.handle = lambda record: bool(seen.append(record))  # type: ignore[method-assign]
    logging.getLogger().addHandler(behind)
    with job_context(7, stage="process", name="not the logger's"):
        log.info("plain")
        log.info("with extra", extra={"k": 1, "stage": "own"})
        log.info("another's", extra={"job_id": 8})
    log.info("outside")
    assert [(record.job_id, record.name) for record in seen[:2]] == [("7", log.name)] * 2  # type: ignore[attr-defined]
    assert [record.stage for record in seen[:2]] == ["process", "own"]  # type: ignore[attr-defined]
    assert not hasattr(seen[3], "job_id")
    assert [dict(entry.fields) for entry in entries(7)] == [
        {"stage": "process", "name": "not the logger's"},
        {"stage": "own", "name": "not the logger's", "k": 1},
    ]
    assert len(entries()) == 2


def test_a_record_that_refuses_attributes_passes_the_filter() -> None:
    """A project's own class of records may raise where ours sets its attributes; they are set past that."""

    class Closed(logging.LogRecord):
        def __setattr__(self, name: str, value: object) -> None:
            if name in {"job_id", "_joblog"}:
                raise RuntimeError("closed")
            super().__setattr__(name, value)

    outside = Closed("a", logging.INFO, "p", 1, "m", (), None)
    assert JobContextFilter().filter(outside)
    assert outside.__dict__["job_id"] is None
    with job_context(7, stage="x"):
        inside = Closed("a", logging.INFO, "p", 1, "m", (), None)
        assert JobContextFilter().filter(inside)
    assert (inside.__dict__["job_id"], inside.__dict__["stage"]) == ("7", "x")


def test_a_filter_on_the_handler_may_add_fields() -> None:
    """What a filter of the handler puts on a record is a field, with or without `extra`."""
    handler = configure()

    class Adds(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            record.added = "yes"
            return True

    handler.addFilter(Adds())
    with job_context(1):
        log.info("bare")
        log.info("with extra", extra={"k": 1})
    assert [dict(entry.fields) for entry in entries()] == [{"added": "yes"}, {"added": "yes", "k": 1}]


async def test_service_loops_own_nothing_they_merely_inherited() -> None:
    """A guarded loop started in a job logs for nobody, unless it opened the scope itself."""
    configure()
    step = asyncio.Event()

    async def service_loop() -> None:
        await step.wait()
        log.info("of the service")
        with job_context("b"):
            log.info("of b")

    async def child() -> None:
        log.info("of a's child")

    end = guard_services([service_loop.__code__])
    try:
        with job_context("a"):
            task = asyncio.create_task(service_loop())
            await asyncio.create_task(child())
            step.set()
            await task
            log.info("of a")
    finally:
        end()
    assert [(entry.job_id, entry.message) for entry in entries()] == [
        ("a", "of a's child"),
        ("b", "of b"),
        ("a", "of a"),
    ]


EXTRAS = st.dictionaries(
    st.sampled_from(["job_log", "job_log_id", "job_id", "k", "taskName2", "order"]),
    st.one_of(st.none(), st.booleans(), st.sampled_from(["1", "2", 1, 2, ""])),
    max_size=3,
)


class OwnRecord(logging.LogRecord):
    """As a project's record factory makes them."""


def holding() -> Iterator[None]:
    """A generator that keeps a scope open between its items, as contextlib's are not."""
    with job_context(3):
        yield


async def serve(work: Callable[[], None]) -> None:
    """The root of a task; a shared service's where a test declares it as one."""
    work()


def in_a_task(work: Callable[[], None]) -> None:
    """Do it in a task that inherits the scopes that are open."""
    asyncio.run(serve(work))


def in_a_thread(work: Callable[[], None]) -> None:
    """Do it in a thread that inherits the scopes that are open, and let what it raises out."""
    failed: list[BaseException] = []

    def of_thread() -> None:
        try:
            context.run(work)
        except BaseException as error:
            failed.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=of_thread)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


PLACES: dict[str, Callable[[Callable[[], None]], None]] = {
    "here": lambda work: work(),
    "a task": in_a_task,
    "a thread": in_a_thread,
}
FILTERS: dict[str, Callable[[logging.LogRecord], bool] | logging.Filter | None] = {
    "none": None,
    "stamps": JobContextFilter(),
    "adds": lambda record: record.__dict__.setdefault("added", True),
    "rejects": lambda record: False,
}


@contextlib.contextmanager
def declared(services: str, resolver: bool, evidence: bool) -> Iterator[None]:
    """Shared services by their code or by name, a resolver, and other evidence than `job_id`."""
    end = guard_services([serve.__code__]) if services == "by code" else None
    if services == "by name":
        names = f"{__name__}.serve", f"{__name__}.in_a_thread.<locals>.of_thread"
        use_service_names(LoggerNames(names, ()))
    if resolver:
        use_resolvers([lambda record: 9 if record.levelno == logging.INFO else None])
    if evidence:
        use_evidence(["order"])
    try:
        yield
    finally:
        use_evidence(DEFAULT_EVIDENCE)
        use_resolvers([])
        use_service_names(None)
        if end is not None:
            end()


@settings(deadline=None, max_examples=200)
@given(
    extra=st.one_of(st.just({}), EXTRAS),
    name=st.sampled_from(["app", "asyncio"]),
    made=st.sampled_from([logging.LogRecord, OwnRecord]),
    scopes=st.lists(st.sampled_from(["1", "2"]), max_size=3),
    closed=st.booleans(),
    formatted=st.booleans(),
    held=st.booleans(),
    services=st.sampled_from(["none", "by code", "by name"]),
    resolver=st.booleans(),
    evidence=st.booleans(),
    filtered=st.booleans(),
    filters=st.sampled_from(list(FILTERS)),
    place=st.sampled_from(list(PLACES)),
)
def test_the_short_ways_and_the_long_one_always_agree(  # noqa: PLR0917 - one for each axis
    extra: dict[str, Any],
    name: str,
    made: type[logging.LogRecord],
    scopes: list[str],
    closed: bool,
    formatted: bool,
    held: bool,
    services: str,
    resolver: bool,
    evidence: bool,
    filtered: bool,
    filters: str,
    place: str,
) -> None:
    """Capture, filter and `resolve` have a short way for plain records each: it finds the job that the long way finds.

    The long way is that of a record with one more attribute.
    """
    sink = MemorySink()
    handler = JobLogHandler(fold=False, sink=sink)
    if (of_handler := FILTERS[filters]) is not None:
        handler.addFilter(of_handler)

    def record(**more: object) -> logging.LogRecord:
        one = made(name, logging.INFO, "f", 1, "m", (), None)
        one.__dict__.update(extra, **more)
        if formatted:
            logging.Formatter("%(asctime)s %(message)s").format(one)
        return one

    def compare() -> None:
        long_way = resolve(record(ballast=1))
        expected = None if long_way is None else long_way.job_id
        short_way = resolve(record())
        assert (None if short_way is None else short_way.job_id) == expected
        stamped = record()
        assert JobContextFilter().filter(stamped)
        assert getattr(stamped.__dict__["_joblog"], "job_id", None) == expected
        if "job_id" not in extra:
            assert stamped.__dict__["job_id"] == expected
        is_kept = expected is not None and filters != "rejects"
        assert handler.handle(stamped if filtered else record()) is is_kept
        assert flush(5)
        assert [entry.job_id for entry in sink.entries()] == ([expected] if is_kept else [])

    opened = [job_context(job) for job in scopes]
    for scope in opened:
        scope.__enter__()
    if closed and opened:
        opened[-1].closed = True
    generator = holding()
    try:
        with declared(services, resolver, evidence):
            if held:
                next(generator)
            PLACES[place](compare)
    finally:
        generator.close()  # type: ignore[attr-defined]
        for scope in reversed(opened):
            scope.__exit__(None, None, None)
        handler.close()


def test_asyncios_own_records_are_nobodys_while_services_are_named() -> None:
    """What is looked at for services is not taken for the job's before its logger is."""
    configure(services=["shop.poll"])
    with job_context(1):
        logging.getLogger("asyncio").warning("of the loop")
        log.info("of one")
    assert messages() == ["of one"]


@pytest.mark.parametrize("is_filtered", [False, True])
def test_what_a_call_passes_is_kept_wherever_it_stands_among_other_keys(is_filtered: bool) -> None:
    """Between the scope's own fields, private names, names that are none and what belongs to this library."""
    configure()
    stage, other = "stage " + "x", "stage " + "y"
    with job_context(7, stage=stage, step=1):
        for value in (stage, other):
            extra = {"first": 1, "stage": value, "_own": 2, "second": 3, "job_id": 7, "odd name": 4, 5: 6, "third": 7}
            record = log.makeRecord(log.name, logging.INFO, "f.py", 1, "m", (), None)
            record.__dict__.update(extra)  # type: ignore[arg-type]
            if is_filtered:
                JobContextFilter().filter(record)
            job_handler().handle(record)
    expected = {"first": 1, "second": 3, "third": 7, "step": 1, field_name("odd name"): 4, field_name(5): 6}
    assert [dict(entry.fields) for entry in entries()] == [{**expected, "stage": stage}, {**expected, "stage": other}]
