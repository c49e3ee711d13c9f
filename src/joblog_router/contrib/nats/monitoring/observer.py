"""The monitor's own connection: what passes the server goes straight to a function, without a task or queue between.

Made by the monitor when it starts, on its event loop: the one module of this half that imports nats-py. Marked, so that
`instrument()` in the same process neither binds nor tells what this client does.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

# Subject, reply and payload as they came; whether there are headers.
Tap = Callable[[str, str, bytes, bytes], None]

# What many acknowledgements in a row hold, each as the groups of `_ACKNOWLEDGED`; False: hand them over one by one.
Bulk = Callable[[list[tuple[bytes, ...]]], bool]

INBOX: Final = "_JOBLOG"

# One message: a plain acknowledgement, as it comes live, or with a reply that says where in the recorder it stands.
# Groups: stream and consumer; attempt; sequence; id of the subscription; number and place in the recorder. The last
# group is there only where another message begins, so that `findall` does not pass over one unnoticed.
_ACKNOWLEDGED: Final = re.compile(
    rb"MSG \$JS\.ACK\.([^. \r\n]++\.[^. \r\n]++)\.(\d++)\.(\d++)\.\d++\.\d++\.\d++ (\d++) "
    rb"(?:\$JS\.ACK\.[^. \r\n]++\.[^. \r\n]++\.\d++\.(\d++\.\d++)\.\d++\.\d++ |[^ \r\n]++ )?"
    rb"(?:0\r\n|4\r\n\+ACK)\r\n"
    rb"|([A-Z+-])"
)
_START: Final = b"MSG $JS.ACK."
_LONGEST: Final = 1024


class _Parser(Parser):
    """nats-py's parser, with runs of acknowledgements taken out before it sees them: a tenth of the cost."""

    def __init__(self, client: Observer) -> None:
        self._client = client
        super().__init__(client)

    def reset(self) -> None:
        """The connection is a new one."""
        super().reset()
        self._rest = b""

    async def parse(self, data: bytes = b"") -> None:
        """Called with what the connection brought."""
        data = self._rest + bytes(data)
        self._rest = b""
        place = 0
        while place < len(data):
            if self.state == AWAITING_CONTROL_LINE and not self.buf and self._client.takes_bulk:
                place = self._client.take(data, place)
                if self._is_cut_off(data, place):
                    self._rest = data[place:]  # the rest of it comes next
                    return
            if place < len(data):
                # Up to the next one, unless that stands in the payload of another message: then the state says so.
                following = data.find(b"\r\n" + _START, place) if self._client.takes_bulk else -1
                end = len(data) if following < 0 else following + 2
                await super().parse(data[place:end])
                place = end

    @staticmethod
    def _is_cut_off(data: bytes, place: int) -> bool:
        """Whether what is left is the beginning of an acknowledgement, and no more."""
        left = len(data) - place
        if not 0 < left < _LONGEST:
            return False
        begins = data[place : place + len(_START)]
        return _START.startswith(begins) and (left < len(_START) or data.count(b"\r\n", place) < 2)


class Observer(Client):
    """A client of nats-py with taps: subscriptions whose messages are handed over at once."""

    is_joblog_monitor = True

    def __init__(self) -> None:
        super().__init__()
        self._taps: dict[int, Tap] = {}
        self._bulks: dict[bytes, Bulk] = {}
        self._ps = _Parser(self)

    @property
    def is_clustered(self) -> bool:
        """Whether the server that it is connected to is one of several."""
        return bool((self._server_info or {}).get("cluster"))

    async def ask(
        self, subject: str, body: dict[str, Any] | None = None, *, wait: float, headers: dict[str, str] | None = None
    ) -> dict[str, Any] | None:
        """What the server says to a request about the monitor's own streams; None where there is no answer."""
        try:
            payload = b"" if body is None else json.dumps(body).encode()
            async with asyncio.timeout(wait):  # sending may block, too
                found = json.loads((await self.request(subject, payload, timeout=wait, headers=headers)).data)
        except Exception:
            return None
        return found if isinstance(found, dict) else None

    @property
    def takes_bulk(self) -> bool:
        """Whether there is somebody to take acknowledgements in bulk."""
        return bool(self._bulks)

    def take(self, data: bytes, place: int) -> int:
        """Hand over a run of acknowledgements that begins at `place`; where it ends, or `place` if nobody took it."""
        end = data.rfind(b"\r\n" + _START, place) + 2
        # All but the last, which may not be whole; what follows another message is left for the next round.
        found = _ACKNOWLEDGED.findall(data, place, end) if end > 1 else []
        last = None if found and end > 1 and not found[-1][3] else _ACKNOWLEDGED.match(data, max(end, place))
        if last is not None and last[4]:
            found.append(last.groups(b""))
            end = last.end()
        sid = found[0][3] if found else b""
        if sid not in self._bulks:
            return place
        bulk = self._bulks[sid]
        is_all = len({groups[3] for groups in found}) == 1
        if not is_all:  # other messages, or another subscription's, stand between them
            del found[next(index for index, groups in enumerate(found) if groups[3] != sid) :]
        if not bulk(found):
            return place
        self.stats["in_msgs"] += len(found)
        return end if is_all else _behind(data, place, len(found))

    async def tap(self, subject: str, tap: Tap, bulk: Bulk | None = None) -> Any:
        """Subscribe; each message goes to `tap`, which must not raise. The subscription, to be ended by `untap`.

        `bulk` takes runs of plain acknowledgements instead, if it can.
        """

        async def late(message: Any) -> None:
            # Only where nats-py hands messages over in another way than it did so far.
            tap(message.subject, message.reply or "", message.data, b"?" if message.headers else b"")

        subscription = await self.subscribe(subject, cb=late)
        self._taps[subscription._id] = tap
        if bulk is not None:
            self._bulks[str(subscription._id).encode()] = bulk
        return subscription

    async def untap(self, subscription: Any) -> None:
        """End what `tap` began."""
        self._taps.pop(subscription._id, None)
        self._bulks.pop(str(subscription._id).encode(), None)
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


def _behind(data: bytes, place: int, count: int) -> int:
    """Where `count` acknowledgements that begin at `place` end."""
    for _ in range(count):
        found = _ACKNOWLEDGED.match(data, place)
        place = found.end() if found is not None else place
    return place


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes | bytearray) else value or ""
