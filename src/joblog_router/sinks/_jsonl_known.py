"""Which lines of a process a JSON-lines file has already: the file is read once, then only what has been added.

For a process that was killed, or one elsewhere that sends a batch again. Called by the sink, one call at a time. Raises
OSError.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from ..entry import Entry
from ._jsonl_reader import job_file

__all__ = ["KnownFiles"]

# What is remembered of all files together: numbers of lines, and files.
_MAX_NUMBERS: Final = 200_000
_MAX_FILES: Final = 1000
_MAX_ORIGINS: Final = 100
_BUFFER: Final = 262_144
# So much before the place up to which a file was read must stand there still, or it is another one.
_TAIL: Final = 160


class KnownFiles:
    """What was found in the files of a directory, the least recently asked for forgotten first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[Path, _KnownFile] = {}

    def without_known(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries` that no file has."""
        lowest: dict[Path, dict[str, int]] = {}
        paths: dict[tuple[str, str], Path] = {}
        for entry in entries:
            key = (entry.namespace, entry.job_id)
            path = paths.get(key)
            if path is None:
                path = paths[key] = job_file(self._directory, entry.job_id, entry.namespace)
            of_file = lowest.setdefault(path, {})
            of_file[entry.origin] = min(entry.seq, of_file.get(entry.origin, entry.seq))
        stored: dict[Path, Mapping[str, set[int]]] = {}
        for path, origins in lowest.items():
            file = self._files[path] = self._files.pop(path) if path in self._files else _KnownFile(path)
            stored[path] = file.stored(origins)
        self._forget()
        return [
            entry
            for entry in entries
            if entry.seq not in stored[paths[entry.namespace, entry.job_id]].get(entry.origin, ())
        ]

    def clear(self) -> None:
        """Forget everything."""
        self._files.clear()

    def _forget(self) -> None:
        total = sum(file.size() for file in self._files.values())
        while self._files and (total > _MAX_NUMBERS or len(self._files) > _MAX_FILES):
            total -= self._files.pop(next(iter(self._files))).size()


class _KnownFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        # By origin: the lowest number that was looked for, and which from there on are in the file.
        self._floors: dict[str, int] = {}
        self._numbers: dict[str, set[int]] = {}
        self._marks: list[tuple[bytes, re.Pattern[bytes], int]] = []
        # Up to where, in which file, it was read, and what stands before that place.
        self._end = 0
        self._which = (0, 0)
        self._tail = b""

    def size(self) -> int:
        return sum(map(len, self._numbers.values()))

    def stored(self, lowest: Mapping[str, int]) -> Mapping[str, set[int]]:
        """By origin: the numbers of its lines in the file, from the lowest that is asked for on or lower."""
        try:
            with self._path.open("rb", _BUFFER) as file:
                is_known = all(self._floors.get(origin, low + 1) <= low for origin, low in lowest.items())
                if not is_known or not self._is_as_before(file):
                    self._begin(file, lowest)
                self._read_on(file)
        except FileNotFoundError:
            self._end, self._numbers, self._floors = 0, {}, {}
            return {}
        found = {origin: self._numbers[origin] for origin in lowest}
        self._trim(lowest)
        return found

    def _is_as_before(self, file: BinaryIO) -> bool:
        about = os.fstat(file.fileno())
        if (about.st_dev, about.st_ino) != self._which or about.st_size < self._end:
            return False  # pruned, or deleted and begun anew
        file.seek(self._end - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _begin(self, file: BinaryIO, lowest: Mapping[str, int]) -> None:
        about = os.fstat(file.fileno())
        self._which, self._end, self._tail = (about.st_dev, about.st_ino), 0, b""
        if len(self._floors) + len(lowest) > _MAX_ORIGINS:
            self._floors.clear()
        for origin, low in lowest.items():
            self._floors[origin] = min(low, self._floors.get(origin, low))
        self._numbers = {origin: set() for origin in self._floors}
        self._marks = []
        for origin, floor in self._floors.items():
            mark = json.dumps(origin, ensure_ascii=False).encode("utf-8", "backslashreplace")
            number = re.compile(rb'"origin": ' + re.escape(mark) + rb', "seq": (\d{1,18})\b')
            self._marks.append((mark, number, floor))

    def _read_on(self, file: BinaryIO) -> None:
        start = self._end
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n"):
                break  # torn by a kill, and cut off by the next write; or in the middle of being written
            self._end += len(line)
            self._look_at(line)
        if self._end > start:
            file.seek(max(0, self._end - _TAIL))
            self._tail = file.read(min(_TAIL, self._end))

    def _look_at(self, line: bytes) -> None:
        # As text first: most lines are others', or of the time before.
        for mark, number, floor in self._marks:
            if mark in line and not ((found := number.findall(line)) and max(map(int, found)) < floor):
                try:
                    entry = json.loads(line)
                    self._numbers[entry["origin"]].add(entry["seq"])
                except (ValueError, KeyError, TypeError):
                    continue  # not ours, or of an origin that only a text names
                return

    def _trim(self, lowest: Mapping[str, int]) -> None:
        """Lines are asked for in order: what came before is not asked for again, and costs a reading if it is."""
        if self.size() <= _MAX_NUMBERS // 2:
            return
        for origin, low in lowest.items():
            self._floors[origin] = max(low, self._floors[origin])
            self._numbers[origin] = {number for number in self._numbers[origin] if number >= low}
