"""Streams, windows of time, sums over time, downloads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser
from django.core.handlers.asgi import ASGIRequest
from django.test import AsyncRequestFactory, Client, override_settings
from django.urls import reverse

from joblog_router import Entry
from joblog_router.contrib.django import figures, streaming, tailing, views, windows
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.contrib.django.sink import DjangoSink
from joblog_router.contrib.django.store import DjangoStore
from joblog_router.contrib.django.tailing import Hub, Viewer
from joblog_router.sinks import MemorySink
from joblog_router.sinks.store import Selection, Store

Log = Callable[..., Entry]


class Away(MemorySink):
    """A store that counts how often it is read, and can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.is_away = False

    def after(self, *args: Any, **kwargs: Any) -> Any:
        """See Store."""
        self.reads += 1
        if self.is_away:
            raise RuntimeError("away")
        return super().after(*args, **kwargs)


class Reader:
    """A viewer, and what it was sent."""

    def __init__(self, hub: Hub, cursor: str = "", job_id: str = "7", **selection: Any) -> None:
        self.woken = threading.Event()
        self.viewer = Viewer(cursor, Selection(**selection), self.woken.set)
        self.events: list[tuple[str, Any]] = []
        self.cursor = cursor
        assert hub.watch("", job_id, self.viewer, 10_000)

    def read(self) -> Reader:
        """Take what waits."""
        for part in self.viewer.take().decode().split("\n\n"):
            found = dict(line.split(": ", 1) for line in part.splitlines())
            if "data" in found:
                self.events.append((found["event"], json.loads(found["data"])))
                self.cursor = found.get("id", self.cursor)
        return self

    def messages(self) -> list[str]:
        """The messages of all lines so far."""
        return [line["message"] for name, data in self.read().events if name == "lines" for line in data["entries"]]

    def until(self, condition: Callable[[Reader], bool], timeout: float = 10) -> Reader:
        """Read on until `condition` holds."""
        deadline = time.monotonic() + timeout
        while not condition(self.read()):
            left = deadline - time.monotonic()
            assert left > 0, self.events
            self.woken.wait(min(left, 0.1))
            self.woken.clear()
        return self


@pytest.fixture
def store() -> Away:
    """What the hub reads."""
    return Away()


@pytest.fixture
def hub(store: Away) -> Iterator[Hub]:
    """A hub of the test's own, which looks often."""
    hub = Hub(lambda: store, interval=0.02)
    yield hub
    for place, job in list(hub._jobs.items()):
        for viewer in job.viewers():
            hub.unwatch(*place, viewer)
    assert hub.watching() == 0


# --- the hub -----------------------------------------------------------------------------------------------------


def test_a_viewer_gets_what_there_is_and_what_comes(hub: Hub, store: Away, make_entry: Any) -> None:
    """From the beginning, or from a cursor on; each line once, in order."""
    store.write([make_entry(job_id="7", message=f"old {n}", created=1000.0 + n) for n in range(3)])
    reader = Reader(hub)
    reader.until(lambda reader: len(reader.messages()) == 3)
    for n in range(5):
        store.write([make_entry(job_id="7", message=f"new {n}", created=2000.0 + n)])
        reader.until(lambda reader, n=n: reader.messages()[-1] == f"new {n}")
    assert reader.messages() == [f"old {n}" for n in range(3)] + [f"new {n}" for n in range(5)]


def test_whoever_comes_back_misses_and_repeats_nothing(hub: Hub, store: Away, make_entry: Any) -> None:
    """Viewers that leave at any time and go on from the last id they saw have every line once."""
    total, written = 3000, threading.Event()

    def write() -> None:
        for n in range(total):
            store.write([make_entry(job_id="7", message=str(n), created=1000.0 + n)])
            if n % 20 == 0:
                time.sleep(0.001)  # so that readers see many states of the log
        written.set()

    writer = threading.Thread(target=write)
    writer.start()
    found: dict[int, list[str]] = {who: [] for who in range(4)}
    cursors = dict.fromkeys(found, "")
    while not written.is_set() or any(len(messages) < total for messages in found.values()):
        readers = {who: Reader(hub, cursors[who]) for who in found}
        for who, reader in readers.items():
            reader.woken.wait(0.05 + 0.01 * who)  # they leave at different moments, in the midst of what comes
            found[who] += reader.messages()
            cursors[who] = reader.cursor
            hub.unwatch("", "7", reader.viewer)
        assert max(map(len, found.values())) <= total
    writer.join()
    for messages in found.values():
        assert messages == [str(n) for n in range(total)]


def test_many_viewers_of_a_job_are_one_query_an_interval(hub: Hub, store: Away, make_entry: Any) -> None:
    """Once they are up to date, 200 viewers cost as much as one; each gets every line."""
    readers = [Reader(hub) for _ in range(200)]
    job = hub._jobs["", "7"]
    readers[0].until(lambda _: len(job.current) == 200)
    before, began = store.reads, time.monotonic()
    for n in range(10):
        store.write([make_entry(job_id="7", message=str(n), created=1000.0 + n)])
        readers[-1].until(lambda reader, n=n: len(reader.messages()) == n + 1)
    assert store.reads - before <= 2 + (time.monotonic() - began) / 0.02
    for reader in readers:
        assert reader.until(lambda reader: len(reader.messages()) == 10).messages() == [str(n) for n in range(10)]


def test_five_hundred_viewers_are_encoded_for_once_and_bounded(
    hub: Hub, store: Away, make_entry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines become text once for all who want the same; each gets the newest, as much as there is room for."""
    monkeypatch.setattr(tailing, "_MAX_SENT", 5_000_000)
    encoded: list[int] = []
    as_json = tailing.as_json

    def counting(entries: Any, audience: str) -> Any:
        encoded.append(len(entries))
        return as_json(entries, audience)

    monkeypatch.setattr(tailing, "as_json", counting)
    store.write([make_entry(job_id="7", message="begin", created=999.0)])
    readers = [Reader(hub, store.newest("7").cursor) for _ in range(500)]
    hub_job = hub._jobs["", "7"]
    readers[0].until(lambda _: len(hub_job.current) == 500)
    began, total = time.monotonic(), 4000
    for start in range(0, total, 500):
        store.write([make_entry(job_id="7", message=str(start + n), created=1000.0 + start + n) for n in range(500)])
        readers[0].until(lambda reader, start=start: reader.messages()[-1:] == [str(start + 499)])
    for reader in readers[::50]:
        reader.until(lambda reader: reader.messages()[-1] == str(total - 1))
        skipped = sum(data["lines"] for name, data in reader.events if name == "skipped")
        assert len(reader.messages()) + skipped == total
    took = time.monotonic() - began
    # All of a page, and of those that are too many the newest: never once for each viewer.
    assert len(encoded) < 100
    sent = sum(reader.viewer._given for reader in readers)
    assert sent < 5_000_000 * (took + tailing._BURST) + 500 * 1000 * len(encoded)
    assert sent < 500 * total * 300 / 2, "all that was logged, for each of them"


def test_each_viewer_gets_the_lines_it_chose_and_may_see(hub: Hub, store: Away, make_entry: Any) -> None:
    """Filters and audience hold for what was there and for what comes."""

    def some() -> None:
        for level, audience in [(20, "all"), (40, "all"), (40, "staff")]:
            store.write([make_entry(job_id="7", message=f"{level} {audience}", level=level, audience=audience)])

    some()
    readers = [Reader(hub), Reader(hub, level=40), Reader(hub, audience="staff"), Reader(hub, text="STAFF")]
    readers[2].until(lambda reader: len(reader.messages()) == 3)
    some()
    readers[2].until(lambda reader: len(reader.messages()) == 6)
    assert readers[0].until(lambda r: len(r.messages()) == 4).messages() == ["20 all", "40 all"] * 2
    assert readers[1].until(lambda r: len(r.messages()) == 2).messages() == ["40 all"] * 2
    assert readers[3].messages() == []


def test_who_does_not_keep_up_is_told_how_much_was_skipped(
    hub: Hub, store: Away, make_entry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A viewer that takes nothing keeps a bounded amount; then the number of lines it lacks is exact."""
    monkeypatch.setattr(tailing, "_MAX_WAITING", 20_000)
    slow, fast = Reader(hub), Reader(hub)
    for n in range(300):
        store.write([make_entry(job_id="7", message=f"{n} {'x' * 500}", created=1000.0 + n)])
        if n % 10 == 9:
            fast.until(lambda reader, n=n: len(reader.messages()) == n + 1)
    assert slow.viewer._size < 20_000 + 20 * 700
    slow.read()
    store.write([make_entry(job_id="7", message="last", created=2000.0)])
    slow.until(lambda reader: bool(reader.messages()) and reader.messages()[-1] == "last")
    (skipped,) = [data["lines"] for name, data in slow.events if name == "skipped"]
    assert skipped + len(slow.messages()) == 301
    assert skipped > 200


def test_a_cursor_of_another_store_starts_the_page_anew(hub: Hub) -> None:
    """The viewer is told, and its place is free."""
    reader = Reader(hub, cursor="rubbish")
    reader.until(lambda reader: ("reset", {}) in reader.events)
    assert reader.viewer.is_over
    assert hub.watching() == 0


def test_a_store_that_was_away_goes_on(hub: Hub, store: Away, make_entry: Any, capfd: Any) -> None:
    """An outage costs no line; it is said once."""
    reader = Reader(hub)
    store.is_away = True
    store.write([make_entry(job_id="7", message="meanwhile")])
    seen = store.reads
    reader.until(lambda _: store.reads > seen + 3)
    store.is_away = False
    assert reader.until(lambda reader: bool(reader.messages())).messages() == ["meanwhile"]


def test_a_cursor_that_the_store_chokes_on_holds_up_nobody_else(hub: Hub, make_entry: Any, capfd: Any) -> None:
    """Its viewer is tried last the next time; the others follow. A store of this test's own: no real one chokes."""
    chokes_on = MemorySink().newest("7").cursor

    class Choking(MemorySink):
        def after(self, job_id: str, cursor: str, *args: Any, **kwargs: Any) -> Any:
            if cursor == chokes_on:
                raise RuntimeError("too much")
            return super().after(job_id, cursor, *args, **kwargs)

    store = Choking()
    hub._store = lambda: store
    Reader(hub, chokes_on)
    reader = Reader(hub)
    store.write([make_entry(job_id="7", message="one")])
    reader.until(lambda reader: reader.messages() == ["one"])
    store.write([make_entry(job_id="7", message="two")])
    reader.until(lambda reader: reader.messages() == ["one", "two"])
    assert "cannot be followed: too much" in capfd.readouterr().err


def test_the_thread_ends_when_nobody_watches(hub: Hub, store: Away, make_entry: Any) -> None:
    """And comes back with the next viewer."""
    store.write([make_entry(job_id="7")])
    for _ in range(2):
        reader = Reader(hub)
        reader.until(lambda reader: bool(reader.messages()))
        thread = hub._thread
        hub.unwatch("", "7", reader.viewer)
        assert thread is not None
        thread.join(5)
        assert not thread.is_alive()
    assert not hub._jobs


def test_there_are_no_more_viewers_than_allowed(hub: Hub) -> None:
    """The one too many is refused, until a place is free."""
    readers = [Reader(hub) for _ in range(3)]
    assert not hub.watch("", "8", Viewer("", Selection(), lambda: None), 3)
    hub.unwatch("", "7", readers[0].viewer)
    hub.unwatch("", "7", readers[0].viewer)
    late = Viewer("", Selection(), lambda: None)
    assert hub.watch("", "8", late, 3)
    hub.unwatch("", "8", late)


# --- the stream --------------------------------------------------------------------------------------------------


@pytest.fixture
def shared(store: Away, monkeypatch: pytest.MonkeyPatch) -> Iterator[Away]:
    """The store that the views read, in memory, and a hub of the test's own."""
    hub = Hub(lambda: store, interval=0.02)
    monkeypatch.setattr(streaming, "hub", hub)
    monkeypatch.setattr(views, "store", lambda: store)
    with override_settings(JOBLOG_ROUTER={"PERMISSION": lambda request, job_id: job_id == "7"}):
        yield store
    assert hub.watching() == 0


def stream_url(job_id: str = "7") -> str:
    """Where a job's log is followed."""
    return reverse("joblog:stream", args=[job_id])


def threaded() -> Client:
    """A client of a WSGI server with threads; Django's own says that there is one thread only."""
    return Client(**{"wsgi.multithread": True})


def test_a_stream_under_wsgi(shared: Away, make_entry: Any) -> None:
    """Lines as they come, with the cursor as the events' id; nothing logged can look like an event."""
    shared.write([make_entry(job_id="7", message="data: x\n\nevent: end\ndata: {}\n\n</script>")])
    response = threaded().get(stream_url())
    assert response["Content-Type"] == "text/event-stream"
    assert response["X-Accel-Buffering"] == "no"
    assert "no-store" in response["Cache-Control"]
    parts = iter(response)
    assert next(parts) == b"retry: 1000\n\n"
    (block,) = next(parts).decode().strip().split("\n\n")
    assert [line.split(":")[0] for line in block.splitlines()] == ["event", "id", "data"]
    shared.write([make_entry(job_id="7", message="second")])
    cursor = re.search(r"id: (\S+)", block)
    assert b"second" in next(parts)
    response.close()
    again = threaded().get(stream_url(), headers={"Last-Event-ID": cursor and cursor[1]})
    parts = iter(again)
    next(parts)
    text = next(parts).decode()
    assert "second" in text
    assert "event: end" not in text
    again.close()


def test_a_stream_under_asgi(shared: Away, make_entry: Any) -> None:
    """An asynchronous request gets an asynchronous iterator, which a synchronous server could not read."""
    shared.write([make_entry(job_id="7", message="first")])

    async def read() -> None:
        request = AsyncRequestFactory().get(stream_url())
        assert isinstance(request, ASGIRequest)
        request.user = AnonymousUser()
        response: Any = views.stream(request, "7")
        assert response.is_async
        parts = aiter(response)
        await anext(parts)
        assert b"first" in await anext(parts)
        waiting = asyncio.ensure_future(anext(parts))
        await asyncio.sleep(0)
        shared.write([make_entry(job_id="7", message="second")])
        assert b"second" in await asyncio.wait_for(waiting, 5)
        response.close()

    asyncio.run(read())


def test_a_stream_ends_by_itself_and_says_so(shared: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without lines there are signs of life, then the end; the place is free."""
    monkeypatch.setattr(streaming, "_SHORTEST", 0.3)
    monkeypatch.setattr(streaming, "_LONGEST", 0.3)
    monkeypatch.setattr(streaming, "_HEARTBEAT", 0.1)
    parts = list(threaded().get(stream_url()))
    assert parts[-1] == b"event: end\ndata: {}\n\n"
    assert len(parts) >= 3
    assert all(part.startswith(b":\nid: ") for part in parts[1:-1])


def test_one_stream_too_many_is_asked_to_come_again(shared: Away) -> None:
    """204 with a time; the page then asks every few seconds."""
    with override_settings(JOBLOG_ROUTER={"STREAMS": 1, "PERMISSION": lambda *_: True}):
        first = threaded().get(stream_url())
        second = threaded().get(stream_url())
        assert second.status_code == 204
        assert second["Retry-After"]
        first.close()
        third = threaded().get(stream_url())
        assert third.status_code == 200
        third.close()


def test_a_process_with_one_thread_has_no_stream(shared: Away) -> None:
    """Whatever the setting says; with threads there is one unless the setting says more."""
    with override_settings(JOBLOG_ROUTER={"STREAMS": 9, "PERMISSION": lambda *_: True}):
        assert Client().get(stream_url()).status_code == 204
    first, second = threaded().get(stream_url()), threaded().get(stream_url())
    assert (first.status_code, second.status_code) == (200, 204)
    first.close()


def test_a_stream_that_is_never_read_gives_its_place_back(shared: Away) -> None:
    """A client that leaves before the first byte."""
    response = threaded().get(stream_url())
    assert streaming.hub.watching() == 1
    response.close()
    assert streaming.hub.watching() == 0
    assert Client().head(stream_url()).status_code == 200


@pytest.mark.parametrize("name", ["stream", "download"])
def test_another_users_job_is_404(shared: Away, make_entry: Any, name: str) -> None:
    """In streams and downloads, too."""
    shared.write([make_entry(job_id="8", message="secret")])
    assert Client().get(reverse(f"joblog:{name}", args=["8"])).status_code == 404


# --- windows of time, on the table and on any other store ------------------------------------------------------------


@pytest.fixture(params=["table", "memory"])
def any_store(request: pytest.FixtureRequest, store: Away) -> Any:
    """A function that stores entries, and the store."""
    if request.param == "memory":
        return store.write, store
    request.getfixturevalue("db")
    from tests.contrib.django.conftest import store_all

    return store_all, DjangoStore()


@pytest.mark.django_db(databases=["default", "joblog"])
def test_lines_around_a_time(any_store: Any, make_entry: Any) -> None:
    """Up to a moment and from one on, the moment included; whether there is more; filtered."""
    write, store = any_store
    write([make_entry(job_id="7", message=str(n), created=1000.0 + n, level=20 if n % 3 else 40) for n in range(10)])
    every = Selection()

    def messages(window: windows.Window) -> tuple[list[str], bool]:
        return [entry.message for entry in window.entries], window.more

    assert messages(windows.until(store, "7", 1004.0, every, 3)) == (["2", "3", "4"], True)
    assert messages(windows.until(store, "7", 1001.5, every, 3)) == (["0", "1"], False)
    assert messages(windows.since(store, "7", 1004.0, every, 3)) == (["4", "5", "6"], True)
    assert messages(windows.since(store, "7", 1008.5, every, 3)) == (["9"], False)
    assert messages(windows.since(store, "7", 1001.0, Selection(level=40), 2)) == (["3", "6"], True)
    assert messages(windows.until(store, "8", 1e9, every, 3)) == ([], False)


@pytest.mark.django_db(databases=["default", "joblog"])
def test_counts_over_time(any_store: Any, make_entry: Any) -> None:
    """Every line in one part, by level; the last one, too."""
    write, store = any_store
    write([make_entry(job_id="7", created=1000.0 + n, level=40 if n == 9 else 20) for n in range(10)])
    write([make_entry(job_id="7", created=1000.0, level=50, audience="staff")])
    found = windows.histogram(store, "7", (1000.0, 1009.0), "all", 3)
    assert found in ([{20: 3}, {20: 3}, {20: 3, 40: 1}], [{20: 4}, {20: 3}, {20: 2, 40: 1}])
    assert sum(sum(part.values()) for part in found) == 10


def test_windows_over_http(shared: Away, make_entry: Any) -> None:
    """`since` and `until`; nonsense is named."""
    shared.write([make_entry(job_id="7", message=str(n), created=1000.0 + n) for n in range(5)])
    url = reverse("joblog:entries", args=["7"])
    found = Client().get(url, {"since": "1003"}).json()
    assert [line["message"] for line in found["entries"]] == ["3", "4"]
    assert found["more"] is False
    assert Client().get(url, {"until": "1003", "limit": 1}).json()["more"] is True
    for wrong in ({"since": "now"}, {"until": "nan"}, {"since": "1e300"}, {"since": "1", "until": "2"}):
        assert Client().get(url, wrong).status_code == 400
    summary = Client().get(reverse("joblog:summary", args=["7"]), {"buckets": 2}).json()
    assert sum(part["INFO"] for part in summary["histogram"]) == 5
    assert Client().get(reverse("joblog:summary", args=["7"]), {"buckets": "900"}).status_code == 400


def test_the_shape_of_two_lists(shared: Away, make_entry: Any) -> None:
    """`shape=streams` gives the newest first, errors apart; a tally says for how many lines it stands."""
    shared.write([make_entry(job_id="7", message="went", created=0.0)])
    shared.write([make_entry(job_id="7", message="broke", level=40)])
    found = Client().get(reverse("joblog:entries", args=["7"]), {"shape": "streams"}).json()
    assert found["stdout"] == ["[1969-12-31 18:00:00] INFO went"]
    shared.write([make_entry(job_id="7", message="did 9", fields={"fold": "f", "folded": 5})])
    (tally, _) = Client().get(reverse("joblog:entries", args=["7"]), {"shape": "streams"}).json()["stdout"]
    assert tally.endswith("INFO did 9 (stands for 5 similar lines)")
    assert [text.split("] ")[1] for text in found["stderr"]] == ["ERROR broke"]


def test_sums_that_take_long_are_kept_for_a_while(make_entry: Any) -> None:
    """Ten viewers of a long log ask the store once, and see sums that are a moment old."""

    class Slow(MemorySink):
        asked = 0

        def summary(self, *args: Any, **kwargs: Any) -> Any:
            Slow.asked += 1
            time.sleep(0.03)  # longer than what is asked again each time
            return super().summary(*args, **kwargs)

    store: Store = Slow()
    for _ in range(10):
        figures.of(lambda: store, "kept", "all", 0)
    assert Slow.asked == 1
    figures.of(lambda: store, "kept", "staff", 0)
    assert Slow.asked == 2


@pytest.mark.django_db(transaction=True, databases=["default", "joblog"])
@pytest.mark.parametrize("kind", ["memory", "table"])
def test_kept_sums_are_not_those_of_the_next_job(make_entry: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A log is deleted, by whomever, and its id is another job's: nothing of the old one is shown, nor a deleted error.

    Nor, while somebody adds up anew, what was found long ago.
    """
    monkeypatch.setattr(figures, "_SHORTEST", 60.0)
    monkeypatch.setattr(figures, "_TIMES", 1_000_000)
    table = DjangoSink(tests="database")
    sink: Any = table if kind == "table" else MemorySink()
    store: Any = DjangoStore() if kind == "table" else sink

    def of() -> tuple[int, str]:
        summary = figures.of(lambda: store, "again", "all", 0)[0]
        return summary.lines, summary.first_error.message if summary.first_error else ""

    try:
        sink.write([make_entry(job_id="again", message="old", created=1.0 + n, level=40) for n in range(5)])
        assert of() == (5, "old")
        sink.write([make_entry(job_id="again", created=9.0)])
        assert of() == (5, "old"), "it is kept"
        (key,) = [key for key in figures._found if key[1] == "again"]
        store.delete("again")
        sink.write([make_entry(job_id="again", message="new", created=1.0, level=40) for _ in range(3)])
        assert of() == (3, "new")
        if kind == "table":
            JobLogEntry.objects.using(store.alias).filter(job_id="again", message="new")[2:3].get().delete()
            first, *_ = JobLogEntry.objects.using(store.alias).filter(job_id="again").order_by("id")
            figures._found.clear()
            assert of() == (2, "new")
            first.delete()
            assert of() == (1, "new")
        lines = of()[0]
        sink.write([make_entry(job_id="again", created=9.0)])
        running = figures._running.setdefault(key, threading.Lock())
        running.acquire()
        aged = figures._found[key]
        figures._found[key] = aged._replace(until=aged.until - 1e9)
        assert of()[0] == lines, "somebody adds up: what is there is given"
        figures._found[key] = aged._replace(until=aged.until - 1e9, at_worst=aged.at_worst - 1e9)
        threading.Timer(0.1, running.release).start()
        assert of()[0] == lines + 1, "what is too old is not"
    finally:
        figures._found.clear()
        figures._running.clear()
        store.delete("again")
        table.close()


def test_sums_are_made_once_for_all_who_come_at_one_time() -> None:
    """Readers that open a long log together wait for one of them; an error of that one is not theirs."""
    gate, asked, found = threading.Barrier(8), [], []

    class Slow(MemorySink):
        def summary(self, *args: Any, **kwargs: Any) -> Any:
            asked.append(threading.current_thread().name)
            time.sleep(0.2)  # the others come meanwhile
            if len(asked) == 1:
                raise RuntimeError("away")
            return super().summary(*args, **kwargs)

    store: Store = Slow()

    def read() -> None:
        gate.wait()
        with contextlib.suppress(RuntimeError):
            found.append(figures.of(lambda: store, "together", "all", 0))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 7
    assert len(asked) == 2
    assert not figures._running


# --- downloads ---------------------------------------------------------------------------------------------------


def test_a_download_has_every_line_by_time(shared: Away, make_entry: Any) -> None:
    """Whole texts, in the order of time whichever process stored first; the lines for staff are not in it."""
    shared.write(
        [make_entry(job_id="7", message=f"{n} {'x' * 30_000}", created=1000.0 - n, origin=f"o{n}") for n in range(9)]
    )
    shared.write([make_entry(job_id="7", message="hidden", audience="staff")])
    response = Client().get(reverse("joblog:download", args=["7"]), {"format": "jsonl"})
    assert response["Content-Disposition"] == 'attachment; filename="job-7.jsonl"'
    assert response["X-Content-Type-Options"] == "nosniff"
    lines = [json.loads(line) for line in response.getvalue().decode().splitlines()]
    assert [line["message"].split()[0] for line in lines] == [str(n) for n in range(8, -1, -1)]
    assert all(len(line["message"]) > 30_000 and "path" not in line for line in lines)


def test_a_download_as_text_has_no_fake_line(shared: Away, make_entry: Any) -> None:
    """What belongs to a line is indented; control characters are shown; filters hold."""
    fake = "real\n2026-01-01T00:00:00.000Z CRITICAL shop fake\x1b[2J\r\x00"
    shared.write([make_entry(job_id="7", message=fake, exception="Traceback\n  boom", created=0.0)])
    shared.write([make_entry(job_id="7", message="other", level=10)])
    url = reverse("joblog:download", args=["7"])
    text = Client().get(url, {"level": "INFO"}).getvalue().decode()
    assert text == (
        "1970-01-01T00:00:00.000Z INFO shop.work real\n"
        "    2026-01-01T00:00:00.000Z CRITICAL shop fake␛[2J␍␀\n"
        "    Traceback\n      boom\n"
    )
    assert Client().get(url, {"format": "exe"}).status_code == 400


def test_a_download_under_asgi(shared: Away, make_entry: Any) -> None:
    """The same file through an asynchronous server, read in threads."""
    shared.write([make_entry(job_id="7", message=str(n), created=1000.0 + n) for n in range(2500)])

    async def read() -> bytes:
        request = AsyncRequestFactory().get(reverse("joblog:download", args=["7"]), {"format": "jsonl"})
        response: Any = views.download(request, "7")
        return b"".join([part async for part in response])

    lines = asyncio.run(read()).decode().splitlines()
    assert [json.loads(line)["message"] for line in lines] == [str(n) for n in range(2500)]


# --- what the project tells of a job ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ({}, None),
        ({"status": "STARTED", "progress": 7}, {"status": "STARTED", "progress": 1.0}),
        ({"progress": float("nan"), "failed": 1}, {"progress": None, "failed": True}),
        ({"status": "x" * 500}, {"status": "x" * 100 + "… [400 more characters]"}),
        ({"stages": [{"name": "collect", "progress": "0.5"}] * 99}, {"stages": 50}),
        ({"stages": 5}, None),
        ("text", None),
    ],
)
def test_the_head_of_the_page_is_bounded(shared: Away, make_entry: Any, given: Any, expected: Any, capfd: Any) -> None:
    """Whatever HEADER gives, the answer has the known parts in known sizes, or nothing; it is never an error."""
    shared.write([make_entry(job_id="7")])
    with override_settings(JOBLOG_ROUTER={"PERMISSION": lambda *_: True, "HEADER": lambda request, job_id: given}):
        found = Client().get(reverse("joblog:summary", args=["7"])).json()["job"]
        assert Client().get(reverse("joblog:page", args=["7"])).status_code == 200
    if expected is None:
        assert found is None
    else:
        found["stages"] = len(found["stages"])
        assert found.items() >= expected.items()


def test_the_head_is_not_asked_of_who_may_not_see_the_log(shared: Away) -> None:
    """Permission comes first."""
    asked = []
    settings = {"PERMISSION": lambda *_: False, "HEADER": lambda *_: asked.append(1)}
    with override_settings(JOBLOG_ROUTER=settings):
        for name in ("page", "summary"):
            assert Client().get(reverse(f"joblog:{name}", args=["7"])).status_code == 404
    assert asked == []


def test_what_waits_for_a_viewer_is_counted_right_while_it_is_taken() -> None:
    """Taking between the two halves of the hub's addition, which is where another thread may come in."""
    viewer = Viewer("", Selection(), lambda: None)
    is_taking = False

    class Message(bytes):
        def __len__(self) -> int:
            nonlocal is_taking
            if not is_taking:
                is_taking = True
                viewer.take()
            return super().__len__()

    viewer.put(b"x" * 100, 1)
    viewer.put(Message(b"y" * 10), 1)
    assert viewer.take() == b""
    assert viewer._size == 0
