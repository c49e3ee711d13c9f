"""Secrets reach no store, no sink and no line of ours; innocent text stays as it is."""

from __future__ import annotations

import base64
import json
import logging
import random
import re
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from joblog_router import ConfigurationError, Entry, JobLogHandler, flush, job_context, register_secret
from joblog_router._pipeline import report, secrets
from joblog_router._pipeline.credentials import MASK, is_sensitive
from joblog_router._pipeline.own_patterns import PIECE
from joblog_router._pipeline.redaction import STANDARD, Redactor, make_redactor
from joblog_router._pipeline.text import MAX_FIELD, MAX_MESSAGE, clip
from tests.helpers import configure, entries, messages
from tests.planted import INNOCENT, PLANTED, REGISTERED, Planted

log = logging.getLogger("app")
taken: list[Entry] = []


def take(batch: list[Entry]) -> None:
    """The target of the sink 'callable'."""
    taken.extend(batch)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    """Every test knows one registered secret."""
    register_secret(REGISTERED)
    yield
    secrets._values.clear()
    secrets._known = None
    taken.clear()


class Kept(logging.Handler):
    """Keeps what a formatter makes of each record, with all its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.text += f"{self.format(record)} {record.__dict__!r}\n"


def plant() -> None:
    """Log every planted secret in a message, in fields, in a nested field and in an exception's text."""
    with job_context(1, url=PLANTED[9].line):
        for planted in PLANTED:
            log.warning("%s", planted.line)
            log.warning("%s", planted.kind, extra={"note": planted.line, "deep": {"list": [planted.line]}})
            try:
                raise RuntimeError(planted.line)
            except RuntimeError:
                log.exception("failed: %s", planted.kind)
        log.warning("fields", extra={"password": "field-pw-1", "db": {"API_KEY": 5512345}, "n": {"secret": ["x9x9x9"]}})


FIELD_SECRETS = ("field-pw-1", "5512345", "x9x9x9")


def found_in(text: str) -> list[str]:
    """The kinds of planted secrets that stand in `text`."""
    found = [planted.kind for planted in PLANTED if planted.secret in text]
    escaped = [planted.kind for planted in PLANTED if json.dumps(planted.secret)[1:-1] in text]
    return sorted({*found, *escaped, *(secret for secret in FIELD_SECRETS if secret in text)})


def test_planted_secrets_are_of_thirty_kinds_and_would_be_found() -> None:
    """With redaction off each of them is in the store: that none is found with it on means something."""
    assert len({planted.kind for planted in PLANTED}) == len(PLANTED) >= 30
    assert all(planted.secret in planted.line for planted in PLANTED)
    configure(redact=False)
    plant()
    assert found_in(repr([tuple(entry) for entry in entries(1)])) == sorted(
        {planted.kind for planted in PLANTED} | set(FIELD_SECRETS)
    )


@pytest.mark.parametrize("fold", [True, False])
def test_no_planted_secret_reaches_a_memory_store(fold: bool) -> None:
    """Message, fields and exception, folded or not."""
    configure(fold=fold)
    plant()
    rows = entries(1)
    assert found_in(repr([tuple(entry) for entry in rows])) == []
    assert sum(MASK in entry.message for entry in rows) >= len(PLANTED)
    assert rows[-1].fields["password"] == MASK
    assert rows[-1].fields["db"] == {"API_KEY": MASK}


def test_no_planted_secret_reaches_files_callables_loggers(tmp_path: Path) -> None:
    """What leaves the process: JSON lines, the application's function, the application's logger."""
    kept = Kept()
    out = logging.getLogger("jobs.out")
    out.propagate = False
    out.addHandler(kept)
    try:
        configure(sink="jsonl", options={"directory": tmp_path})
        plant()
        assert flush(10)
        configure(sink="callable", options={"target": f"{__name__}.take"})
        plant()
        assert flush(10)
        configure(sink="logger", options={"name": "jobs.out"})
        plant()
        assert flush(10)
    finally:
        out.removeHandler(kept)
        out.propagate = True
    text = (tmp_path / "1.jsonl").read_text("utf-8")
    assert text.count("\n") == len(PLANTED) * 3 + 1
    assert found_in(text) == []
    assert len(taken) == len(PLANTED) * 3 + 1
    assert found_in(repr([tuple(entry) for entry in taken])) == []
    assert kept.text.count("\n") > len(PLANTED)
    assert found_in(kept.text) == []


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.kind)
def test_each_kind_is_masked_wherever_it_stands(planted: Planted) -> None:
    """At the start, in the middle, in brackets; what is before it stays, and masking it again changes nothing."""
    for line in (planted.line, f"[{planted.line}]", f"x: {planted.line} and more", f"{planted.line}\n{planted.line}"):
        masked = STANDARD.text(line)
        assert planted.secret not in masked
        assert MASK in masked
        assert masked.startswith((line[0], MASK))
        assert STANDARD.text(masked) == masked


def test_a_web_token_may_be_long() -> None:
    """One with a certificate in its header; a picture in base64 that begins like one stays."""
    assert STANDARD.text(f"got eyJ{'x5c0' * 500}.eyJzdWIi.c2lnbmF0dXJl now") == f"got {MASK} now"
    picture = "eyJ" + "QUJDREVG" * 500
    assert STANDARD.text(f"{picture}. And more") == f"{picture}. And more"


@pytest.mark.parametrize("line", INNOCENT)
def test_innocent_text_is_left_alone(line: str) -> None:
    """Near misses stay as they are; what is stored is the very same object."""
    assert STANDARD.text(line) is line or STANDARD.text(line) == line


def test_lines_of_ours_on_stderr_carry_no_secret(capfd: pytest.CaptureFixture[str]) -> None:
    """An error of a store often quotes its address with the password."""
    for planted in PLANTED:
        report.report(f"sink 'x' failed: {planted.line!r}")
    flush(10)
    report.print_waiting()
    told = capfd.readouterr().err
    assert told.count("joblog_router:") == len(PLANTED)
    assert found_in(told) == []


def test_a_refused_line_is_reported_without_its_secret(capfd: pytest.CaptureFixture[str]) -> None:
    """The sink's own words about a line come through the same sieve."""

    class Refusing:
        is_broken = True

        def write(self, batch: list[Entry]) -> None:
            if self.is_broken:
                raise ValueError("cannot connect to postgres://app:p4ssw0rd-x@db/app")

        def close(self) -> None:
            pass

    sink = Refusing()
    configure(sink=sink)
    with job_context(1):
        log.warning("x")
    assert not flush(0.3)
    sink.is_broken = False
    assert flush(10)
    told = capfd.readouterr().err
    assert "cannot connect to postgres://app:[redacted]@db/app" in told


# --- registered secrets ---------------------------------------------------------------------------------------------


def test_a_registered_secret_is_masked_from_then_on() -> None:
    """Registration counts for lines that are logged after it, in every handler, whatever surrounds the value."""
    configure()
    with job_context(1):
        log.warning("rotating to swordfish-77")
        assert flush(10)
        assert register_secret("swordfish-77\n")
        log.warning("rotated to swordfish-77, swordfish-77!")
    assert messages(1) == ["rotating to swordfish-77", f"rotated to {MASK}, {MASK}!"]


@pytest.mark.parametrize(
    ("secret", "written"),
    [
        ("two words here", "two+words+here"),
        ("two words here", "two%20words%20here"),
        ("käse/brot", "k%C3%A4se%2Fbrot"),
        ("käse/brot", "k%c3%a4se/brot"),
        ("käse/brot", r"k\u00e4se/brot"),
        ('with "quotes"', r"with \"quotes\""),
        ('with "quotes"', r'with \\"quotes\\"'),
        ('with "quotes"', r"with \\\"quotes\\\""),
        ("it's 1\ttab", r"it's 1\ttab"),
        ("it's 1 value", r"it\'s 1 value"),
        ("käse-brot", repr("käse-brot".encode())[2:-1]),
        ("käse-brot", repr("käse-brot".encode("latin-1"))[2:-1]),
        ("käse-brot", ascii("käse-brot")[1:-1]),
        ("käse/brot", r"k\u00e4se\/brot"),
        ("käse/brot", r"käse\/brot"),
        ("a&b<c>d='e'", r"a\u0026b\u003cc\u003ed='e'"),
        ("a&b<c>d='e'", r"a\u0026b\u003cc\u003ed\u003d\u0027e\u0027"),
        ("a&b<c>d='e'", r"a\u0026b\u003Cc\u003Ed='e'"),
        ("a&b<c>d='e'", r"a\\u0026b\\u003cc\\u003ed='e'"),
        ("a&b<c>d='e'", "a&amp;b&lt;c&gt;d=&#x27;e&#x27;"),
        ("a&b<c>d='e'", "a&amp;b&lt;c&gt;d=&#39;e&#39;"),
        ("a&b<c>d='e'", "a&amp;b&lt;c&gt;d='e'"),
        ("nul\0inside", "nul\u2400inside"),
        ("nul\0inside", r"nul\x00inside"),
        ("nul\0inside", r"nul\u0000inside"),
        ("not \udce4 UTF-8", r"not \udce4 UTF-8"),
    ],
)
def test_a_registered_secret_is_found_as_others_write_it(secret: str, written: str) -> None:
    """In a URL, a form, JSON (PHP, Go, Django and Gson have their own ways), HTML, a repr, as stores take it, twice."""
    assert register_secret(secret)
    assert STANDARD.text(f"a {secret} b") == f"a {MASK} b"
    assert STANDARD.text(f"a={written}&b") == f"a={MASK}&b"


@pytest.mark.parametrize("secret", ["swordfish-78", "swordfish-789", "swordfish-7890", "?>?>?>?>?>"])
@pytest.mark.parametrize("before", [b"", b"u", b"us", b"use"])
@pytest.mark.parametrize("behind", [b"", b"~", b"~~"])
def test_a_registered_secret_is_found_in_base64(secret: str, before: bytes, behind: bytes) -> None:
    """Whatever stands around it: all of the characters that are of it alone are masked, in both alphabets."""
    assert register_secret(secret)
    raw = before + secret.encode() + behind
    begin, end = -(-len(before) * 8 // 6), (len(before) + len(secret)) * 8 // 6
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        text = encode(raw).decode()
        assert STANDARD.text(f"got {text}") == f"got {text[:begin]}{MASK}{text[end:]}"


_KEY = bytes.fromhex("8f1ce3a99b00ff5ed2c7b8a1f00d9e44277aa31c4d5e6f70819a2b3c4d5e6f20")
_IN_BASE64 = base64.b64encode(_KEY).decode()


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (_IN_BASE64, f"{MASK}{_IN_BASE64[-2:]}"),
        (_KEY.hex(), MASK),
        (_KEY.hex().upper(), MASK),
        (_KEY.hex(":"), MASK),
        (_KEY.hex(":").upper(), MASK),
        (repr(_KEY), f'b"{MASK}"'),
        (repr(b'"' + _KEY), f"b'\"{MASK}'"),
        (json.dumps({"key": repr(_KEY)}), '{"key": "b\\"' + MASK + '\\""}'),
        (quote(_KEY), MASK),
        (re.sub("%..", lambda match: match[0].lower(), quote(_KEY)), MASK),
        (json.dumps({"key": _KEY.hex()}), f'{{"key": "{MASK}"}}'),
    ],
)
def test_a_key_in_bytes_is_found_however_it_is_shown(written: str, shown: str) -> None:
    """Bytes that are no text: base64, hexadecimal digits, repr, URL."""
    assert register_secret(_KEY)
    assert STANDARD.text(f"the key: {written} and more") == f"the key: {shown} and more"
    assert not secrets.holds_no_secret(f"nothing\nthe key {written}\nnothing")


def test_bytes_that_are_text_are_found_as_text_too() -> None:
    """What is given as bytes is often a password from a file, with its line's end."""
    assert register_secret(b"sword-f\xc3\xacsh\n")
    assert STANDARD.text(f"sword-fìsh, {'sword-fìsh'.encode().hex()}") == f"{MASK}, {MASK}"
    assert STANDARD.text(f"got {'sword-fìsh'.encode()!r}") == f"got b'{MASK}'"


def test_a_registered_secret_in_the_name_of_a_field_is_masked() -> None:
    """Also in a short one, nested or not, and in one that was seen before the secret was registered."""
    fields = {"short99": 1, "stage": "x", "deep": {"short99": {"list": [{"short99": 2}]}}}
    assert STANDARD.fields(fields) is fields
    assert register_secret("short99")
    assert STANDARD.fields(fields) == {MASK: 1, "stage": "x", "deep": {MASK: {"list": [{MASK: 2}]}}}


def test_names_of_fields_that_are_ever_new_take_no_memory() -> None:
    """What is kept of them is bounded, and all of them are searched."""
    redactor = Redactor()
    for number in range(5_000):
        redactor.fields({f"name_{number}": 1, "n" * number: 2})
    assert len(redactor._innocent[1]) <= 1_001
    assert max(map(len, redactor._innocent[1])) <= 100
    assert register_secret("name_4999")
    assert redactor.fields({"name_4999": 1}) == {MASK: 1}


def test_a_value_that_cannot_be_a_secret_is_refused_with_a_reason(capfd: pytest.CaptureFixture[str]) -> None:
    """Too short, too long, no text: told once, never raised, and the value itself is not shown."""
    configure()
    assert not register_secret("abcde")
    assert not register_secret("  ab  ")
    assert register_secret("x" * 20_000) is False
    assert register_secret(None) is False  # type: ignore[arg-type]
    assert register_secret(b"bytes-are-fine")
    flush(10)
    report.print_waiting()
    told = capfd.readouterr().err
    assert "a value of 5 characters" in told
    assert "abcde" not in told
    assert "not NoneType" in told
    assert "a value of 20000 characters" in told
    assert STANDARD.text("so bytes-are-fine") == f"so {MASK}"
    assert STANDARD.text("abcde") == "abcde"


def test_no_more_than_a_thousand_secrets_are_kept(capfd: pytest.CaptureFixture[str]) -> None:
    """Bounded, told, and all of the thousand are found; one that is known already is no new one."""
    numbers = [f"secret-number-{number:04}" for number in range(1100)]
    accepted = [register_secret(number) for number in numbers]
    assert sum(accepted) == secrets.AT_MOST - 1  # one is registered by the fixture
    assert register_secret(numbers[0])
    for number in numbers[:999:50]:
        assert STANDARD.text(f"a {number} b") == f"a {MASK} b"
    assert STANDARD.text("nothing of the kind here") == "nothing of the kind here"


def test_secrets_may_be_registered_while_lines_are_written() -> None:
    """Eight threads register and log their own; none of them is stored."""
    configure()

    def work(number: int) -> None:
        with job_context(number):
            for step in range(50):
                value = f"thread-{number}-secret-{step}"
                register_secret(value)
                log.warning("using %s now", value)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    stored = [entry.message for entry in entries()]
    assert len(stored) == 400
    assert set(stored) == {f"using {MASK} now"}


def test_a_secret_that_an_exceptions_text_was_cut_in_is_not_half_shown() -> None:
    """The cut is in the middle there: before the next exception of the chain."""
    register_secret("correct horse battery staple")
    configure()
    with job_context(1):
        try:
            try:
                raise ValueError("x" * (MAX_FIELD - 40) + " correct horse battery staple")
            except ValueError as error:
                raise RuntimeError("then") from error
        except RuntimeError:
            log.exception("failed")
    text = entries(1)[0].exception
    assert text is not None
    assert " more characters]" in text
    assert text.endswith("RuntimeError: then")
    assert "correct" not in text


def test_a_secret_that_a_long_line_was_cut_in_is_not_half_shown() -> None:
    """Where a text is cut, the word at the cut goes, and the beginning of a registered secret with spaces in it."""
    register_secret("correct horse battery staple")
    for secret in ("correct horse battery staple", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIi", "ghp_16C7e42F292c6912E7710c83"):
        for shown in range(6, len(secret)):
            text = "x " * 100 + secret + " and more" * 100
            masked = STANDARD.text(clip(text, 200 + shown))
            assert secret[:shown] not in masked, shown
            assert masked.endswith("more characters]")
            assert STANDARD.text(masked) == masked


# --- own patterns ---------------------------------------------------------------------------------------------------


def test_own_patterns_come_on_top_of_the_built_in_ones() -> None:
    """A pattern masks what it matches, or only its group `secret`; several handlers may have different ones."""
    configure(redact=[r"\bPAT-\d{6}\b", re.compile(r"iban (?P<secret>\w+)", re.IGNORECASE), "<(?P<secret>.+?)/(.+?)>"])
    with job_context(1):
        log.warning("patient PAT-123456, IBAN DE44500105175407324931, password=x1, <4711/north> left")
    assert messages(1) == [f"patient {MASK}, IBAN {MASK}, password={MASK}, <{MASK}/north> left"]


def test_redaction_can_be_turned_off_for_a_handler() -> None:
    """`redact=False` stores lines as they are."""
    configure(redact=False)
    with job_context(1):
        log.warning("password=x1 %s", REGISTERED, extra={"password": "y"})
    assert messages(1) == [f"password=x1 {REGISTERED}"]
    assert entries(1)[0].fields == {"password": "y"}


@pytest.mark.parametrize(
    ("redact", "says"),
    [
        ("pattern", "redact must be True, False or a list"),
        (5, "redact must be True, False or a list"),
        (["(a"], "'(a' is not a regular expression"),
        ([5], "holds 5"),
        ([re.compile(b"x")], "neither a text nor a compiled pattern of text"),
        (["a*"], "matches an empty text"),
        ([r"(a+)+$"], "takes too long"),
        ([r"(x|xy?)*z"], "takes too long"),
        ([r"(\w+\s?)*:"], "takes too long"),
        ([r"\s*\s*\s*\s*;"], "takes too long"),
        ([r"x?y?z?(?:a[b]|a[b]?b)+!"], "takes too long"),
        (["x"] * 200, "100 are the most"),
    ],
)
def test_a_wrong_pattern_is_an_error_at_start(redact: Any, says: str) -> None:
    """Also one that would hold up the process on some line."""
    with pytest.raises(ConfigurationError) as raised:
        JobLogHandler(sink="memory", redact=redact)
    assert says in str(raised.value)


def test_usual_patterns_are_not_taken_for_slow() -> None:
    """What people write for ids, mails, hosts and numbers is accepted."""
    usual = [
        r"[\w.+-]+@[\w-]+\.[\w.]+",
        r"\b\d{3}-\d{2}-\d{4}\b",
        r"\b(?:\d[ -]?){13,16}\b",
        r"https?://[^\s]+",
        r"(?i)customer[ =:]+\d+",
        r"[a-z0-9-]+\.internal\.example\.org",
        r"\bDE\d{2}\s?(?:\d{4}\s?){4}\d{2}\b",
    ]
    redactor = make_redactor(usual, "redact")
    assert redactor is not None
    assert redactor.text("write to jo.x@example.org now") == f"write to {MASK} now"


def test_own_patterns_see_single_words() -> None:
    """A short word is searched, too: the whole message, a field's value, a field's name."""
    redactor = make_redactor([r"PAT\d+"], "redact")
    assert redactor is not None
    assert redactor.text("PAT123456") == MASK
    assert redactor.fields({"PAT123": 1}) == {MASK: 1}
    assert redactor.fields({"patient": "PAT123"}) == {"patient": MASK}


def test_own_patterns_see_long_texts_in_pieces() -> None:
    """A match at any place of a long text is found, except across a border where there is no white space."""
    redactor = make_redactor([r"PAT-\d+"], "redact")
    assert redactor is not None
    for space in (" ", "\n"):
        assert redactor.text(f"line{space}PAT-123{space}" * (PIECE // 4)) == f"line{space}{MASK}{space}" * (PIECE // 4)
    for whole in ("nothing " * PIECE, "-" * (3 * PIECE + 5)):
        assert redactor.text(whole) == whole


@pytest.mark.parametrize("space", [" ", "\n"])
def test_own_patterns_find_a_match_wherever_a_piece_ends(space: str) -> None:
    """With the last white space anywhere in the second half of the piece."""
    redactor = make_redactor([r"PAT-\d+"], "redact")
    assert redactor is not None
    for before in range(PIECE // 2, PIECE + 2):
        text = "x" * before + f"{space}PAT-12345"
        assert redactor.text(text + "x" * PIECE) == text[:-9] + MASK + "x" * PIECE


def test_as_many_own_patterns_as_are_allowed_are_taken() -> None:
    """A hundred."""
    redactor = make_redactor([f"PAT-{number}x" for number in range(100)], "redact")
    assert redactor is not None
    assert redactor.text("PAT-0x PAT-99x") == f"{MASK} {MASK}"


# --- properties -----------------------------------------------------------------------------------------------------

_PARTS = [
    "password=",
    "token: ",
    "secret",
    "'",
    '"',
    "\\",
    '\\"',
    "://",
    "@",
    ":",
    "=",
    "&sig=",
    "?",
    " ",
    "\n",
    "{",
    "}",
    "[redacted]",
    "[redacted",
    "eyJ",
    ".",
    "AKIA",
    "IOSFODNN7EXAMPLE",
    "ghp_",
    "a1B2c3D4e5F6g7H8i9J0",
    "-----BEGIN PRIVATE KEY-----",
    "-----END PRIVATE KEY-----",
    "Bearer ",
    "Basic ",
    "Authorization: ",
    "Cookie: ",
    "x",
    "é",
    "\x00",
    "\ud800",
    "--password ",
    "nats://",
    "sk-",
    "sk_live_",
    "… [12 more characters]",
    "api_key",
    "_id=",
    ",",
    "=>",
    REGISTERED,
    "%",
    "漢",
    "\u202e",
]


@pytest.mark.parametrize("seed", range(8))
def test_redaction_never_raises_is_idempotent_and_bounded(seed: int) -> None:
    """Five hundred texts put together from what the patterns look for."""
    chance = random.Random(seed)
    redactor = make_redactor([r"x{3,}", r"\d{4}(?P<secret>\d)"], "redact")
    assert redactor is not None
    for _ in range(500):
        text = "".join(chance.choice(_PARTS) for _ in range(chance.randrange(1, 25)))
        once = redactor.text(text)
        assert redactor.text(once) == once, text
        assert REGISTERED not in once
        assert len(once) <= len(text) * (1 + len(MASK))


def test_long_texts_take_time_in_proportion() -> None:
    """On texts that lead the built-in patterns on, four times the text takes no sixteen times as long."""
    for unit in (*_PARTS, "token ", "key_", "password:'", "ab:", "a:b@", "Authorization:Digest ", "eyJaaaaaaaa.", "-p"):
        times = []
        for length in (5_000, 20_000):
            text = unit * (length // len(unit)) + "password= ://@ auth cookie key eyJ A S-----begin?=& --x"
            begin = time.thread_time()
            STANDARD.text(text)
            times.append(time.thread_time() - begin)
        assert times[1] < 0.02 or times[1] < 9 * times[0], (unit, times)


# A hundred thousand characters of each: what leads patterns on, and what is usual.
_LONG = {
    "JSON": '{"key": "value", "n": 12, "password_hint": true}, ' * 2_000,
    "beginnings of web tokens": "eyJ" * 33_000,
    "base64 with beginnings of web tokens": "QUJDREVGeyJh" * 8_000,
    "a private key that does not end": "-----BEGIN PRIVATE KEY-----" + "MIIE" * 25_000,
    "a password in quotes that does not end": 'password="' + "a\\" * 50_000,
    "a password in escaped quotes that does not end": 'password=\\"' + "\\a" * 50_000,
    "stars": "password=" + "*" * 100_000,
    "options": "--aaaa-" * 14_000 + " password: --token x",
    "dashes": "-" * 100_000 + "password:",
    "URLs": "://aaaaaaaaaaaaaaaaaaaaaaa:" * 3_700 + "@",
    "paths": "/services/TAAAAAAAA/BAAAAAA/" * 3_500,
    "keys of model providers": "sk-" * 33_000,
}


@pytest.mark.parametrize("text", _LONG.values(), ids=_LONG)
def test_a_long_line_lets_other_threads_run_while_it_is_searched(text: str) -> None:
    """No single call of a pattern or a method, which keeps the interpreter, takes more than a part of the search.

    Processor time of this thread: what others do counts little.
    """
    longest = began = 0.0

    def watch(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal longest, began
        if event == "c_call":
            began = time.thread_time()
        elif event == "c_return":
            longest = max(longest, time.thread_time() - began)

    begin = time.thread_time()
    sys.setprofile(watch)
    try:
        STANDARD.text(text)
    finally:
        sys.setprofile(None)
    assert longest < 0.012 or longest < (time.thread_time() - begin) / 5, longest


def test_text_never_grows_beyond_what_stores_take() -> None:
    """A hundred thousand characters of short passwords stay about that long."""
    masked = STANDARD.text("pwd=a " * (MAX_MESSAGE // 6))
    assert len(masked) <= MAX_MESSAGE + 50
    assert "pwd=a" not in masked


def test_what_cannot_be_searched_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """If redaction itself fails the text is replaced whole. The failure is made, as no text is known that makes it."""
    monkeypatch.setattr(Redactor, "_once", lambda self, text: 1 / 0)
    configure()
    with job_context(1):
        log.warning("password=x1")
    assert messages(1) == ["[redacted: this text could not be searched for secrets]"]


@pytest.mark.parametrize(
    ("name", "masked"),
    [
        *[
            (name, True)
            for name in ("password", "DB_PASSWORD", "api_key", "apiKey", "client_secret", "token", "Cookie")
        ],
        *[(name, True) for name in ("x-api-key", "Authorization", "secret_key", "credentials", "access_token", "jwt")],
        *[(name, False) for name in ("key", "tokens", "max_tokens", "token_count", "author", "password_reset", "keys")],
        *[(name, False) for name in ("passed", "session", "primary_key", "sort_key", "message", "job_id", "")],
    ],
)
def test_fields_are_masked_by_their_names(name: str, masked: bool) -> None:
    """The last words of the name decide."""
    assert is_sensitive(name) is masked


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.kind)
def test_a_secret_is_found_among_innocent_lines(planted: Planted) -> None:
    """Lines are looked at together first: none that holds a secret, also a registered one, passes with the others."""
    around = [f"saved picture number {number} of the batch" for number in range(40)]
    lines = [*around[:20], planted.line, *around[20:], f"vault says {REGISTERED}"]
    made = [Entry("1", 0.0, 20, "app", text, None, {}, "app.py", 1, "o", seq, seq) for seq, text in enumerate(lines)]
    found = STANDARD.entries(made)
    assert [entry.message for entry in found if entry.seq not in (20, 41)] == around
    assert planted.secret not in found[20].message
    assert found[41].message == f"vault says {MASK}"
