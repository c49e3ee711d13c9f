"""Text that every store can hold: no NUL, no lone surrogates, bounded length.

Called on the logging thread for short texts and on the writer thread for messages. Imports nothing of ours, so that
everything may import it. Never raises.
"""

from __future__ import annotations

import re
from typing import Final

MAX_FIELD: Final = 10_000
MAX_MESSAGE: Final = 100_000


def clean(text: str) -> str:
    """`text` with NUL shown as U+2400 and lone surrogates as backslash escapes; the same object if there are none.

    One of either makes PostgreSQL refuse the row, and a UTF-8 file cannot hold the latter.
    """
    if text.isascii():
        return text.replace("\x00", "\u2400") if "\x00" in text else text
    text = text.replace("\x00", "\u2400")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


def clip(text: str, limit: int) -> str:
    """`text` cut to about `limit` characters with a note of how many are missing."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… [{len(text) - limit} more characters]"


# The note that `clip` leaves.
CUT: Final = re.compile(r"… \[[0-9]{1,20} more characters\]")

# What a terminal obeys or what turns text around, hides it or forges lines: C0 and C1 but for tab and newline,
# directional marks, invisible characters, tags, interlinear notes, separators, lone surrogates.
UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    """`text` for a terminal: control and bidirectional characters as backslash escapes, tab and newline as they are.

    The same object if there are none. Whoever prints one line per entry indents what follows a newline.
    """
    if text.isascii() and text.isprintable():
        return text
    return UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
