"""Values that must not be shown, told by the application: `register_secret`.

Called from any thread; what the writer reads is replaced as a whole, so that it takes no lock. Imports `credentials`;
read by `redaction`.
"""

from __future__ import annotations

import base64
import html
import json
import threading
from collections.abc import Iterable
from typing import Final, NamedTuple
from urllib.parse import quote, quote_plus

from .credentials import MASK
from .report import report_once
from .text import clean

SHORTEST: Final = 6
LONGEST: Final = 10_000
AT_MOST: Final = 1_000
# From so many needles on, one look at all pieces of a text is cheaper than a look for each needle.
_MANY: Final = 60


class _Known(NamedTuple):
    """The needles, longest first so that none hides a part of another."""

    # As they are; in base64, and those of bytes in hexadecimal digits: looked for in every line.
    plain: tuple[str, ...] = ()
    in_digits: tuple[str, ...] = ()
    # As others escape them, under a character that all of these have: looked for where it is in the line.
    escaped: tuple[tuple[str, tuple[str, ...]], ...] = ()
    # The beginnings of all of them, where they are many.
    grams: frozenset[str] | None = None


# None after a new one: built again when it is needed next.
_known: _Known | None = _Known()
_values: dict[str | bytes, None] = {}
_lock = threading.Lock()


def register_secret(value: str | bytes) -> bool:
    """Mask `value` in every job log line, and in what this library says on stderr, from now on; whether it will be.

    Also found as others write it: in URLs, JSON, HTML, Python's escapes and base64; what is given as bytes in
    hexadecimal digits, too. Values of fewer than 6 characters are not taken, nor more than 1,000 of them: the reason is
    told on stderr. Lines that were handed to a store before stay as they are. May be called from any thread, as often
    as wanted; never raises.
    """
    global _known
    if not isinstance(value, str | bytes):
        _refuse("type", f"register_secret takes text or bytes, not {type(value).__name__}: nothing is masked for it")
        return False
    value = _stripped(value)
    if len(value) < SHORTEST:
        _refuse(
            "short",
            f"register_secret was given a value of {len(value)} characters, which would mask ordinary words: it is not "
            f"masked. At least {SHORTEST} are needed",
        )
        return False
    if len(value) > LONGEST:
        _refuse(
            "long", f"register_secret was given a value of {len(value)} characters, {LONGEST} are the most: ignored"
        )
        return False
    with _lock:
        if value in _values:
            return True
        is_taken = len(_values) < AT_MOST
        if is_taken:
            _values[value] = None
            _known = None
    if not is_taken:  # without the lock: what is said is masked, too, which may build the needles
        _refuse("many", f"register_secret: {AT_MOST} values are known, the most there may be: others are ignored")
    return is_taken


def _stripped(value: str | bytes) -> str | bytes:
    """`value` without white space around it, unless it is a key in bytes, which may begin with such a one."""
    if isinstance(value, str):
        return str.strip(value)
    text = _text_of(value)
    return bytes(value) if text is None else text.strip().encode("utf-8")


def _text_of(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _refuse(cause: str, text: str) -> None:
    report_once(("register_secret", cause), text)


def _build() -> _Known:
    """The needles of the values that are known now. Takes the lock: only after a registration."""
    global _known
    with _lock:
        if _known is None:
            _known = _needles_of(_values)
        return _known


def _needles_of(values: Iterable[str | bytes]) -> _Known:
    plain: set[str] = set()
    escaped: set[str] = set()
    in_digits: set[str] = set()
    for value in values:
        text = value if isinstance(value, str) else _text_of(value)
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        if text is not None:
            plain |= {text, clean(text)}  # lines are cleaned before they are searched
            escaped |= _escapes_of(text)
        escaped |= _twice(_percents_of(raw) | _with_quotes({repr(raw)[2:-1]}))
        in_digits |= _base64_of(raw)
        if isinstance(value, bytes):
            in_digits |= _hexadecimal_of(value)
    escaped -= plain
    everything = plain | escaped | in_digits
    grams = frozenset(needle[:SHORTEST] for needle in everything) if len(plain) + len(in_digits) > _MANY else None
    return _Known(_longest_first(plain), _longest_first(in_digits), _by_character(escaped), grams)


def _longest_first(needles: set[str]) -> tuple[str, ...]:
    return tuple(sorted(needles, key=len, reverse=True))


def _by_character(needles: set[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """`needles` under the first of these characters that they have: none comes before one that it is a part of."""
    left = set(needles)
    found = []
    for character in ("\\", "%", "&", "+", ""):
        some = {needle for needle in left if character in needle}
        left -= some
        if some:
            found.append((character, _longest_first(some)))
    return tuple(found)


def _escapes_of(text: str) -> set[str]:
    """`text` as JSON, Python and HTML write it."""
    in_json = {json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1]}
    # As Go, Java (Gson), Django and others put it where JSON may stand in HTML.
    in_page = {
        one.translate({ord(character): f"\\u{ord(character):{form}}" for character in characters})
        for one in in_json
        for characters, form in (("<>&", "04x"), ("<>&", "04X"), ("<>&='", "04x"))
    }
    in_json |= in_page | {one.replace("/", "\\/") for one in in_json}  # PHP
    in_python = _with_quotes({repr(text)[1:-1], ascii(text)[1:-1]})
    in_html = {html.escape(text, quote=False), html.escape(text)}
    in_html |= {one.replace("&#x27;", "&#39;").replace("&quot;", "&#34;") for one in in_html}
    return _twice(in_json | in_python) | in_html


def _percents_of(raw: bytes) -> set[str]:
    """`raw` in URLs and forms."""
    found = {quote(raw), quote(raw, safe=""), quote_plus(raw)}
    return found | {_lower_hex(text) for text in found if "%" in text}


def _with_quotes(found: set[str]) -> set[str]:
    """`found` as it is within a longer text that has both kinds of quotes, too."""
    return found | {text.replace("'", "\\'") for text in found if "\\'" not in text}


def _twice(found: set[str]) -> set[str]:
    """`found`, and escaped again: JSON in a repr, and in JSON."""
    in_json = {json.dumps(text, ensure_ascii=False)[1:-1] for text in found}
    return found | {text.replace("\\", "\\\\") for text in found} | in_json


def _lower_hex(text: str) -> str:
    head, *rest = text.split("%")
    return head + "".join("%" + part[:2].lower() + part[2:] for part in rest)


def _hexadecimal_of(raw: bytes) -> set[str]:
    """`raw` in hexadecimal digits, also with colons."""
    lower = {raw.hex(), raw.hex(":")}
    return lower | {digits.upper() for digits in lower}


def _base64_of(raw: bytes) -> set[str]:
    """The part of the base64 of `raw` that stays the same whatever stands around it, at each of three offsets."""
    found = set()
    for offset, begin in enumerate((0, 2, 3)):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * offset + raw).decode("ascii")
            found.add(text[begin : (offset + len(raw)) * 8 // 6])
    return {needle for needle in found if len(needle) >= SHORTEST}


def known_secrets() -> object:
    """What is known now: another object after each registration."""
    return _known or _build()


def mask_secrets(text: str) -> str:
    """`text` with every known secret replaced; the same object where there is none."""
    known = _known or _build()
    if not known.in_digits:
        return text
    grams = known.grams
    if grams is not None and grams.isdisjoint([text[at : at + SHORTEST] for at in range(len(text) - SHORTEST + 1)]):
        return text
    text = _replace(text, known.plain)
    for character, needles in known.escaped:
        if character in text:
            text = _replace(text, needles)
    return _replace(text, known.in_digits)


def holds_no_secret(text: str) -> bool:
    """Whether `mask_secrets` has nothing to do in any part of `text`; False also where that would take long to say."""
    known = _known or _build()
    return not known.in_digits or (
        known.grams is None
        and not any(map(text.__contains__, known.plain))
        and not any(map(text.__contains__, known.in_digits))
        and not any(character in text and any(map(text.__contains__, needles)) for character, needles in known.escaped)
    )


def _replace(text: str, needles: tuple[str, ...]) -> str:
    for needle in needles:
        if needle in text:
            text = text.replace(needle, MASK)
    return text


def mask_cut_secret(text: str) -> str:
    """`text`, which was cut at its end, without the beginning of a secret that the cut left there."""
    known = _known or _build()
    for needle in (*known.plain, *known.in_digits):
        begin = needle[: SHORTEST - 2]
        at = text.find(begin, max(0, len(text) - len(needle) + 1))
        while at >= 0:
            if needle.startswith(text[at:]):
                return text[:at] + MASK
            at = text.find(begin, at + 1)
    return text
