"""Text that every store can hold: no NUL, no lone surrogates, bounded length.

Called on the logging thread for short texts and on the writer thread for messages.
"""

from __future__ import annotations

MAX_FIELD = 10_000
MAX_MESSAGE = 100_000


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
