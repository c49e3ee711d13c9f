"""One job's log over HTTP: the page, its lines as JSON, its figures. Mounted by `urls`.

Synchronous views, for WSGI and ASGI alike. Each asks `permissions` before anything else; what is forbidden is 404.
Whoever may see a log gets that of a job that has not logged yet, too, so that "start it, go to its page" works. Work is
bounded: one page of lines, texts cut.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, JsonResponse, QueryDict
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from ..._pipeline.reading import summarize
from ..._pipeline.report import report_once
from ...entry import Audience
from ...exceptions import ConfigurationError, SinkUnavailableError
from ...sinks.account import account_of
from ...sinks.opening import open_store
from ...sinks.store import Page, Selection, Store, Summary
from . import conf, figures, levels, windows
from .diagnosis import panel
from .downloads import FORMATS, download_of
from .header import header_of
from .permissions import Access, access_to
from .rendering import as_json, as_streams, day_and_time, rows, visible
from .streaming import stream_of
from .texts import texts_as_json

__all__ = ["MOST_LINES", "download", "entries", "page", "store", "stream", "summary"]

MOST_LINES: Final = 1000
_LONGEST_TEXT: Final = 500
_MOST_BUCKETS: Final = 500
_FILTERS: Final = ("level", "logger", "text", "origin", "before", "after", "limit", "at")
_LATEST: Final = 9e12
_LONGEST_CURSOR: Final = 20_000
# Of a number: of more of them `int` takes its time, and refuses in the end.
_DIGITS: Final = 10

View: TypeAlias = Callable[[HttpRequest, str], HttpResponseBase]


def store() -> Store:
    """The store that readers use."""
    return open_store()


def _for_readers(view: Callable[[HttpRequest, str, Access], HttpResponseBase]) -> View:
    """Let only those in who may see the log, and keep browsers from doing anything with the answer but show it."""

    @functools.wraps(view)
    def guarded(request: HttpRequest, job_id: str) -> HttpResponseBase:
        access = access_to(request, job_id)
        if access is None:
            raise Http404(_("There is no such job log."))
        response: HttpResponseBase
        try:
            response = view(request, job_id, access)
        except BadParameterError as error:
            response = JsonResponse({"error": str(error)}, status=400)
        except (SinkUnavailableError, ConfigurationError) as error:
            advice = getattr(error, "advice", "")
            report_once(("read", str(error)), f"a job's log could not be read: {error}. {advice}".rstrip())
            response = JsonResponse({"error": _("The log cannot be read at the moment.")}, status=503)
            response["Retry-After"] = "5"
        response["X-Content-Type-Options"] = "nosniff"
        response["Referrer-Policy"] = "same-origin"
        return response

    return require_safe(never_cache(guarded))


class BadParameterError(ValueError):
    """A parameter of the URL is not what it must be; the message says which and how."""


@_for_readers
def entries(request: HttpRequest, job_id: str, access: Access) -> HttpResponse:
    """Lines as JSON: the newest, those `after` or `before` a cursor of an earlier answer, `since` or `until` a time."""
    moment = _moment(request.GET)
    if moment is not None:
        name, at = moment
        look = windows.since if name == "since" else windows.until
        selection = selection_of(request.GET, access.audience)
        window = look(store(), job_id, at, selection, _limit(request.GET.get("limit")))
        return JsonResponse({"entries": as_json(window.entries, access.audience), "more": window.more})
    found = _read(job_id, access, request.GET)
    if request.GET.get("shape") == "streams":
        return JsonResponse(as_streams(found.entries))
    return JsonResponse(
        {
            "entries": as_json(found.entries, access.audience),
            "next": found.cursor,
            "earlier": found.earlier,
            "more": found.more,
        }
    )


@_for_readers
def stream(request: HttpRequest, job_id: str, access: Access) -> HttpResponseBase:
    """What is logged from a cursor on, as it comes; see `streaming`."""
    selection = selection_of(request.GET, access.audience)
    cursor = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    return stream_of(request, job_id, _cursor(cursor), selection)


@_for_readers
def download(request: HttpRequest, job_id: str, access: Access) -> HttpResponseBase:
    """The whole log as a file, `format` being "text" or "jsonl"; filtered where asked for."""
    selection = selection_of(request.GET, access.audience)
    kind = request.GET.get("format", "text")
    if kind not in FORMATS:
        raise BadParameterError(f"format must be one of {', '.join(FORMATS)}")
    return download_of(request, store(), job_id, kind, selection)


@_for_readers
def summary(request: HttpRequest, job_id: str, access: Access) -> HttpResponse:
    """Figures about the log as JSON; with `buckets` counts by level over time, too.

    `completeness` is for staff, and null for a long log unless `completeness=1` asks for it: it reads every line.
    `verdict=1` asks the doctor, for staff: that takes as long as its probes do.
    """
    asked = request.GET.get("buckets", "")
    buckets = _whole(asked)
    if asked and not 1 <= buckets <= _MOST_BUCKETS:
        raise BadParameterError(f"buckets must be a whole number from 1 to {_MOST_BUCKETS}")
    found, counts = figures.of(store, job_id, access.audience, buckets)
    account = None
    if access.audience == "staff" and (found.lines <= _FEW or request.GET.get("completeness")):
        account = account_of(store(), job_id)._asdict()
    wants_verdict = access.audience == "staff" and request.GET.get("verdict") == "1"
    return JsonResponse(
        {
            "job_id": job_id,
            "audience": access.audience,
            "completeness": account,
            "lines": found.lines,
            "levels": _by_name(found.levels),
            "first": found.first,
            "last": found.last,
            "first_error": as_json([found.first_error], access.audience)[0] if found.first_error else None,
            "origins": list(found.origins),
            "job": header_of(request, job_id),
            **({"verdict": panel(job_id)} if wants_verdict else {}),
            **({"histogram": [_by_name(part) for part in counts]} if buckets else {}),
        }
    )


@_for_readers
def page(request: HttpRequest, job_id: str, access: Access) -> HttpResponse:
    """The newest lines (or those before a cursor) as a page that needs no script."""
    error = ""
    try:
        found = _linked(job_id, access, request.GET) or _read(job_id, access, request.GET)
    except BadParameterError as problem:
        error = str(problem)
        found = _read(job_id, access, QueryDict())
    # A log that is longer than the page is added up by the page's script: it may take seconds.
    sums = summarize(job_id, found.entries) if found.earlier is None and not _is_filtered(request.GET) else None
    response = render(
        request,
        "joblog_router/page.html",
        {
            "job_id": visible(job_id),
            "lines": rows(found.entries),
            "earlier": found.earlier,
            "is_earlier": "before" in request.GET or "at" in request.GET,
            "levels": _levels(sums) if sums else [],
            "count": sums.lines if sums else None,
            "first_error": rows([sums.first_error])[0] if sums and sums.first_error else None,
            "first": day_and_time(sums.first) if sums and sums.first is not None else None,
            "last": day_and_time(sums.last) if sums and sums.last is not None else None,
            "origins": sums.origins if sums else (),
            "chosen": {name: request.GET.get(name, "") for name in ("level", "logger", "text", "origin")},
            "level_names": [logging.getLevelName(level) for level in levels.STANDARD],
            "job": header_of(request, job_id),
            "texts": texts_as_json(),
            "zone": timezone.get_current_timezone_name(),
            "error": error,
        },
        status=400 if error else 200,
    )
    policy = conf.current().CSP
    if policy is None or policy is True:
        policy = _strict_policy()
    if isinstance(policy, str):
        response["Content-Security-Policy"] = policy
    return response


# Lines that are looked through one by one in a moment.
_FEW: Final = 20_000


def _levels(sums: Summary) -> list[dict[str, Any]]:
    return [
        {"name": visible(logging.getLevelName(level)), "css": levels.level_class(level), "count": sums.levels[level]}
        for level in sorted(sums.levels, reverse=True)
    ]


def _by_name(counts: Mapping[int, int]) -> dict[str, int]:
    return {logging.getLevelName(level): counts[level] for level in sorted(counts)}


def _is_filtered(parameters: QueryDict) -> bool:
    return any(parameters.get(name) for name in _FILTERS)


def _strict_policy() -> str:
    own = "'self'"
    static = urlsplit(settings.STATIC_URL or "")
    if static.netloc:
        own += f" {static.scheme or 'https'}://{static.netloc}"
    return (
        f"default-src 'none'; script-src {own}; style-src {own}; img-src {own} data:; font-src {own}; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'"
    )


# --- reading -----------------------------------------------------------------------------------------------------


def _read(job_id: str, access: Access, parameters: QueryDict) -> Page:
    """The lines that the parameters ask for; none of a job that has not logged anything yet."""
    selection = selection_of(parameters, access.audience)
    limit = _limit(parameters.get("limit"))
    after, before = parameters.get("after"), parameters.get("before")
    if after and before:
        raise BadParameterError("after and before exclude each other")
    source = store()
    try:
        if after:
            found = source.after(job_id, _cursor(after), selection, limit)
        elif before:
            found = source.before(job_id, _cursor(before), selection, limit)
        else:
            found = source.newest(job_id, selection, limit)
    except ValueError as error:
        raise BadParameterError("the cursor is not one that this log gave") from error
    return found


def _linked(job_id: str, access: Access, parameters: QueryDict) -> Page | None:
    """The page that ends with the line a link leads to; its script finds the line by itself."""
    try:
        at = float(parameters.get("at", ""))
    except ValueError:
        return None
    if not abs(at) < _LATEST:
        return None
    window = windows.until(store(), job_id, at, selection_of(parameters, access.audience), MOST_LINES)
    return Page(window.entries, "") if window.entries else None


def selection_of(parameters: QueryDict, audience: Audience) -> Selection:
    """Which lines the parameters of a URL ask for. Raises BadParameterError."""
    texts = {name: parameters.get(name, "").strip() for name in ("logger", "text", "origin")}
    for name, text in texts.items():
        if len(text) > _LONGEST_TEXT:
            raise BadParameterError(f"{name} is longer than {_LONGEST_TEXT} characters")
        if "\x00" in text:
            raise BadParameterError(f"{name} must not contain NUL")
    level = parameters.get("level", "").strip()
    try:
        return Selection(levels.level_number(level) if level else 0, audience=audience, **texts)
    except ValueError as error:
        raise BadParameterError(str(error)) from error


def _moment(parameters: QueryDict) -> tuple[str, float] | None:
    """The time that lines are wanted `since` or `until`, if any."""
    given = [name for name in ("since", "until", "after", "before") if parameters.get(name)]
    if len(given) > 1:
        raise BadParameterError(f"{given[0]} and {given[1]} exclude each other")
    if not given or given[0] in ("after", "before"):
        return None
    try:
        moment = float(str(parameters[given[0]]))
    except ValueError:
        moment = math.nan
    if not abs(moment) < _LATEST:
        raise BadParameterError(f"{given[0]} must be a time in seconds since 1970")
    return given[0], moment


def _limit(text: str | None) -> int:
    if text is None or text == "":
        return MOST_LINES
    limit = _whole(text)
    if limit < 1:
        raise BadParameterError(f"limit must be a whole number from 1 to {MOST_LINES}")
    return min(limit, MOST_LINES)


def _whole(text: str) -> int:
    """A whole number; too large but no larger than this for one of many digits, 0 for what is none."""
    if not (text.isascii() and text.isdecimal()):
        return 0
    return int(text.lstrip("0")[:_DIGITS] or 0)


def _cursor(text: str) -> str:
    """A cursor that can be one. It is sent back as the id of events: see `Page`."""
    if len(text) > _LONGEST_CURSOR or not text.isprintable():
        raise BadParameterError("the cursor is not one that this log gave")
    return text
