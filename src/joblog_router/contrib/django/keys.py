"""Job ids and namespaces as the columns of the table hold them. Called by the sink and by readers alike."""

from __future__ import annotations

import hashlib
from typing import Final

__all__ = ["MAX_KEY", "stored_key"]

MAX_KEY: Final = 255
_HASH_LENGTH: Final = 64


def stored_key(text: str) -> str:
    """`text` as it is, or over 255 characters its start and a hash of it all.

    An index takes no longer values (PostgreSQL 2,704 bytes, MySQL 3,072), and a job with such an id
    has a log too.
    """
    if len(text) <= MAX_KEY and text[-_HASH_LENGTH - 2 : -_HASH_LENGTH] != "~~":  # nor may one id be another's hash
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text[: MAX_KEY - _HASH_LENGTH - 2]}~~{digest}"
