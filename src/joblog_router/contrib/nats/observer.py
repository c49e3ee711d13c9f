"""The monitor's own connection: what passes the server goes straight to a function, without a task or queue between.

Made by the monitor, on its event loop. Marked, so that `instrument()` in the same process neither binds nor tells what
this client does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client

# Subject, reply and payload as they came; whether there are headers.
Tap = Callable[[str, str, bytes, bytes], None]

INBOX: Final = "_JOBLOG"


class Observer(Client):
    """A client of nats-py with taps: subscriptions whose messages are handed over at once."""

    is_joblog_monitor = True

    def __init__(self) -> None:
        super().__init__()
        self._taps: dict[int, Tap] = {}

    async def tap(self, subject: str, tap: Tap) -> Any:
        """Subscribe; each message goes to `tap`, which must not raise. The subscription, to be ended by `untap`."""

        async def late(message: Any) -> None:
            # Only where nats-py hands messages over in another way than it did so far.
            tap(message.subject, message.reply or "", message.data, b"?" if message.headers else b"")

        subscription = await self.subscribe(subject, cb=late)
        self._taps[subscription._id] = tap
        return subscription

    async def untap(self, subscription: Any) -> None:
        """End what `tap` began."""
        self._taps.pop(subscription._id, None)
        if not self.is_closed:
            await subscription.unsubscribe()

    async def _process_msg(self, sid: int, subject: Any, reply: Any, data: Any, headers: Any) -> None:
        tap = self._taps.get(sid)
        if tap is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        tap(_text(subject), _text(reply), data, headers)


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes | bytearray) else value or ""
