"""A record finds its job's log: through tasks, threads and nested scopes, configured by dictConfig alone."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import logging.handlers
import pickle
import queue
import random
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from joblog_router import (
    JobContextFilter,
    JobLogHandler,
    aflush,
    carry,
    current_job,
    detached,
    job_context,
    stats,
    wrap_stream,
)
from joblog_router.context import JobScope, before_close
from tests.helpers import configure, entries, job_handler, messages

log = logging.getLogger("third_party.module")


def test_module_loggers_land_in_the_open_jobs_log_and_nowhere_else() -> None:
    """A record goes to the job whose scope is open where it is logged; outside, to none."""
    configure()
    log.info("before")
    with job_context(1):
        log.info("in %s", "one")
    log.info("between")
    with job_context(2):
        log.info("in two")
    log.info("after")
    assert messages() == ["in one", "in two"]
    assert messages(1) == ["in one"]


def test_twelve_jobs_at_once_keep_their_lines_apart() -> None:
    """Twelve jobs over tasks, threads and nested scopes: every line in its own log, none elsewhere, none lost."""
    configure()
    rng = random.Random(20)

    def in_thread(job: str, count: int) -> int:
        for number in range(count):
            log.info("%s thread %d", job, number)
        return count

    async def child(job: str, count: int) -> int:
        for number in range(count):
            log.info("%s child %d", job, number)
            await asyncio.sleep(0)
        return count

    async def work(job: str, other: str) -> dict[str, int]:
        made = {job: 0, other: 0}
        async with job_context(job):
            for round_number in range(20):
                log.info("%s own %d", job, round_number)
                made[job] += 1
                made[job] += sum(await asyncio.gather(child(job, 5), child(job, rng.randint(1, 9))))
                made[job] += await asyncio.to_thread(in_thread, job, 7)
                made[job] += await asyncio.get_running_loop().run_in_executor(None, carry(in_thread), job, 3)
                with job_context(other):
                    log.info("%s nested %d", other, round_number)
                    made[other] += 1 + await asyncio.create_task(child(other, 4))
                with detached():
                    log.info("nobody")
                log.info("%s own again %d", job, round_number)
                made[job] += 1
        log.info("nobody after %s", job)
        return made

    async def main() -> dict[str, int]:
        jobs = [f"job-{number}" for number in range(12)]
        made = await asyncio.gather(*(work(job, jobs[(n + 5) % 12]) for n, job in enumerate(jobs)))
        total: dict[str, int] = {}
        for part in made:
            for job, count in part.items():
                total[job] = total.get(job, 0) + count
        return total

    made = asyncio.run(main())
    kept = entries()
    assert len(kept) == sum(made.values()) > 3000
    for entry in kept:
        assert entry.message.split()[0] == entry.job_id
    for job, count in made.items():
        assert sum(entry.job_id == job for entry in kept) == count
    assert len({(entry.origin, entry.seq) for entry in kept}) == len(kept)


def test_plain_threads_belong_to_no_job_unless_carried() -> None:
    """A thread starts outside any job; `carry` takes the job of the calling code with it."""
    configure()
    with job_context("a"):
        for target in (lambda: log.info("plain"), carry(lambda: log.info("carried"))):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert messages() == ["carried"]


def test_what_was_carried_from_outside_any_job_is_in_none_where_a_generator_calls_it() -> None:
    """Nor what it started and is there when the generator has ended; the generator's own lines stay in its job."""
    configure()

    def work() -> contextvars.Context:
        log.info("of nobody")
        return contextvars.copy_context()

    carried = carry(work)

    def pages() -> Iterator[contextvars.Context]:
        with job_context("g"):
            started = carried()
            log.info("of g")
            yield started

    (started,) = list(pages())
    started.run(log.info, "of nobody either")
    assert [(entry.job_id, entry.message) for entry in entries()] == [("g", "of g")]


def test_carry_binds_the_submitting_jobs_scope_in_a_shared_pool() -> None:
    """One pool serves two jobs; each call runs in the job that submitted it, and the thread keeps nothing."""
    configure()
    with ThreadPoolExecutor(max_workers=1) as pool:
        for job in ("a", "b"):
            with job_context(job):
                pool.submit(carry(lambda job=job: log.info("of %s", job))).result()  # type: ignore[misc]
        assert pool.submit(current_job).result() is None
    assert [(entry.job_id, entry.message) for entry in entries()] == [("a", "of a"), ("b", "of b")]


async def test_carry_keeps_coroutine_functions() -> None:
    """A carried coroutine function is one, and runs in the job although its task was made elsewhere."""
    configure()

    async def work() -> str:
        log.info("carried")
        return "done"

    with job_context("a"):
        carried = carry(work)
    with job_context("b"):
        assert await asyncio.create_task(carried()) == "done"
    await aflush()
    assert messages() == [], "the scope had closed: late"

    with job_context("a"):
        carried = carry(work)
        with detached():
            task = asyncio.create_task(carried())
        await task
    assert messages("a") == ["carried"]


def test_decorator_binds_the_parameter_by_signature() -> None:
    """`job_context.of` finds the id by position, keyword or default."""
    configure()

    @job_context.of("job_id")
    def work(first: int, job_id: str = "default") -> int:
        log.info("working")
        return first

    assert work(1, "a") == 1
    assert work(2, job_id="b") == 2
    assert work(3) == 3
    assert [entry.job_id for entry in entries()] == ["a", "b", "default"]
    with pytest.raises(TypeError, match="missing 1 required"):
        work()  # type: ignore[call-arg]


async def test_decorator_binds_coroutine_functions() -> None:
    """Coroutine functions run in their job over every await."""
    configure()

    @job_context.of("job")
    async def work(job: int) -> None:
        await asyncio.sleep(0)
        log.info("working for %d", job)

    await asyncio.gather(*(work(number) for number in range(5)))
    assert sorted((entry.job_id, entry.message) for entry in entries()) == [
        (str(number), f"working for {number}") for number in range(5)
    ]


def test_decorator_refuses_generator_functions_and_unknown_parameters() -> None:
    """A generator's body runs inside its consumer: the error names `wrap_stream`."""

    def generator(job_id: int) -> Iterator[int]:
        yield job_id

    with pytest.raises(TypeError, match="wrap_stream"):
        job_context.of("job_id")(generator)
    with pytest.raises(TypeError, match="no parameter 'job'"):
        job_context.of("job")(lambda job_id: job_id)


def test_a_wrapped_stream_keeps_generator_and_consumer_apart() -> None:
    """The generator's lines are the job's, the consumer's lines between two items are the consumer's."""
    configure()

    def pages() -> Iterator[int]:
        try:
            for number in range(3):
                log.info("made %d", number)
                yield number
        finally:
            log.info("generator closed")

    with job_context("consumer"):
        stream = wrap_stream("producer", pages())
        for number in stream:
            log.info("got %d", number)
            if number == 1:
                break
        stream.close()  # type: ignore[attr-defined]
        log.info("consumer done")
    assert messages("producer") == ["made 0", "made 1", "generator closed"]
    assert messages("consumer") == ["got 0", "got 1", "consumer done"]
    assert [entry.n for entry in entries("producer")] == [1, 2, 3]


async def test_a_wrapped_async_stream_keeps_them_apart_too() -> None:
    """The same for async generators, also when the consumer has no job."""
    configure()

    async def pages() -> AsyncIterator[int]:
        for number in range(2):
            await asyncio.sleep(0)
            log.info("made %d", number)
            yield number

    async for number in wrap_stream("producer", pages()):
        log.info("got %d", number)
        assert current_job() is None
    await aflush()
    assert messages() == ["made 0", "made 1"]


async def test_the_job_of_a_stream_is_over_with_its_last_item() -> None:
    """What its source started and left behind is in the job until then, and late afterwards."""
    configure()
    over = asyncio.Event()
    left: list[asyncio.Task[None]] = []

    async def behind() -> None:
        log.info("while it runs")
        await over.wait()
        log.info("afterwards")

    async def pages() -> AsyncIterator[int]:
        left.append(asyncio.create_task(behind()))
        for number in range(2):
            await asyncio.sleep(0)
            yield number

    late = stats()["late"]
    assert [number async for number in wrap_stream("producer", pages())] == [0, 1]
    over.set()
    await left[0]
    await aflush()
    assert messages() == ["while it runs"]
    assert stats()["late"] == late + 1


def test_the_filter_behind_a_queue_knows_the_job_of_the_call() -> None:
    """A QueueHandler with the filter: the listener's thread routes by the stamp, long after the scope has closed."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue()
    handler = logging.handlers.QueueHandler(waiting)
    handler.addFilter(JobContextFilter())
    job = JobLogHandler(fold=False, sink="memory")
    logger = logging.getLogger("queued")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    with job_context("a", stage="x"):
        logger.info("one %d", 1)
        logger.info("two", extra={"k": "v"})
    logger.info("nobody")
    listener = logging.handlers.QueueListener(waiting, job)
    with job_context("b"):  # whoever starts the listener has no say
        listener.start()
        listener.stop()
    from joblog_router import flush

    assert flush()
    kept = job.sink.entries()  # type: ignore[attr-defined]
    job.close()
    assert [(entry.job_id, entry.message) for entry in kept] == [("a", "one 1"), ("a", "two")]
    assert kept[1].fields == {"stage": "x", "k": "v"}


def test_a_memory_handler_flushed_by_another_job_keeps_them_apart() -> None:
    """Records held back and released in another job's scope go to the job they were logged in."""
    configure()
    target = job_handler()
    holding = logging.handlers.MemoryHandler(capacity=100, flushLevel=logging.CRITICAL, target=target)
    holding.addFilter(JobContextFilter())
    logger = logging.getLogger("held")
    logger.propagate = False
    logger.addHandler(holding)
    logger.setLevel(logging.INFO)
    with job_context("a"):
        logger.info("of a")
    with job_context("b"):
        logger.info("of b")
        holding.flush()
    assert [(entry.job_id, entry.message) for entry in entries()] == [("a", "of a"), ("b", "of b")]


def test_a_stamped_record_names_its_job_behind_a_pickle() -> None:
    """A record sent to another process keeps job and fields; one without a job stays without."""
    configure()
    stamp = JobContextFilter()
    with job_context("a", stage="x"):
        record = log.makeRecord("remote", logging.INFO, "f.py", 1, "hello", (), None)
        stamp.filter(record)
    bare = log.makeRecord("remote", logging.INFO, "f.py", 1, "nobody", (), None)
    stamp.filter(bare)
    for sent in (record, bare):
        received = logging.makeLogRecord(pickle.loads(pickle.dumps(sent.__dict__)))
        with job_context("b"):
            job_handler().handle(received)
    assert [(entry.job_id, entry.message, entry.fields) for entry in entries()] == [("a", "hello", {"stage": "x"})]


def test_a_record_is_captured_once_however_often_the_handler_sees_it() -> None:
    """The same handler on a logger and on root, and a second handler with the same sink, store one line."""
    handler = configure(sink="callable", options={"target": "tests.test_routing.keep"})
    twin = JobLogHandler(fold=False, sink="callable", options={"target": "tests.test_routing.keep"})
    logging.getLogger("third_party").addHandler(handler)
    logging.getLogger("third_party").addHandler(twin)
    kept.clear()
    with job_context("a"):
        log.info("once")
    from joblog_router import flush

    assert flush()
    assert [entry.message for entry in kept] == ["once"]


kept: list = []


def keep(some: list) -> None:
    """The target of the callable sink above."""
    kept.extend(some)


def test_two_sinks_get_every_line_each() -> None:
    """Handlers with different sinks each store the line."""
    configure()
    other = JobLogHandler(fold=False, sink="memory")
    logging.getLogger("third_party").addHandler(other)
    with job_context("a"):
        log.info("twice")
    assert messages() == ["twice"]
    assert [entry.message for entry in other.sink.entries()] == ["twice"]  # type: ignore[attr-defined]


def test_caplog_records_carry_the_job(caplog: pytest.LogCaptureFixture) -> None:
    """With the filter on caplog's handler, its records name their job and carry the scope's fields."""
    caplog.handler.addFilter(JobContextFilter())
    with caplog.at_level(logging.INFO):
        log.info("outside")
        with job_context(7, stage="queue"):
            log.info("inside")
            with job_context(8):
                log.info("nested")
    assert [(record.getMessage(), record.job_id) for record in caplog.records] == [  # type: ignore[attr-defined]
        ("outside", None),
        ("inside", "7"),
        ("nested", "8"),
    ]
    assert caplog.records[1].stage == "queue"  # type: ignore[attr-defined]
    assert not hasattr(caplog.records[2], "stage")


def test_fields_come_from_extra_then_inner_then_outer_scope_of_the_same_job() -> None:
    """Extra wins over the inner scope, that over the outer one; another job's fields are not inherited."""
    configure()
    with job_context(1, a="outer", b="outer", c="outer"):
        with job_context(1, b="inner", c="inner"):
            log.info("same", extra={"c": "extra"})
        with job_context(2, b="two"):
            log.info("other")
    same, other = entries()
    assert same.fields == {"a": "outer", "b": "inner", "c": "extra"}
    assert other.fields == {"b": "two"}


def test_the_scope_object_tells_about_itself() -> None:
    """`current_job` gives id, fields, parent and whether it is closed."""
    assert current_job() is None
    with job_context(1, stage="x") as outer:
        assert current_job() is outer
        assert (outer.job_id, dict(outer.fields), outer.parent, outer.closed) == ("1", {"stage": "x"}, None, False)
        with job_context("2") as inner:
            assert inner.parent is outer
            with detached():
                assert current_job() is None
            assert current_job() is inner
    assert outer.closed
    assert current_job() is None
    with pytest.raises(TypeError):
        outer.fields["stage"] = "y"  # type: ignore[index]


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_job_without_an_id_opens_none_and_says_so_once(nothing: object, capfd: pytest.CaptureFixture[str]) -> None:
    """An unsaved job's block belongs to no job, not to the one around it."""
    configure()
    with job_context("outer"):
        for _ in range(3):
            with job_context(nothing):
                log.info("of nobody")
                assert current_job() is None
        log.info("of outer")
    assert messages() == ["of outer"]
    assert capfd.readouterr().err.count("Save the job first") == 1


def test_a_job_object_for_an_id_says_under_which_text_its_log_is(capfd: pytest.CaptureFixture[str]) -> None:
    """A model object instead of its id: the log is there, under the object's text, and the warning names it."""

    class Job:
        pk = 7

        def __str__(self) -> str:
            return "survey of May"

    configure()
    with job_context(Job()):
        log.info("kept")
    assert messages("survey of May") == ["kept"]
    assert "kept under the text of that object, 'survey of May'. Pass its id" in capfd.readouterr().err


def test_scopes_closed_in_another_order_leave_nothing_behind() -> None:
    """Two scopes closed first-in first-out: the closed one never comes back, memory does not grow."""
    configure()
    first, second = job_context("a"), job_context("b")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    log.info("of b")
    second.__exit__(None, None, None)
    late = stats()["late"]
    log.info("of nobody")
    assert current_job() is None
    assert stats()["late"] == late, "the scope that closed first was in force again"
    assert [(entry.job_id, entry.message) for entry in entries()] == [("b", "of b")]
    last = job_context("x")
    last.__enter__()
    for number in range(100):
        following = job_context(number)
        following.__enter__()
        last.__exit__(None, None, None)
        last = following
    depth, scope = 0, current_job()
    while scope is not None:
        depth, scope = depth + 1, scope.parent
    assert depth <= 2
    last.__exit__(None, None, None)


async def test_closing_from_another_tasks_context_is_quiet() -> None:
    """A scope entered in one task and closed in another raises nothing and is closed everywhere."""
    configure()
    scope = job_context("a")

    async def enter() -> None:
        scope.__enter__()

    await asyncio.create_task(enter())
    assert current_job() is None
    scope.__exit__(None, None, None)
    assert scope.closed


async def test_a_task_that_outlives_its_job_writes_to_no_job() -> None:
    """Records of a closed scope are late: counted, in no job's log; the same job's outer scope takes them over."""
    configure()
    before = stats()["late"]
    done = asyncio.Event()

    async def straggler() -> None:
        await done.wait()
        log.info("late line")

    with job_context("a"):
        task = asyncio.create_task(straggler())
    with job_context("b"):
        done.set()
        await task
    assert messages() == []
    assert stats()["late"] == before + 1

    done.clear()
    with job_context("a"):
        with job_context("a"):
            task = asyncio.create_task(straggler())
        done.set()
        await task
    assert messages("a") == ["late line"]


def test_a_context_object_may_be_used_again_and_inside_itself() -> None:
    """Each `with` on one object is a scope of its own; a closed one does not come back to life."""
    configure()
    again = job_context("a", stage="x")
    with again as first:
        log.info("one")
        with again as second:
            log.info("two")
            assert second is not first
        log.info("three")
    with again as third:
        log.info("four")
        assert first.closed
        assert not third.closed
    assert current_job() is None
    assert [(entry.message, entry.n, entry.fields["stage"]) for entry in entries("a")] == [
        ("one", 1, "x"),
        ("two", 2, "x"),
        ("three", 3, "x"),
        ("four", 4, "x"),
    ]


def test_a_context_object_that_is_used_for_ever_keeps_nothing_of_it() -> None:
    """Ten or a thousand times, and inside itself: the scopes of earlier blocks are gone."""
    context = job_context("a")

    def scopes() -> int:
        gc.collect()
        # Not by isinstance, which has lazy objects of other tests look for what they stand for.
        return sum(type(each) is JobScope for each in gc.get_objects())

    def use(times: int) -> int:
        for _ in range(times):
            with context, context:
                pass
        return scopes()

    before = use(10)
    assert use(1000) - before < 10


def test_what_is_to_be_done_before_a_scope_closes_is_done_in_it_and_a_failure_is_told(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Each callback once, while the scope is open; one that fails stops neither the others nor the block."""
    configure()
    seen: list[tuple[str, bool]] = []

    def broken(scope: JobScope) -> None:
        raise RuntimeError("broken callback")

    def fine(scope: JobScope) -> None:
        seen.append((scope.job_id, scope.closed))
        log.info("closing")

    with job_context("a") as scope:
        before_close(scope, broken)
        before_close(scope, fine)
    assert (seen, scope.closed) == ([("a", False)], True)
    assert messages("a") == ["closing"]
    assert "closing job 'a'" in (told := capfd.readouterr().err)
    assert "broken callback" in told


def test_what_is_to_be_done_before_a_stream_ends_is_done_in_the_streams_job() -> None:
    """Though the last step is the consumer's, who is in a job of its own and stays there."""
    configure()

    def rows() -> Iterator[int]:
        scope = current_job()
        assert scope is not None
        before_close(scope, lambda scope: log.info("sum of %s", scope.job_id))
        yield 1

    with job_context("consumer"):
        assert list(wrap_stream("stream", rows())) == [1]
        log.info("goes on")
    assert (messages("stream"), messages("consumer")) == (["sum of stream"], ["goes on"])


def test_a_generator_that_held_a_job_is_not_kept_alive() -> None:
    """Neither it nor what its local variables held, once it has ended."""

    class Page:
        pass

    def pages() -> Iterator[weakref.ref[Page]]:
        page = Page()
        with job_context("g"):
            yield weakref.ref(page)

    (kept,) = list(pages())
    gc.collect()
    assert kept() is None


def test_n_counts_lines_of_a_scope_without_gaps() -> None:
    """`n` runs per scope, shared by scopes of the same job inside each other; `seq` runs over all."""
    configure()
    with job_context("a"):
        log.info("1")
        with job_context("b"):
            log.info("1 of b")
        with job_context("a"):
            log.info("2")
        log.info("3")
    assert [entry.n for entry in entries("a")] == [1, 2, 3]
    assert [entry.n for entry in entries("b")] == [1]
    seqs = [entry.seq for entry in entries()]
    assert seqs == list(range(seqs[0], seqs[0] + 4))


@pytest.mark.parametrize("job_id", ["a/b", "../x", "naïve", "job\x00", "A", "ü" * 300, 3, 3.5])
def test_any_id_is_its_text(job_id: object) -> None:
    """A job id is `str(value)`, whatever characters it has."""
    configure()
    with job_context(job_id):
        log.info("x")
    assert [entry.job_id for entry in entries()] == [str(job_id).replace("\x00", "\u2400")]
