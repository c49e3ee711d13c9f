"""asgiref, Django, FastAPI and other libraries that move code between threads, tasks and contexts."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

import fastapi
import httpx
import pytest
import redis.asyncio
import structlog
from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from joblog_router import current_job, detached, job_context, wrap_stream
from tests.contrib.celery.valkey import ValkeyServer
from tests.helpers import configure

from .conftest import Run
from .lines import Counted, lines, log


@pytest.mark.parametrize("thread_sensitive", [True, False])
def test_sync_to_async_is_its_callers(run: Run, thread_sensitive: bool) -> None:
    """Synchronous code called from a job's coroutine logs in that job."""

    async def main() -> None:
        with job_context("A"):
            await sync_to_async(log.info, thread_sensitive=thread_sensitive)("sync part")
            log.info("async part")

    run(main())
    assert lines() == [("A", "sync part"), ("A", "async part")]


def test_async_to_sync_is_its_callers() -> None:
    """A coroutine called from a job's synchronous code logs in that job, and a scope inside does not stay."""

    async def inner() -> None:
        log.info("async part")
        with job_context("B"):
            log.info("of B")

    with job_context("A") as scope:
        async_to_sync(inner)()
        assert current_job() is scope
        log.info("sync part")
    assert lines() == [("A", "async part"), ("B", "of B"), ("A", "sync part")]


def test_a_scope_left_open_in_sync_code_comes_back_and_closes(run: Run) -> None:
    """asgiref copies variables back: a scope opened in one call and closed in another one leaves no job behind."""

    async def main() -> None:
        scope = job_context("A")
        await sync_to_async(scope.__enter__)()
        log.info("of A")
        await sync_to_async(scope.__exit__)(None, None, None)
        log.info("nobody")
        assert current_job() is None

    run(main())
    assert lines() == [("A", "of A")]


def test_a_scope_left_open_for_ever_ends_with_its_context(run: Run) -> None:
    """Forgotten open in sync code, it counts in the task it came back to and in no other."""

    async def forgets() -> None:
        await sync_to_async(job_context("A").__enter__)()
        log.info("of A")

    async def main() -> None:
        await asyncio.create_task(forgets())
        with job_context("B"):
            log.info("of B")
        log.info("nobody")

    run(main())
    assert lines() == [("A", "of A"), ("B", "of B")]


def _view(request: HttpRequest) -> HttpResponse:
    log.info("view")
    return HttpResponse()


async def _aview(request: HttpRequest) -> HttpResponse:
    await asyncio.sleep(0)
    log.info("view")
    return HttpResponse()


def _body() -> Iterator[bytes]:
    log.info("body")
    yield b"x"


def _streaming(request: HttpRequest, wrapped: bool = False) -> StreamingHttpResponse:
    return StreamingHttpResponse(wrap_stream("V", _body()) if wrapped else _body())


urlpatterns = [
    path("view/", _view),
    path("aview/", _aview),
    path("streaming/", _streaming),
    path("wrapped/", _streaming, {"wrapped": True}),
]


def _in_job(get_response: Any) -> Any:
    """A middleware as one would write it."""

    def middleware(request: HttpRequest) -> HttpResponse:
        with job_context("V"):
            response: HttpResponse = get_response(request)
        return response

    return middleware


@pytest.fixture
def _urls(settings: Any) -> None:
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = [f"{__name__}._in_job"]
    configure()  # Django's set-up may have changed it


@pytest.mark.usefixtures("_urls")
@pytest.mark.parametrize("view", ["view", "aview"])
def test_django_views_are_in_the_middlewares_job(view: str) -> None:
    """A synchronous middleware around sync and async views: the view's lines are its job's."""
    assert Client().get(f"/{view}/").status_code == 200
    log.info("nobody")
    assert [line for line in lines() if line[1] == "view"] == [("V", "view")]


@pytest.mark.usefixtures("_urls")
@pytest.mark.parametrize("view", ["view", "aview"])
def test_django_views_under_asgi_are_in_the_middlewares_job(run: Run, view: str) -> None:
    """The same through Django's ASGI handler, which crosses threads."""

    async def main() -> int:
        response: Any = await AsyncClient().get(f"/{view}/")
        assert current_job() is None
        return int(response.status_code)

    assert run(main()) == 200
    assert [line for line in lines() if line[1] == "view"] == [("V", "view")]


@pytest.mark.usefixtures("_urls")
@pytest.mark.parametrize(("view", "job"), [("streaming", []), ("wrapped", [("V", "body")])])
def test_a_streaming_body_is_lost_without_wrap_stream(view: str, job: list[tuple[str, str]]) -> None:
    """The middleware's `with` is over before the body runs: no job, or that of `wrap_stream`."""
    response: Any = Client().get(f"/{view}/")
    assert b"".join(response.streaming_content) == b"x"
    assert [line for line in lines() if line[1] == "body"] == job


async def _dependency(job: str) -> AsyncIterator[str]:
    async with job_context(job) as scope:
        yield scope.job_id
        log.info("tear down")


def _sync_dependency(job: str) -> Iterator[str]:
    with job_context(job) as scope:
        yield scope.job_id
        log.info("tear down")


def _application() -> fastapi.FastAPI:
    app = fastapi.FastAPI()

    @app.get("/async/{job}")
    async def endpoint(opened: Annotated[str, fastapi.Depends(_dependency)]) -> str:
        await asyncio.sleep(0)
        log.info("endpoint")
        return opened

    @app.get("/sync/{job}")
    def sync_endpoint(opened: Annotated[str, fastapi.Depends(_dependency)]) -> str:
        log.info("endpoint")
        return opened

    @app.get("/lost/{job}")
    async def lost(opened: Annotated[str, fastapi.Depends(_sync_dependency)]) -> str:
        log.info("endpoint")
        return opened

    @app.get("/background/{job}")
    async def background(job: str, tasks: fastapi.BackgroundTasks) -> None:
        with job_context(job):
            tasks.add_task(log.info, "background")
            log.info("endpoint")

    return app


async def _get(*urls: str) -> list[int]:
    transport = httpx.ASGITransport(app=_application())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return [response.status_code for response in await asyncio.gather(*map(client.get, urls))]


@pytest.mark.parametrize("endpoint", ["async", "sync"])
def test_a_fastapi_yield_dependency_keeps_its_job(run: Run, endpoint: str) -> None:
    """Two requests at once: endpoint and tear down log in the job that the dependency opened."""
    assert run(_get(f"/{endpoint}/A", f"/{endpoint}/B")) == [200, 200]
    ours = [line for line in lines() if line[1] in ("endpoint", "tear down")]
    assert sorted(ours) == [("A", "endpoint"), ("A", "tear down"), ("B", "endpoint"), ("B", "tear down")]


def test_a_synchronous_fastapi_dependency_loses_its_job(run: Run) -> None:
    """It is entered in a copied context in another thread: the endpoint never sees the scope, in no job's log."""
    assert run(_get("/lost/A")) == [200]
    assert [line for line in lines() if line[1] == "endpoint"] == []


def test_a_fastapi_background_task_is_lost_without_its_own_scope(run: Run) -> None:
    """It runs when the endpoint's scope is over: open the job in it."""
    assert run(_get("/background/A")) == [200]
    assert [line for line in lines() if line[1] in ("endpoint", "background")] == [("A", "endpoint")]


def test_structlog_through_the_standard_library() -> None:
    """Its records are records: the job of the calling code."""
    structlog.configure(
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[structlog.stdlib.render_to_log_kwargs],
    )
    try:
        with job_context("A"):
            structlog.get_logger("third_party.struct").info("structured", count=3)
    finally:
        structlog.reset_defaults()
    assert lines() == [("A", "structured")]


class _Refresher:
    """A client as third parties make them: its first use starts a thread that refreshes something for ever."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._refresh, self._thread = threading.Event(), threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        logger = logging.getLogger("third_party.client")
        while self._refresh.wait(10):
            logger.info("refreshed")
            self.ended.set()
            return  # a real one would go on

    def use(self) -> None:
        self._thread.start()
        self._refresh.set()
        assert self.ended.wait(10)
        self._thread.join(10)


def test_a_background_refresher_of_a_client_is_nobodys() -> None:
    """Started by the first use, inside A: a plain thread has no job."""
    with job_context("A"):
        _Refresher().use()
        log.info("of A")
    assert lines() == [("A", "of A")]


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    """A server of these tests' own."""
    with ValkeyServer() as server:
        yield server


@pytest.mark.parametrize("declared", ["services", "detached", "no"])
def test_a_redis_listener_that_a_job_starts(run: Run, valkey: ValkeyServer, declared: str) -> None:
    """A pub/sub listener started inside A: what it logs for B's message is nobody's once it is declared."""
    if declared == "services":
        configure(services=["redis.asyncio.client.PubSub.run"])

    async def main() -> None:
        client = redis.asyncio.Redis(unix_socket_path=str(valkey.socket))
        heard = asyncio.Event()

        def handler(message: dict[str, Any]) -> None:
            log.info("heard")
            heard.set()

        async def listen() -> asyncio.Task[None]:
            pubsub = client.pubsub()
            await pubsub.subscribe(news=handler)
            return asyncio.create_task(pubsub.run(poll_timeout=0.05))

        with job_context("A"):
            if declared == "detached":
                with detached():
                    task = await listen()
            else:
                task = await listen()
            with job_context("B"):
                while not heard.is_set():
                    await client.publish("news", "for B")
                    await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await client.aclose()

    services = Counted("services")
    run(main())
    heard = [line for line in lines() if line[1] == "heard"]
    assert {job for job, _ in heard} == ({"A"} if declared == "no" else set())
    assert bool(services.more()) == (declared == "services")
