"""What a server does not take costs that line alone, is counted, and is never told to the worker as stored."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from django.db import connections
from django.http import HttpRequest, JsonResponse
from django.test import RequestFactory, override_settings
from django.test.utils import CaptureQueriesContext

from joblog_router import ConfigurationError, Entry, SinkUnavailableError
from joblog_router.contrib.django.sink import DjangoSink
from joblog_router.contrib.remote import receive as receiving
from joblog_router.contrib.remote.receive import counters, receive
from joblog_router.contrib.remote.send import RemoteJobLogHandler, job
from joblog_router.contrib.remote.tokens import issue_token, read_token
from tests.contrib.django.conftest import store_all
from tests.contrib.remote.conftest import line

pytestmark = pytest.mark.django_db(databases=["default", "joblog"], transaction=True)


class Shelf:
    """A sink that takes what it likes: the library's own refuse so little that a test would have to break them."""

    place = "shelf"
    taken: list[str]
    away: type[Exception] | None
    only_one: bool

    def __init__(self) -> None:
        shelves.append(self)
        self.taken, self.away, self.only_one = [], None, False

    def not_stored(self, entries: Sequence[Entry]) -> list[Entry]:
        """All are new."""
        return list(entries)

    def write(self, entries: Sequence[Entry]) -> None:
        """Refuse all for one that is bad; be away, at once or for single ones."""
        if self.away is not None and (len(entries) == 1) is self.only_one:
            raise self.away("the shelf is away")
        if any("bad" in entry.message for entry in entries):
            raise ValueError("does not fit")
        self.taken += [entry.message for entry in entries]

    def close(self) -> None:
        """Nothing."""


shelves: list[Shelf] = []


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    """The sink that lines of workers go to, with room for small requests."""
    shelves.clear()
    with override_settings(JOBLOG_ROUTER={"REMOTE": {"sink": f"{__name__}.Shelf", "max_bytes": 5000}}):
        post(line(1, "first"))
        (made,) = shelves
        made.taken.clear()
        yield made


def request(*lines: dict[str, Any], body: bytes | None = None, **headers: str) -> HttpRequest:
    """A batch of lines for job 7, or this body."""
    data = json.dumps({"sent": 1_800_000_000, "entries": lines}).encode() if body is None else body
    headers["Authorization"] = f"Bearer {issue_token(7)}"
    return RequestFactory(headers=headers).post("/receive/", data, content_type="application/json")


def post(*lines: dict[str, Any], **options: Any) -> tuple[int, dict[str, Any]]:
    """What the view answers."""
    return answered(receive(request(*lines, **options)))


def answered(answer: JsonResponse) -> tuple[int, dict[str, Any]]:
    """Status and body."""
    return answer.status_code, json.loads(answer.content)


def test_one_line_that_the_store_refuses_costs_itself(shelf: Shelf) -> None:
    """The others are stored, and the worker is told how many were not."""
    refused = counters()["refused_lines"]
    answer = {"stored": 2, "known": 0, "refused": 1, "taken": 3}
    assert post(line(1, "a"), line(2, "bad"), line(3, "b")) == (200, answer)
    assert shelf.taken == ["a", "b"]
    assert counters()["refused_lines"] == refused + 1


@pytest.mark.parametrize("only_one", [False, True], ids=["at once", "for single lines"])
@pytest.mark.parametrize("away", [SinkUnavailableError, ConnectionResetError])
def test_a_store_that_is_away_is_told_as_that(shelf: Shelf, away: type[Exception], only_one: bool) -> None:
    """503: the worker keeps all of them."""
    shelf.away, shelf.only_one = away, only_one
    status, answer = post(line(1, "a"), line(2, "bad"))
    assert (status, answer) == (503, {"error": "unavailable"})
    assert shelf.taken == []
    shelf.away = None
    assert post(line(1, "a"))[0] == 200


def test_a_store_that_is_busy_for_long_is_told_as_one_that_is_away(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests do not queue up behind a slow store for ever."""
    monkeypatch.setattr(receiving, "_LOCK_TIMEOUT", 0.05)
    with receiving._sink_lock:
        assert post(line(1, "a"))[0] == 503
    assert post(line(1, "a"))[0] == 200


def test_while_the_library_is_switched_off_workers_keep_their_lines(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And come again in half a minute."""
    monkeypatch.setattr(receiving.switch, "is_on", False)
    answer = receive(request(line(1, "a")))
    assert (answer.status_code, answer["Retry-After"]) == (503, "30")
    assert shelf.taken == []


def test_a_body_that_is_too_long_or_breaks_off_is_not_read(shelf: Shelf) -> None:
    """By what the header says, without one, by Django's own limit, and where the connection ends in between."""
    long = b"x" * 5001
    assert post(body=long)[0] == 413
    for length in ("no number", ""):
        lying = request(body=long)
        lying.META["CONTENT_LENGTH"] = length
        lying._body = long  # type: ignore[attr-defined]
        assert answered(receive(lying)) == (413, {"error": "too_large"})
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=10):
        assert post(line(1, "a")) == (413, {"error": "too_large"})

    class Broken(io.BytesIO):
        def read(self, *size: Any) -> bytes:
            raise OSError("the connection was reset")

    broken = request(line(1, "a"))
    broken._stream = Broken()  # type: ignore[attr-defined]
    assert answered(receive(broken)) == (400, {"error": "malformed"})
    assert shelf.taken == []


def test_the_pace_of_many_jobs_is_kept_in_little_room(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of jobs: the oldest are forgotten, at their advantage."""
    monkeypatch.setattr(receiving, "_MOST_BUCKETS", 3)
    for number in range(10):
        token = f"Bearer {issue_token(number)}"
        made = request(line(1, f"of {number}"))
        made.META["HTTP_AUTHORIZATION"] = token
        assert receive(made).status_code == 200
        assert len(receiving._buckets) <= 3


@pytest.mark.parametrize(
    ("job_id", "options", "words"),
    [
        (None, {}, "needs a job that has an id"),
        ("", {}, "needs a job that has an id"),
        ("x" * 10_000, {}, "have at most"),
        ("😀" * 500, {}, "give the job, or its namespace, a shorter id"),
        (7, {"namespace": "x" * 6_500}, "give the job, or its namespace, a shorter id"),
        (7, {"audience": "everybody"}, "is 'all' or 'staff', not 'everybody'"),
        (7, {"expires": 0}, "after a positive number of seconds, not 0"),
        (7, {"expires": True}, "after a positive number of seconds, not True"),
        (7, {"expires": "1d"}, "after a positive number of seconds, not '1d'"),
    ],
)
def test_a_token_that_cannot_be_meant_is_not_issued(job_id: object, options: dict[str, Any], words: str) -> None:
    """An error where it is asked for, not a worker that is refused later."""
    with pytest.raises(ConfigurationError, match=words):
        issue_token(job_id, **options)


@pytest.mark.parametrize("letter", ["a", "ü", "😀"])
def test_every_token_that_is_issued_is_taken(letter: str) -> None:
    """As long as ids get."""
    taken = []
    for length in (1, 100, 400, 480, 490, 500, 950, 1000):
        try:
            token = issue_token(letter * length)
        except ConfigurationError:
            continue
        assert read_token(token).job_id == letter * length
        taken.append(length)
    assert taken[:3] == [1, 100, 400]


def test_only_the_rows_of_a_batch_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends the first number and the last there can be does not have all rows between them read."""
    named = receiving.make_sink("django", None)
    # In a test run it would write into memory. Nothing is written here.
    monkeypatch.setattr(DjangoSink, "is_in_memory", lambda sink: False)

    def entry(seq: int) -> Entry:
        return Entry("7", 1000.0, 20, "shop", "x", None, {}, "", 0, "a", seq, 0)

    store_all([entry(seq) for seq in range(1, 1_202)])

    def known(*seqs: int) -> list[int]:
        found = receiving._known(named, [entry(seq) for seq in seqs])
        assert {origin for origin, _ in found} <= {"a"}
        return sorted(seq for _, seq in found)

    with CaptureQueriesContext(connections["joblog"]) as queries:
        assert known(1, 2**61) == [1]
    assert len(queries) == 1
    with connections["joblog"].cursor() as cursor:
        cursor.execute(queries[0]["sql"])
        assert cursor.fetchall() == [(1,)]
    assert known(*range(1, 1_203)) == list(range(1, 1_202))
    assert known(2**61, 2**61 - 1) == []


# --- the worker's side ---------------------------------------------------------------------------------------


class Server:
    """Answers each batch as `status` says of its lines; what it took. Real HTTP, and no reasons of a real project's."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                messages = [str(one["message"]) for one in body["entries"]]
                status = 413 if any("bad" in message for message in messages) else 200
                if status == 200:
                    server.taken += messages
                answer = json.dumps({"stored": len(messages), "known": 0, "refused": 0}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/receive/"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@pytest.fixture
def server() -> Iterator[Server]:
    """Such a server."""
    made = Server()
    yield made
    made.close()


def test_a_batch_is_halved_until_the_line_that_is_refused_is_alone(server: Server) -> None:
    """It is dropped, counted and said; all the others come, in order, also by the thread that flushes."""
    import logging

    handler = RemoteJobLogHandler(server.url)
    logger = logging.getLogger("remote.refusals")
    logger.setLevel("INFO")
    logger.propagate = False
    logger.addHandler(handler)
    try:
        with job(issue_token(7)):
            for number in range(40):
                logger.info("bad %d" if number == 17 else "line %d", number)
        assert handler.flush(20)
        counts = handler.stats()
    finally:
        handler.close()
    assert server.taken == [f"line {number}" for number in range(40) if number != 17]
    assert (counts["sent"], counts["refused"], counts["dropped"], counts["waiting"]) == (39, 1, 0, 0)
