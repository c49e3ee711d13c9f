"""Lines that a store refuses, beside the spool: one JSON line each, with the reason.

Called on the writer thread with entries as the sink would have got them, secrets masked. Never raises: what cannot be
kept is reported.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from ..entry import Entry
from .report import masked, report_once
from .spool_folder import IS_SUPPORTED, open_directory, segment_name

if TYPE_CHECKING:
    from pathlib import Path

SUFFIX = ".quarantine.jsonl"
_MOST_BYTES = 16 * 2**20
_LONGEST_REASON = 500


def keep(directory: Path | None, entry: Entry, sink: str, reason: Exception | None) -> str:
    """Append `entry` to the file of its origin; the file's path, or "" where there is no spool. Never raises."""
    if directory is None or not IS_SUPPORTED:
        return ""
    name = segment_name(entry.origin).removesuffix(".spool") + SUFFIX
    why = masked(f"{type(reason).__name__}: {reason}")[:_LONGEST_REASON] if reason is not None else ""
    line = json.dumps({**entry.as_dict(), "reason": why, "sink": sink}, ensure_ascii=False, default=repr) + "\n"
    try:
        folder = open_directory(directory)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o600, dir_fd=folder)
            try:
                if os.fstat(descriptor).st_size > _MOST_BYTES:
                    report_once(
                        ("quarantine is full", name),
                        f"{str(directory / name)!r} has {_MOST_BYTES // 2**20} MiB of refused lines, the most it may: "
                        "further ones are counted as quarantined and not kept",
                    )
                    return ""
                os.write(descriptor, line.encode("utf-8", "backslashreplace"))
            finally:
                os.close(descriptor)
        finally:
            os.close(folder)
    except OSError as error:
        report_once(("quarantine", str(directory)), f"a refused line could not be kept in {str(directory)!r}: {error}")
        return ""
    return str(directory / name)
