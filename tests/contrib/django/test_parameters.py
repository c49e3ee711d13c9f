"""What anybody can write into a URL or a header: no server error, no work without bounds, nothing that comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.test import Client, override_settings
from django.urls import reverse

from joblog_router import Entry
from joblog_router._pipeline import reading
from joblog_router.contrib.django import streaming, tailing, views, windows
from joblog_router.contrib.django.store import DjangoStore
from joblog_router.sinks import MemorySink

pytestmark = pytest.mark.django_db(databases=["default", "joblog"])

Log = Callable[..., Entry]

NUMBERS = [
    *("0", "-1", "-0", "+1", " 5 ", "1_0", "0x10", "٣", "²", "１２", "nan", "inf", "-inf", "1e400", "1e18", "-1e18"),
    *("8.9e12", "-8.9e12", "1e-320", "9" * 20, "9" * 4301, "0" * 4301 + "7", "00001" + "9" * 4, "00001" + "9" * 12),
]
TEXTS = ["\x00", "x\n\nevent: lines\ndata: {}", "\r", "\x1b[31m", "\u2028", "'", "%_\\", "😀" * 400]
# Of the table; what a store that somebody else wrote makes of them is its own.
CURSORS = [
    reading.encode("d1", *parts)
    for parts in (
        (2**63 - 1, {}),
        (-1, {}),
        (0, {"a": 2**63 - 1}),
        (0, {}, 2**63 - 1, 2**63 - 1, []),
        (5, {}, -(2**63), 0, [["a", 1]]),
        (5, {}, 1, 5, [["a", float("inf")]]),
        (float("nan"), {}),
    )
]
NAMES = [
    *("limit", "after", "before", "since", "until", "at", "level", "logger", "text", "origin", "buckets"),
    *("format", "shape", "completeness"),
]


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lines, parts of the time or bytes were asked for; whoever may see logs is everybody."""
    found: list[int] = []
    positive, histogram = reading.positive, windows.histogram

    def noting(limit: int) -> int:
        found.append(limit)
        return positive(limit)

    def counting(*args: Any) -> Any:
        found.append(args[-1])
        assert args[-1] <= 500
        return histogram(*args)

    monkeypatch.setattr(reading, "positive", noting)
    monkeypatch.setattr(windows, "histogram", counting)
    return found


@pytest.mark.parametrize("name", ["page", "entries", "summary", "download", "stream"])
def test_no_parameter_breaks_a_view_or_makes_it_work_for_long(
    name: str, log: Log, limits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each parameter of each view with each value: an answer or 400, of bounded size, out of bounded reads."""
    log("7", created=1000.0)
    log("7", created=2000.0)
    cursors: list[str] = []

    def followed(request: Any, job_id: str, cursor: str, selection: Any) -> HttpResponse:
        """In place of the stream itself, which a thread serves: what reaches it."""
        cursors.append(cursor)
        return HttpResponse()

    monkeypatch.setattr(views, "stream_of", followed)
    reading.decode(DjangoStore().newest("7").cursor, "d1")  # the kind of the cursors above
    statuses = set()
    with override_settings(JOBLOG_ROUTER={"PERMISSION": lambda *_: True}):
        client = Client(raise_request_exception=False)
        where = reverse(f"joblog:{name}", args=["7"])
        for parameter in NAMES:
            for value in (*NUMBERS, *TEXTS, *CURSORS):
                response = client.get(where, {parameter: value})
                size = sum(map(len, response)) if response.streaming else len(response.content)
                assert response.status_code in (200, 400), (parameter, value[:40], response.status_code)
                assert size < 60_000, (parameter, value[:40], size)
                statuses.add(response.status_code)
    assert statuses == {200, 400}
    assert max(limits, default=0) <= 1000
    assert all(map(str.isprintable, cursors))


def test_leading_zeros_change_nothing(log: Log) -> None:
    """As many of them as there are: a number has the value that it has."""
    log("7", created=1000.0)
    log("7", created=2000.0)
    with override_settings(JOBLOG_ROUTER={"PERMISSION": lambda *_: True}):
        for zeros in ("", "0", "0" * 5000):
            summary = Client().get(reverse("joblog:summary", args=["7"]), {"buckets": f"{zeros}3"})
            assert len(summary.json()["histogram"]) == 3
            entries = Client().get(reverse("joblog:entries", args=["7"]), {"limit": f"{zeros}1"})
            assert len(entries.json()["entries"]) == 1


@pytest.mark.parametrize("parameter", ["id__in", "id__gt", "seq__in", "message__iregex", "created", "p", "e", "o", "q"])
def test_the_admins_list_is_asked_by_its_filters_alone(log: Log, parameter: str) -> None:
    """Any other condition goes through all rows, or is too large for the database: refused, as the page beyond all."""
    log("7")
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("boss"))
    for value in (*NUMBERS, *TEXTS):
        response = client.get(reverse("admin:joblog_router_joblogentry_changelist"), {parameter: value})
        assert response.status_code in ((400,) if "_" in parameter else (200, 302, 400)), value[:40]


@pytest.mark.parametrize("parameter", ["job", "level", "logger"])
def test_the_filters_of_the_admins_list_take_anything(log: Log, parameter: str) -> None:
    """There is such a line or none."""
    log("7")
    client = Client(raise_request_exception=False)
    client.force_login(User.objects.create_superuser("boss"))
    for value in (*NUMBERS, *TEXTS):
        response = client.get(reverse("admin:joblog_router_joblogentry_changelist"), {parameter: value})
        assert response.status_code == 200, value[:40]


FORGED = 'x\n\nevent: lines\ndata: {"entries": [{"message": "forged"}]}'


class _Away(MemorySink):
    """A store that cannot be read."""

    def after(self, *args: Any, **kwargs: Any) -> Any:
        """See Store."""
        raise RuntimeError("away")


@pytest.mark.parametrize("line_break", ["\n", "\r", "\r\n", "\0", "\u2028"])
def test_no_event_comes_out_of_a_url(monkeypatch: pytest.MonkeyPatch, line_break: str) -> None:
    """The cursor comes back as the id of events and heartbeats, unread as long as the store is away."""
    hub = tailing.Hub(_Away, interval=0.02)
    monkeypatch.setattr(streaming, "hub", hub)
    monkeypatch.setattr(streaming, "_HEARTBEAT", 0.05)
    where = reverse("joblog:stream", args=["7"])
    forged = FORGED.replace("\n", line_break)
    with override_settings(JOBLOG_ROUTER={"PERMISSION": lambda *_: True}):
        client = Client(**{"wsgi.multithread": True})
        for asked in ({"data": {"after": forged}}, {"headers": {"Last-Event-ID": forged}}):
            assert client.get(where, **asked).status_code == 400, asked
        for name in ("entries", "page"):
            assert client.get(reverse(f"joblog:{name}", args=["7"]), {"after": forged}).status_code == 400
        response = client.get(where, {"after": "made-up"})
        parts = iter(response)
        assert [next(parts), next(parts)] == [b"retry: 1000\n\n", b":\nid: made-up\n\n"]
        response.close()
    assert hub.watching() == 0


def test_a_stores_cursor_never_ends_an_event() -> None:
    """One of another's store, which the views take from nobody: the event has no id then."""
    for cursor in ("", FORGED, "a\rb", "a\nb", "\ud800"):
        assert tailing.event("lines", {"entries": []}, cursor) == b'event: lines\ndata: {"entries": []}\n\n'
    assert tailing.event("end", {}, "c1") == b"event: end\nid: c1\ndata: {}\n\n"
