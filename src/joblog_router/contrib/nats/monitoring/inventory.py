"""What is there: the consumers that are watched, compared with what the server says of them, now and then.

Made for each term of leading and called by it, on the monitor's event loop; asks `server`. Owns the `Watch` of the
term, what is gone and not told yet, and what a monitor before has told of each consumer. Tells nothing itself.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..events import timestamp
from .following import Followed
from .reporting import apply_mark

if TYPE_CHECKING:
    from .lease import Lease
    from .replicas import Replicas
    from .server import Server
    from .watching import Watch

_GRACE: Final = 0.1
_RECONCILE: Final = 60.0
_MAX_PAUSE: Final = 60.0


class Gone(NamedTuple):
    """A consumer that is there no more, alone or with its stream."""

    followed: Followed
    with_stream: bool


class Inventory:
    """The consumers of one term. `watch` is fed by the term with what passes the server."""

    watch: Watch
    is_loud: bool

    def __init__(self, watch: Watch, server: Server, lease: Lease, replicas: Replicas, interval: float) -> None:
        self.watch = watch
        self._server = server
        self._lease = lease
        self._replicas = replicas
        self._interval = interval
        # Whether what is noticed is news; else whoever watched before has told it.
        self.is_loud = False
        self._marks: dict[Followed, dict[str, Any]] = {}
        # Not told about yet.
        self.gone: list[Gone] = []
        self._reconciled = float("-inf")

    def be_loud(self) -> None:
        """From now on everything is news."""
        if self.is_loud:
            return
        self.is_loud = True
        marks, self._marks = self._marks, {}
        for key, followed in list(self.watch.followed.items()):
            if followed.described is None:
                del self.watch.followed[key]  # gone, and told about
            else:
                apply_mark(followed, marks.get(followed, {}))

    @property
    def is_due(self) -> bool:
        """Whether it is time for `reconcile`."""
        is_stale = self.watch.is_stale or self._replicas.is_half_back
        return time.monotonic() - self._reconciled >= (min(self._interval, _RECONCILE) if is_stale else _RECONCILE)

    async def reconcile(self) -> None:
        """Compare with what is there: for what was created and deleted while nobody could tell us."""
        unseen: set[str] = set()
        streams = await self._server.pages("$JS.API.STREAM.LIST", "streams", unseen)
        if streams is None:
            return
        self._reconciled = time.monotonic()
        self._replicas.watch = self.watch
        there = {str((info.get("config") or {}).get("name") or ""): info for info in streams}
        new = self.watch.learn(
            {name: list(info["config"].get("subjects") or ()) for name, info in there.items() if name}
        )
        self._replicas.listed(unseen)
        for name in new:
            self._replicas.asked(self._server, name, "", there[name])
        for stream in {stream for stream, _ in self.watch.followed} - set(there) - unseen:
            self.forget(stream)
        known = {stream for stream, _ in self.watch.followed}
        await self._server.all(self._list(stream) for stream in new if stream not in known)

    async def refresh(self) -> list[Followed]:
        """Ask about the consumers of which something may have changed: those."""
        now, missing = time.monotonic(), self._replicas.missing
        due = [
            found
            for found in self.watch.followed.values()
            if found.is_changed or now >= found.poll_at or found.stream in missing
        ]
        await self._server.all(self._ask(found) for found in due)
        return due

    def forget(self, stream: str, consumer: str = "") -> None:
        """A consumer is gone, or a stream with all of them."""
        self.gone += [Gone(found, not consumer) for found in self.watch.forget(stream, consumer)]
        self._replicas.forget(stream, consumer)

    def take_gone(self) -> list[Gone]:
        """What is gone since the last time, to be told about."""
        gone, self.gone = self.gone, []
        return gone

    async def _list(self, stream: str) -> None:
        for info in await self._server.pages(f"$JS.API.CONSUMER.LIST.{stream}", "consumers") or ():
            followed = self.watch.meet(stream, str(info.get("name") or ""))
            if followed is None:
                continue
            created = timestamp(info.get("created"))
            followed.born = created or 0.0
            followed.is_seen_whole = created is not None and created >= self.watch.since
            self._describe(followed, info, time.time())
            if not self.is_loud:
                self._marks[followed] = await self._lease.marked(stream, followed.consumer)

    def _describe(self, followed: Followed, info: dict[str, Any], asked: float) -> None:
        if not followed.job:
            self.watch.describe(followed, info.get("config") or {})
        followed.describe(info, asked)

    async def _ask(self, followed: Followed) -> None:
        """Compare a consumer with what the server says of it; ask the less often, the less happens."""
        was_changed, followed.is_changed = followed.is_changed, False
        asked, before, pause = time.time(), followed.described, self._interval
        body = await self._server.consumer(followed.stream, followed.consumer)
        self._replicas.asked(self._server, followed.stream, followed.consumer, body)
        if body is None or body.get("error"):
            followed.poll_at = time.monotonic() + pause
            is_gone = body is not None and body["error"].get("code") == 404
            if is_gone and (followed.stream, followed.consumer) in self.watch.followed:
                self.forget(followed.stream, followed.consumer)
            return
        self._describe(followed, body, asked)
        followed.infer(_GRACE)
        known = followed.described
        if was_changed or before is None or known is None or known.counters != before.counters:
            followed.poll_pause = pause
        else:
            followed.poll_pause = min(max(followed.poll_pause, pause) * 2, max(_MAX_PAUSE, pause))
        wait = followed.poll_pause
        if known is not None and known.open and known.last_delivery is not None and followed.ack_wait:
            left = known.last_delivery + followed.ack_wait + 2 * _GRACE - known.now
            wait = min(wait, left) if left > 0 else wait
        followed.poll_at = time.monotonic() + wait
