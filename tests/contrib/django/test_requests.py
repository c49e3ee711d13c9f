"""Requests work for the job that their URL names: on a real uvicorn, and on Django's own WSGI handler."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import django
import pytest

from tests.contrib.django.project import Project
from tests.helpers import until
from tests.uvicorn import Uvicorn

SETTINGS = """
import os
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "shop.urls"
MIDDLEWARE = ["shop.middleware.above", "joblog_router.contrib.django.middleware.JobContextMiddleware",
              "shop.middleware.below"]
JOBLOG_ROUTER = {"NATS": False, "CELERY": False, "URLS": {
    "shop:sync": "pk", "shop:async": "pk", "upload": "number", "fails": "pk", "stream": "pk", "astream": "pk",
    "breaks": "pk", "endless": "pk", "aendless": "pk", "file": "pk", "typo": "id"}}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                         "options": {"directory": str(BASE_DIR / "logs")}}},
    "root": {"level": "INFO", "handlers": ["job"]},
}
"""

MIDDLEWARE = """
import logging
from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware
log = logging.getLogger("shop.middleware")

def make(name):
    @sync_and_async_middleware
    def middleware(get_response):
        if iscoroutinefunction(get_response):
            async def serve(request):
                log.info("%s before", name)
                response = await get_response(request)
                log.info("%s after", name)
                return response
        else:
            def serve(request):
                log.info("%s before", name)
                response = get_response(request)
                log.info("%s after", name)
                return response
        return serve
    return middleware
above, below = make("above"), make("below")
"""

URLS = """
from django.urls import include, path
from shop import views
urlpatterns = [
    path("jobs/", include(([path("<int:pk>/sync/", views.sync_view, name="sync"),
                            path("<int:pk>/async/", views.async_view, name="async")], "shop"))),
    path("upload/<str:number>/", views.upload, name="upload"),
    path("fails/<int:pk>/", views.fails, name="fails"),
    path("stream/<int:pk>/", views.stream, name="stream"),
    path("astream/<int:pk>/", views.astream, name="astream"),
    path("breaks/<int:pk>/", views.breaks, name="breaks"),
    path("endless/<int:pk>/", views.endless, name="endless"),
    path("aendless/<int:pk>/", views.aendless, name="aendless"),
    path("file/<int:pk>/", views.file, name="file"),
    path("typo/<int:pk>/", views.sync_view, name="typo"),
    path("nobody/<int:pk>/", views.sync_view, name="nobody"),
]
"""

VIEWS = """
import asyncio, logging
from asgiref.sync import async_to_sync, sync_to_async
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from joblog_router import job_context
log = logging.getLogger("shop.views")

def sync_view(request, pk):
    log.info("sync view")
    async def inside():
        log.info("async code of a sync view")
        await sync_to_async(log.info)("and sync code of that")
        await asyncio.gather(*(asyncio.to_thread(log.info, "thread %d", number) for number in range(2)))
    async_to_sync(inside)()
    with job_context("other"):
        log.info("in another job")
    log.info("back in the view's")
    return HttpResponse("ok")

async def async_view(request, pk):
    log.info("async view")
    def inside():
        log.info("sync code of an async view")
        with job_context("other"):
            log.info("in another job")
        async_to_sync(again)()
    async def again():
        log.info("and async code of that")
    await sync_to_async(inside)()
    await asyncio.create_task(again())
    log.info("back in the view's")
    return HttpResponse("ok")

async def upload(request, number):
    log.info("got %d bytes", len(request.body))
    return HttpResponse("ok")

def fails(request, pk):
    raise ValueError("no such survey")

def stream(request, pk):
    def items():
        try:
            for number in range(3):
                log.info("item %d", number)
                yield f"{number},"
        finally:
            log.info("stream closed")
    return StreamingHttpResponse(items())

async def astream(request, pk):
    async def items():
        try:
            for number in range(3):
                log.info("item %d", number)
                yield f"{number},"
                await asyncio.sleep(0)
        finally:
            log.info("stream closed")
    return StreamingHttpResponse(items())

async def breaks(request, pk):
    async def items():
        yield "first,"
        log.info("about to break")
        raise ValueError("broken stream")
    return StreamingHttpResponse(items())

async def aendless(request, pk):
    async def items():
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            log.info("cancelled")
            raise
        finally:
            log.info("stream closed")
    return StreamingHttpResponse(items())

def endless(request, pk):
    class Items:
        def __iter__(self):
            return self
        def __next__(self):
            log.info("next")
            return "x" * 1000
        closed = False
        def close(self):
            if not self.closed:
                self.closed = True
                log.info("source closed")
    return StreamingHttpResponse(Items())

def file(request, pk):
    return FileResponse(open(__file__, "rb"))
"""

SYNC = [
    "below before",
    "sync view",
    "async code of a sync view",
    "and sync code of that",
    "thread",
    "thread",
    "back in the view's",
    "below after",
]
ASYNC = [
    "below before",
    "async view",
    "sync code of an async view",
    "and async code of that",
    "and async code of that",
    "back in the view's",
    "below after",
]


@pytest.fixture
def site(bare_project: Project) -> Project:
    """A project with views and the middleware, and logs in files."""
    bare_project.settings(SETTINGS)
    for name, code in (("middleware", MIDDLEWARE), ("urls", URLS), ("views", VIEWS)):
        (bare_project.root / "shop" / f"{name}.py").write_text(code)
    (bare_project.root / "asgi.py").write_text(
        "from django.core.asgi import get_asgi_application\napplication = get_asgi_application()\n"
    )
    return bare_project


@pytest.fixture
def server(site: Project) -> Iterator[Uvicorn]:
    """That project on uvicorn."""
    with Uvicorn(site.root, "asgi:application", DJANGO_SETTINGS_MODULE="settings") as server:
        yield server


def logs(root: Path, folder: str = "logs") -> dict[str, list[str]]:
    """The messages of each job, without the numbers of threads."""
    return {
        path.stem: [json.loads(line)["message"].removesuffix(" 0").removesuffix(" 1") for line in lines]
        for path in (root / folder).glob("*.jsonl")
        if (lines := path.read_text().splitlines())
    }


def wait_for(root: Path, job: str, message: str) -> list[str]:
    """The messages of a job once `message` is among them."""
    until(lambda: message in logs(root).get(job, []))
    return logs(root)[job]


def test_views_and_what_they_call_are_in_the_job_of_their_url(site: Project, server: Uvicorn) -> None:
    """Sync and async, by asgiref both ways, beside views without a job; what stands above is in none."""
    for path in ("jobs/1/sync/", "jobs/2/async/", "nobody/3/", "jobs/4/sync/", "typo/5/", "missing/6/"):
        assert server.get(f"/{path}")[0] == (404 if path.startswith("missing") else 200), server.text()
    server.close()
    found = logs(site.root)
    assert found.pop("other") == ["in another job"] * 5
    assert found == {"1": SYNC, "2": ASYNC, "4": SYNC}
    assert "JOBLOG_ROUTER['URLS']['typo'] names the argument 'id'" in server.text()


def test_the_exception_of_a_view_is_in_the_jobs_log(site: Project, server: Uvicorn) -> None:
    """Django's own line about it, with the traceback."""
    assert server.get("/fails/7/")[0] == 500
    server.close()
    lines = [json.loads(line) for line in (site.root / "logs" / "7.jsonl").read_text().splitlines()]
    (line,) = [line for line in lines if line["logger"] == "django.request"]
    assert line["message"] == "Internal Server Error: /fails/7/"
    assert "ValueError: no such survey" in line["exception"]


REFUSING = """
ALLOWED_HOSTS = ["127.0.0.1"]
MIDDLEWARE = ["joblog_router.contrib.django.middleware.JobContextMiddleware",
              "django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
JOBLOG_ROUTER["URLS"] |= {"denies": "pk", "adenies": "pk"}
LOGGING["handlers"]["console"] = {"class": "logging.StreamHandler"}
LOGGING["root"]["handlers"].append("console")
"""

REFUSING_VIEWS = """
from django.core.exceptions import BadRequest, PermissionDenied
from django.http import Http404

def denies(request, pk):
    if pk == 9:
        raise Http404
    raise PermissionDenied

async def adenies(request, pk):
    if pk == 8:
        raise BadRequest("the result has no picture")
    raise PermissionDenied
"""

REFUSING_URLS = """
urlpatterns += [path("denies/<int:pk>/", views.denies, name="denies"),
                path("adenies/<int:pk>/", views.adenies, name="adenies")]
"""


def test_a_refused_request_is_in_no_job(site: Project) -> None:
    """A stranger who guesses URLs writes into no job's log: CSRF, permissions, a wrong Host. Others are told."""
    site.settings(SETTINGS + REFUSING)
    for name, code in (("urls", REFUSING_URLS), ("views", REFUSING_VIEWS)):
        with (site.root / "shop" / f"{name}.py").open("a") as file:
            file.write(code)
    with Uvicorn(site.root, "asgi:application", DJANGO_SETTINGS_MODULE="settings") as server:
        connection = server.connection()
        for method, path, headers, status in (
            ("POST", "/jobs/7/sync/", {}, 403),
            ("POST", "/jobs/7/async/", {}, 403),
            ("GET", "/denies/7/", {}, 403),
            ("GET", "/adenies/7/", {}, 403),
            ("GET", "/denies/9/", {}, 404),
            ("GET", "/jobs/7/sync/", {"Host": "elsewhere.example"}, 400),
            ("GET", "/adenies/8/", {}, 400),
        ):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status, server.text()
        connection.close()
        server.close()
        told = server.text()
    assert "Forbidden (CSRF cookie not set.): /jobs/7/async/" in told
    assert "Forbidden (Permission denied): /adenies/7/" in told
    assert "Invalid HTTP_HOST" in told
    assert "Not Found: /denies/9/" in told
    assert logs(site.root) == {"8": ["the result has no picture: /adenies/8/"]}


def test_large_bodies_on_a_kept_connection_keep_their_jobs(site: Project, server: Uvicorn) -> None:
    """Twelve requests of 400 KB, every third to a view without a job."""
    connection = server.connection()
    for number in range(12):
        path = f"/upload/{number}/" if number % 3 else f"/nobody/{number}/"
        connection.request("POST", path, body=b"x" * 400_000)
        response = connection.getresponse()
        response.read()
        assert response.status in (200, 403)
    connection.close()
    server.close()
    assert logs(site.root) == {
        "other": ["in another job"] * 4,
        **{str(number): ["below before", "got 400000 bytes", "below after"] for number in range(12) if number % 3},
    }


def test_streamed_bodies_are_made_in_the_job(site: Project, server: Uvicorn) -> None:
    """A sync and an async generator: their items and their ends, though the view has returned."""
    assert server.get("/stream/8/") == (200, b"0,1,2,")
    assert server.get("/astream/9/") == (200, b"0,1,2,")
    assert server.get("/file/10/")[0] == 200
    server.close()
    found = logs(site.root)
    wanted = ["below before", "below after", "item", "item", "item 2", "stream closed"]
    assert found["8"] == wanted
    assert found["9"] == wanted
    assert found["10"] == ["below before", "below after"]


def test_an_error_of_a_streamed_body_reaches_the_server(site: Project, server: Uvicorn) -> None:
    """It is not swallowed: the client gets no proper end."""
    connection = server.connection()
    connection.request("GET", "/breaks/11/")
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        connection.getresponse().read()
    connection.close()
    assert wait_for(site.root, "11", "about to break") == ["below before", "below after", "about to break"]
    server.close()
    assert "ValueError: broken stream" in server.text()


@pytest.mark.skipif(django.VERSION < (5, 0), reason="Django before 5.0 does not notice that a client has gone")
def test_a_client_that_goes_away_cancels_the_stream_in_its_job(site: Project, server: Uvicorn) -> None:
    """CancelledError passes through, and what the generator says of its end is in the job."""
    connection = server.connection()
    connection.request("GET", "/aendless/12/")
    connection.getresponse().read(10)
    connection.close()
    assert wait_for(site.root, "12", "stream closed")[-2:] == ["cancelled", "stream closed"]
    assert server.get("/jobs/13/sync/")[0] == 200


def test_under_wsgi_the_same(site: Project) -> None:
    """Django's WSGI handler: views of both kinds, streams, one that is closed before its end and one never begun."""
    site.run(
        """
        from django.core.wsgi import get_wsgi_application
        from django.test import RequestFactory
        application = get_wsgi_application()
        def get(path):
            environ = RequestFactory().get(path).environ
            return application(environ, lambda status, headers: None)
        for path in ("/jobs/1/sync/", "/jobs/2/async/", "/nobody/3/", "/stream/8/"):
            response = get(path)
            list(response)
            response.close()
        response = get("/endless/14/")
        next(iter(response))
        response.close()
        get("/endless/15/").close()
        assert flush(10)
        """
    )
    found = logs(site.root)
    found.pop("other")
    assert found == {
        "1": SYNC,
        "2": ASYNC,
        "8": ["below before", "below after", "item", "item", "item 2", "stream closed"],
        "14": ["below before", "below after", "next", "source closed"],
        "15": ["below before", "below after", "source closed"],
    }


def test_without_urls_it_says_that_there_is_nothing_to_do(site: Project) -> None:
    """On stderr, once; requests are served."""
    site.settings(SETTINGS + "\nJOBLOG_ROUTER = {'NATS': False, 'CELERY': False}\n")
    result = site.run(
        """
        from django.test import Client
        for _ in range(2):
            assert Client().get("/jobs/1/sync/").status_code == 200
        """
    )
    assert result.stderr.count("JobContextMiddleware has nothing to do") == 1
    assert "1" not in logs(site.root)


TENANT = """
import contextvars
tenant = contextvars.ContextVar("tenant", default="public")

def middleware(get_response):
    def serve(request):
        token = tenant.set("acme")
        try:
            return get_response(request)
        finally:
            tenant.reset(token)
    return serve
"""


def test_a_streamed_body_is_in_the_namespace_of_its_request(site: Project) -> None:
    """Its items and its end, though a middleware above took the tenant back: another tenant has a job of that id."""
    (site.root / "shop" / "tenant.py").write_text(TENANT)
    site.settings(
        SETTINGS
        + """
MIDDLEWARE = ["shop.tenant.middleware", *MIDDLEWARE]
from shop.tenant import tenant
JOBLOG_ROUTER["NAMESPACE"] = tenant.get
"""
    )
    site.run(
        """
        from django.core.wsgi import get_wsgi_application
        from django.test import RequestFactory
        application = get_wsgi_application()
        def get(path):
            return application(RequestFactory().get(path).environ, lambda status, headers: None)
        response = get("/stream/8/")
        list(response)
        response.close()
        response = get("/endless/14/")
        next(iter(response))
        response.close()
        get("/endless/15/").close()
        assert flush(10)
        """
    )
    assert [path.name for path in (site.root / "logs").iterdir()] == ["acme"]
    assert logs(site.root, "logs/acme") == {
        "8": ["below before", "below after", "item", "item", "item 2", "stream closed"],
        "14": ["below before", "below after", "next", "source closed"],
        "15": ["below before", "below after", "source closed"],
    }
