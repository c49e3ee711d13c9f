"""What a worker's answer to a message says, by its payload.

Called on the event loop wherever an answer passes, in both halves and by the doctor's look; imports the standard
library only.
"""

from __future__ import annotations

from typing import Final

ACK: Final = "ack"
NAK: Final = "nak"
TERM: Final = "term"
IN_PROGRESS: Final = "in progress"


def kind_of(payload: bytes) -> str:
    """Whether it acknowledges, sends back, terminates, or asks for more time."""
    if not payload or payload == b"+ACK":
        return ACK
    if payload.startswith(b"-NAK"):
        return NAK
    if payload.startswith(b"+TERM"):
        return TERM
    # `+NXT`, and whatever else the server takes for one, acknowledges.
    return IN_PROGRESS if payload.startswith(b"+WPI") else ACK
