"""Values that must not be shown, told by the application: `register_secret`.

Called from any thread; what the writer reads is replaced as a whole, so that it takes no lock. Imports `credentials`;
read by `redaction`.
"""

from __future__ import annotations

import base64
import json
import threading
from typing import Final, NamedTuple
from urllib.parse import quote, quote_plus

from .credentials import MASK
from .report import report_once

SHORTEST: Final = 6
LONGEST: Final = 10_000
AT_MOST: Final = 1_000
# From so many needles on, one look at all pieces of a text is cheaper than a look for each needle.
_MANY: Final = 60


class _Known(NamedTuple):
    """The needles, longest first so that none hides a part of another: as they are, encoded, in base64."""

    plain: tuple[str, ...] = ()
    encoded: tuple[str, ...] = ()
    base64: tuple[str, ...] = ()
    # The beginnings of all of them, where they are many.
    grams: frozenset[str] | None = None


# None after a new one: built again when it is needed next.
_known: _Known | None = _Known()
_values: dict[str, None] = {}
_lock = threading.Lock()


def register_secret(value: str | bytes) -> bool:
    """Mask `value` in every job log line, and in what this library says on stderr, from now on; whether it will be.

    Also found inside URLs, JSON and base64. Values of fewer than 6 characters are not taken, nor more than 1,000 of
    them: the reason is told on stderr. Lines that were handed to a store before stay as they are. May be called from
    any thread, as often as wanted; never raises.
    """
    global _known
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        _refuse("type", f"register_secret takes text or bytes, not {type(value).__name__}: nothing is masked for it")
        return False
    text = text.strip()
    if len(text) < SHORTEST:
        _refuse(
            "short",
            f"register_secret was given a value of {len(text)} characters, which would mask ordinary words: it is not "
            f"masked. At least {SHORTEST} are needed",
        )
        return False
    if len(text) > LONGEST:
        _refuse("long", f"register_secret was given a value of {len(text)} characters, {LONGEST} are the most: ignored")
        return False
    with _lock:
        if text in _values:
            return True
        is_taken = len(_values) < AT_MOST
        if is_taken:
            _values[text] = None
            _known = None
    if not is_taken:  # without the lock: what is said is masked, too, which may build the needles
        _refuse("many", f"register_secret: {AT_MOST} values are known, the most there may be: others are ignored")
    return is_taken


def _refuse(cause: str, text: str) -> None:
    report_once(("register_secret", cause), text)


def _build() -> _Known:
    """The needles of the values that are known now. Takes the lock: only after a registration."""
    global _known
    with _lock:
        if _known is None:
            _known = _needles_of(_values)
        return _known


def _needles_of(values: dict[str, None]) -> _Known:
    plain, encoded, in_base64 = set(values), set(), set()
    for value in values:
        encoded |= _encodings(value) - plain
        in_base64 |= _base64_of(value)
    everything = plain | encoded | in_base64
    grams = frozenset(needle[:SHORTEST] for needle in everything) if len(everything) > _MANY else None
    return _Known(_longest_first(plain), _longest_first(encoded), _longest_first(in_base64), grams)


def _longest_first(needles: set[str]) -> tuple[str, ...]:
    return tuple(sorted(needles, key=len, reverse=True))


def _encodings(value: str) -> set[str]:
    raw = value.encode("utf-8", "surrogatepass")
    found = {quote(raw), quote(raw, safe=""), quote_plus(raw), json.dumps(value)[1:-1], repr(value)[1:-1]}
    found.add(json.dumps(value, ensure_ascii=False)[1:-1])
    found |= {_lower_hex(text) for text in found if "%" in text}
    # Escaped twice: JSON in a repr, and in JSON.
    in_json = {json.dumps(text, ensure_ascii=False)[1:-1] for text in found}
    found |= {text.replace("\\", "\\\\") for text in found} | in_json
    return found


def _lower_hex(text: str) -> str:
    head, *rest = text.split("%")
    return head + "".join("%" + part[:2].lower() + part[2:] for part in rest)


def _base64_of(value: str) -> set[str]:
    """The part of the value's base64 that stays the same whatever stands around it, at each of three offsets."""
    raw = value.encode("utf-8", "surrogatepass")
    found = set()
    for offset, begin in enumerate((0, 2, 3)):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * offset + raw).decode("ascii")
            found.add(text[begin : (offset + len(raw)) * 8 // 6])
    return {needle for needle in found if len(needle) >= SHORTEST}


def mask_secrets(text: str) -> str:
    """`text` with every known secret replaced; the same object where there is none."""
    known = _known or _build()
    if not known.plain:
        return text
    grams = known.grams
    if grams is not None and grams.isdisjoint([text[at : at + SHORTEST] for at in range(len(text) - SHORTEST + 1)]):
        return text
    text = _replace(text, known.plain)
    if "%" in text or "\\" in text or "+" in text:
        text = _replace(text, known.encoded)
    return _replace(text, known.base64)


def holds_no_secret(text: str) -> bool:
    """Whether `mask_secrets` has nothing to do in any part of `text`; False also where that would take long to say."""
    known = _known or _build()
    return not known.plain or (
        known.grams is None
        and not any(map(text.__contains__, known.plain))
        and not any(map(text.__contains__, known.encoded))
        and not any(map(text.__contains__, known.base64))
    )


def _replace(text: str, needles: tuple[str, ...]) -> str:
    for needle in needles:
        if needle in text:
            text = text.replace(needle, MASK)
    return text


def mask_cut_secret(text: str) -> str:
    """`text`, which was cut at its end, without the beginning of a secret that the cut left there."""
    for needle in (_known or _build()).plain:
        begin = needle[: SHORTEST - 2]
        at = text.find(begin, max(0, len(text) - len(needle) + 1))
        while at >= 0:
            if needle.startswith(text[at:]):
                return text[:at] + MASK
            at = text.find(begin, at + 1)
    return text
