"""One file per job, a line of JSON per entry. Here is the writing and cutting; `_jsonl_reader` reads.

`write`, `not_stored` and `close` are called by the writer, one at a time; `delete` and `prune` by readers on their own
threads, of other processes, too: a lock on the file keeps them apart.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .._pipeline.escaping import escape_job_id
from .._pipeline.namespaces import in_force
from .._pipeline.text import clean
from ..entry import Entry
from ..exceptions import ConfigurationError, EntryRefusedError, SinkUnavailableError
from . import _jsonl_reader
from ._jsonl_known import KnownFiles
from ._jsonl_reader import JsonLinesReader, job_file

try:
    import fcntl
except ImportError:  # Windows: one process per directory there
    fcntl = None  # type: ignore[assignment]

__all__ = ["JsonLinesSink"]

_ABOUT_ONE_FILE = frozenset({errno.EISDIR, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG})


class JsonLinesSink(JsonLinesReader):
    """Appends to `<directory>/<escaped job id>.jsonl`; several processes may share the directory. A store, too.

    The directory is made on first use, readable by its owner only (0700, files 0600). A line torn by a killed
    process is cut off before the next one is written. Nothing is kept open between two batches. With a NAMESPACE the
    files are in `<directory>/<escaped namespace>/`.
    """

    place: str

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        if not isinstance(directory, str | os.PathLike) or not os.fspath(directory):
            raise ConfigurationError(f"sink 'jsonl': directory must be a path, not {directory!r}")
        # Absolute now: the process may change its directory later.
        self._directory = Path(os.path.realpath(directory))
        self.place = str(self._directory)
        # What a failed batch did write, until the writer has offered it again.
        self._written: set[tuple[str, int]] = set()
        self._known = KnownFiles(self._directory)

    def write(self, entries: Sequence[Entry]) -> None:
        """Append each job's entries in one write.

        Raises EntryRefusedError if files of single jobs cannot be written, after having written the others, and
        SinkUnavailableError if none can.
        """
        by_job: dict[tuple[str, str], list[Entry]] = {}
        written: list[Entry] = []
        for entry in entries:
            if self._written and (entry.origin, entry.seq) in self._written:
                written.append(entry)
            else:
                by_job.setdefault((entry.namespace, entry.job_id), []).append(entry)
        refused = ""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for (namespace, job_id), of_job in by_job.items():
                path = job_file(self._directory, job_id, namespace)
                try:
                    if namespace:
                        path.parent.mkdir(mode=0o700, exist_ok=True)
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
        return self._known.without_known(entries)

    def _can_make_files(self) -> bool:
        return os.access(self._directory, os.W_OK | os.X_OK)

    def close(self) -> None:
        """Nothing is kept open; what was found in files is forgotten."""
        self._known.clear()

    def delete(self, job_id: str, namespace: str | None = None) -> int:
        """See Store. Removes the job's file."""
        space = in_force(namespace)
        path = job_file(self._directory, clean(str(job_id)), space)
        return self._cut(path, lambda file: file.seek(0, os.SEEK_END), dry_run=False)

    def prune(
        self, older_than: float, keep: int | None = None, dry_run: bool = False, namespace: str | None = None
    ) -> int:
        """See Store. Cuts each file from its beginning, up to the first line that is young enough."""
        space = in_force(namespace)
        folder = self._directory / escape_job_id(space) if space else self._directory
        try:
            paths = sorted(folder.glob("*.jsonl"))
        except OSError as error:
            raise _jsonl_reader.unreadable(folder, error) from error
        return sum(
            self._cut(path, lambda file: _jsonl_reader.start_of_kept(file, older_than, keep), dry_run) for path in paths
        )

    @staticmethod
    def _cut(path: Path, start_of_kept: Callable[[io.FileIO], int], dry_run: bool) -> int:
        """Remove a file's lines before the offset that `start_of_kept` tells; how many. Writers wait meanwhile."""
        try:
            with _locked(path, os.O_RDWR) as descriptor, io.FileIO(descriptor, closefd=False) as file:
                start = start_of_kept(file)
                count = _jsonl_reader.count_lines(file, start)
                if not dry_run and start > 0:
                    _keep_from(path, file, start)
                return count
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise SinkUnavailableError(
                f"store 'jsonl' cannot change {str(path)!r}: {error.strerror or error}",
                "run this as the user who writes the logs",
            ) from error


def _lines(entries: list[Entry]) -> bytes:
    text = "".join(json.dumps(entry.as_dict(), ensure_ascii=False) + "\n" for entry in entries)
    # The escape of a lone surrogate is JSON's too.
    return text.encode("utf-8", "backslashreplace")


@contextlib.contextmanager
def _locked(path: Path, flags: int) -> Iterator[int]:
    """The file, open and locked. One that was replaced or deleted while waiting for the lock is opened anew."""
    while True:
        descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink == 0:
                    continue
            yield descriptor
            return
        finally:
            os.close(descriptor)


def _keep_from(path: Path, file: io.FileIO, start: int) -> None:
    """Have `path` begin with what stands at `start`. What is kept is complete before it takes the file's place."""
    size = file.seek(0, os.SEEK_END)
    if start >= size:
        path.unlink()
        return
    new = path.with_suffix(".pruned")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        file.seek(start)
        while block := file.read(1_048_576):
            _write_all(descriptor, block)
    finally:
        os.close(descriptor)
    new.replace(path)


def _append(path: Path, text: bytes) -> None:
    with _locked(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as descriptor:
        end = _cut_torn_line(descriptor)
        try:
            _write_all(descriptor, text)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, end)
            raise


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
