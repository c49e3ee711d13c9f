"""The kill switch: whether anything is captured. Turning it swaps what handlers do; the way of a record stays as it is.

`use` is called at configuration. A question given to it is asked by the writer's thread, once a second, never by a
thread that logs. Imports `report` alone: handlers, router and writer ask it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import LogRecord

from .report import report_once

INTERVAL = 1.0

is_on = True
"""Read by handlers where they make the function that captures."""

_ask: Callable[[], bool] | None = None
_ask_at = 0.0
_renew: Callable[[], None] | None = None


def use(enabled: bool | Callable[[], bool]) -> None:
    """Turn capturing on or off, or have `enabled` asked once a second: on until it first answered."""
    global _ask, _ask_at
    _ask = None if isinstance(enabled, bool) else enabled
    _ask_at = 0.0
    _turn(enabled if isinstance(enabled, bool) else True)


def on_turn(renew: Callable[[], None]) -> None:
    """Have `renew` called when the switch was turned."""
    global _renew
    _renew = renew


def next_ask() -> float | None:
    """When the question is to be asked (`time.monotonic`), None where there is none. On the writer's thread."""
    return None if _ask is None else _ask_at


def ask() -> None:
    """Ask if it is time to. A question that fails leaves the switch as it is. On the writer's thread."""
    global _ask_at
    question = _ask
    if question is None or time.monotonic() < _ask_at:
        return
    _ask_at = time.monotonic() + INTERVAL
    try:
        answer = question()
    except Exception as error:
        report_once(("switch", repr(error)), f"ENABLED could not be asked, capturing stays as it is: {error!r}")
        return
    if question is _ask:
        _turn(answer)


def make_idle(wake: Callable[[], None]) -> Callable[[LogRecord], bool]:
    """What a handler does while the switch is off: nothing; the first record starts the thread that asks."""
    may_wake = iter((True,) if _ask is not None else ())

    def ignore(record: LogRecord) -> bool:
        if next(may_wake, False):
            wake()
        return False

    return ignore


def _turn(to: bool) -> None:
    global is_on
    if to != is_on:
        is_on = to
        if _renew is not None:
            _renew()
