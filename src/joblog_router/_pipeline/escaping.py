"""Job ids as file names, URL parts and subjects: one escape for all three, and back.

Called where files and addresses are made and read, by sinks on the writer thread and by readers. Imports nothing of
ours; the way back raises ValueError for what was not escaped.
"""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9_-]{1,180}")
_HEXADECIMAL = re.compile(r"[0-9a-f]{2}")
_MAX_LENGTH = 180


def escape_job_id(job_id: str, max_length: int = _MAX_LENGTH) -> str:
    """`job_id` in the characters `a-z 0-9 _ - ~`: other bytes of its UTF-8 form become `~xx`.

    Upper case is escaped too, so that ids differing only in case stay apart where file names ignore it. Over 180
    characters (or `max_length`) the end is replaced by `~~` and a hash. Two ids never share an escape.
    """
    if _PLAIN.fullmatch(job_id):
        return job_id
    raw = job_id.encode("utf-8", "surrogatepass")
    escaped = "".join(chr(byte) if chr(byte) in _KEPT else f"~{byte:02x}" for byte in raw)
    if len(escaped) <= max_length:
        return escaped
    return f"{escaped[: max_length - 66]}~~{hashlib.sha256(raw).hexdigest()}"


def unescape_job_id(escaped: str) -> str:
    """The job id that `escape_job_id` made `escaped` of; characters it would escape may stand for themselves.

    Raises ValueError where that cannot be told: a `~` without two hexadecimal digits (so also a hash), or no UTF-8.
    """
    first, *parts = escaped.split("~")
    raw = bytearray(first.encode("utf-8"))
    for part in parts:
        if not _HEXADECIMAL.match(part):
            raise ValueError(f"{escaped[:200]!r} is not an escaped job id")
        raw.append(int(part[:2], 16))
        raw += part[2:].encode("utf-8")
    return raw.decode("utf-8", "surrogatepass")


_KEPT = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
