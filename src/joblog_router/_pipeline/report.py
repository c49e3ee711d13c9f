"""One line on stderr, once per cause: how this library speaks about itself without using logging.

Called from any thread, also while a record is handled. Once a router runs, lines are handed to its writer thread, so
that the thread that logs does no I/O; and where nobody reads what a pipe is full of they wait, as the writer must not.
Imports `text`, so that everything may import it.
"""

from __future__ import annotations

import contextlib
import select
import sys
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from .text import printable

_MAX_CAUSES = 1000
_MAX_LENGTH = 2000
# What a pipe that says it takes something takes at once: POSIX has 512 at least, Linux 4096.
_MAX_BYTES = 4000

_seen: set[Hashable] = set()
_waiting: deque[str] = deque(maxlen=_MAX_CAUSES)
_wake_writer: Callable[[], None] | None = None
# What takes secrets out of a line; set by `redaction`, which itself reports.
_mask: Callable[[str], str] | None = None


def report_once(cause: Hashable, text: str) -> None:
    """Say `text` on stderr unless `cause` was reported before in this process. Never raises."""
    if cause in _seen:
        return
    if len(_seen) >= _MAX_CAUSES:
        _seen.clear()  # rather twice than never again
    _seen.add(cause)
    report(text)


def report(text: str) -> None:
    """Say `text` on stderr, from the writer thread where there is one. Never raises."""
    if _wake_writer is None:
        _print(text)
    else:
        _waiting.append(text)
        _wake_writer()


def use_writer(wake: Callable[[], None] | None) -> None:
    """Hand lines over to the writer thread, which calls `print_waiting` after `wake()`; None prints at once."""
    global _wake_writer
    _wake_writer = wake


def masked(text: str) -> str:
    """`text` without secrets, as it may stand in a message or file of this library's own."""
    return text if _mask is None else _mask(text)


def use_mask(mask: Callable[[str], str]) -> None:
    """Take secrets out of every line with `mask`."""
    global _mask
    _mask = mask


def has_waiting() -> bool:
    """Whether a line waits for the writer thread."""
    return bool(_waiting)


def print_waiting() -> None:
    """Print what `report` left for the writer thread, as far as it can be printed at once."""
    while _waiting and _takes_a_line(_stream()):
        with contextlib.suppress(IndexError):
            _print(_waiting.popleft())


def forget() -> None:
    """Let every cause be reported again (a new configuration, a test)."""
    _seen.clear()


def _stream() -> Any:
    # sys.stderr may be a proxy that logs (Celery's is): the original stream cannot loop.
    return sys.__stderr__ or sys.stderr


def _takes_a_line(stream: Any) -> bool:
    """Whether a line can be written without waiting, where that can be known: of pipes, sockets and terminals."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
        return bool(poll.poll(0))
    except Exception:
        return True  # no file, or a system without poll


def _print(text: str) -> None:
    stream = _stream()
    if stream is None:
        return
    with contextlib.suppress(Exception):
        # Before the line is cut: half a secret is recognised by nobody.
        text = _mask(text) if _mask is not None else text
        line = "joblog_router: " + printable(text.replace("\n", " ")[:_MAX_LENGTH])
        stream.write(line.encode("utf-8", "backslashreplace")[:_MAX_BYTES].decode("utf-8", "ignore") + "\n")
        stream.flush()
