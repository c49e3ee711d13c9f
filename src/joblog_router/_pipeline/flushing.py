"""Waiting for the writer: on a thread, or in a coroutine without blocking its loop.

Called by the router for those who flush, on their threads; imports the writer's tickets.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from .writer import Ticket, Writer


def flush(writer: Writer, is_waiting: Callable[[], bool], timeout: float) -> bool:
    """Wait until what was captured before is stored; whether it is. False at once on the writer thread."""
    if writer.is_current():
        return False
    if not is_waiting():
        return True
    done = threading.Event()
    answer = []

    def on_done(complete: bool) -> None:
        answer.append(complete)
        done.set()

    writer.wake(Ticket(time.monotonic() + timeout, on_done))
    if not writer.is_running():
        writer.drain()
        return not is_waiting()
    done.wait(timeout)
    return bool(answer and answer[0])


async def aflush(writer: Writer, is_waiting: Callable[[], bool], timeout: float) -> bool:
    """`flush` for coroutines: the loop goes on meanwhile."""
    if writer.is_current():
        return False
    if not is_waiting():
        return True
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def settle(complete: bool) -> None:
        if not answer.done():
            answer.set_result(complete)

    def on_done(complete: bool) -> None:
        try:
            loop.call_soon_threadsafe(settle, complete)
        except RuntimeError:
            pass  # the loop was closed while the writer worked

    writer.wake(Ticket(time.monotonic() + timeout, on_done))
    if not writer.is_running():
        # In a thread, for the loop's sake; where none can be started any more nothing else goes on either.
        try:
            await asyncio.wait_for(loop.run_in_executor(None, writer.drain), timeout)
        except TimeoutError:
            return False
        except RuntimeError:
            writer.drain()
        return not is_waiting()
    try:
        return await asyncio.wait_for(answer, timeout)
    except TimeoutError:
        return False
