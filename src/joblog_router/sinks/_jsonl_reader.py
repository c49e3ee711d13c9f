"""Reading job logs out of JSON-lines files, without reading more of a file than a page needs.

A cursor is an offset behind a newline and a digest of the bytes before it. Where they do not agree (the file was
pruned, or deleted and begun anew) the place is looked for; if it is gone, all that is there came later.
Called by readers on their own threads; `start_of_kept` and the like by the sink, which holds the file's lock.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

from .._pipeline import reading
from .._pipeline.escaping import escape_job_id
from .._pipeline.namespaces import in_force
from .._pipeline.text import clean
from ..entry import Audience, Entry
from ..exceptions import SinkUnavailableError
from .store import ALL, Page, Selection, Summary

__all__ = ["JsonLinesReader", "job_file"]

_KIND: Final = "l1"
_BLOCK: Final = 65_536
# How much one call looks through at most for lines that are selected: the next call goes on.
_AT_MOST: Final = 32 * 1024 * 1024
_DIGESTED: Final = 160
_LEVELS: Final = logging.getLevelNamesMapping()
_NAMELESS: Final = re.compile(r"Level (-?\d{1,9})")


def job_file(directory: Path, job_id: str, namespace: str) -> Path:
    """The file of a job's log: in the directory, or in that of its namespace there."""
    folder = directory / escape_job_id(namespace) if namespace else directory
    return folder / f"{escape_job_id(job_id)}.jsonl"


class JsonLinesReader:
    """The reading half of JsonLinesSink."""

    _directory: Path

    def newest(self, job_id: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None) -> Page:
        """See Store. Reads the file backwards, as far as the page goes."""
        log = _Log(self._directory, job_id, namespace)
        with log.opened() as file:
            end = 0 if file is None else _complete_end(file)
            return log.page_down(file, (end, end), selection, limit, reading.Folds())

    def before(
        self, job_id: str, earlier: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        offset, digest, folds = _position(earlier)
        log = _Log(self._directory, job_id, namespace)
        with log.opened() as file:
            end = 0 if file is None else _complete_end(file)
            until = 0 if file is None else _find(file, end, offset, digest)
            return log.page_down(file, (end, until), selection, limit, folds)

    def after(
        self, job_id: str, cursor: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        offset, digest, _ = _position(cursor) if cursor else (0, "", None)
        log = _Log(self._directory, job_id, namespace)
        with log.opened() as file:
            if file is None:
                return Page([], cursor)
            end = _complete_end(file)
            is_wanted = log.chooser(selection)
            start = position = _find(file, end, offset, digest)
            found: list[Entry] = []
            for line in _lines(file, start, end):
                entry = _entry(line)
                if entry is not None and is_wanted(entry):
                    if len(found) >= reading.positive(limit):
                        break
                    found.append(entry)
                position += len(line)
                if position - start > _AT_MOST:
                    break
            return Page(reading.in_order(found), _cursor(file, position), None, position < end)

    def summary(self, job_id: str, audience: Audience = "all", namespace: str | None = None) -> Summary:
        """See Store. Reads the whole file."""
        log = _Log(self._directory, job_id, namespace)
        is_wanted = log.chooser(Selection(audience=audience))
        with log.opened() as file:
            lines = [] if file is None else _lines(file, 0, _complete_end(file))
            entries = (entry for entry in map(_entry, lines) if entry is not None and is_wanted(entry))
            return reading.summarize(log.job_id, entries)


class _Log:
    """One job's file."""

    def __init__(self, directory: Path, job_id: str, namespace: str | None) -> None:
        self.job_id = clean(str(job_id))
        self.namespace = in_force(namespace)
        self.path = job_file(directory, self.job_id, self.namespace)

    @contextlib.contextmanager
    def opened(self) -> Iterator[io.FileIO | None]:
        """The file, or None where there is none."""
        try:
            file = io.FileIO(self.path)
        except FileNotFoundError:
            yield None
            return
        except OSError as error:
            raise unreadable(self.path, error) from error
        with file:
            try:
                yield file
            except OSError as error:
                raise unreadable(self.path, error) from error

    def chooser(self, selection: Selection) -> Callable[[Entry], bool]:
        return reading.chooser(selection, reading.shown_since(self.job_id, self.namespace))

    def page_down(
        self, file: io.FileIO | None, ends: tuple[int, int], selection: Selection, limit: int, folds: reading.Folds
    ) -> Page:
        """The page before the second of `ends`, in a file whose complete lines go to the first."""
        if file is None:
            return Page([], "")
        end, until = ends
        is_wanted = self.chooser(selection)

        def rows() -> Iterator[tuple[int, Entry | None]]:
            for offset, line in _lines_backwards(file, until):
                entry = _entry(line)
                if entry is not None and is_wanted(entry):
                    yield offset, entry
                elif until - offset > _AT_MOST:
                    yield offset, None

        entries, last = reading.take_newest(rows(), reading.positive(limit), folds)
        earlier = _cursor(file, last, folds.seen()) if last else None
        return Page(entries, _cursor(file, end), earlier)


def unreadable(path: Path, error: OSError) -> SinkUnavailableError:
    """What is raised where a file that is there cannot be read."""
    return SinkUnavailableError(
        f"store 'jsonl' cannot read {str(path)!r}: {error.strerror or error}",
        "run this as the user who writes the logs, or make them readable",
    )


# --- lines ---------------------------------------------------------------------------------------------------


def _read(file: io.FileIO, start: int, end: int) -> bytes:
    file.seek(start)
    parts: list[bytes] = []
    while start < end:
        part = file.read(end - start)
        if not part:  # it was cut meanwhile
            break
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _complete_end(file: io.FileIO) -> int:
    """The offset behind the last newline: what follows is being written, or was torn by the end of a process."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK)
        newline = _read(file, start, end).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _lines(file: io.FileIO, start: int, end: int) -> Iterator[bytes]:
    """The lines from `start` to `end`, each with its newline."""
    rest = b""
    while start < end:
        block = _read(file, start, min(end, start + _BLOCK))
        if not block:
            return
        start += len(block)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line + b"\n"


def _lines_backwards(file: io.FileIO, end: int) -> Iterator[tuple[int, bytes]]:
    """The lines before `end` with their offsets, the last first."""
    tail: list[bytes] = []  # the parts of a line whose beginning was not read yet, the last first
    while end > 0:
        start = max(0, end - _BLOCK)
        block = _read(file, start, end)
        stop = len(block)
        while stop > 0 and (cut := block.rfind(b"\n", 0, stop - 1 if not tail else stop)) >= 0:
            yield start + cut + 1, block[cut + 1 : stop] + b"".join(reversed(tail))
            tail.clear()
            stop = cut + 1
        if stop > 0:
            tail.append(block[:stop])
        end = start
    if tail:
        yield 0, b"".join(reversed(tail))


def count_lines(file: io.FileIO, end: int) -> int:
    """How many lines there are before `end`; a torn one counts."""
    return sum(1 for _ in _lines(file, 0, end)) + (end > _complete_end(file))


def start_of_kept(file: io.FileIO, older_than: float, keep: int | None) -> int:
    """The offset of the first line that is neither older nor beyond the newest `keep`; the end if there is none."""
    end = _complete_end(file)
    start = 0
    for line in _lines(file, 0, end):
        entry = _entry(line)
        if entry is not None and entry.created >= older_than:
            break
        start += len(line)
    if keep is not None:
        offset = end
        for offset, _ in islice(_lines_backwards(file, end), keep):  # noqa: B007 - the last one is wanted
            pass
        start = max(start, offset)
    return start


def _entry(line: bytes) -> Entry | None:
    """The entry of a line as `Entry.as_dict` makes it; None for what is none. The one place that reads that form."""
    try:
        found: Any = json.loads(line)
        name = found["level"]
        level = found.get("levelno", _LEVELS.get(name))
        if level is None:
            level = int(_NAMELESS.fullmatch(name)[1])  # type: ignore[index]
        exception = found.get("exception")
        fields = found.get("fields")
        # By position: by name it would take twice as long.
        return Entry(
            str(found["job_id"]),
            reading.datable(float(found["created"])),
            int(level),
            str(found["logger"]),
            str(found["message"]),
            None if exception is None else str(exception),
            fields if isinstance(fields, dict) else {},
            str(found.get("path", "")),
            int(found.get("line") or 0),
            str(found["origin"]),
            int(found["seq"]),
            int(found.get("n") or 0),
            str(found.get("namespace", "")),
            "all" if found.get("audience", "all") == "all" else "staff",
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


# --- cursors -------------------------------------------------------------------------------------------------


def _digest(text: bytes) -> str:
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _digest_before(file: io.FileIO, offset: int) -> str:
    return _digest(_read(file, max(0, offset - _DIGESTED), offset)) if offset else ""


def _cursor(file: io.FileIO, offset: int, *more: Any) -> str:
    return reading.encode(_KIND, offset, _digest_before(file, offset), *more)


def _position(text: str) -> tuple[int, str, reading.Folds]:
    try:
        offset, digest, *folds = reading.decode(text, _KIND)
        if not reading.is_number(offset) or not isinstance(digest, str):
            raise ValueError("no position")
        return offset, digest, reading.Folds(*folds)
    except (ValueError, TypeError) as error:
        raise reading.foreign(text) from error


def _find(file: io.FileIO, end: int, offset: int, digest: str) -> int:
    """Where the position of a cursor is now. 0 where what stood before it is gone."""
    if offset <= end and _digest_before(file, offset) == digest:
        return offset
    position, before = 0, b""
    for line in _lines(file, 0, end):
        position += len(line)
        before = (before + line)[-_DIGESTED:]
        if _digest(before) == digest:
            return position
    return 0
