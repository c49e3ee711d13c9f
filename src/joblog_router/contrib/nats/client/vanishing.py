"""A stream that is gone, or new, under a job that still publishes into it: its messages went with it.

Called by `management` and `publishing` on the event loop. Three ways to notice: the application asks for the stream
and finds none, the stream is created again, or its sequence numbers start over.
"""

from __future__ import annotations

from typing import Any, Final

from .. import told
from ..told import tell
from .ledger import Ledger
from .ownership import StreamKey
from .state import State, report_failure
from .sums import Sum

_NO_STREAM: Final = 10059


def is_missing(refused: dict[str, Any] | None) -> bool:
    """Whether the API's error says that there is no such stream."""
    return refused is not None and refused.get("err_code") == _NO_STREAM


def vanished(state: State, key: StreamKey, again: str = "") -> None:
    """The stream is not the one that open scopes published into: one line for each of them."""
    for ledger in state.ledgers.open_ones():
        for booked in list(ledger.sums.values()):
            booked.end_run()
            if booked.stream == key.stream and booked.accepted:
                replaced(ledger, booked, again)


def replaced(ledger: Ledger, booked: Sum, again: str) -> None:
    """Close the sum of a stream that is gone, and say what went with it."""
    ledger.sums.pop((booked.job, booked.stream), None)
    booked.end_run()
    stored = booked.accepted - booked.duplicates
    booked.tell()
    tell(
        booked.job,
        told.STREAM_VANISHED,
        booked.stream,
        again or "is gone",
        f"{stored:,}",
        "s" if stored != 1 else "",
        "are" if stored != 1 else "is",
        stream=booked.stream,
        messages=stored,
        first_seq=booked.first_seq or None,
        last_seq=booked.last_seq or None,
    )


def starts_over(booked: Sum, ack: Any, started: float) -> bool:
    """Whether a message sent after all that `booked` knows got a number that was given before."""
    return bool(booked.last_seq and not ack.duplicate and ack.seq <= booked.last_seq and started > booked.last_stored)


async def look_for(state: State, client: Any, key: StreamKey) -> None:
    """Nobody took a message: ask whether the stream that took the ones before is gone. One request, a second at most.

    What goes wrong here is nothing to tell: the message's own failure is told.
    """
    try:
        body = await state.questions.ask(client, state.request, f"$JS.API.STREAM.INFO.{key.stream}")
        if body is not None and is_missing(body.get("error")):
            vanished(state, key)
    except Exception as error:
        report_failure(look_for, error)
