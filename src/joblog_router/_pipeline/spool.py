"""The spool: every line of a channel in a memory-mapped file before its logging call returns.

The page cache outlives a killed process, so what stands in the map is not lost with it. A segment is a ring of slots,
and a line's slot follows from its number: threads share neither a lock nor a position, and a call that interrupts
another (a signal handler, `__del__`) has a slot of its own. The number is written last, as the commit; a slot is free
again when the writer has acknowledged its line and wiped it. Call sites are numbers into a table of the same file,
each written there before its first line. What does not fit into a slot is put into pages, with a checksum.
While few lines wait, these use the same few pages of memory again and again, the near ring; the others the far one.

The common case is written out in `capture`, on the logging thread; `put` is the rest of it there. `acknowledge`,
`mark` and `close` are the writer's.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import mmap
import os
import struct
import time
import zlib
from array import array
from collections import deque
from collections.abc import Callable
from logging import LogRecord
from marshal import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from .exceptions import CapturedException
from .primitives import freeze
from .report import report_once
from .scopes import JobScope
from .spool_folder import IS_SUPPORTED, open_directory, segment_name, try_lock
from .stats import Counter

if TYPE_CHECKING:
    from .redaction import Redactor

MAGIC: Final = b"JOBLOGSP"
VERSION: Final = 1
# What every reader of the file needs to know; the rest of the header is JSON.
FIXED: Final = struct.Struct("<8s7I")
ACKED_WORD: Final = 8
ABOUT: Final = 512
HEADER: Final = 4096
SITE: Final = 512
SITES: Final = 2048
SLOT: Final = 256
# Where the near ring begins; the far one and the pages stand behind it.
RING: Final = HEADER + SITE * SITES
NEAR: Final = 1024
NEAR_MASK: Final = NEAR - 1
FAR: Final = RING + NEAR * SLOT
PAGE: Final = 4096
# A slot: the line's number; of a folded line the first number of its run and how many the run had then; the line.
BODY: Final = 24
ROOM: Final = SLOT - BODY
# marshal's older format: the newer one looks for shared objects, which costs more than all the rest.
FORMAT: Final = 2

# Segments that this process has a lock on: opened a second time and closed, they would lose it.
own_files: set[str] = set()


class Plain(NamedTuple):
    """What is needed of a record, under the names that a record has."""

    created: float
    levelno: int
    name: str
    pathname: str
    lineno: int
    process: int = 0


class Spool:
    """One channel's segment of this process. Not open until `open` or the first line; closed again it stays empty.

    `number` tells the segments apart that an origin has one after another: several may be there at once, in the same
    directory too. `limit` is the highest number there is a slot for, `near` the highest with one in the near ring; both
    are 0 while the segment is not open. The far ring has `mask` + 1 slots, at least as many as `lines` may wait.
    """

    def __init__(self, directory: str | os.PathLike[str], key: str, origin: str, lines: int, number: int = 1) -> None:
        self.directory = Path(directory)
        self.mask = (1 << max(10, min(lines, _MOST_LINES) - 1).bit_length()) - 1
        self.pages = max(64, (self.mask + 1) // 32)
        self._pages_start = FAR + SLOT * (self.mask + 1)
        self.size = self._pages_start + PAGE * self.pages
        self.key = key
        self.origin = origin
        self.name = segment_name(origin if number == 1 else f"{origin}.s{number}")
        self.limit = self.near = self._near_to = 0
        self.acked = 0
        # With SPOOL_REDACT: gives what masks secrets before a line stands in the file.
        self.redactor: Callable[[], Redactor | None] | None = None
        self._packed: dict[bytes, bytes] = {}
        # Lines that are in no segment: it could not be opened, was full, or the line was too large.
        self.missed = Counter()
        self.cannot = ""
        self.map: Any = None
        self.words: Any = None
        self._folder = -1
        self._tried = False
        # Call sites by path, line, level and logger. Beyond the table's end they stand in each line.
        self.sites: dict[tuple[str, int, int, str], Any] = {}
        self._next_site = itertools.count().__next__
        self._next_page = itertools.count().__next__
        self._owners = [0] * self.pages
        self._big: deque[tuple[int, array[int]]] = deque()
        self._far: deque[int] = deque()

    def open(self, after: int = 0) -> bool:
        """Make the segment, for the numbers after `after`; whether that went well. Says on stderr why not, once."""
        if self._tried:
            return bool(self.limit)
        self._tried = True
        if not IS_SUPPORTED:
            self.cannot = "this platform lacks file locks or posix_fallocate"
        else:
            try:
                self._open(after)
                return True
            except (OSError, ValueError) as error:
                self.cannot = f"{getattr(error, 'strerror', None) or error}"
        report_once(
            ("spool", str(self.directory), self.cannot),
            f"the spool in {str(self.directory)!r} is off: {self.cannot}. Job log lines that are not stored yet are "
            "lost if the process is killed; name a directory of this user's own (mode 0700) in the handler's spool "
            "or in JOBLOG_ROUTER['SPOOL'], or turn it off with None",
        )
        return False

    def _open(self, after: int) -> None:
        folder = open_directory(self.directory)
        descriptor = -1
        making = self.name + ".new"
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(making, flags, 0o600, dir_fd=folder)
            own_files.add(self.name)
            if not try_lock(descriptor):
                raise OSError(errno.ENOLCK, "its files cannot be locked")
            about = json.dumps({"origin": self.origin, "key": self.key, "pid": os.getpid(), "started": time.time()})
            raw = about.encode("utf-8", "backslashreplace")
            if len(raw) > HEADER - ABOUT:
                raise ValueError(f"the name of its sink has more than {HEADER - ABOUT} bytes")  # nobody could read it
            # Not truncate: a hole in a full file system is SIGBUS when it is written to.
            os.posix_fallocate(descriptor, 0, self.size)
            # The pages that will be written to all the time, now and not one by one by logging calls.
            os.pwrite(descriptor, bytes(NEAR * SLOT), RING)
            mapped = mmap.mmap(descriptor, self.size)
            mapped[ABOUT : ABOUT + len(raw)] = raw
            FIXED.pack_into(mapped, 0, MAGIC, VERSION, SITE, SITES, SLOT, self.mask + 1, self.pages, len(raw))
            words = memoryview(mapped).cast("Q")
            words[ACKED_WORD] = after
            # Only now others may find it: locked and whole.
            os.rename(making, self.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            own_files.discard(self.name)
            with contextlib.suppress(OSError):
                os.unlink(making, dir_fd=folder)
            if descriptor >= 0:
                os.close(descriptor)
            os.close(folder)
            raise
        self.map, self.words, self._folder = mapped, words, folder
        _descriptors[self.name] = descriptor
        self.acked = after
        self.limit = after + self.mask + 1
        self._follow(after)

    def redact_with(self, redactor: Callable[[], Redactor | None] | None) -> None:
        """Have what `redactor` gives mask each line first, on the thread that logs; None for none."""
        self.redactor = redactor
        if self.limit:
            self._follow(self.acked)

    def _follow(self, acked: int) -> None:
        self._near_to = acked + NEAR
        # The short way in `capture` masks nothing: no line may take it.
        self.near = self._near_to if self.redactor is None else 0

    def site(self, record: LogRecord) -> Any:
        """The number of the call site of `record`, which is in the file from then on; or the site itself."""
        key = (record.pathname, record.lineno, record.levelno, record.name)
        if self.words is None:
            return key  # not open; put() sees to it
        number: Any = self._next_site() if len(self.sites) < SITES else SITES
        data = dumps(key, FORMAT)
        if number >= SITES or len(data) > SITE:
            number = key
        else:
            start = HEADER + number * SITE
            self.map[start : start + len(data)] = data
        if len(self.sites) < _MOST_SITES:
            self.sites[key] = number
        return number

    def put(  # noqa: PLR0917 - keywords cost time on the way of a record
        self, seq: int, packed: bytes, record: LogRecord, n: int, message: str, more: Any
    ) -> None:
        """The line where the short way in `capture` does not do. On the logging thread."""
        if (not self.limit and not self.open(seq - 1)) or seq > self.limit:
            self.missed.add()
            return
        plain = None if more is None else (more[0], plain_exception(more[1]))
        if self.redactor is not None and (redactor := self.redactor()) is not None:
            record, packed, message, plain = self._masked(redactor, record, packed, message, plain)
        key = (record.pathname, record.lineno, record.levelno, record.name)
        site = self.sites.get(key)
        if site is None:
            site = self.site(record)
        data = dumps((site, packed, record.created, n, message, plain), FORMAT)
        if len(data) > ROOM:
            pages = self._put_pages(seq, data)
            if pages is None:
                self.missed.add()
                return
            data = dumps((zlib.crc32(data), len(data), pages.tobytes()), FORMAT)
        if seq <= self._near_to:
            start = RING + (seq & NEAR_MASK) * SLOT
        else:
            start = FAR + (seq & self.mask) * SLOT
            self._far.append(seq)
        self.map[start + BODY : start + BODY + len(data)] = data
        self.words[start >> 3] = seq

    def put_anything(  # noqa: PLR0917 - see put
        self, seq: int, packed: bytes, record: LogRecord, n: int, message: str, more: Any
    ) -> None:
        """The line of a record whose attributes are of types that marshal does not take. Never raises."""
        try:
            plain: Any = Plain(
                float(record.created),
                int(record.levelno),
                str.__str__(record.name),
                str.__str__(record.pathname),
                int(record.lineno or 0),
            )
            self.put(seq, packed, plain, n, str.__str__(message), more)
        except Exception:
            self.missed.add()

    def _masked(
        self, redactor: Redactor, record: LogRecord, packed: bytes, message: str, plain: Any
    ) -> tuple[Any, bytes, str, Any]:
        """The parts of a line without secrets. Names of call sites too, which stay in the file to its end."""
        name = redactor.text(record.name)
        if name is not record.name:
            record = Plain(record.created, record.levelno, name, record.pathname, record.lineno)  # type: ignore[assignment]
        masked = self._packed.get(packed)
        if masked is None:
            job_id, namespace, fields = loads(packed)  # noqa: S302 - made in this process a moment ago
            masked = dumps((job_id, namespace, dict(redactor.fields(fields))), FORMAT)
            if len(self._packed) < _MOST_SCOPES:
                self._packed[packed] = masked
        if plain is not None:
            extra, exception = plain
            plain = (extra and dict(redactor.fields(extra)), _masked_parts(redactor, exception))
        return record, masked, redactor.text(message), plain

    def _put_pages(self, seq: int, data: bytes) -> array[int] | None:
        needed = -(-len(data) // PAGE)
        pages = array("H")
        if needed * pages.itemsize > ROOM - 32:
            return None
        for _ in range(needed + 64):
            page = self._next_page() % self.pages
            if self._owners[page]:
                continue
            self._owners[page] = seq
            start = self._pages_start + page * PAGE
            part = data[len(pages) * PAGE : (len(pages) + 1) * PAGE]
            self.map[start : start + len(part)] = part
            pages.append(page)
            if len(pages) == needed:
                self._big.append((seq, pages))
                return pages
        for page in pages:
            self._wipe_page(page)
        return None

    def _wipe_page(self, page: int) -> None:
        start = self._pages_start + page * PAGE
        self.map[start : start + PAGE] = _NO_PAGE
        self._owners[page] = 0

    def mark(self, seq: int, first: int, count: int) -> None:
        """Note that the line `seq` was folded, as number `count` of the run that began to fold with `first`."""
        if not self.limit:
            return
        for start in ((RING + (seq & NEAR_MASK) * SLOT) >> 3, (FAR + (seq & self.mask) * SLOT) >> 3):
            if self.words[start] == seq:
                self.words[start + 2] = count
                self.words[start + 1] = first
                return

    def acknowledge(self, seq: int) -> None:
        """Nothing up to `seq` is needed any more: wipe it, then give its room back."""
        if not self.limit or seq <= self.acked:
            return
        self.words[ACKED_WORD] = seq
        first, last = max(self.acked + 1, seq - NEAR_MASK) & NEAR_MASK, seq & NEAR_MASK
        if first <= last:
            self._wipe_slots(first, last + 1)
        else:
            self._wipe_slots(first, NEAR)
            self._wipe_slots(0, last + 1)
        while self._far and self._far[0] <= seq:
            start = FAR + (self._far.popleft() & self.mask) * SLOT
            self.map[start : start + SLOT] = _NO_SLOTS[:SLOT]
        while self._big and self._big[0][0] <= seq:
            for page in self._big.popleft()[1]:
                self._wipe_page(page)
        self.acked = seq
        self.limit = seq + self.mask + 1
        self._follow(seq)

    def _wipe_slots(self, first: int, end: int) -> None:
        while first < end:
            some = min(end - first, _WIPED_AT_ONCE)
            start = RING + first * SLOT
            self.map[start : start + some * SLOT] = _NO_SLOTS[: some * SLOT]
            first += some

    def is_filling(self, last: int) -> bool:
        """Whether so much waits, up to the number `last`, that tallies that are owed should be told early."""
        return bool(self.limit) and last - self.acked > self.mask // 4

    def close(self, is_done: bool) -> None:
        """Let go of the segment: of nothing else than what is acknowledged if `is_done`, then its file goes."""
        if not self.limit:
            return
        self.limit = self.near = self._near_to = 0
        self._tried = True
        if is_done:
            with contextlib.suppress(OSError):
                os.unlink(self.name, dir_fd=self._folder)
            self.let_go()

    def let_go(self) -> None:
        """Close descriptors and forget the map; also in the child of a fork, where all of it is the parent's."""
        self.limit = self.near = self._near_to = 0
        self.words = self.map = None
        own_files.discard(self.name)
        for descriptor in (_descriptors.pop(self.name, -1), self._folder):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._folder = -1

    def disown(self, seqs: list[int]) -> None:
        """Take back lines that a fork nobody announced wrote into its parent's segment."""
        if self.limit:
            for seq in seqs:
                start = RING + (seq & NEAR_MASK) * SLOT
                if self.words[start >> 3] == seq:
                    self.map[start : start + SLOT] = _NO_SLOTS[:SLOT]


_MOST_LINES: Final = 1 << 20
_MOST_SITES: Final = 20_000
_MOST_SCOPES: Final = 1_000
_WIPED_AT_ONCE: Final = 1024
_NO_SLOTS: Final = bytes(SLOT * _WIPED_AT_ONCE)
_NO_PAGE: Final = bytes(PAGE)
_descriptors: dict[str, int] = {}


def pack_scope(scope: JobScope) -> bytes:
    """What every line of a scope has in common, as it stands in each slot. Made once per scope."""
    try:
        return dumps((scope.job_id, scope.namespace, dict(scope.fields)), FORMAT)
    except ValueError:  # fields of another process's record, of any type
        return dumps((str(scope.job_id), str(scope.namespace), freeze(dict(scope.fields))), FORMAT)


def plain_exception(captured: CapturedException | None) -> Any:
    """`captured` as plain tuples, which is all that marshal takes."""
    if captured is None:
        return None
    return (
        *captured[:5],
        plain_exception(captured.before),
        captured.link,
        tuple(plain_exception(member) for member in captured.group),
        captured.stack,
    )


def _masked_parts(redactor: Redactor, part: Any) -> Any:
    if isinstance(part, str):
        return redactor.text(part)
    return tuple(_masked_parts(redactor, inner) for inner in part) if isinstance(part, tuple) else part


def captured_exception(plain: Any) -> CapturedException | None:
    """The opposite of `plain_exception`."""
    if plain is None:
        return None
    text, frames, omitted, summary, notes, before, link, group, stack = plain
    members = tuple(member for part in group if (member := captured_exception(part)) is not None)
    return CapturedException(text, frames, omitted, summary, notes, captured_exception(before), link, members, stack)
