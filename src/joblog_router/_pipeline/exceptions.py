"""Tracebacks: a compact copy on the logging thread, text on the writer thread.

The copy pins no frame and no local variable; rendering, which reads source files, costs a hundred times as much and is
not paid by the application. Called by `capture` and by the writer's conversion of lines; imports `text`.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

from .text import MAX_FIELD, MAX_MESSAGE, clip

_MAX_FRAMES = 100
_MAX_CHAIN = 10
_MAX_GROUP = 20
# Of all exceptions of one record together: groups of groups grow with a power.
_MAX_TOGETHER = 100

_CAUSE = "The above exception was the direct cause of the following exception:"
_CONTEXT = "During handling of the above exception, another exception occurred:"


class CapturedException(NamedTuple):
    """What is needed to print a traceback later. `text` is set where somebody rendered it before."""

    text: str
    frames: tuple[tuple[str, int, str], ...] = ()
    omitted: int = 0
    summary: str = ""
    notes: tuple[str, ...] = ()
    before: CapturedException | None = None
    link: str = ""
    group: tuple[CapturedException, ...] = ()
    stack: str = ""


def capture_exception(record: logging.LogRecord) -> CapturedException | None:
    """The exception and stack of a record that has one; None otherwise. Never raises."""
    stack = record.stack_info or ""
    info = record.exc_info
    if isinstance(info, tuple) and len(info) == 3 and isinstance(info[1], BaseException):
        try:
            captured = _capture(info[1], info[2], 0, set())
        except Exception:
            captured = CapturedException(f"{type(info[1]).__name__} (its traceback could not be read)")
        return captured._replace(stack=clip(str(stack), MAX_FIELD)) if stack else captured
    text = record.exc_text or ""
    if text or stack:
        return CapturedException(clip(str(text), MAX_MESSAGE), stack=clip(str(stack), MAX_FIELD))
    return None


def _capture(error: BaseException, tb: TracebackType | None, depth: int, seen: set[int]) -> CapturedException:
    seen.add(id(error))
    frames: list[tuple[str, int, str]] = []
    omitted = 0
    while tb is not None:
        if len(frames) >= _MAX_FRAMES:
            # Keep the outer half and the innermost frames: that is where it came from and where it broke.
            del frames[_MAX_FRAMES // 2]
            omitted += 1
        code = tb.tb_frame.f_code
        frames.append((code.co_filename, tb.tb_lineno or 0, code.co_qualname))
        tb = tb.tb_next
    before: CapturedException | None = None
    link = ""
    earlier = _before(error)
    if earlier is not None and id(earlier) not in seen:
        before = _capture_next(earlier, depth, seen)
        link = _CONTEXT if error.__cause__ is None else _CAUSE
    group: tuple[CapturedException, ...] = ()
    if isinstance(error, BaseExceptionGroup):
        group = _members(error.exceptions, depth, seen)
    notes = tuple(clip(str(note), MAX_FIELD) for note in _notes_of(error))
    return CapturedException("", tuple(frames), omitted, _summary_of(error), notes, before, link, group)


def _capture_next(error: BaseException, depth: int, seen: set[int]) -> CapturedException:
    """One that another holds; where they are too many, the root of it alone."""
    if depth < _MAX_CHAIN and len(seen) < _MAX_TOGETHER:
        return _capture(error, error.__traceback__, depth + 1, seen)
    return CapturedException(f"[some exceptions are not shown; the innermost is:]\n{_summary_of(_root_of(error))}")


def _members(exceptions: Sequence[BaseException], depth: int, seen: set[int]) -> tuple[CapturedException, ...]:
    """A group's exceptions, and how many more there are."""
    limit = _MAX_GROUP if depth < _MAX_CHAIN and len(seen) < _MAX_TOGETHER else 1
    group: list[CapturedException] = []
    shown = 0
    for member in exceptions[:limit]:
        if group and len(seen) >= _MAX_TOGETHER:
            break
        shown += 1
        if id(member) not in seen:
            group.append(_capture_next(member, depth, seen))
    if shown < len(exceptions):
        group.append(CapturedException(f"[{len(exceptions) - shown} more of this group, not shown]"))
    return tuple(group)


def _before(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None:
        return error.__cause__
    return None if error.__suppress_context__ else error.__context__


def _root_of(error: BaseException) -> BaseException:
    """What it goes back to: the first of a group, the cause, or what was handled when it was raised."""
    for _ in range(_MAX_TOGETHER):
        earlier = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else _before(error)
        if earlier is None:
            break
        error = earlier
    return error


def _summary_of(error: BaseException) -> str:
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        text = str(error)
    except Exception:
        text = "<its text could not be made>"
    return clip(f"{name}: {text}" if text else name, MAX_FIELD)


def _notes_of(error: BaseException) -> list[Any]:
    notes = getattr(error, "__notes__", None)
    return notes[:_MAX_GROUP] if isinstance(notes, list) else []


def render_exception(captured: CapturedException) -> str:
    """The text of a captured exception, in the form Python prints it. For the writer thread: reads source files."""
    lines = _render(captured)
    if captured.stack:
        lines += captured.stack.splitlines()
    return clip("\n".join(lines), MAX_MESSAGE)


def _render(captured: CapturedException) -> list[str]:
    if captured.text:
        return captured.text.splitlines()
    lines: list[str] = []
    if captured.before is not None:
        lines += [*_render(captured.before), "", captured.link, ""]
    if captured.frames:
        lines.append("Traceback (most recent call last):")
        half = _MAX_FRAMES // 2 if captured.omitted else len(captured.frames)
        lines += _render_frames(captured.frames[:half])
        if captured.omitted:
            lines.append(f"  [{captured.omitted} frames not shown]")
            lines += _render_frames(captured.frames[half:])
    lines += captured.summary.splitlines() or [""]
    for note in captured.notes:
        lines += note.splitlines()
    for number, member in enumerate(captured.group, 1):
        lines.append(f"  +---------------- {number} ----------------")
        lines += ["  | " + line for line in _render(member)]
    return lines


def _render_frames(frames: tuple[tuple[str, int, str], ...]) -> list[str]:
    summary = traceback.StackSummary.from_list(
        [traceback.FrameSummary(path, line, name, lookup_line=False) for path, line, name in frames]
    )
    return "".join(summary.format()).splitlines()
