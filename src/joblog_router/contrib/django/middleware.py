"""A request works for the job that its URL names: the view, the middleware behind this one and the streamed body.

Called by Django for every request, on the thread or task that serves it. Makes no query.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import FileResponse, HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, get_resolver

from ..._pipeline.attributes import STAMP
from ..._pipeline.report import report_once
from ..._pipeline.resolve import NO_JOB
from ...context import current_namespace, job_context, job_context_in, wrap_stream
from . import conf

__all__ = ["JobContextMiddleware"]

# Where Django tells of requests that it refuses.
_REFUSING: Final = ("django.request", "django.security.csrf", "django.security.DisallowedHost")
_IN_JOB: Final = "_joblog_is_in_job"


class _Refusals(logging.Filter):
    """Takes Django's lines about refused requests out of the job: whoever guesses a URL causes them, not its work."""

    def filter(self, record: logging.LogRecord) -> bool:
        request = getattr(record, "request", None)
        is_refused = record.name != "django.request" or getattr(record, "status_code", 0) in (401, 403)
        if is_refused and isinstance(request, HttpRequest) and hasattr(request, _IN_JOB):
            setattr(record, STAMP, NO_JOB)
        return True


_refusals: Final = _Refusals()


class JobContextMiddleware:
    """Open the job's scope around requests to the URLs of `JOBLOG_ROUTER["URLS"]`.

    `{"jobs:detail": "pk"}`: the name of a URL (with its namespace), and which of its arguments holds the job's id.
    Other requests, and those whose argument is None or empty, have no job. Sync and async. The body of a
    StreamingHttpResponse is made in the job, item by item, and closed in it; its errors and its cancellation pass
    through. Put it high in MIDDLEWARE: what stands above it is not in the job, nor is the body of a FileResponse, which
    the server itself may read. Django's lines about a request that it refuses (CSRF, 401, 403, a wrong Host) are in no
    job. Where NAMESPACE is a function, what it depends on must be set above: the job, with the
    streamed body, is of the namespace in force here.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        for name in _REFUSING:
            logging.getLogger(name).addFilter(_refusals)
        if not conf.current().URLS:
            report_once(
                ("middleware",),
                f"JobContextMiddleware has nothing to do: set {conf.SETTING} = {{'URLS': {{'jobs:detail': 'pk'}}}}",
            )

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        """Serve the request in its job."""
        if self._is_async:
            return self._serve(request)
        job_id = _job_of(request)
        if job_id is None:
            return cast("HttpResponseBase", self.get_response(request))
        with job_context(job_id):
            response = self.get_response(request)
        return _stream_in_job(response, job_id)

    async def _serve(self, request: HttpRequest) -> HttpResponseBase:
        job_id = _job_of(request)
        if job_id is None:
            return cast("HttpResponseBase", await self.get_response(request))
        with job_context(job_id):
            response = await self.get_response(request)
        return _stream_in_job(response, job_id)


def _job_of(request: HttpRequest) -> Any:
    """The id that the URL names, or None. Django itself looks the URL up only behind all middleware."""
    urls = conf.current().URLS
    if not urls:
        return None
    try:
        match = get_resolver(getattr(request, "urlconf", None)).resolve(request.path_info)
    except Resolver404:
        return None
    argument = urls.get(match.view_name)
    if argument is None:
        return None
    job_id = match.kwargs.get(argument)
    if argument not in match.kwargs:
        report_once(
            ("middleware", match.view_name),
            f"{conf.SETTING}['URLS'][{match.view_name!r}] names the argument {argument!r}, which that URL does not "
            f"have (it has: {', '.join(sorted(match.kwargs)) or 'none'}): its requests are in no job",
        )
    if job_id is None or job_id == "":
        return None
    setattr(request, _IN_JOB, True)
    return job_id


def _stream_in_job(response: HttpResponseBase, job_id: Any) -> HttpResponseBase:
    if not isinstance(response, StreamingHttpResponse) or isinstance(response, FileResponse):
        return response
    # Django's own way round this attribute puts a generator around it that closes nothing.
    source: Iterator[Any] | AsyncIterator[Any] = response._iterator  # type: ignore[attr-defined]
    closers: list[Callable[[], object]] = response._resource_closers  # type: ignore[attr-defined]
    # Asked here, as by wrap_stream: the server closes it outside all middleware.
    namespace = current_namespace()
    closers[:] = [_closing_in_job(close, namespace, job_id) for close in closers]
    response.streaming_content = wrap_stream(job_id, source)
    return response


def _closing_in_job(close: Callable[[], object], namespace: str, job_id: Any) -> Callable[[], object]:
    def close_in_job() -> object:
        with job_context_in(namespace, job_id):
            return close()

    return close_in_job
