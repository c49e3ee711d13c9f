"""Leaving in time where nothing else would: SIGTERM ends a process without its exit functions.

Called by the application at its start, on the main thread; the handler runs there between two steps of its code.
Imports the router.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from ..exceptions import JobLogError
from .router import router

_LONGEST = 60.0


def flush_on_sigterm(timeout: float = 5.0) -> None:
    """Store what waits when SIGTERM comes, for at most `timeout` seconds, then do what was to be done before.

    For programs that have no handler of their own: the default action ends a process without its exit functions. A
    handler that is there is called afterwards; one that is installed later replaces this one. With the spool on
    nothing is lost without it either: it only saves the next process the work. Raises JobLogError outside the main
    thread, where Python allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        raise JobLogError("flush_on_sigterm() must be called on the main thread")
    timeout = min(max(timeout, 0.0), _LONGEST)
    before: Any = signal.getsignal(signal.SIGTERM)
    if getattr(before, "_joblog_flushes", False):
        return

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        router.leave(timeout, is_last=before in (signal.SIG_DFL, None))
        if callable(before):
            before(number, frame)
        elif before is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    on_sigterm._joblog_flushes = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, on_sigterm)
