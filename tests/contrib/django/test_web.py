"""The page and its endpoints, as a browser asks for them."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ObjectDoesNotExist
from django.http import HttpRequest
from django.test import Client, override_settings
from django.urls import NoReverseMatch, reverse
from django.utils import timezone

from joblog_router import Entry
from joblog_router._pipeline import namespaces
from joblog_router.contrib.django import streaming, views
from joblog_router.contrib.django.downloads import FORMATS
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.contrib.django.tailing import Hub
from joblog_router.entry import LATEST
from joblog_router.exceptions import SinkUnavailableError
from joblog_router.sinks import MemorySink
from tests.contrib.django.conftest import store_all

pytestmark = pytest.mark.django_db(databases=["default", "joblog"])

Log = Callable[..., Entry]


def permission(answer: Any) -> Any:
    """JOBLOG_ROUTER with a rule that gives `answer`."""
    return override_settings(JOBLOG_ROUTER={"NATS": False, "CELERY": False, "PERMISSION": lambda *_: answer})


def user(name: str = "eve", *, staff: bool = True, allowed: bool = True) -> User:
    """Make a user, with the permission to view job log entries or without."""
    made = User.objects.create_user(name, password="x", is_staff=staff)
    if allowed:
        made.user_permissions.add(Permission.objects.get(codename="view_joblogentry"))
    return made


@pytest.fixture
def staff() -> Client:
    """A browser of somebody who may view job logs."""
    client = Client()
    client.force_login(user())
    return client


def url(job_id: object, name: str = "page") -> str:
    """Where a job's log is."""
    return reverse(f"joblog:{name}", kwargs={"job_id": job_id})


def get(client: Client, job_id: object, name: str = "entries", **parameters: Any) -> Any:
    """What an endpoint answers."""
    response = client.get(url(job_id, name), parameters)
    assert response.status_code == 200, response.content
    return response.json()


# --- who may see it ----------------------------------------------------------------------------------------------

NAMES = ["page", "entries", "summary"]


@pytest.mark.parametrize("name", NAMES)
def test_nobody_but_staff_with_the_permission_sees_a_log(log: Log, name: str) -> None:
    """Anonymous, a user, staff without the permission, the permission without staff: 404, as for no such job."""
    log("7", "secret")
    cases = {"user": (False, False), "clerk": (True, False), "viewer": (False, True)}
    for client in (Client(), *(_logged_in(who, *rights) for who, rights in cases.items())):
        forbidden, absent = client.get(url("7", name)), client.get(url("8", name))
        assert forbidden.status_code == absent.status_code == 404
        assert forbidden.content == absent.content
        assert b"secret" not in forbidden.content
    assert _logged_in("boss", True, True).get(url("7", name)).status_code == 200


def _logged_in(name: str, is_staff: bool, is_allowed: bool) -> Client:
    client = Client()
    client.force_login(user(name, staff=is_staff, allowed=is_allowed))
    return client


@pytest.mark.parametrize("name", [*NAMES, "download"])
def test_the_log_of_a_job_that_has_not_logged_yet_is_empty(staff: Client, name: str) -> None:
    """Start a job, go to its page: with the default right as with a rule of the project's."""
    assert staff.get(url("8", name)).status_code == 200
    with permission(True):
        assert Client().get(url("8", name)).status_code == 200
    assert Client().get(url("8", name)).status_code == 404
    assert "has not logged anything yet" in staff.get(url("8")).content.decode()
    assert staff.get(url("8", "entries"), {"since": "5"}).json()["entries"] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_permission_is_decided_before_any_look_at_the_store(
    monkeypatch: pytest.MonkeyPatch, log: Log, name: str
) -> None:
    """Who may not see the log does not make the store work: neither time nor errors tell that there is one."""
    log("7")
    monkeypatch.setattr(views, "store", lambda: pytest.fail("the store was asked"))
    assert Client().get(url("7", name)).status_code == 404
    with permission(False):
        assert Client().get(url("7", name)).status_code == 404


def _raise(error: Exception) -> Callable[..., Any]:
    def rule(request: HttpRequest, job_id: str) -> bool:
        raise error

    return rule


async def _coroutine(request: HttpRequest, job_id: str) -> bool:
    return True


@pytest.mark.parametrize(
    "rule",
    [
        lambda request, job_id: False,
        lambda request, job_id: None,
        lambda request, job_id: "everybody",
        lambda request, job_id: 1,
        _coroutine,
        _raise(ObjectDoesNotExist()),
        _raise(ValueError("badly formed hexadecimal UUID string")),
        _raise(RuntimeError("broken")),
        "tests.contrib.django.nowhere.rule",
    ],
)
def test_a_rule_that_does_not_say_yes_says_no(staff: Client, log: Log, rule: Any, capfd: Any) -> None:
    """False, None, anything unknown, an error, a rule that is not there: 404, for staff with the permission too."""
    log("7")
    with override_settings(JOBLOG_ROUTER={"PERMISSION": rule}):
        for name in NAMES:
            assert staff.get(url("7", name)).status_code == 404


def test_a_rule_gets_the_request_and_the_id_and_lets_in(log: Log) -> None:
    """The rule decides by request and job: one user's job is another user's 404."""
    log("7")
    log("8")
    client = Client()
    client.force_login(user("owner-of-7", staff=False, allowed=False))
    asked: list[str] = []

    def rule(request: HttpRequest, job_id: str) -> bool:
        asked.append(job_id)
        return bool(request.user.get_username() == f"owner-of-{job_id}")

    with override_settings(JOBLOG_ROUTER={"PERMISSION": rule}):
        for name in NAMES:
            assert client.get(url("7", name)).status_code == 200
            assert client.get(url("8", name)).status_code == 404
    assert asked == ["7", "8"] * 3


@pytest.mark.parametrize("debug", [True, False])
def test_in_development_a_404_is_explained(capfd: Any, debug: bool) -> None:
    """One line on the console says who was not let in and why; never on a site in production."""
    with override_settings(DEBUG=debug):
        for _ in range(2):
            assert Client().get(url("7")).status_code == 404
        with permission(False):
            assert Client().get(url("7")).status_code == 404
    found = [line for line in capfd.readouterr().err.splitlines() if "/jobs/7/ is a 404 for AnonymousUser" in line]
    assert len(found) == 2 * debug
    if debug:
        assert "permission joblog_router.view_joblogentry" in found[0]
        assert "JOBLOG_ROUTER['PERMISSION'] did not let in" in found[1]


LOGIN_URLS = "tests.contrib.django.login_urls"


@override_settings(ROOT_URLCONF=LOGIN_URLS, LOGIN_URL="/login/")
def test_a_shared_link_can_lead_to_the_login(staff: Client, log: Log) -> None:
    """As documented: the page before the rest asks to log in and comes back; the JSON and who is logged in get 404."""
    log("7", "packed")
    shared = url("7") + "?at=1.0"
    answer = Client().get(shared)
    assert answer.status_code == 302
    assert answer["Location"] == "/login/?next=/jobs/7/%3Fat%3D1.0"
    assert Client().get(url("7", "entries")).status_code == 404
    assert _logged_in("clerk", True, False).get(shared).status_code == 404
    assert b"packed" in staff.get(url("7")).content


def test_lines_for_staff_reach_staff_only(log: Log) -> None:
    """They are in no line, figure or search of anybody else; nor is where in the code a line was logged."""
    log("7", "for all")
    log("7", "key 123 refused", level=40, audience="staff", origin="worker-2")
    client = Client()
    with permission(True):
        found = client.get(url("7")).content.decode() + json.dumps(get(client, "7"))
        found += json.dumps(get(client, "7", "summary")) + json.dumps(get(client, "7", text="key"))
        found += json.dumps([get(client, "7", since=0), get(client, "7", until=9e9), get(client, "7", shape="streams")])
        found += json.dumps(get(client, "7", "summary", buckets=3))
        found += "".join(client.get(url("7", "download"), {"format": kind}).getvalue().decode() for kind in FORMATS)
        for secret in ("key 123", "worker-2", "ERROR", "/srv/shop"):
            assert secret not in found.replace("ERROR and above", "").replace('value="ERROR"', ""), secret
        assert get(client, "7", "summary")["lines"] == 1
    with permission("staff"):
        assert [line["message"] for line in get(client, "7")["entries"]] == ["for all", "key 123 refused"]
        assert get(client, "7")["entries"][0]["path"] == "/srv/shop/work.py"
    client.force_login(user())
    with permission("all"):
        assert get(client, "7", "summary")["lines"] == 2


@pytest.mark.parametrize("method", ["post", "put", "delete", "patch"])
def test_nothing_can_be_changed_here(staff: Client, log: Log, method: str) -> None:
    """Other methods than GET and HEAD are refused."""
    log("7")
    for name in NAMES:
        assert getattr(staff, method)(url("7", name)).status_code == 405
        assert staff.head(url("7", name)).status_code == 200


# --- which job ---------------------------------------------------------------------------------------------------

IDS = ["7", "a/b", "..", ".", "../../etc/passwd", "Job 7", "ä-Ω-🦉", "a~b", "~~", "100%", "?x=1#y", "%2e%2e", " "]


@pytest.mark.parametrize("job_id", [*IDS, "x" * 250, "🦉" * 200])
def test_every_job_id_has_its_url(staff: Client, log: Log, job_id: str) -> None:
    """Slashes, dots, blanks, percent signs, any script: one URL, one log."""
    log(job_id, f"mine: {job_id}")
    log("other", "not mine")
    assert [line["message"] for line in get(staff, job_id)["entries"]] == [f"mine: {job_id}"]
    assert staff.get(url(job_id)).status_code == 200
    assert get(staff, job_id, "summary")["job_id"] == job_id


def test_an_id_is_cleaned_as_the_log_cleans_it(staff: Client, log: Log) -> None:
    """NUL and lone surrogates in an id lead to the log that was written with it."""
    log("a\u2400b", "line")
    assert get(staff, "a\x00b")["entries"][0]["message"] == "line"
    assert staff.get("/jobs/a~00b/entries/").status_code == 200
    log("a\\udc80", "line")
    assert get(staff, "a\udc80")["entries"][0]["message"] == "line"


def test_ids_that_differ_in_case_have_logs_of_their_own(staff: Client, log: Log) -> None:
    """`job` and `JOB` are two jobs; a typed URL may have capitals."""
    log("job", "small")
    log("JOB", "capital")
    assert get(staff, "job")["entries"][0]["message"] == "small"
    assert staff.get("/jobs/JOB/entries/").json()["entries"][0]["message"] == "capital"


@pytest.mark.parametrize("path", ["~", "~0", "~zz", "~~abc", "~c3", "~ff~fe", "x" * 3001])
def test_what_is_no_id_is_404(staff: Client, path: str) -> None:
    """A broken escape is no page, not an error."""
    assert staff.get(f"/jobs/{path}/entries/").status_code == 404


def test_an_id_that_no_url_can_hold_leads_nowhere(staff: Client) -> None:
    """Over 3,000 escaped characters a URL can still be made, for links; it is a 404."""
    assert staff.get(url("🦉" * 2000)).status_code == 404
    with pytest.raises(NoReverseMatch):
        url("")


# --- lines as JSON -----------------------------------------------------------------------------------------------


def test_lines_come_with_a_cursor_to_go_on(staff: Client, log: Log) -> None:
    """The newest first of all, then what came since, then nothing; and backwards from the oldest that was seen."""
    for number in range(5):
        log("7", f"line {number}", created=1000.0 + number)
    newest = get(staff, "7", limit=2)
    assert [line["message"] for line in newest["entries"]] == ["line 3", "line 4"]
    older = get(staff, "7", limit=2, before=newest["earlier"])
    assert [line["message"] for line in older["entries"]] == ["line 1", "line 2"]
    oldest = get(staff, "7", before=older["earlier"])
    assert [line["message"] for line in oldest["entries"]] == ["line 0"]
    assert oldest["earlier"] is None
    assert get(staff, "7", after=newest["next"])["entries"] == []
    log("7", "line 5", created=1005.0)
    since = get(staff, "7", after=newest["next"])
    assert [line["message"] for line in since["entries"]] == ["line 5"]


def test_a_line_has_what_the_files_have(staff: Client, log: Log) -> None:
    """The same keys as in the JSON-lines store."""
    entry = log("7", "packed", fields={"box": 3}, exception="Traceback ...", level=30, created=1_700_000_000.25)
    (line,) = get(staff, "7")["entries"]
    assert line == {**entry.as_dict(), "levelno": 30, "audience": "all"}


@pytest.mark.parametrize("created", [1.79e12, 9.1e12, -1.79e12], ids=["milliseconds", "largest", "before the year 1"])
def test_a_row_whose_time_is_no_date_is_shown_with_the_nearest(staff: Client, log: Log, created: float) -> None:
    """As rows of others and of earlier versions may have them: every way to the log leads to it."""
    log("7", "before", created=1000.0, level=40)
    log("7", "odd", created=created, level=40)
    log("7", "after", created=1001.0, level=40)
    for name in ("page", "entries", "summary", "download"):
        for more in ({}, {"shape": "streams", "buckets": "20", "format": "jsonl"}, {"since": "1"}, {"until": "8e12"}):
            response = staff.get(url("7", name), more)
            content = b"".join(response) if response.streaming else response.content
            assert response.status_code == 200, (name, more)
            assert name == "summary" or more.keys() & {"since", "until"} or b"odd" in content, (name, more)
    found = staff.get(url("7", "summary"), {"buckets": "3"}).json()
    nearest = -62_135_510_400.0 if created < 0 else LATEST
    assert nearest in (found["first"], found["last"])
    assert sum(part.get("ERROR", 0) for part in found["histogram"]) == 3
    assert nearest in [line["created"] for line in get(staff, "7")["entries"]]
    assert str(JobLogEntry.objects.get(message="odd")).endswith(" ERROR odd")


def test_lines_are_filtered(staff: Client, log: Log) -> None:
    """By level and above, logger and below, text, origin; all at once."""
    log("7", "Started", logger="shop.work", level=20)
    log("7", "Slow", logger="shop.work.disk", level=30, origin="b")
    log("7", "Broke", logger="shopping", level=40)
    for parameters, expected in (
        ({"level": "warning"}, ["Slow", "Broke"]),
        ({"level": "40"}, ["Broke"]),
        ({"logger": "shop"}, ["Started", "Slow"]),
        ({"text": "STAR"}, ["Started"]),
        ({"origin": "b"}, ["Slow"]),
        ({"origin": "b", "level": "ERROR"}, []),
    ):
        assert sorted(line["message"] for line in get(staff, "7", **parameters)["entries"]) == sorted(expected)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"level": "LOUD"}, "level must be a number or one of"),
        ({"limit": "0"}, "limit must be a whole number from 1 to 1000"),
        ({"limit": "-1"}, "limit must be"),
        ({"limit": "²"}, "limit must be"),
        ({"text": "x" * 501}, "text is longer than 500 characters"),
        ({"text": "\x00"}, "text must not contain NUL"),
        ({"after": "c1", "before": "c1"}, "after and before exclude each other"),
        ({"after": "rubbish"}, "the cursor is not one that this log gave"),
        ({"before": "x" * 30_000}, "the cursor is not one that this log gave"),
    ],
)
def test_a_wrong_parameter_is_named(staff: Client, log: Log, parameters: dict[str, str], words: str) -> None:
    """400, with what is wrong."""
    log("7")
    response = staff.get(url("7", "entries"), parameters)
    assert response.status_code == 400
    assert words in response.json()["error"]
    page = staff.get(url("7"), parameters)
    assert page.status_code == 400
    assert words in page.content.decode()


def test_a_limit_beyond_the_most_is_the_most(staff: Client, log: Log) -> None:
    """One answer holds 1,000 lines at most."""
    log("7")
    assert len(get(staff, "7", limit=10**9)["entries"]) == 1


def test_an_answer_is_bounded_in_size(staff: Client, log: Log) -> None:
    """Lines of 100,000 characters are cut in answers, and say so."""
    for _ in range(60):
        log("7", "y" * 100_000, exception="z" * 200_000, fields={"a": "x" * 100_000})
    response = staff.get(url("7", "entries"))
    assert len(response.content) < 8_000_000
    line = response.json()["entries"][0]
    assert line["cut"] is True
    assert line["message"].endswith("… [80000 more characters]")
    assert len(staff.get(url("7")).content) < 8_000_000


def test_figures(staff: Client, log: Log) -> None:
    """Counts by level, the first and last time, the first error, who wrote."""
    log("7", created=1000.0)
    log("7", "first", created=1001.0, level=40)
    log("7", "second", created=1002.0, level=40, origin="b")
    found = get(staff, "7", "summary")
    assert found["first_error"].pop("message") == "first"
    del found["first_error"]
    account = found.pop("completeness")
    assert (account["stored"], account["dropped"], account["lost"]) == (3, 0, 0)
    assert found == {
        "job_id": "7",
        "audience": "staff",
        "lines": 3,
        "levels": {"INFO": 1, "ERROR": 2},
        "first": 1000.0,
        "last": 1002.0,
        "origins": ["b", "test"],
        "job": None,
    }


def test_a_store_that_is_away_is_503(
    staff: Client, log: Log, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The reader is told to come again, and not what is wrong; stderr is."""

    def away() -> Any:
        raise SinkUnavailableError("database 'joblog' (secret-host) is away", "start it")

    monkeypatch.setattr(views, "store", away)
    for name in NAMES:
        response = staff.get(url("7", name))
        assert response.status_code == 503
        assert response["Retry-After"]
        assert b"secret" not in response.content


@pytest.mark.parametrize("name", NAMES)
def test_headers_keep_browsers_from_more_than_showing(staff: Client, log: Log, name: str) -> None:
    """Never stored, never sniffed, no address given away; the page may load nothing but our two files."""
    log("7")
    response = staff.get(url("7", name))
    assert "no-store" in response["Cache-Control"]
    assert "private" in response["Cache-Control"]
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response["Referrer-Policy"] == "same-origin"
    if name == "page":
        policy = response["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy


def test_the_policy_can_be_the_projects_own(staff: Client, log: Log) -> None:
    """Another value, or none, where the project's frame needs it; static files may come from another host."""
    log("7")
    for value, expected in (("default-src *", "default-src *"), (False, None)):
        with override_settings(JOBLOG_ROUTER={"CSP": value}):
            assert staff.get(url("7")).get("Content-Security-Policy") == expected
    with override_settings(STATIC_URL="https://cdn.example.org/s/"):
        assert "style-src 'self' https://cdn.example.org;" in staff.get(url("7"))["Content-Security-Policy"]


# --- the page ----------------------------------------------------------------------------------------------------


class _Outline(HTMLParser):
    """What a page is made of: its tags, and the text in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "option":
            while self.open[-1] == "option":
                self.open.pop()
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def outline(client: Client, job_id: object, **parameters: Any) -> _Outline:
    """The page of a job's log."""
    return _Outline(client.get(url(job_id), parameters).content.decode())


HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</li></ol><h1>hacked</h1>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "{{ settings.SECRET_KEY }}{% debug %}",
    "javascript:alert(1)",
    "<!-- ",
    "]]>",
    "&lt;script&gt;",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(staff: Client, log: Log, text: str) -> None:
    """Wherever it stands (message, traceback, logger, field, origin, job id), it adds no element and no attribute."""
    log("7", "plain", exception="plain", fields={"plain": "plain"}, level=40)
    expected = outline(staff, "7")
    log(text, text, exception=text, fields={text: text}, logger=text, origin=text, level=40)
    found = outline(staff, text)
    assert found.tags == expected.tags
    assert [name for name, _ in found.attributes] == [name for name, _ in expected.attributes]
    assert found.open == []
    assert found.text.count(text) >= 6
    searched = outline(staff, text, text=text, logger=text, origin=text, level=text)
    assert searched.tags.count("script") == 1
    assert "img" not in searched.tags
    assert "onerror" not in dict(searched.attributes)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07", "␛]0;title␇"),
        ("\x1b[2J\x1b[H", "␛[2J␛[H"),
        ("a\rb", "a␍b"),
        ("user \u202efdp.exe", "user \\u202efdp.exe"),
        ("so\xadft \u3164 \u206a \U000e0041", "so\\u00adft \\u3164 \\u206a \\U000e0041"),
        ("\u2067iso\u2069", "\\u2067iso\\u2069"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("bell\x07 del\x7f \x9b31m", "bell␇ del␡ \\u009b31m"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("مرحبا Ω 🦉", "مرحبا Ω 🦉"),
    ],
)
def test_what_steers_a_reader_is_shown_instead(staff: Client, log: Log, message: str, shown: str) -> None:
    """Colour codes go; other control characters and marks that turn the direction of writing are seen."""
    log("7", message)
    assert f'dir="auto">{shown}</span>' in staff.get(url("7")).content.decode()


def test_a_fake_line_is_part_of_the_line_that_has_it(staff: Client, log: Log) -> None:
    """A line break in a message makes no line: there is one element for what was logged once."""
    log("7", "ok\n2026-01-01 00:00:00.000 CRITICAL shop.work everything is lost")
    assert outline(staff, "7").tags.count("li") == 1


def test_a_line_of_ten_megabytes_does_not_hurt(staff: Client, log: Log) -> None:
    """It is cut, and the page stays small."""
    log("7", "<" * 10_000_000, exception="\x1b" * 10_000_000, fields={"body": "&" * 10_000_000})
    response = staff.get(url("7"))
    assert response.status_code == 200
    assert len(response.content) < 500_000
    assert len(staff.get(url("7", "entries")).content) < 500_000


def test_the_page_shows_what_is_known_of_a_line(staff: Client, log: Log) -> None:
    """Time, level, logger, message, traceback, fields; a tally says for how many lines it stands."""
    log("7", "boom", level=40, exception="ValueError: no", fields={"box": 3, "who": "ann"}, logger="shop.disk")
    log("7", "packed 9", fields={"fold": "f", "folded": 40, "first": 1.0, "last": 2.0})
    text = re.sub(r"\s+", " ", outline(staff, "7").text)
    assert "ERROR shop.disk boom" in text
    assert "ValueError: no" in text
    assert "box3whoann" in text
    assert "packed 9 stands for 40 similar lines" in text
    assert "folded" not in text


def test_a_field_named_folded_makes_no_tally(staff: Client, log: Log) -> None:
    """Of a line stored by whomever: only what has a run stands for lines; the others' fields are shown."""
    log("7", "two letters", fields={"folded": 2, "first": "a"})
    text = re.sub(r"\s+", " ", outline(staff, "7").text)
    assert "similar lines" not in text
    assert "folded2" in text
    assert "firsta" in text
    answer = staff.get(url("7", "download"), {"format": "text"})
    assert b"similar lines" not in b"".join(answer.streaming_content)


def test_without_a_script_a_link_leads_to_the_newest_line(staff: Client, log: Log) -> None:
    """The page begins with the oldest of its lines."""
    log("7", "packed")
    text = staff.get(url("7")).content.decode()
    assert text.index('href="#jl-end"') < text.index("packed") < text.index('id="jl-end"')


def test_the_newest_thousand_lines_and_a_way_back(staff: Client, log: Log, make_entry: Any) -> None:
    """A page has 1,000 lines; a link leads to those before them, with the filters kept, and back to the newest."""
    store_all([make_entry(job_id="7", message=f"line {n}", created=1000.0 + n, level=30) for n in range(1003)])
    page = outline(staff, "7", level="WARNING")
    assert page.tags.count("li") == 1000
    (earlier,) = [value for name, value in page.attributes if name == "href" and value and "before=" in value]
    assert earlier.startswith("?level=WARNING&before=")
    older = _Outline(staff.get(url("7") + earlier).content.decode())
    assert older.tags.count("li") == 3
    assert ("href", "?level=WARNING&") in older.attributes


def test_a_link_to_a_line_works_without_a_script(staff: Client, log: Log) -> None:
    """The page that `at` names ends with the lines of that time, so that the anchor is on it."""
    entries = [log("7", f"line {n}", created=1000.0 + n) for n in range(5)]
    page = outline(staff, "7", at="1002.0")
    assert ("id", f"test:{entries[2].seq}") in page.attributes
    assert "line 2" in page.text
    assert "line 3" not in page.text
    assert "line 4" in outline(staff, "7", at="now").text


def test_a_log_without_lines_says_so(staff: Client, log: Log) -> None:
    """Nothing logged yet, and nothing that matches, are two sentences."""
    with permission(True):
        assert "has not logged anything yet" in outline(staff, "new").text
        log("7")
        assert "No line of this log is like that" in outline(staff, "7", level="ERROR").text


def test_a_project_overrides_parts_of_the_page(staff: Client, log: Log, tmp_path: Any, settings: Any) -> None:
    """A template `joblog_router/base.html` of the project's own is the frame."""
    (tmp_path / "joblog_router").mkdir()
    (tmp_path / "joblog_router" / "base.html").write_text("<title>Shop</title>{% block content %}{% endblock %}")
    settings.TEMPLATES = [{**settings.TEMPLATES[0], "DIRS": [tmp_path]}]
    log("7", "packed")
    page = outline(staff, "7")
    assert "Shop" in page.text
    assert "packed" in page.text
    assert "link" not in page.tags


# --- times -------------------------------------------------------------------------------------------------------

# Berlin, 25 October 2026: at 01:00 UTC the clocks go from 03:00 back to 02:00.
BACK = dt.datetime(2026, 10, 25, 1, 0, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize("use_tz", [True, False])
def test_the_night_in_which_an_hour_comes_twice(staff: Client, log: Log, use_tz: bool) -> None:
    """Lines stand in the order in which they were logged, and the two hours are told apart; with USE_TZ and without."""
    with override_settings(USE_TZ=use_tz, TIME_ZONE="Europe/Berlin"):
        log("7", "second", created=BACK + 1800, origin="a")
        log("7", "first", created=BACK - 1800, origin="b")
        page = staff.get(url("7")).content.decode()
        times = re.findall(r"<time datetime=\"([^\"]+)\">([^<]+)</time></a>", page)
        assert times == [
            ("2026-10-25T02:30:00.000+02:00", "2026-10-25 02:30:00.000 +0200"),
            ("2026-10-25T02:30:00.000+01:00", "2026-10-25 02:30:00.000 +0100"),
        ]
        assert page.index(">first<") < page.index(">second<")
        assert "Times are in Europe/Berlin." in page
        assert [line["created"] for line in get(staff, "7")["entries"]] == [BACK - 1800, BACK + 1800]


def test_times_are_in_the_readers_zone(staff: Client, log: Log) -> None:
    """The zone that the project activates for a request is the one of the page."""
    log("7", created=0.0)
    with timezone.override("Asia/Kolkata"):
        page = staff.get(url("7")).content.decode()
    assert "1970-01-01 05:30:00.000" in page
    assert "Asia/Kolkata" in page


# --- under ASGI --------------------------------------------------------------------------------------------------


def test_the_views_work_under_asgi(log: Log) -> None:
    """The same answers through Django's asynchronous stack."""
    from asgiref.sync import async_to_sync
    from django.test import AsyncClient

    log("7", "packed")
    with permission(True):

        async def ask() -> Any:
            return await AsyncClient().get(url("7"))

        page = async_to_sync(ask)()
        assert page.status_code == 200
        assert b"packed" in page.content


# --- whose jobs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*NAMES, "download"])
def test_another_tenants_log_is_not_there(staff: Client, log: Log, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A job of the same id in another namespace is another job: nothing of it is in any answer."""
    log("7", "theirs alone", level=40, namespace="other")

    def answer() -> bytes:
        response = staff.get(url("7", name))
        assert response.status_code == 200
        return bytes(response.getvalue())

    assert b"theirs alone" not in answer()
    monkeypatch.setattr(namespaces, "namespace_of", lambda: "other")
    assert b"theirs alone" in answer()


@pytest.mark.parametrize("namespace", ["", "other"])
def test_a_stream_follows_the_job_of_its_own_tenant(
    staff: Client, monkeypatch: pytest.MonkeyPatch, namespace: str
) -> None:
    """The namespace is that of the request, and part of what is watched."""
    monkeypatch.setattr(streaming, "hub", Hub(MemorySink))  # a hub's thread sees nothing of a test's transaction
    monkeypatch.setattr(namespaces, "namespace_of", lambda: namespace)
    response = staff.get(url("7", "stream"), **{"wsgi.multithread": True})
    assert list(streaming.hub._jobs) == [(namespace, "7")]
    response.close()


def test_the_summary_tells_the_verdict_to_staff_who_ask(staff: Client, log: Log) -> None:
    """It quotes the log and names servers: nobody else is told, and nobody who did not ask waits for it."""
    log("7", "packed")
    assert "verdict" not in staff.get(url("7", "summary")).json()
    assert "sentence" in str(staff.get(url("7", "summary"), {"verdict": "1"}).json()["verdict"])
    reader = Client()
    reader.force_login(user("reader", staff=False, allowed=False))
    with permission(True):
        assert "verdict" not in reader.get(url("7", "summary"), {"verdict": "1"}).json()
