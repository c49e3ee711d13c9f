"""Random programs of many jobs over tasks, threads, executors, callbacks and generators: every line has its owner.

A program is a tree of actions. The interpreter below knows, beside each line, whose it is: one job, nobody, or (where
a generator was left suspended, so that what is started then cannot be known) one of the two. Never another job's.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import copy_context
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from joblog_router import carry, detached, job_context, wrap_stream
from tests.helpers import configure, entries

log = logging.getLogger("third_party.module")

Owners = frozenset[str | None]
NOBODY: Owners = frozenset({None})
Action = tuple[Any, ...]


def only(job: str) -> Owners:
    """The owners of a line that is certainly `job`'s."""
    return frozenset({job})


class Here:
    """Whose a line is that is logged here, and whose one of what inherits this context; None: better not asked."""

    def __init__(self, direct: Owners, child: Owners | None) -> None:
        self.direct = direct
        self.child = child

    def left_suspended(self, inner: Here | None = None) -> None:
        """A generator with a scope was left suspended in this context, which its children inherit."""
        if self.child is not None and (inner is None or inner.child is None or None in inner.child):
            self.child = self.child | NOBODY


class World:
    """What one run shares between its tasks and threads."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self.pool = pool
        self.expected: dict[int, Owners] = {}
        self.numbers = itertools.count()
        self.suspended: list[tuple[Iterator[None], threading.Lock]] = []
        self.forgotten: list[asyncio.Task[None]] = []
        self.broken: list[Any] = []
        self.gate = asyncio.Event()

    def say(self, owners: Owners) -> None:
        """Log a line and note whose it is."""
        number = next(self.numbers)
        self.expected[number] = owners
        log.info("%d", number)

    def with_suspended(self, which: int, function: Callable[[Iterator[None]], object]) -> None:
        """Step or close a generator that is suspended, unless it runs in another thread."""
        if not self.suspended:
            return
        generator, lock = self.suspended[which % len(self.suspended)]
        if lock.acquire(blocking=False):
            try:
                function(generator)
            finally:
                lock.release()


@contextmanager
def managed(job: str) -> Iterator[None]:
    """A context manager that opens a job for its user."""
    with job_context(job):
        yield


@asynccontextmanager
async def amanaged(job: str) -> AsyncIterator[None]:
    """The same, asynchronous."""
    async with job_context(job):
        yield


def bare(world: World, job: str, body: list[Action], here: Here) -> Iterator[None]:
    """A generator that holds its scope over its yields."""
    with job_context(job):
        for action in body:
            run_sync(world, [action], here)
            yield
        world.say(here.direct)


def plain(world: World, body: list[Action], here: Here) -> Iterator[None]:
    """A generator without a scope of its own, for `wrap_stream`."""
    for action in body:
        run_sync(world, [action], here)
        yield


async def abare(world: World, job: str, body: list[Action], here: Here) -> AsyncIterator[None]:
    """An asynchronous generator that holds its scope over its yields."""
    async with job_context(job):
        for action in body:
            await run_async(world, [action], here)
            yield
        world.say(here.direct)


async def aplain(world: World, body: list[Action], here: Here) -> AsyncIterator[None]:
    """An asynchronous one without a scope of its own."""
    for action in body:
        await run_async(world, [action], here)
        yield


def in_thread(function: Callable[..., object], *arguments: Any) -> None:
    """Run `function` in a thread of its own, to its end."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def run_sync(world: World, actions: list[Action], here: Here) -> None:
    """Interpret synchronous actions."""
    for action, *rest in actions:
        if action == "say":
            world.say(here.direct)
        elif action in ("scope", "managed"):
            job, body = rest
            inner = Here(only(job), only(job))
            with managed(job) if action == "managed" else job_context(job):
                run_sync(world, body, inner)
            here.left_suspended(inner)
        elif action == "detached":
            inner = Here(NOBODY, NOBODY)
            before = len(world.suspended)
            with detached():
                run_sync(world, rest[0], inner)
            if len(world.suspended) != before:
                here.left_suspended()
        elif action == "thread":
            in_thread(run_sync, world, rest[0], Here(NOBODY, NOBODY))
        elif action == "carried":
            in_thread(carry(run_sync), world, rest[0], Here(here.direct, here.direct))
        elif action == "inherit":
            if here.child is not None:
                in_thread(copy_context().run, run_sync, world, rest[0], Here(here.child, here.child))
        elif action == "bare":
            job, body, between = rest
            for _ in bare(world, job, body, Here(only(job), NOBODY)):
                run_sync(world, between, Here(here.direct, NOBODY))
            here.left_suspended()
        elif action == "wrapped":
            job, body, between = rest
            for _ in wrap_stream(job, plain(world, body, Here(only(job), only(job)))):
                run_sync(world, between, here)
        elif action == "suspend":
            job, body = rest
            generator = bare(world, job, body, Here(only(job), None))
            next(generator, None)
            world.suspended.append((generator, threading.Lock()))
            here.left_suspended()
        elif action == "step":
            world.with_suspended(rest[0], lambda generator: next(generator, None))
        elif action == "close":
            world.with_suspended(rest[0], lambda generator: generator.close())  # type: ignore[attr-defined]
        world.say(here.direct)


async def run_async(world: World, actions: list[Action], here: Here) -> None:
    """Interpret actions of a coroutine; those it does not know are synchronous."""
    loop = asyncio.get_running_loop()
    for action, *rest in actions:
        if action == "sleep":
            await asyncio.sleep(0)
        elif action in ("ascope", "amanaged"):
            job, body = rest
            inner = Here(only(job), only(job))
            async with amanaged(job) if action == "amanaged" else job_context(job):
                await run_async(world, body, inner)
            here.left_suspended(inner)
        elif action == "tasks":
            if here.child is not None:
                child = here.child
                await asyncio.gather(*(run_async(world, body, Here(child, child)) for body in rest[0]))
        elif action == "forget" and not world.gate.is_set():
            world.forgotten.append(loop.create_task(forgotten(world, rest[0])))
            await asyncio.sleep(0)
        elif action == "callback":
            if here.child is not None:
                called = asyncio.Event()
                child = here.child

                def callback(child: Owners = child, called: asyncio.Event = called) -> None:
                    world.say(child)
                    called.set()

                loop.call_soon(callback)
                await called.wait()
        elif action == "to_thread":
            if here.child is not None:
                await asyncio.to_thread(run_sync, world, rest[0], Here(here.child, here.child))
        elif action == "executor":
            await loop.run_in_executor(world.pool, run_sync, world, rest[0], Here(NOBODY, NOBODY))
        elif action == "carried_executor":
            function = carry(run_sync)
            await loop.run_in_executor(world.pool, function, world, rest[0], Here(here.direct, here.direct))
        elif action == "abare":
            job, body, between, breaks = rest
            generator = abare(world, job, body, Here(only(job), NOBODY))
            async for _ in generator:
                await run_async(world, between, Here(here.direct, NOBODY))
                if breaks:
                    world.broken.append(generator)  # suspended until the end
                    break
            here.left_suspended()
        elif action == "awrapped":
            job, body, between = rest
            async for _ in wrap_stream(job, aplain(world, body, Here(only(job), only(job)))):
                await run_async(world, between, here)
        elif action != "forget":
            run_sync(world, [(action, *rest)], here)
        world.say(here.direct)


async def forgotten(world: World, body: list[Action]) -> None:
    """A task that comes to life when every scope around it has closed."""
    await world.gate.wait()
    await run_async(world, body, Here(NOBODY, NOBODY))


async def run_program(program: list[tuple[str, list[Action]]]) -> dict[int, Owners]:
    """Run all jobs of a program at once; what it logged, and whose that is."""
    with ThreadPoolExecutor(2) as pool:
        world = World(pool)

        async def job(name: str, actions: list[Action]) -> None:
            with job_context(name):
                await run_async(world, actions, Here(only(name), only(name)))
            world.say(NOBODY)

        await asyncio.gather(*(job(name, actions) for name, actions in program))
        world.gate.set()
        await asyncio.gather(*world.forgotten)
        for generator, _ in world.suspended:
            generator.close()  # type: ignore[attr-defined]
        for generator in world.broken:
            await generator.aclose()
        world.say(NOBODY)
    return world.expected


def check(program: list[tuple[str, list[Action]]], loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Run a program and look at every line of it: none is another one's, none is missing."""
    configure()
    with asyncio.Runner(loop_factory=loop) as runner:
        expected = runner.run(asyncio.wait_for(run_program(program), 50))
    found = {int(entry.message): entry.job_id for entry in entries() if entry.logger == log.name}
    wrong = {number: (job, expected[number]) for number, job in found.items() if job not in expected[number]}
    assert not wrong, f"lines in another one's log: {wrong}"
    lost = {number: owners for number, owners in expected.items() if None not in owners and number not in found}
    assert not lost, f"lines in no job's log: {lost}"


jobs = st.integers(1, 20).map(str)
say = st.just(("say",))
which = st.integers(0, 5)


def sync_actions(inner: st.SearchStrategy[Action]) -> st.SearchStrategy[Action]:
    """What plain code does."""
    body = st.lists(inner, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["scope", "managed"]), jobs, body),
        st.tuples(st.sampled_from(["detached", "thread", "carried", "inherit"]), body),
        st.tuples(st.sampled_from(["bare", "wrapped"]), jobs, body, body),
        st.tuples(st.just("suspend"), jobs, body),
        st.tuples(st.sampled_from(["step", "close"]), which),
    )


synchronous = st.recursive(say, sync_actions, max_leaves=6)


def async_actions(inner: st.SearchStrategy[Action]) -> st.SearchStrategy[Action]:
    """What a coroutine does beside that."""
    body = st.lists(inner, max_size=3)
    plain_body = st.lists(synchronous, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["ascope", "amanaged"]), jobs, body),
        st.tuples(st.just("tasks"), st.lists(body, max_size=3)),
        st.tuples(st.just("forget"), body),
        st.tuples(st.just("callback")),
        st.tuples(st.sampled_from(["to_thread", "executor", "carried_executor"]), plain_body),
        st.tuples(st.just("abare"), jobs, body, body, st.booleans()),
        st.tuples(st.just("awrapped"), jobs, body, body),
        synchronous,
    )


asynchronous = st.recursive(st.one_of(say, st.just(("sleep",))), async_actions, max_leaves=8)
programs = st.lists(st.tuples(jobs, st.lists(asynchronous, max_size=4)), min_size=2, max_size=20)
loops = st.sampled_from([asyncio.new_event_loop, uvloop.new_event_loop])

unhurried = settings(
    deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True, print_blob=True
)


@given(program=programs, loop=loops)
@settings(unhurried, max_examples=200)
@pytest.mark.timeout(120)
def test_every_line_of_200_programs_has_its_owner(program: Any, loop: Any) -> None:
    """Two hundred random programs, always the same ones, on both event loops."""
    check(program, loop)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@given(program=programs, loop=loops)
@settings(unhurried, max_examples=10_000, phases=[Phase.generate])
def test_every_line_of_10000_programs_has_its_owner(program: Any, loop: Any) -> None:
    """Ten thousand of them."""
    check(program, loop)
