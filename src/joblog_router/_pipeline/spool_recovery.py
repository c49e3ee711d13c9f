"""What a process left in its spool when it was killed: its segment found by the next one, locked and read.

A lock on the segment keeps two from shipping it at once. Called by `recovery`, on the writer and where a handler opens
a spool or a command looks; imports the format of segments from `spool`, nothing of channels.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import mmap
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .quarantine import SUFFIX as QUARANTINE
from .report import report_once
from .scopes import JobScope
from .spool import (
    ABOUT,
    ACKED_WORD,
    BODY,
    FAR,
    FIXED,
    HEADER,
    MAGIC,
    NEAR_MASK,
    PAGE,
    RING,
    SITE,
    SITES,
    SLOT,
    VERSION,
    Plain,
    captured_exception,
    own_files,
)
from .spool_folder import IS_SUPPORTED, SUFFIX, open_directory, try_lock

if TYPE_CHECKING:
    from .channel import Item

KEPT = ".unreadable"
_HALF_MADE = 60.0  # seconds after which a segment whose making was interrupted is taken away


# Threads of one process share its locks on files.
_claiming = threading.Lock()


class Found(NamedTuple):
    """A segment without a living owner, locked by this process."""

    directory: Path
    name: str
    descriptor: int
    folder: int
    key: str
    origin: str
    slots: int
    pages: int


class DeadSegment:
    """A dead process's segment, in the place of a channel's own: read whole, acknowledged as its lines are stored."""

    def __init__(self, found: Found) -> None:
        self.found = found
        # Shared, because acknowledging writes. Closing it must not come before the file is done with: see try_lock.
        self._pages_start = FAR + found.slots * SLOT
        self.map = mmap.mmap(found.descriptor, self._pages_start + found.pages * PAGE)
        self.words = memoryview(self.map).cast("Q")
        self.acked = self.words[ACKED_WORD]
        self.marks: dict[int, tuple[int, int]] = {}
        self.unreadable = 0

    def items(self) -> Iterator[Item]:
        """The lines that were committed and not acknowledged, in order."""
        words = self.words
        starts = range(RING, self._pages_start, SLOT)
        found = sorted((word, start) for start in starts if (word := words[start >> 3]) > self.acked)
        scopes: dict[bytes, JobScope] = {}
        sites: dict[int, Any] = {}
        for seq, start in found:
            try:
                line = _loads(self.map[start + BODY : start + SLOT])
                if len(line) == 3:
                    line = _loads(self._paged(*line))
                site, packed, created, n, message, more = line
                if type(site) is int:
                    if site not in sites:
                        start_of = HEADER + site * SITE
                        sites[site] = _loads(self.map[start_of : start_of + SITE])
                    site = sites[site]
                path, number, level, name = site
                scope = scopes.get(packed)
                if scope is None:
                    job_id, namespace, fields = _loads(packed)
                    scope = scopes[packed] = JobScope(job_id, fields, namespace)
                record: Any = Plain(created, level, name, path, number)
                extra = None if more is None else (more[0], captured_exception(more[1]))
            except (ValueError, EOFError, TypeError, zlib.error):
                self.unreadable += 1
                continue
            if count := words[(start >> 3) + 2]:
                self.marks[seq] = (words[(start >> 3) + 1], count)
            yield (record, scope, seq, n, message, extra, name, level)

    def _paged(self, checksum: int, length: int, pages: bytes) -> bytes:
        numbers = memoryview(pages).cast("H")
        starts = [self._pages_start + number * PAGE for number in numbers]
        data = b"".join(self.map[start : start + PAGE] for start in starts)[:length]
        if zlib.crc32(data) != checksum:
            raise ValueError("torn")
        return data

    def acknowledge(self, seq: int) -> None:
        """Lines up to `seq` are stored: whoever recovers this segment next need not read them."""
        if seq > self.acked:
            self.words[ACKED_WORD] = self.acked = seq

    def mark(self, seq: int, first: int, count: int) -> None:
        """Lines that this recovery folds carry their mark as well, should it be killed."""
        far = FAR + (seq & (self.found.slots - 1)) * SLOT
        for start in ((RING + (seq & NEAR_MASK) * SLOT) >> 3, far >> 3):
            if self.words[start] == seq:
                self.words[start + 2] = count
                self.words[start + 1] = first
                return

    def keep_aside(self) -> Path:
        """Rename the file, so that nobody recovers it again; where it is then."""
        name, folder = self.found.name, self.found.folder
        with contextlib.suppress(OSError):
            os.rename(name, name + KEPT, src_dir_fd=folder, dst_dir_fd=folder)
        return self.found.directory / (name + KEPT)

    def close(self, is_done: bool) -> None:
        """Let go of the segment; its file goes if nothing in it is needed any more."""
        if is_done:
            with contextlib.suppress(OSError):
                os.unlink(self.found.name, dir_fd=self.found.folder)
        self.let_go()

    def let_go(self) -> None:
        """Close map and descriptors: the lock goes with them. Once: their numbers may be others' afterwards."""
        if self.map.closed:
            return
        self.words.release()
        self.map.close()
        release(self.found)


def _loads(data: bytes) -> Any:
    return marshal.loads(data)  # noqa: S302 - from files that are this user's alone


def release(found: Found) -> None:
    """Let others have the segment."""
    for descriptor in (found.descriptor, found.folder):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    own_files.discard(found.name)


def find(directory: Path, key: str | None) -> Iterator[Found]:
    """Segments in `directory` whose process is gone and which are for the sink called `key` (None: for any), locked.

    A segment of a format that this version does not know stays where it is, and is reported.
    """
    if not IS_SUPPORTED:
        return
    try:
        names = sorted(path.name for path in directory.iterdir())
    except OSError:
        return
    for name in names:
        if not name.endswith((SUFFIX, SUFFIX + ".new")):
            continue
        claim = name.removesuffix(".new")
        with _claiming:
            if claim in own_files:
                continue
            own_files.add(claim)
        found = _lock(directory, name)
        if found is None:
            own_files.discard(claim)
            continue
        if key is not None and key != found.key:
            release(found)
            continue
        yield found


def unusual(directory: Path) -> Iterator[Path]:
    """Files of spools in `directory` that are there to be looked at: of other versions, unreadable, refused lines."""
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        if path.name.endswith((KEPT, QUARANTINE)):
            yield path
        elif path.name.endswith(SUFFIX) and path.name not in own_files:
            try:
                with path.open("rb") as file:
                    head = file.read(HEADER)
                if head[:8] != MAGIC or FIXED.unpack_from(head)[1] != VERSION or _key_and_origin(head) is None:
                    yield path
            except (OSError, struct.error):
                yield path


def _lock(directory: Path, name: str) -> Found | None:
    descriptor = folder = -1
    try:
        folder = open_directory(directory)
        descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        if try_lock(descriptor):
            about = _about(descriptor, directory / name)
            if about is not None and name.endswith(SUFFIX):
                return Found(directory, name, descriptor, folder, *about)
            if name.endswith(".new") and time.time() - os.fstat(descriptor).st_mtime > _HALF_MADE:
                os.unlink(name, dir_fd=folder)
    except (OSError, struct.error):
        pass  # gone meanwhile, or not a file of ours
    for opened in (descriptor, folder):
        if opened >= 0:
            os.close(opened)
    return None


def _about(descriptor: int, path: Path) -> tuple[str, str, int, int] | None:
    raw = os.pread(descriptor, HEADER, 0)
    if path.name.endswith(".new"):
        return None
    magic, version, site, sites, slot, slots, pages, _ = FIXED.unpack_from(raw)
    if magic != MAGIC or version != VERSION or (site, sites, slot) != (SITE, SITES, SLOT):
        report_once(
            ("spool-version", str(path)),
            f"{str(path)!r} is a spool segment of another version of this library ({version}); it is kept. "
            "Recover it with the version that wrote it, or delete it if its lines are not needed",
        )
        return None
    if os.fstat(descriptor).st_size < FAR + slots * SLOT + pages * PAGE:
        report_once(("spool-short", str(path)), f"{str(path)!r} is too short for a spool segment; it is kept")
        return None
    about = _key_and_origin(raw)
    if about is None:
        report_once(
            ("spool-header", str(path)),
            f"{str(path)!r} is a spool segment that does not say which sink its lines are for (its header does not "
            "parse); it is kept, and nobody recovers it. Keep the file if its lines are needed, else delete it",
        )
        return None
    return *about, slots, pages


def _key_and_origin(head: bytes) -> tuple[str, str] | None:
    """What a header says, or None if it does not parse."""
    length = FIXED.unpack_from(head)[-1]
    try:
        about = json.loads(head[ABOUT : ABOUT + length])
        key, origin = about["key"], about["origin"]
    except (ValueError, KeyError, TypeError):
        return None
    return (key, origin) if isinstance(key, str) and isinstance(origin, str) else None
