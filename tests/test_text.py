"""Text on its way to stores and terminals: what is cleaned, what is cut, what is shown."""

from __future__ import annotations

import datetime
import enum
import io
import logging
import sys
import unicodedata
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from joblog_router import job_context
from joblog_router._pipeline import report
from joblog_router._pipeline.text import CUT, clip, printable
from tests.helpers import configure, entries

log = logging.getLogger("app")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("over\rwritten\b", r"over\rwritten\x08"),
        ("user\u202egpj.exe", r"user\u202egpj.exe"),
        ("\u2066a\u2069", r"\u2066a\u2069"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("a\u2028b", r"a\u2028b"),
        ("tag\U000e0041", r"tag\U000e0041"),
        ("\ud800", r"\ud800"),
        ("naïve 漢字 עברית 👩\u200d💻", "naïve 漢字 עברית 👩\u200d💻"),
    ],
)
def test_terminals_are_shown_what_they_would_obey(text: str, shown: str) -> None:
    """Control and bidirectional characters are visible; letters, emoji, tab and newline stay."""
    assert printable(text) == shown
    assert printable(shown) == shown


def test_no_control_or_format_character_reaches_a_terminal() -> None:
    """Every character of the Unicode categories that are not for showing, but for joiners within words and emoji."""
    kept = {"\n", "\t", "\u200c", "\u200d"}
    for number in range(sys.maxunicode + 1):
        char = chr(number)
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp"):
            assert (printable(char) == char) is (char in kept), hex(number)
        if unicodedata.bidirectional(char) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"):
            assert printable(char) != char, hex(number)


def test_a_line_of_ours_is_one_line_without_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is quoted on stderr, an id or an error's text, cannot take over the terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    report._print("job '\x1b[2J\u202e1'\nforged")
    assert stream.getvalue() == "joblog_router: job '\\x1b[2J\\u202e1' forged\n"


def test_a_cause_is_told_once_until_too_many_others_came(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a thousand causes, here three, each is said once; beyond that rather twice than never again."""
    monkeypatch.setattr(report, "_MAX_CAUSES", 3)
    monkeypatch.setattr(report, "_wake_writer", None)
    for cause in "abcabcdabc":
        report.report_once(cause, cause)
    assert capfd.readouterr().err.split()[1::2] == list("abcdabc")


def test_where_a_text_was_cut_is_found_again() -> None:
    """The note of `clip`, and nothing that only resembles it."""
    assert CUT.sub("|", clip("abc def", 4) + clip("ghi", 1)) == "abc |g|"
    assert not CUT.search("abc… [x more characters] [5 more characters]")


class Colour(enum.Enum):
    """A value of the application's own."""

    RED = "red"


class Unsaid(datetime.date):
    """What fails when it is asked."""

    def isoformat(self) -> str:
        """Not to be had."""
        raise RuntimeError("no text")


class Count(int):
    """The same, and a number."""


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (1.5, 1.5),
        ([1.5, float("nan"), float("-inf")], [1.5, "nan", "-inf"]),
        (float("inf"), "inf"),
        (True, True),
        (10**300, "<huge int>"),
        ([-(10**300), 10**300 - 1], ["<huge int>", 10**300 - 1]),
        (Colour.RED, "red"),
        (Count(5), 5),
        (Fraction(1, 4), 0.25),
        (Decimal("1.10"), "1.10"),
        (datetime.timedelta(minutes=1), 60.0),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (object(), "<object>"),
        (Path, "<type>"),
        (Unsaid(2024, 2, 29), f"<{__name__}.Unsaid>"),
        ({"a": (1, None), 2: {"b"}}, {"a": [1, None], "2": ["b"]}),
        ([[[[[1]]]]], [[[["<list>"]]]]),
        (list(range(100)), list(range(100))),
        (list(range(103)), [*range(100), "… 3 more"]),
        ({str(number): number for number in range(101)}, {**{str(n): n for n in range(100)}, "…": "1 more"}),
    ],
)
def test_what_a_field_holds_is_kept_as_json_can_have_it(value: object, kept: object) -> None:
    """Numbers, text, dates and containers of them; of anything else its type, and of what is long how much is left."""
    configure()
    with job_context(1):
        log.info("x", extra={"value": value})
    (entry,) = entries(1)
    assert entry.fields["value"] == kept
    assert type(entry.fields["value"]) is type(kept)


def test_a_field_holds_a_thousand_values_in_all() -> None:
    """However they are nested."""
    configure()
    with job_context(1):
        log.info("x", extra={"value": [[number] * 100 for number in range(100)]})
    lists = [each for each in entries(1)[0].fields["value"] if isinstance(each, list)]
    assert sum(len([item for item in each if isinstance(item, int)]) for each in lists) == 900
    assert lists[9] == ["… 100 more"]
