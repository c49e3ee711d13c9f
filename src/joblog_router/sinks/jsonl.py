"""One file per job, a line of JSON per entry."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from .._pipeline.escaping import escape_job_id
from ..entry import Entry
from ..exceptions import ConfigurationError, SinkUnavailableError

try:
    import fcntl
except ImportError:  # Windows: one process per directory there
    fcntl = None  # type: ignore[assignment]

__all__ = ["JsonLinesSink"]


class JsonLinesSink:
    """Appends to `<directory>/<escaped job id>.jsonl`; several processes may share the directory.

    The directory is made on first use, readable by its owner only (0700, files 0600). A line torn by a killed
    process is cut off before the next one is written. Nothing is kept open between two batches.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
            raise ConfigurationError(f"sink 'jsonl': directory must be a path, not {directory!r}")
        self._directory = Path(directory)
        # What a failed batch did write, until the writer has offered it again.
        self._written: set[tuple[str, int]] = set()

    def write(self, entries: Sequence[Entry]) -> None:
        """Append each job's entries in one write."""
        by_job: dict[str, list[Entry]] = {}
        written: list[Entry] = []
        for entry in entries:
            if self._written and (entry.origin, entry.seq) in self._written:
                written.append(entry)
            else:
                by_job.setdefault(entry.job_id, []).append(entry)
        texts = {
            job_id: "".join(json.dumps(entry.as_dict(), ensure_ascii=False) + "\n" for entry in of_job).encode(
                # The escape of a lone surrogate is JSON's too.
                "utf-8",
                "backslashreplace",
            )
            for job_id, of_job in by_job.items()
        }
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for job_id, text in texts.items():
                _append(self._directory / f"{escape_job_id(job_id)}.jsonl", text)
                written += by_job[job_id]
        except OSError as error:
            self._written.update((entry.origin, entry.seq) for entry in written)
            raise SinkUnavailableError(
                f"sink 'jsonl' cannot write to {str(self._directory)!r}: {error.strerror or error}",
                "make the directory writable for this process or change options={'directory': ...}",
            ) from error
        self._written.difference_update((entry.origin, entry.seq) for entry in written)

    def close(self) -> None:
        """Nothing is kept open."""


def _append(path: Path, text: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        end = _cut_torn_line(descriptor)
        try:
            _write_all(descriptor, text)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, end)
            raise
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, text: bytes) -> None:
    view = memoryview(text)
    while view:
        view = view[os.write(descriptor, view) :]


def _cut_torn_line(descriptor: int) -> int:
    """Cut the file after its last newline and give its size. Holding the lock, so nobody is in the middle of a line."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    end = size
    while end > 0:
        start = max(0, end - 65_536)
        os.lseek(descriptor, start, os.SEEK_SET)
        chunk = os.read(descriptor, end - start)
        newline = chunk.rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)
    return end
