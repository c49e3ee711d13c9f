"""What commands write: lines for people or JSON, nothing in them that a terminal obeys.

Made by `cli`, handed to every command.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
from importlib.util import find_spec
from typing import Any, Final, TextIO

from .._pipeline.dotted import load
from .._pipeline.reading import stands_for
from .._pipeline.text import printable
from ..entry import TALLY_FIELDS, Entry

__all__ = ["Console", "line_of", "time_of"]

_INDENT: Final = "    "
_STYLES: Final = ((40, "red", "31"), (30, "yellow", "33"), (20, "", ""), (0, "dim", "2"))


# For jobs: none of them says how bad a line is.
_HUES: Final = (
    ("cyan", "36"),
    ("magenta", "35"),
    ("green", "32"),
    ("blue", "34"),
    ("bright_cyan", "96"),
    ("bright_magenta", "95"),
    ("bright_green", "92"),
    ("bright_blue", "94"),
)


class Console:
    """Standard output and standard error, or what stands for them. Coloured where it is a terminal."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        self._rich: Any = None
        self._is_coloured = (
            self._out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "") != "dumb"
        )
        if self._is_coloured and find_spec("rich") is not None:
            self._rich = load("rich.console.Console")(file=self._out, highlight=False, markup=False, emoji=False)

    @property
    def terminal(self) -> Any:
        """Rich's console, where there is a terminal and rich is installed; else None."""
        return self._rich

    def line(self, text: str, level: int = 20, mark: str = "", hue: int = 0) -> None:
        """A line; what follows a newline in it is indented, so that no text looks like a line of its own.

        `mark` stands before it, in the colour that `hue` names.
        """
        shown = printable(text).replace("\n", f"\n{_INDENT}")
        if mark:
            self._mark(printable(mark), hue)
        name, code = next((name, code) for least, name, code in _STYLES if level >= least or not least)
        if self._rich is not None and name:
            self._rich.print(shown, style=name, soft_wrap=True)
        elif self._is_coloured and code:
            self._out.write(f"\x1b[{code}m{shown}\x1b[0m\n")
        else:
            self._out.write(f"{_encodable(shown, self._out)}\n")

    def _mark(self, text: str, hue: int) -> None:
        name, code = _HUES[hue % len(_HUES)]
        if self._rich is not None:
            self._rich.print(text, style=name, soft_wrap=True, end="")
        elif self._is_coloured:
            self._out.write(f"\x1b[{code}m{text}\x1b[0m")
        else:
            self._out.write(_encodable(text, self._out))
        self._out.write(" ")

    def entry(self, entry: Entry, hue: int | None = None, fields: bool = False) -> None:
        """A line of a job's log; `hue`: its job before it; `fields`: and below what `extra` and the scope added."""
        text = line_of(entry)
        mark = "" if hue is None else f"[{_one_line(entry.job_id)}]"
        if fields and (shown := _fields_of(entry)):
            text = f"{text}\n{shown}"
        if entry.exception:
            text = f"{text}\n{entry.exception}"
        self.line(text, entry.level, mark, hue or 0)

    def json(self, value: Any) -> None:
        """A value as one line of JSON, in ASCII."""
        self._out.write(json.dumps(value) + "\n")

    def problem(self, text: str) -> None:
        """A line on standard error."""
        self._out.flush()
        self._err.write(_encodable(f"joblog: {printable(text)}", self._err) + "\n")

    def flush(self) -> None:
        """Have everything written."""
        self._out.flush()

    def give_up(self) -> None:
        """Standard output is closed at its other end: what is still to be written goes nowhere."""
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
        except (OSError, ValueError):
            pass  # it is no file


def line_of(entry: Entry) -> str:
    """An entry as text: time, level, logger, message, and of a tally what it stands for."""
    text = f"{time_of(entry.created)} {entry.level_name:<8} {_one_line(entry.logger)}: {entry.message}"
    return text + stands_for(entry)


def _fields_of(entry: Entry) -> str:
    """Its fields as `name=value`; values as JSON unless they are plain words."""
    left_out = () if entry.tally is None else TALLY_FIELDS
    return " ".join(f"{_one_line(name)}={_value(it)}" for name, it in entry.fields.items() if name not in left_out)


def _value(value: Any) -> str:
    if isinstance(value, str) and value and not any(char.isspace() or char in '"={}[]' for char in value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def time_of(created: float) -> str:
    """A time as it is here, to the millisecond."""
    try:
        return dt.datetime.fromtimestamp(created).astimezone().isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{created:.3f}"


def _one_line(text: str) -> str:
    return text.replace("\n", " ")


def _encodable(text: str, stream: TextIO) -> str:
    """`text` with escapes for what the stream's encoding lacks."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
