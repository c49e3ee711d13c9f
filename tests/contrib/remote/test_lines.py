"""What becomes of a line on its way from a worker: kept where the library's own handler keeps it, no secret shown."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest
from django.test import RequestFactory, override_settings

from joblog_router import Entry, register_secret
from joblog_router._pipeline import secrets
from joblog_router.contrib.remote.receive import receive
from joblog_router.contrib.remote.send import _MAX_MESSAGE, RemoteJobLogHandler
from joblog_router.contrib.remote.tokens import issue_token
from tests.contrib.remote.conftest import Receiver, Worker

pytestmark = pytest.mark.timeout(120)

HANDLER = """
handler = joblog_send.RemoteJobLogHandler(sys.argv[1])
log.addHandler(handler)
log.setLevel("INFO")
"""


def test_values_that_are_hard_to_keep_cost_no_line(receiver: Receiver, worker: Worker) -> None:
    """Each is kept as the library keeps it; what cannot be made at all is kept as that, and who may read it."""
    worker.run(
        HANDLER
        + """
class Key:
    def __str__(self): raise ValueError("no")
class Items(dict):
    def items(self): raise ValueError("no")
class Things(list):
    def __iter__(self): raise ValueError("no")
class Slices(list):
    def __getitem__(self, key): raise ValueError("no")
class Proxy:
    @property
    def __class__(self): raise SystemError("asked")
class Path:
    def __str__(self): raise ValueError("no")
class Record(logging.LogRecord):
    lineno = property(lambda self: 1 / 0, lambda self, value: None)
values = [10**5000, -(10**5000), {Key(): 1}, {10**5000: 1}, Items(a=1), Things([1]), Slices([1]), Proxy()]
values += [float("nan"), "\\ud800", {1: {2: (True, None)}}]
with joblog_send.job(sys.argv[2], big=10**5000):
    for value in values:
        log.info("value", extra={"v": value, "w": 1})
    log.handle(logging.makeLogRecord({"msg": "path", "levelno": 20, "pathname": Path(), "lineno": 10**5000}))
    log.handle(logging.makeLogRecord({"msg": "odd", "levelno": 20, "exc_info": True, "exc_text": "text of before"}))
    log.handle(Record("app", 20, "p", 1, "message", (), None))
    record = Record("app", 20, "p", 1, "message", (), None)
    record.job_log = "staff"
    log.handle(record)
assert handler.flush(20)
assert handler.stats()["dropped"] == 0
""",
        receiver.url,
        receiver.token(7),
    )
    rows = receiver.rows("7", "message, fields, path, exception, audience")
    fields = [json.loads(row[1]) for row in rows if row[0] == "value"]
    assert all(one["w"] == 1 and one["big"] == "<huge int>" for one in fields)
    assert [one["v"] for one in fields] == [
        *("<huge int>", "<huge int>", {"<Key>": 1}, {"<huge int>": 1}, "<Items>", "<Things>", [1], "<Proxy>"),
        *("nan", "\\ud800", {"1": {"2": [True, None]}}),
    ]
    unmade = "<this line's message could not be formatted>"
    big = '{"big": "<huge int>"}'
    assert rows[len(fields) :] == [
        ("path", big, "<Path>", "", "all"),
        ("odd", big, "", "text of before\n", "all"),
        (unmade, '{"format_error": true}', "", "", "all"),
        (unmade, '{"format_error": true}', "", "", "staff"),
    ]


def test_a_line_that_cannot_be_sent_at_all_is_counted_in_the_jobs_log(receiver: Receiver, worker: Worker) -> None:
    """Its level is more than JSON takes; the next line that gets through brings the count."""
    worker.run(
        HANDLER
        + """
with joblog_send.job(sys.argv[2]):
    log.handle(logging.makeLogRecord({"msg": "huge", "levelno": 10**5000}))
    log.info("next")
assert handler.flush(20)
assert handler.stats()["dropped"] == 1
""",
        receiver.url,
        receiver.token(7),
    )
    message, notice = receiver.rows("7", "message, fields")
    assert message == ("next", "{}")
    assert notice[0].startswith("1 lines were dropped on the worker")
    assert notice[1] == '{"dropped": 1}'


def test_the_stack_of_a_call_that_asks_for_it_arrives(receiver: Receiver, worker: Worker) -> None:
    """Alone, and behind a traceback."""
    worker.run(
        HANDLER
        + """
def where():
    log.info("alone", stack_info=True)
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("behind", stack_info=True)
with joblog_send.job(sys.argv[2]):
    where()
assert handler.flush(20)
""",
        receiver.url,
        receiver.token(7),
    )
    alone, behind = receiver.rows("7", "exception")
    assert alone.startswith("Stack (most recent call last):\n")
    assert "in where" in alone
    traceback, stack = behind.split("ZeroDivisionError: division by zero\n")
    assert traceback.startswith("Traceback")
    assert stack.startswith("Stack (most recent call last):\n")


# --- secrets at the place of a cut ----------------------------------------------------------------------------------

SECRET = "Zq7-registered-secret-9fKx"
WORDS = "Zq7 registered secret 9fKx"
KEPT = 100_000


@pytest.fixture
def registered() -> Iterator[None]:
    """Secrets that are not to be shown."""
    before = dict(secrets._values)
    register_secret(SECRET)
    register_secret(WORDS)
    yield
    secrets._values.clear()
    secrets._values.update(before)
    secrets._known = None


class Shelf:
    """Keeps what the receiver would have the store keep: in test runs that is memory anyway."""

    place = "shelf"
    taken: ClassVar[list[Entry]] = []

    def not_stored(self, entries: Sequence[Entry]) -> list[Entry]:
        """All are new."""
        return list(entries)

    def write(self, entries: Sequence[Entry]) -> None:
        """Keep them."""
        self.taken.extend(entries)

    def close(self) -> None:
        """Nothing."""


def stored(sent: dict[str, Any]) -> Entry:
    """What the server makes of a line."""
    body = json.dumps({"sent": time.time(), "entries": [sent]})
    headers = {"Authorization": f"Bearer {issue_token(7)}"}
    with override_settings(JOBLOG_ROUTER={"REMOTE": {"sink": f"{__name__}.Shelf"}}):
        receive(RequestFactory(headers=headers).post("/", body, content_type="application/json"))
    return Shelf.taken.pop()


def made(message: str, exception: str = "") -> dict[str, Any]:
    """A line as a worker makes it."""
    import logging

    handler = RemoteJobLogHandler("http://127.0.0.1:9/")
    try:
        record = logging.LogRecord("app", 40, "p", 1, message, (), None)
        record.exc_text = exception
        return handler._line(record, {})
    finally:
        handler.close()


@pytest.mark.django_db(databases=["default", "joblog"], transaction=True)
@pytest.mark.parametrize("at", [KEPT, _MAX_MESSAGE], ids=["where the server cuts", "where the worker cuts"])
@pytest.mark.parametrize("secret", [SECRET, WORDS])
@pytest.mark.usefixtures("registered")
def test_no_part_of_a_secret_stands_where_a_text_was_cut(at: int, secret: str) -> None:
    """Whole or not at all, in messages and in exceptions, which keep their end; the cut says how much is gone."""
    fill = "word " * 30_000
    for before in range(at - 40, at + 8, 4):
        message = f"{fill[:before]}{secret} {fill}"
        exception = f"{fill} {secret}{fill[-before:]}"
        row = stored(made(message, exception))
        for text, sent in (row.message, message), (str(row.exception), exception):
            assert not any(secret[begin : begin + 5] in text for begin in range(len(secret) - 4))
            notes = re.findall(r"… \[([0-9]+) more characters\]", text)
            assert len(notes) == 1
            assert KEPT - 50 < len(text) < KEPT + 60
            assert abs(len(sent) - int(notes[0]) - len(text)) < 60
        assert row.message.startswith("word word")
        assert row.message.endswith(" more characters]")
        assert str(row.exception).startswith("… [")
        assert str(row.exception).endswith("word \n")


@pytest.mark.django_db(databases=["default", "joblog"], transaction=True)
@pytest.mark.usefixtures("registered")
def test_masking_that_changes_the_length_shows_no_half_of_a_secret() -> None:
    """So many secrets that what is left is shorter than what is kept, or longer than what came; it is said in both."""
    shorter, longer = f"{SECRET} " * 3_000, "password=abc\n"
    half = SECRET[:-4]
    for fill in (shorter + "word " * 30_000, shorter + "x" * (_MAX_MESSAGE - len(shorter) - len(half)) + SECRET * 2):
        tail = f" {'word ' * 4_000}{shorter}"
        row = stored(made(fill, f"{fill}{SECRET}{' x'.rjust(_MAX_MESSAGE - len(tail) - 11)}{tail}"))
        for text in (row.message, str(row.exception)):
            assert not any(SECRET[begin : begin + 5] in text for begin in range(len(SECRET) - 4))
            assert " more characters]" in text
    row = stored(made(longer * 20_000, longer * 20_000 + "ValueError: at the end"))
    assert "abc" not in row.message + str(row.exception)
    assert str(row.exception).endswith("[redacted]\nValueError: at the end\n")
    assert len(str(row.exception)) < KEPT + 60


@pytest.mark.django_db(databases=["default", "joblog"], transaction=True)
@pytest.mark.usefixtures("registered")
def test_a_text_that_fits_once_it_is_masked_is_whole() -> None:
    """Nothing says that something is missing."""
    row = stored(made("x" * (KEPT - 15) + SECRET))
    assert row.message == "x" * (KEPT - 15) + "[redacted]"
    with override_settings(JOBLOG_ROUTER={"REDACT": False}):
        assert stored(made("x" * KEPT + "yz")).message == "x" * KEPT + "… [2 more characters]"
