"""A whole log as a file, read page by page while it is sent: texts whole, no control characters in a text file.

Called by the views. The server asks for the parts, on a thread of its own or in its event loop: then a thread reads.
"""

from __future__ import annotations

import datetime as dt
import heapq
import json
from collections.abc import AsyncIterator, Iterator
from typing import Final

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from ..._pipeline import reading
from ..._pipeline.escaping import escape_job_id
from ..._pipeline.reading import stands_for
from ...context import current_namespace
from ...entry import Audience, Entry
from ...sinks.store import Selection, Store
from .rendering import visible

__all__ = ["FORMATS", "download_of"]

FORMATS: Final = {"text": ("text/plain; charset=utf-8", "log"), "jsonl": ("application/x-ndjson", "jsonl")}
_PAGE: Final = 1000
# Lines come as they were stored, by several processes: so many of them are kept back to send them by time.
_KEPT_BACK: Final = 5000


def download_of(
    request: HttpRequest, store: Store, job_id: str, kind: str, selection: Selection
) -> StreamingHttpResponse:
    """The answer that sends the log of `job_id`."""
    content_type, suffix = FORMATS[kind]
    namespace = current_namespace()
    # Asked here: the body is sent when middleware has set the request's tenant back.
    since = reading.shown_since(job_id, namespace)
    parts = _parts(store, job_id, namespace, kind, selection, since=since)
    body = _in_threads(parts) if isinstance(request, ASGIRequest) else parts
    answer = StreamingHttpResponse(body, content_type=content_type)
    answer["Content-Disposition"] = f'attachment; filename="job-{escape_job_id(job_id)}.{suffix}"'
    return answer


async def _in_threads(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    take = sync_to_async(lambda: next(parts, None))
    while (part := await take()) is not None:
        yield part


def _parts(
    store: Store, job_id: str, namespace: str, kind: str, selection: Selection, *, since: float
) -> Iterator[bytes]:
    render = _as_text if kind == "text" else _as_json
    waiting: list[tuple[tuple[float, str, int], Entry]] = []
    cursor, more = "", True
    while more:
        page = store.after(job_id, cursor, selection, _PAGE, namespace)
        cursor, more = page.cursor, page.more
        for entry in page.entries:
            if entry.created < since and since > 0:
                continue
            heapq.heappush(waiting, ((entry.created, entry.origin, entry.seq), entry))
        ready = [heapq.heappop(waiting)[1] for _ in range(len(waiting) - (_KEPT_BACK if more else 0))]
        if ready:
            yield "".join(render(entry, selection.audience) for entry in ready).encode("utf-8", "backslashreplace")


def _as_json(entry: Entry, audience: Audience) -> str:
    line = entry.as_dict()
    if audience != "staff":
        del line["path"], line["line"]
    return json.dumps(line, ensure_ascii=False, default=str) + "\n"


def _as_text(entry: Entry, audience: Audience) -> str:
    """One line, what belongs to it indented below: a line that begins with a time was logged as one."""
    moment = dt.datetime.fromtimestamp(entry.created, dt.UTC)
    text = visible(f"{entry.level_name} {entry.logger} {entry.message}").replace("\n", "\n    ")
    text += stands_for(entry)
    if entry.exception:
        text += "\n    " + visible(entry.exception).rstrip("\n").replace("\n", "\n    ")
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z {text}\n"
