"""Scopes open over a `yield`: the job counts while the generator runs, and never for its consumer's lines."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
import types
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest
from django.http import StreamingHttpResponse

from joblog_router import JobContextFilter, carry, current_job, detached, job_context, wrap_stream

from .conftest import Run
from .lines import Counted, lines, log


def items(job: str, count: int = 2) -> Iterator[int]:
    """A bare generator with a scope."""
    with job_context(job):
        for number in range(count):
            log.info("%s makes %d", job, number)
            yield number
        log.info("%s ends", job)


async def aitems(job: str, count: int = 2) -> AsyncIterator[int]:
    """A bare asynchronous generator with a scope."""
    async with job_context(job):
        for number in range(count):
            log.info("%s makes %d", job, number)
            await asyncio.sleep(0)
            yield number
        log.info("%s ends", job)


MADE_AND_USED = [
    ("A", "A makes 0"),
    ("C", "uses 0"),
    ("A", "A makes 1"),
    ("C", "uses 1"),
    ("A", "A ends"),
    ("C", "after"),
]


def test_a_generators_scope_is_not_its_consumers() -> None:
    """The lines between two items are the consumer's own job's, the generator's are its job's."""
    with job_context("C") as own:
        for number in items("A"):
            assert current_job() is own
            log.info("uses %d", number)
        log.info("after")
    log.info("outside")
    assert lines() == MADE_AND_USED


def test_a_consumer_without_a_job_has_none() -> None:
    """Between two items nothing is about a job, and nothing afterwards."""
    for number in items("A"):
        assert current_job() is None
        log.info("uses %d", number)
    log.info("after")
    assert lines() == [line for line in MADE_AND_USED if line[0] == "A"]


def test_an_async_generators_scope_is_not_its_consumers(run: Run) -> None:
    """`async with` in an async generator: as in a plain one."""

    async def main() -> None:
        with job_context("C") as own:
            async for number in aitems("A"):
                assert current_job() is own
                log.info("uses %d", number)
            log.info("after")
        assert current_job() is None

    run(main())
    assert lines() == MADE_AND_USED


def test_the_generator_wins_when_another_job_steps_it() -> None:
    """Begun in no job, stepped by C and by D in contexts of their own: its lines stay A's, theirs stay theirs."""
    generator = items("A", 3)
    contextvars.copy_context().run(next, generator)

    def step(job: str) -> None:
        with job_context(job):
            log.info("%s asks", job)
            next(generator)
            log.info("%s has it", job)

    threads = [threading.Thread(target=step, args=(job,)) for job in "CD"]
    for thread in threads:
        thread.start()
        thread.join(10)
    assert lines() == [
        ("A", "A makes 0"),
        ("C", "C asks"),
        ("A", "A makes 1"),
        ("C", "C has it"),
        ("D", "D asks"),
        ("A", "A makes 2"),
        ("D", "D has it"),
    ]


def test_a_generator_stepped_without_a_job_keeps_its_own() -> None:
    """In a context whose variable is empty the generator's frame on the stack says whose line it is."""
    generator = items("A")
    contextvars.copy_context().run(next, generator)
    thread = threading.Thread(target=lambda: next(generator))
    thread.start()
    thread.join(10)
    assert lines() == [("A", "A makes 0"), ("A", "A makes 1")]


def test_a_scope_opened_by_what_the_generator_calls_wins() -> None:
    """A function the generator calls may open a job of its own; `detached` inside counts as well."""

    def work() -> None:
        with job_context("B"):
            log.info("of B")
        log.info("of A again")
        with detached():
            log.info("of nobody")

    def holding() -> Iterator[None]:
        with job_context("A"):
            yield
            work()
            yield

    generator = holding()
    with job_context("C"):
        contextvars.copy_context().run(next, generator)
        next(generator)
        log.info("of C")
    assert lines() == [("B", "of B"), ("A", "of A again"), ("C", "of C")]


def test_a_generator_inside_a_generator() -> None:
    """Each has its own job, whoever of them runs; the consumer has none of theirs."""

    def outer() -> Iterator[int]:
        with job_context("O"):
            for number in items("A"):
                log.info("O got %d", number)
                yield number
            log.info("O ends")

    with job_context("C"):
        for number in outer():
            log.info("C got %d", number)
    assert lines() == [
        ("A", "A makes 0"),
        ("O", "O got 0"),
        ("C", "C got 0"),
        ("A", "A makes 1"),
        ("O", "O got 1"),
        ("C", "C got 1"),
        ("A", "A ends"),
        ("O", "O ends"),
    ]


def test_two_scopes_in_one_generator() -> None:
    """The inner one's job while it is open, then the outer one's."""

    def both() -> Iterator[None]:
        with job_context("A"):
            with job_context("B"):
                yield
                log.info("of B")
            log.info("of A")
            yield
            log.info("of A too")

    generator = both()
    with job_context("C"):
        next(generator)
        next(generator)
        log.info("of C")
        list(generator)
        log.info("of C too")
    assert lines() == [("B", "of B"), ("A", "of A"), ("C", "of C"), ("A", "of A too"), ("C", "of C too")]


def test_suspended_generators_closed_first_in_first_out() -> None:
    """No order of closing leaves a job behind, and the consumer's own comes through."""
    with job_context("C"):
        first, second = items("A"), items("B")
        next(first)
        next(second)
        first.close()  # type: ignore[attr-defined]
        log.info("one closed")
        second.close()  # type: ignore[attr-defined]
        log.info("both closed")
    log.info("nobody")
    assert current_job() is None
    assert [line for line in lines() if line[0] == "C"] == [("C", "one closed"), ("C", "both closed")]
    assert "nobody" not in [text for _, text in lines()]


def test_a_consumers_job_that_ends_before_the_generator() -> None:
    """A generator begun inside C and finished after it: the job around C goes on, C's is over."""
    with job_context("D"):
        with job_context("C"):
            generator = items("A")
            next(generator)
        log.info("of D")
        list(generator)
        log.info("of D too")
    log.info("nobody")
    assert [line for line in lines() if line[0] != "A"] == [("D", "of D"), ("D", "of D too")]


def test_a_generator_begun_while_detached() -> None:
    """`detached` around the first item is over when its block is, though the generator lives."""
    with job_context("D"):
        with detached():
            generator = items("A")
            next(generator)
            log.info("nobody")
        log.info("of D")
        del generator
        log.info("of D too")
    assert lines() == [("A", "A makes 0"), ("D", "of D"), ("D", "of D too")]


def test_break_out_of_async_for(run: Run) -> None:
    """The suspended generator holds its scope until the loop closes it; the task's own job is undisturbed."""

    async def main() -> None:
        with job_context("C"):
            async for _ in aitems("A"):
                break
            log.info("after break")
            gc.collect()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            log.info("after collection")
        log.info("nobody")

    run(main())
    assert lines() == [("A", "A makes 0"), ("C", "after break"), ("C", "after collection")]


def test_a_generator_that_is_garbage_collected() -> None:
    """Closed by the collector on another thread, it leaves no job in the one that began it."""

    class Cycle:
        generator: Iterator[int]

    with job_context("C"):
        cycle: Any = Cycle()
        cycle.generator = items("A")
        cycle.itself = cycle
        next(cycle.generator)
        del cycle
        thread = threading.Thread(target=gc.collect)
        thread.start()
        thread.join(10)
        log.info("of C")
    log.info("nobody")
    assert lines() == [("A", "A makes 0"), ("C", "of C")]


def test_closing_from_a_foreign_context(run: Run) -> None:
    """`aclose()` in another task raises nothing there, and repairs the variable of the task that began."""

    async def main() -> None:
        with job_context("C"):
            generator = aitems("A")
            await anext(generator)
            with job_context("E"):
                await asyncio.create_task(generator.aclose(), context=contextvars.copy_context())  # type: ignore[attr-defined]
                log.info("of E")
            log.info("of C")

    run(main())
    assert lines() == [("A", "A makes 0"), ("E", "of E"), ("C", "of C")]


def test_the_variable_is_repaired_once_the_generator_is_closed(run: Run) -> None:
    """Closed elsewhere, the scope is out of the way: what the consumer starts from then on is the consumer's."""

    async def child() -> None:
        log.info("child of C")

    async def main() -> None:
        with job_context("C"):
            generator = aitems("A")
            await anext(generator)
            await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]
            log.info("of C")
            await asyncio.create_task(child())

    run(main())
    assert lines() == [("A", "A makes 0"), ("C", "of C"), ("C", "child of C")]


def test_children_of_a_bare_async_generator_have_no_job(run: Run) -> None:
    """What it starts cannot be told from what its consumer starts: no job, and counted."""
    unknown = Counted("generators")

    async def child() -> None:
        log.info("whose?")

    async def parents() -> AsyncIterator[None]:
        with job_context("A"):
            yield await asyncio.create_task(child())

    async def main() -> None:
        with job_context("C"):
            async for _ in parents():
                log.info("of C")

    run(main())
    assert lines() == [("C", "of C")]
    assert unknown.more() == 1


def test_tasks_started_between_items_have_no_job(run: Run) -> None:
    """The consumer's children between two items inherit the generator's scope: no job, and counted."""
    unknown = Counted("generators")

    async def child() -> None:
        log.info("whose?")
        with job_context("X"):
            log.info("of X")
        log.info("whose again?")

    async def main() -> None:
        with job_context("C"):
            async for _ in aitems("A", 1):
                await asyncio.create_task(child())
                log.info("of C")

    run(main())
    assert lines() == [("A", "A makes 0"), ("X", "of X"), ("C", "of C"), ("A", "A ends")]
    assert unknown.more() == 2


def test_carry_between_items_carries_the_consumers_job() -> None:
    """`carry` between two items takes the job that counts there."""
    with job_context("C"):
        for _ in items("A", 1):
            thread = threading.Thread(target=carry(lambda: log.info("carried")))
            thread.start()
            thread.join(10)
    assert lines() == [("A", "A makes 0"), ("C", "carried"), ("A", "A ends")]


def test_yield_from_is_one_generator() -> None:
    """A delegated generator's scope counts while it runs, through whatever delegates to it."""

    def outer() -> Iterator[int]:
        yield from items("A")
        log.info("outer ends")

    with job_context("C"):
        for number in outer():
            log.info("uses %d", number)
        log.info("after")
    assert lines() == [*MADE_AND_USED[:-1], ("C", "outer ends"), ("C", "after")]


def test_contextmanager_keeps_its_job() -> None:
    """The body of `with` is what a @contextmanager generator opens its scope for."""

    @contextmanager
    def opened() -> Iterator[None]:
        with job_context("A"):
            yield

    @contextmanager
    def through_another() -> Iterator[None]:
        with opened():
            yield

    @contextmanager
    def delegating() -> Generator[None, None, None]:
        yield from through_another.__wrapped__()  # type: ignore[attr-defined]

    for manager in (opened, through_another, delegating):
        with manager():
            log.info(manager.__name__)
        log.info("nobody")
    assert lines() == [("A", "opened"), ("A", "through_another"), ("A", "delegating")]


def test_asynccontextmanager_keeps_its_job(run: Run) -> None:
    """Also across awaits and in child tasks."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        async with job_context("A"):
            yield

    async def child() -> None:
        log.info("child")

    async def main() -> None:
        async with opened():
            await asyncio.sleep(0)
            log.info("body")
            await asyncio.create_task(child())
        log.info("nobody")

    run(main())
    assert lines() == [("A", "body"), ("A", "child")]


def test_exit_stacks_keep_their_job(run: Run) -> None:
    """`enter_context` and `enter_async_context` open the scope for the stack's own block."""

    @contextmanager
    def opened() -> Iterator[None]:
        with job_context("B"):
            yield

    async def main() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(job_context("A"))
            log.info("of A")
        with ExitStack() as plain:
            plain.enter_context(opened())
            log.info("of B")
        log.info("nobody")

    run(main())
    assert lines() == [("A", "of A"), ("B", "of B")]


class _Step:
    """A context manager class that opens a scope for its user."""

    def __enter__(self) -> None:
        self._scope = job_context("A")
        self._scope.__enter__()

    def __exit__(self, *exc_info: object) -> None:
        self._scope.__exit__(None, None, None)


@contextmanager
def _managed() -> Iterator[None]:
    with job_context("A"):
        yield


@contextmanager
def _stacked() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(job_context("A"))
        yield


@pytest.mark.parametrize("manager", [_Step, _managed, _stacked])
def test_a_context_manager_inside_a_bare_generator(manager: Callable[[], Any]) -> None:
    """contextlib and context manager classes are looked through: the generator that uses them decides."""

    def bare() -> Iterator[None]:
        with manager():
            log.info("of A")
            yield
            log.info("of A too")

    with job_context("C"):
        for _ in bare():
            log.info("of C")
    assert lines() == [("A", "of A"), ("C", "of C"), ("A", "of A too")]


def test_an_awaitables_generator_is_its_coroutine(run: Run) -> None:
    """A scope in a generator `__await__` is suspended with its coroutine: children have its job."""

    async def child() -> None:
        log.info("child")

    class Work:
        def __await__(self) -> Generator[Any, None, None]:
            with job_context("A"):
                yield from asyncio.create_task(child()).__await__()
                log.info("of A")

    async def main() -> None:
        await Work()
        log.info("nobody")

    run(main())
    assert lines() == [("A", "child"), ("A", "of A")]


def test_a_shared_context_object_in_two_generators() -> None:
    """Each generator leaves the scope it has entered, in whatever order they end."""
    shared = job_context("A")

    def using() -> Iterator[None]:
        with shared:
            yield
            log.info("runs")

    first, second = using(), using()
    with job_context("C"):
        next(first)
        next(second)
        list(first)
        log.info("between")
        list(second)
        log.info("after")
    assert lines() == [("A", "runs"), ("C", "between"), ("A", "runs"), ("C", "after")]


def test_the_filter_gives_the_same_answer() -> None:
    """On the console's record, too, the generator's lines are the generator's and the consumer's are not."""
    seen: list[Any] = []

    class Keep(JobContextFilter):
        def filter(self, record: Any) -> bool:
            super().filter(record)
            seen.append((record.job_id, record.getMessage()))
            return True

    log.addFilter(Keep())
    with job_context("C"):
        for number in items("A"):
            log.info("uses %d", number)
        log.info("after")
    assert seen == MADE_AND_USED
    assert lines() == MADE_AND_USED


def test_an_unknown_driver_is_reported_once(capfd: pytest.CaptureFixture[str]) -> None:
    """One line names the generator, its consumer and `wrap_stream`."""
    list(items("A"))
    list(items("B"))
    lines()
    told = [line for line in capfd.readouterr().err.splitlines() if "yields to" in line]
    assert len(told) == 1
    assert "items" in told[0]
    assert "wrap_stream(job_id, items(...))" in told[0]


def test_a_scope_closed_before_the_yield_is_nobodys_trouble(run: Run) -> None:
    """Opened and closed between two yields, a scope is an ordinary one, children included."""

    async def child() -> None:
        log.info("whose?")

    async def careful() -> AsyncIterator[None]:
        with job_context("A"):
            log.info("of A")
        yield

    async def main() -> None:
        with job_context("C"):
            async for _ in careful():
                log.info("of C")
                await asyncio.create_task(child())

    run(main())
    assert lines() == [("A", "of A"), ("C", "of C"), ("C", "whose?")]


def test_wrap_stream_keeps_both_jobs() -> None:
    """The source's lines are the stream's job's, the consumer's the consumer's."""

    def numbers() -> Iterator[int]:
        try:
            for number in range(2):
                log.info("makes %d", number)
                yield number
        finally:
            log.info("closes")

    with job_context("C"):
        for number in wrap_stream("A", numbers()):
            log.info("uses %d", number)
            if number:
                break
        log.info("after")
    assert lines() == [
        ("A", "makes 0"),
        ("C", "uses 0"),
        ("A", "makes 1"),
        ("C", "uses 1"),
        ("A", "closes"),
        ("C", "after"),
    ]


def test_wrap_stream_for_async_sources_and_their_children(run: Run) -> None:
    """Tasks that the source starts keep its job until the stream ends, between the items too."""
    go, done = asyncio.Event(), asyncio.Event()

    async def child() -> None:
        await go.wait()
        log.info("child between items")
        done.set()

    async def numbers() -> AsyncIterator[int]:
        task = asyncio.create_task(child())
        yield 0
        await task
        log.info("source")

    async def main() -> None:
        with job_context("C"):
            async for _ in wrap_stream("A", numbers()):
                go.set()
                await done.wait()
                log.info("of C")
        log.info("nobody")

    run(main())
    assert lines() == [("A", "child between items"), ("C", "of C"), ("A", "source")]


def test_wrap_stream_around_a_generator_with_a_scope_of_its_own() -> None:
    """Its own scope wins while it runs; the consumer has neither."""
    with job_context("C"):
        for number in wrap_stream("W", items("A")):
            log.info("uses %d", number)
        log.info("after")
    assert lines() == MADE_AND_USED


def test_wrap_stream_changes_its_consumer_between_items() -> None:
    """Stepped in one job after the other, each of them has its own back after every item."""
    stream = wrap_stream("A", iter(range(3)))
    for job in "CD":
        with job_context(job) as scope:
            next(stream)
            assert current_job() is scope
            log.info("of %s", job)
    stream.close()  # type: ignore[attr-defined]
    assert current_job() is None
    assert lines() == [("C", "of C"), ("D", "of D")]


@pytest.mark.django_db  # a response that is closed looks after connections, if an earlier test left one
def test_django_streaming_responses(run: Run) -> None:
    """`wrap_stream` takes the response itself: its body, sync or async, is made in the job."""

    def body() -> Iterator[bytes]:
        log.info("sync body")
        yield b"x"

    async def abody() -> AsyncIterator[bytes]:
        log.info("async body")
        await asyncio.sleep(0)
        yield b"y"

    response = wrap_stream("A", StreamingHttpResponse(body()))
    assert isinstance(response, StreamingHttpResponse)
    assert b"".join(response) == b"x"  # type: ignore[arg-type]
    response.close()

    async def main() -> bytes:
        response = wrap_stream("B", StreamingHttpResponse(abody()))
        return b"".join([part async for part in response])

    assert run(main()) == b"y"
    log.info("nobody")
    assert lines() == [("A", "sync body"), ("B", "async body")]


def test_a_scope_left_over_a_yield_is_closed_by_whoever_closes(run: Run) -> None:
    """An error thrown into the generator closes its scope; the consumer's job is there to log it."""

    def failing() -> Iterator[None]:
        with job_context("A"):
            yield
            raise ValueError

    with job_context("C"):
        generator = failing()
        next(generator)
        with contextlib.suppress(ValueError):
            next(generator)
        log.info("of C")
    assert lines() == [("C", "of C")]


@pytest.fixture
def job_of_a_fixture() -> Iterator[str]:
    """A fixture that works in a job from set up to tear down."""
    with job_context("F") as scope:
        yield scope.job_id


def test_a_pytest_yield_fixture_keeps_its_job(job_of_a_fixture: str) -> None:
    """pytest steps fixtures as contextlib does: the test runs in the fixture's job."""
    log.info("in the test")
    assert lines() == [(job_of_a_fixture, "in the test")]


def test_configured_drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that sets up and tears down with generators is named once and keeps their jobs."""
    from joblog_router._pipeline import generators

    monkeypatch.setattr(generators, "_drivers", generators._drivers)
    generators.use_drivers([__name__])

    def setting_up() -> Iterator[None]:
        with job_context("A"):
            yield

    resource = setting_up()
    next(resource)
    log.info("of A")
    resource.close()  # type: ignore[attr-defined]
    log.info("nobody")
    assert lines() == [("A", "of A")]


def test_carry_inside_a_generator_counts_elsewhere() -> None:
    """It says whose work that is: the generator's, in a pool's thread, until the generator's scope closes."""
    late = Counted("late")
    kept: list[Callable[[], None]] = []

    def working() -> Iterator[None]:
        with job_context("A"):
            for _ in range(3):
                kept.append(carry(lambda: log.info("carried")))
                thread = threading.Thread(target=kept[-1])
                thread.start()
                thread.join(10)
                yield

    with job_context("C"):
        for _ in working():
            pass
        kept[0]()
    assert lines() == [("A", "carried")] * 3
    assert late.more() == 1


def test_a_carried_call_inside_a_generator_is_what_it_carries() -> None:
    """A function carried from B, or from no job, and called by A's generator: B's line, or nobody's."""
    nobodys = carry(lambda: log.info("nobody"))
    with job_context("B"):
        carried = carry(lambda: log.info("of B"))

        def calling() -> Iterator[None]:
            with job_context("A"):
                for _ in range(100):
                    carried()
                    nobodys()
                    yield
                log.info("of A")

        with job_context("C"):
            list(calling())
        assert (current_job() or job_context("x"))._at_close == []
    carried()
    assert lines() == [("B", "of B")] * 100 + [("A", "of A")]


def test_wrap_stream_stepped_by_two_generators() -> None:
    """A stream begun by A's generator and gone on with by B's: the source's lines are the stream's job's."""

    def source() -> Iterator[None]:
        for number in range(2):
            log.info("source %d", number)
            yield

    stream = wrap_stream("W", source())

    def stepping(job: str) -> Iterator[None]:
        with job_context(job):
            next(stream)
            log.info("of %s", job)
            yield

    first, second = stepping("A"), stepping("B")
    next(first)
    next(second)
    assert lines() == [("W", "source 0"), ("A", "of A"), ("W", "source 1"), ("B", "of B")]


def test_closing_a_suspended_generator_inside_another_one() -> None:
    """A's generator closes one that was begun before it: what A's starts has no job still, not its consumer's."""

    def closing(other: Any) -> Iterator[None]:
        with job_context("A"):
            other.close()
            contextvars.copy_context().run(log.info, "of A")
            thread = threading.Thread(target=contextvars.copy_context().run, args=(log.info, "whose?"))
            thread.start()
            thread.join(10)
            yield

    with job_context("C"):
        other = items("B")
        next(other)
        list(closing(other))
        log.info("of C")
    assert lines() == [("B", "B makes 0"), ("A", "of A"), ("C", "of C")]


@types.coroutine
def _pause() -> Generator[None, None, None]:
    yield


async def _work(job: str) -> None:
    with job_context(job):
        log.info("%s begins", job)
        await _pause()
        log.info("%s ends", job)


def test_coroutines_stepped_by_hand_need_a_context_each() -> None:
    """A scheduler of one's own that gives each coroutine a context, as event loops do, keeps the jobs apart."""
    steps = [(contextvars.copy_context(), _work(job)) for job in "AB"]
    for context, coroutine in steps:
        context.run(coroutine.send, None)
    log.info("outside")
    for context, coroutine in steps:
        with pytest.raises(StopIteration):
            context.run(coroutine.send, None)
    assert lines() == [("A", "A begins"), ("B", "B begins"), ("A", "A ends"), ("B", "B ends")]


def test_coroutines_stepped_by_hand_in_one_context_share_a_scope() -> None:
    """Nothing tells such a coroutine from one that an event loop runs: the scope that was opened last counts."""

    def by_hand() -> None:
        coroutines = [_work(job) for job in "AB"]
        for coroutine in coroutines:
            coroutine.send(None)
        for coroutine in coroutines:
            with pytest.raises(StopIteration):
                coroutine.send(None)

    contextvars.copy_context().run(by_hand)
    assert ("B", "A ends") in lines()
