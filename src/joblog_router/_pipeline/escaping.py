"""Job ids as file names, URL parts and subjects: one escape for all three."""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9_-]{1,180}")
_MAX_LENGTH = 180


def escape_job_id(job_id: str) -> str:
    """`job_id` in the characters `a-z 0-9 _ - ~`: other bytes of its UTF-8 form become `~xx`.

    Upper case is escaped too, so that ids differing only in case stay apart where file names ignore it. Over 180
    characters the end is replaced by `~~` and a hash. Two ids never share an escape.
    """
    if _PLAIN.fullmatch(job_id):
        return job_id
    raw = job_id.encode("utf-8", "surrogatepass")
    escaped = "".join(chr(byte) if chr(byte) in _KEPT else f"~{byte:02x}" for byte in raw)
    if len(escaped) <= _MAX_LENGTH:
        return escaped
    return f"{escaped[: _MAX_LENGTH - 66]}~~{hashlib.sha256(raw).hexdigest()}"


_KEPT = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
