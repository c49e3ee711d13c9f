"""What a running process says about itself, in a file beside its spool: for commands of another process.

Written on the writer thread, at most every few seconds while the process logs; the file goes with the process, or with
the last segment that it left (a note that it ended before its time then stands there for a day), and what stays of
others all the same is swept. Called by the router, by recovery and by
the commands of other processes, which read it. Imports `spool_folder` and `origins`. Never raises.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from . import origins
from .report import report_once
from .spool_folder import IS_SUPPORTED, SUFFIX, open_directory, segment_name

STATUS: Final = ".status"
ENDED: Final = ".ended"
_MAKING: Final = STATUS + ".new"
_NAME: Final = re.compile(r"(?P<stem>(?P<host>.+)-(?P<pid>[0-9]{1,20})-[0-9a-f]+)\.(status(\.new)?|ended)")
_EVERY: Final = 10.0
_OLD: Final = 86_400.0
_AT_END: Final = 1.0  # seconds that the end of the process waits for a file that is being written


class StatusFile:
    """The file of this process, in one directory. `snapshot` gives plain data."""

    def __init__(self, directory: Path, origin: str) -> None:
        self.directory = directory
        self._stem = _stem_of(origin)
        self._next = 0.0
        self._is_gone = False
        # The writer is a daemon: the process must not end between its making a file and giving it its name.
        self._lock = threading.Lock()

    def write(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Write it anew if it is time. Never raises."""
        now = time.monotonic()
        if now < self._next or self._is_gone or not IS_SUPPORTED:
            return
        self._next = now + _EVERY
        try:
            text = json.dumps(snapshot(), default=repr)
            with self._lock:
                if not self._is_gone:
                    self._replace(text)
        except Exception as error:  # the snapshot asks what others wrote
            report_once(("status", str(self.directory)), f"no status file in {str(self.directory)!r}: {error!r}")

    def _replace(self, text: str) -> None:
        making = self._stem + _MAKING
        folder = open_directory(self.directory)
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(making, flags, 0o600, dir_fd=folder)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
            os.rename(making, self._stem + STATUS, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Take it away, at the end of the process; nothing is written from here on."""
        self._is_gone = True
        is_held = self._lock.acquire(timeout=_AT_END)
        _remove(self.directory, self._stem)
        if is_held:
            self._lock.release()


def note_end(directory: Path, origin: str) -> None:
    """Have the file of a dead process say that it ended before its time, for a day; unless it left other segments.

    `origin` is that of a segment that was its.
    """
    process = origins.of_process(origin)
    if has_left(directory, process):
        return
    stem = _stem_of(process)
    note = directory / (stem + ENDED)
    with contextlib.suppress(OSError):
        try:
            (directory / (stem + STATUS)).rename(note)
            os.utime(note)
        except FileNotFoundError:  # it was killed before it said anything
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(note, flags, 0o600), "w", encoding="ascii") as file:
                json.dump({"origin": process}, file)
    _remove(directory, stem)


def sweep(directory: Path) -> None:
    """Take away what processes said of themselves that are gone and left no segment. In a directory of this user's own.

    Whether a process runs is known of those on this host; a file of another is swept when nobody reads it any more. One
    that was idle for so long writes it anew with its next line.
    """
    if not IS_SUPPORTED:
        return
    with contextlib.suppress(OSError):
        folder = open_directory(directory)
        try:
            names = os.listdir(folder)  # noqa: PTH208 - of this directory, whatever its name leads to meanwhile
            # Of "host-1-ab.2.spool" every part that ends before a dot: one of them is the process.
            left = {
                name[:end] for name in names if name.endswith(SUFFIX) for end, sign in enumerate(name) if sign == "."
            }
            for name in names:
                if (found := _NAME.fullmatch(name)) is None or found["stem"] in left:
                    continue
                with contextlib.suppress(OSError):  # gone meanwhile
                    about = os.stat(name, dir_fd=folder, follow_symlinks=False)
                    is_note = name.endswith(ENDED)
                    if _is_old(about) or (not is_note and _is_gone(found["host"], int(found["pid"]))):
                        os.unlink(name, dir_fd=folder)
        finally:
            os.close(folder)


def has_left(directory: Path, origin: str) -> bool:
    """Whether a segment of the process called `origin` is there: its own while it runs, what is left of it later."""
    beginning = _stem_of(origin) + "."
    with contextlib.suppress(OSError):
        return any(path.name.startswith(beginning) and path.name.endswith(SUFFIX) for path in directory.iterdir())
    return False


def is_running(pid: object) -> bool:
    """Whether there is a process with this number on this host."""
    if type(pid) is not int or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return True


def _stem_of(origin: str) -> str:
    return segment_name(origin).removesuffix(SUFFIX)


def _remove(directory: Path, stem: str) -> None:
    for suffix in (STATUS, _MAKING):
        with contextlib.suppress(OSError):
            (directory / (stem + suffix)).unlink()


def _is_gone(host: str, pid: int) -> bool:
    return host == _stem_of(origins.host()) and not is_running(pid)


def _is_old(about: os.stat_result) -> bool:
    return time.time() - about.st_mtime >= _OLD


def running(directory: Path) -> Iterator[dict[str, Any]]:
    """What the processes with a spool in `directory` said of themselves last; those of a day ago are left out."""
    return _said(directory, STATUS)


def ended(directory: Path) -> Iterator[dict[str, Any]]:
    """What those said last that ended before their time and whose lines are stored by now; `origin` at least."""
    return _said(directory, ENDED)


def _said(directory: Path, suffix: str) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(OSError):
        for path in sorted(directory.glob(f"*{suffix}")):
            try:
                said = json.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(said, dict) and not _is_old(path.stat()):
                yield said
