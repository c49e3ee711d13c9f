"""What a running process says about itself, in a file beside its spool: for commands of another process.

Written on the writer thread, at most every few seconds while the process logs; the file goes with the process. Called
by the router and by the commands of other processes, which read it. Imports `spool_folder`. Never raises.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from .report import report_once
from .spool_folder import IS_SUPPORTED, SUFFIX, open_directory, segment_name

STATUS: Final = ".status"
_EVERY: Final = 10.0
_OLD: Final = 86_400.0


class StatusFile:
    """The file of this process, in one directory. `snapshot` gives plain data."""

    def __init__(self, directory: Path, origin: str) -> None:
        self.directory = directory
        self._name = segment_name(origin).removesuffix(SUFFIX) + STATUS
        self._next = 0.0
        self._is_gone = False

    def write(self, snapshot: Callable[[], dict[str, Any]]) -> None:
        """Write it anew if it is time. Never raises."""
        now = time.monotonic()
        if now < self._next or self._is_gone or not IS_SUPPORTED:
            return
        self._next = now + _EVERY
        try:
            text = json.dumps(snapshot(), default=repr)
            folder = open_directory(self.directory)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(self._name + ".new", flags, 0o600, dir_fd=folder)
                with os.fdopen(descriptor, "w", encoding="ascii") as file:
                    file.write(text)
                os.rename(self._name + ".new", self._name, src_dir_fd=folder, dst_dir_fd=folder)
                if self._is_gone:  # taken away meanwhile, on the thread that ends the process
                    os.unlink(self._name, dir_fd=folder)
            finally:
                os.close(folder)
        except Exception as error:  # the snapshot asks what others wrote
            report_once(("status", str(self.directory)), f"no status file in {str(self.directory)!r}: {error!r}")

    def remove(self) -> None:
        """Take it away, at the end of the process."""
        self._is_gone = True
        with contextlib.suppress(OSError):
            (self.directory / self._name).unlink()


def remove_of(directory: Path, segment: str) -> None:
    """Take away the file of a dead process, by the name of its segment."""
    with contextlib.suppress(OSError):
        (directory / (segment.removesuffix(SUFFIX) + STATUS)).unlink()


def running(directory: Path) -> Iterator[dict[str, Any]]:
    """What the processes with a spool in `directory` said of themselves last; those of a day ago are left out."""
    with contextlib.suppress(OSError):
        for path in sorted(directory.glob(f"*{STATUS}")):
            try:
                said = json.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(said, dict) and time.time() - path.stat().st_mtime < _OLD:
                yield said
