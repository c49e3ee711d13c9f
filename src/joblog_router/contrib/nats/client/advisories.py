"""What the server says about messages that were given up or terminated, where the application listens to it.

Called by `fetching` and `messages` on the event loop with messages that the application received; nothing is
subscribed here, since an account without the permission would hear of it in its own error callback.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from ....context import detached
from .acks import tell_terminated
from .consumption import Consumption
from .exhaustion import give_up, tell_given_up
from .ownership import StreamKey
from .state import State, quietly

_PREFIX: Final = "$JS.EVENT.ADVISORY.CONSUMER."
_GIVEN_UP: Final = _PREFIX + "MAX_DELIVERIES."
_TERMINATED: Final = _PREFIX + "MSG_TERMINATED."
_DELAY: Final = 0.5


def is_advisory(subject: str) -> bool:
    """Whether a message is one of those that are read here."""
    return subject.startswith((_GIVEN_UP, _TERMINATED))


def heard(state: State, server: str, messages: list[Any]) -> None:
    """Book advisories; those of one batch make one line for each job."""
    touched: dict[int, Consumption] = {}
    for message in messages:
        taken = quietly(_heard, state, server, message)
        if taken is not None:
            touched[id(taken)] = taken
    for taken in touched.values():
        if taken.given_up_pace.is_due():
            tell_given_up(taken, source="advisory")
        elif taken.to_give_up:
            # Held back; whatever comes until then is in the same line.
            with detached():
                asyncio.get_running_loop().call_later(_DELAY, quietly, tell_given_up, taken, "advisory")


def _heard(state: State, server: str, message: Any) -> Consumption | None:
    advisory = json.loads(message.data)
    stream, consumer, seq = str(advisory["stream"]), str(advisory["consumer"]), int(advisory["stream_seq"])
    key = StreamKey(server, stream)
    job = state.owner(key, consumer=consumer)
    if not job:
        return None
    taken = state.consumption(job, key, consumer)
    deliveries = int(advisory.get("deliveries") or 0)
    if message.subject.startswith(_GIVEN_UP):
        give_up(taken, seq, deliveries, None)
        return taken
    if seq not in taken.ended:
        taken.end(seq)
        taken.terminated += 1
        tell_terminated(taken, seq, deliveries, str(advisory.get("reason") or ""))
    return None
