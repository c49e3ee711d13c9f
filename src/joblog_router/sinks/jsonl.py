"""One file per job, a line of JSON per entry."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path

from .._pipeline.escaping import escape_job_id
from ..entry import Entry
from ..exceptions import ConfigurationError, EntryRefusedError, SinkUnavailableError

try:
    import fcntl
except ImportError:  # Windows: one process per directory there
    fcntl = None  # type: ignore[assignment]

__all__ = ["JsonLinesSink"]

_ABOUT_ONE_FILE = frozenset({errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG})


class JsonLinesSink:
    """Appends to `<directory>/<escaped job id>.jsonl`; several processes may share the directory.

    The directory is made on first use, readable by its owner only (0700, files 0600). A line torn by a killed
    process is cut off before the next one is written. Nothing is kept open between two batches.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
            raise ConfigurationError(f"sink 'jsonl': directory must be a path, not {directory!r}")
        # Absolute now: the process may change its directory later.
        self._directory = Path(os.path.realpath(directory))
        self.place = str(self._directory)
        # What a failed batch did write, until the writer has offered it again.
        self._written: set[tuple[str, int]] = set()

    def write(self, entries: Sequence[Entry]) -> None:
        """Append each job's entries in one write.

        Raises EntryRefusedError if files of single jobs cannot be written, after having written the others, and
        SinkUnavailableError if none can.
        """
        by_job: dict[str, list[Entry]] = {}
        written: list[Entry] = []
        for entry in entries:
            if self._written and (entry.origin, entry.seq) in self._written:
                written.append(entry)
            else:
                by_job.setdefault(entry.job_id, []).append(entry)
        refused = ""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for job_id, of_job in by_job.items():
                path = self._directory / f"{escape_job_id(job_id)}.jsonl"
                try:
                    _append(path, _lines(of_job))
                    written += of_job
                except OSError as error:
                    if error.errno not in _ABOUT_ONE_FILE or not self._can_make_files():
                        raise
                    refused = refused or f"sink 'jsonl' cannot write {str(path)!r}: {error.strerror or error}"
        except OSError as error:
            self._written.update((entry.origin, entry.seq) for entry in written)
            raise SinkUnavailableError(
                f"sink 'jsonl' cannot write to {str(self._directory)!r}: {error.strerror or error}",
                "make the directory writable for this process or change options={'directory': ...}",
            ) from error
        if refused:
            self._written.update((entry.origin, entry.seq) for entry in written)
            raise EntryRefusedError(refused)
        self._written.difference_update((entry.origin, entry.seq) for entry in written)

    def not_stored(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries` that no file has yet: for lines of a process that was killed and may have written some."""
        found: dict[str, set[tuple[str, int]]] = {}
        for job_id in {entry.job_id for entry in entries}:
            origins = {entry.origin for entry in entries if entry.job_id == job_id}
            found[job_id] = _stored(self._directory / f"{escape_job_id(job_id)}.jsonl", origins)
        return [entry for entry in entries if (entry.origin, entry.seq) not in found[entry.job_id]]

    def _can_make_files(self) -> bool:
        return os.access(self._directory, os.W_OK | os.X_OK)

    def close(self) -> None:
        """Nothing is kept open."""


def _lines(entries: list[Entry]) -> bytes:
    text = "".join(json.dumps(entry.as_dict(), ensure_ascii=False) + "\n" for entry in entries)
    # The escape of a lone surrogate is JSON's too.
    return text.encode("utf-8", "backslashreplace")


def _stored(path: Path, origins: set[str]) -> set[tuple[str, int]]:
    """The (origin, seq) of each line of one of `origins`. Lines are looked at as text first, most are others'."""
    marks = [json.dumps(origin, ensure_ascii=False).encode("utf-8", "backslashreplace") for origin in origins]
    stored = set()
    with contextlib.suppress(FileNotFoundError), path.open("rb") as lines:
        for line in lines:
            if any(mark in line for mark in marks):
                try:
                    entry = json.loads(line)
                    stored.add((entry["origin"], entry["seq"]))
                except (ValueError, KeyError, TypeError):
                    continue  # torn by the kill: the next write cuts it off
    return stored


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
