"""Which of several monitors writes: the one that holds the lease, a single message in a small stream.

The message also holds how far the jobs' logs are written, so that the next monitor goes on exactly there. It is
renewed by compare-and-set (the server refuses a message that expects another one before it): a monitor that was away
for too long finds that out before it writes anything more. Beside it there is one message for each consumer, which
says what was told about it. Taken by `monitor`, renewed and marked by `term`, on the monitor's event loop.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Any, Final

from ..events import is_unavailable

if TYPE_CHECKING:
    from .observer import Observer

_WAIT: Final = 2.0
# A holder stops writing well before somebody else may take over.
_SAFE: Final = 0.6
_REPLICAS: Final = 3
# A cluster that has just started needs some seconds to have a leader.
_TRIES: Final = 10
_PAUSE: Final = 0.5


class Lease:
    """The right to write, for `lasting` seconds from each renewal."""

    position: int
    is_possible: bool

    def __init__(self, client: Observer, name: str, monitor: str, lasting: float) -> None:
        self._client = client
        self.name = name
        self._subject = f"joblog.monitor.{name}"
        self._monitor = monitor
        self._lasting = lasting
        self._last = 0
        self._writing = asyncio.Lock()
        self._renewed = float("-inf")
        self._is_ours = False
        # The lease that was seen last, and since when it has not changed (monotonic).
        self._seen: tuple[int, float] | None = None
        self.position = 0
        # False where no stream can be had: then there is no telling whether another monitor runs.
        self.is_possible = True

    @property
    def is_held(self) -> bool:
        """Whether this monitor may write now."""
        return not self.is_possible or time.monotonic() - self._renewed < self._lasting * _SAFE

    @property
    def is_orphaned(self) -> bool:
        """Whether this monitor held it last and nobody can hold it now, as far as is known: no answer comes."""
        return self._is_ours and not self.is_held

    async def prepare(self) -> None:
        """Create the stream, or find it. In a cluster on three of its servers, and not before it has a leader."""
        config = {
            "name": self.name,
            "subjects": [self._subject, f"{self._subject}.>"],
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_msgs_per_subject": 1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "max_consumers": -1,
        }
        clustered = self._client.is_clustered
        for _ in range(_TRIES if clustered else 1):
            body = await self._client.ask(f"$JS.API.STREAM.INFO.{self.name}", wait=_WAIT)
            for replicas in (_REPLICAS, 1) if clustered else (1,):
                if body is None or body.get("error"):
                    body = await self._client.ask(
                        f"$JS.API.STREAM.CREATE.{self.name}", {**config, "num_replicas": replicas}, wait=_WAIT
                    )
            self.is_possible = body is not None and not body.get("error")
            if self.is_possible or (body is not None and not is_unavailable(body)):
                return
            await asyncio.sleep(_PAUSE if clustered else 0)

    async def take(self) -> bool:
        """Take the lease where nobody holds it, or its holder has not renewed it for too long."""
        if not self.is_possible:
            return True
        found = await self._read(self._subject)
        if found is None:
            return False
        number, content = found
        now = time.monotonic()
        holder = content.get("monitor")
        self._is_ours = self._is_ours and holder == self._monitor
        if self._seen is None or self._seen[0] != number:
            self._seen = (number, now)
        # The holder's promise counts, not our own setting.
        promised = content.get("lasting")
        wait = max(self._lasting, float(promised) if isinstance(promised, int | float) else 0.0)
        if holder and holder != self._monitor and now - self._seen[1] < wait:
            return False
        position = content.get("position")
        self.position = position if type(position) is int else 0
        self._last = number
        return await self.renew(self.position)

    async def renew(self, position: int | None = None) -> bool:
        """Go on holding it, and note how far the logs are written; False, for good, once another one has it."""
        return await self._write(self._monitor, self.position if position is None else position)

    async def keep(self) -> None:
        """Renew it until cancelled or lost."""
        while self.is_possible:
            await asyncio.sleep(self._lasting / 4)
            await self.renew()

    async def release(self, position: int) -> None:
        """Let the next monitor take over at once."""
        if self.is_possible and self.is_held:
            await self._write("", position)
        self._renewed = float("-inf")

    async def mark(self, stream: str, consumer: str, content: dict[str, Any]) -> None:
        """Note what was told about a consumer."""
        if self.is_possible and not self._client.is_closed:
            await self._client.publish(f"{self._subject}.{stream}.{consumer}", json.dumps(content).encode())

    async def marked(self, stream: str, consumer: str) -> dict[str, Any]:
        """What was told about a consumer, by whoever watched it before."""
        if not self.is_possible:
            return {}
        found = await self._read(f"{self._subject}.{stream}.{consumer}")
        return found[1] if found is not None else {}

    async def unmark(self, stream: str, consumer: str = "") -> None:
        """A consumer is gone, or a stream with all its consumers."""
        if self.is_possible:
            subject = f"{self._subject}.{stream}.{consumer or '>'}"
            await self._client.ask(f"$JS.API.STREAM.PURGE.{self.name}", {"filter": subject}, wait=_WAIT)

    async def _write(self, holder: str, position: int) -> bool:
        if not self.is_possible:
            self.position = position
            return True
        async with self._writing:
            return await self._write_next(holder, position)

    async def _write_next(self, holder: str, position: int) -> bool:
        content = {"monitor": holder, "position": position, "lasting": self._lasting}
        asked = time.monotonic()
        headers = {"Nats-Expected-Last-Subject-Sequence": str(self._last)}
        reply = await self._client.ask(self._subject, content, headers=headers, wait=_WAIT)
        if reply is None or reply.get("error") or not isinstance(reply.get("seq"), int):
            if reply is not None and reply.get("error") and not is_unavailable(reply):
                self._renewed = float("-inf")  # another one wrote, or we did and heard no answer
            return False
        self._last, self._renewed, self.position = reply["seq"], asked, position
        self._is_ours = holder == self._monitor
        return True

    async def _read(self, subject: str) -> tuple[int, dict[str, Any]] | None:
        body = await self._client.ask(f"$JS.API.STREAM.MSG.GET.{self.name}", {"last_by_subj": subject}, wait=_WAIT)
        if body is None:
            return None
        if body.get("error"):
            return (0, {}) if body["error"].get("code") == 404 else None
        message = body.get("message") or {}
        try:
            content = json.loads(base64.b64decode(message.get("data") or ""))
        except ValueError:
            content = {}
        return int(message.get("seq") or 0), content if isinstance(content, dict) else {}
