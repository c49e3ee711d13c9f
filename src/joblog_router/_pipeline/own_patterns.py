"""Patterns of the project's own: the setting `redact`, checked when logging is configured.

Nothing can stop a pattern of Python's `re` that has begun, and it keeps every thread of the process waiting. So a
pattern is tried at start on long runs of the characters it speaks of, and refused if it is slow; and it is given a text
in pieces of bounded length. Called by `redaction` where logging is configured, the pieces on the writer thread too;
raises ConfigurationError for a pattern that is refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from re import Match, Pattern
from typing import Any, Final

from ..exceptions import ConfigurationError
from .credentials import MASK

PIECE: Final = 2_000
_AT_MOST: Final = 100
_TOO_SLOW: Final = 0.1  # seconds of this thread's processor time for one piece
_GROUP: Final = "secret"


def compile_patterns(given: Any, setting: str) -> tuple[Pattern[str], ...]:
    """The patterns of a list of texts or compiled patterns. Raises ConfigurationError naming the one that is wrong."""
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise ConfigurationError(f"{setting} must be True, False or a list of regular expressions, not {given!r}")
    if len(given) > _AT_MOST:
        raise ConfigurationError(f"{setting} holds {len(given)} patterns; {_AT_MOST} are the most, join some with |")
    return tuple(_compile(pattern, setting) for pattern in given)


def _compile(given: Any, setting: str) -> Pattern[str]:
    if isinstance(given, Pattern) and isinstance(given.pattern, str):
        pattern = given
    elif isinstance(given, str):
        try:
            pattern = re.compile(given)
        except (re.error, OverflowError, RecursionError) as error:
            raise ConfigurationError(f"{setting}: {given!r} is not a regular expression: {error}") from None
    else:
        raise ConfigurationError(f"{setting} holds {given!r}, which is neither a text nor a compiled pattern of text")
    if pattern.search("") is not None:
        raise ConfigurationError(f"{setting}: {pattern.pattern!r} matches an empty text and would mask everything")
    slow = _slow_on(pattern)
    if slow is not None:
        raise ConfigurationError(
            f"{setting}: {pattern.pattern!r} takes too long on {slow}: it would hold up the whole process. Avoid "
            "repeats inside repeats and several open repeats in a row, or make them possessive (a++)"
        )
    return pattern


def _slow_on(pattern: Pattern[str]) -> str | None:
    """On what text `pattern` is slow; None if on none of those tried."""
    words = re.findall(r"[A-Za-z0-9]{2,20}", pattern.pattern)[:3]
    characters = list(dict.fromkeys(char for char in pattern.pattern if char.isalnum() or char in "-_=:/.@ \"'"))[:8]
    for unit in dict.fromkeys(["a", "0", " ", *characters, *words, *_neighbours(pattern)]):
        length = 8.0
        while length <= PIECE:
            # An end that fits nothing makes the pattern try all ways.
            text = unit * max(1, int(length / len(unit))) + "\x01"
            begin = time.thread_time()
            pattern.search(text)
            taken = time.thread_time() - begin
            if taken > _TOO_SLOW:
                return f"{len(text)} characters of {unit!r}"
            # In small steps once it takes long: each character more may double the time.
            length *= 1.5 if taken < _TOO_SLOW / 500 else 1.25 if taken < _TOO_SLOW / 20 else 1.1
    return None


def _neighbours(pattern: Pattern[str]) -> list[str]:
    """Two neighbouring characters of the pattern, for repeats of alternatives."""
    letters = "".join(char for char in pattern.pattern if char.isalnum())
    return [letters[at : at + 2] for at in range(min(len(letters) - 1, 4))]


def mask_own(patterns: tuple[Pattern[str], ...], text: str) -> str:
    """`text` with what `patterns` match replaced; only the group `secret` where a pattern has one."""
    for pattern in patterns:
        # What is masked already is left alone, so that doing it again changes nothing.
        parts = text.split(MASK)
        text = MASK.join("".join(_sub(pattern, piece) for piece in _pieces(part)) for part in parts)
    return text


def _sub(pattern: Pattern[str], text: str) -> str:
    return pattern.sub(_replace, text)


def _replace(match: Match[str]) -> str:
    if _GROUP not in match.re.groupindex:
        return MASK if match[0] else ""
    begin, end = match.span(_GROUP)
    if begin < 0 or begin == end:
        return match[0]
    start = match.start()
    return match[0][: begin - start] + MASK + match[0][end - start :]


def _pieces(text: str) -> list[str]:
    """`text` in pieces of at most PIECE characters, cut at white space where there is some."""
    if len(text) <= PIECE:
        return [text]
    pieces = []
    at = 0
    while len(text) - at > PIECE:
        cut = max(text.rfind(" ", at + PIECE // 2, at + PIECE), text.rfind("\n", at + PIECE // 2, at + PIECE))
        end = cut + 1 if cut >= 0 else at + PIECE
        pieces.append(text[at:end])
        at = end
    pieces.append(text[at:])
    return pieces
