"""The flight recorder: a stream of every pull and every answer, so that a monitor misses nothing while it is down.

Servers from 2.10 on take such a stream if it acknowledges nothing itself (`no_ack`). It holds no advisories: an
application may keep those in a stream of its own, and subjects of streams must not overlap. Read by a consumer that
neither pulls nor acknowledges, or it would record its own reading. Made by `term`, on the monitor's event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..events import NANOSECONDS, is_unavailable, timestamp

if TYPE_CHECKING:
    from .observer import Observer

SUBJECTS: Final = ("$JS.ACK.>", "$JS.API.CONSUMER.MSG.NEXT.>")
_HEARTBEAT: Final = 1.0
_SILENCE: Final = 5.0
_WAIT: Final = 5.0
_END_WAIT: Final = 1.0

# Subject and payload of what was recorded, its number in the recorder, and when it was (seconds since the epoch).
Record = Callable[[str, bytes, int, float], None]
# Acknowledgements in a row, as `observer.Bulk` has them, and the number of the first; False: one by one, please.
RecordBulk = Callable[[list[tuple[bytes, ...]], int], bool]


class Extent(NamedTuple):
    """What the recorder holds. `since`: from when on nothing is missing, in seconds since the epoch."""

    first: int
    last: int
    since: float


class Recorder:
    """Reads the recorder from a number on, without a gap; opens its consumer again where that went away."""

    is_refused: bool

    position: int

    def __init__(self, client: Observer, name: str, record: Record, bulk: RecordBulk) -> None:
        self._client = client
        self.name = name
        self._record = record
        self._bulk = bulk
        self._subscription: Any = None
        self._consumer = ""
        self._expected = 1
        self._heard = 0.0
        self._is_broken = False
        # Whether there cannot be one; else it may be that it does not answer now.
        self.is_refused = False
        # The number of the last record that was read.
        self.position = self._kept = 0

    async def prepare(self, *, max_bytes: int, max_age: float) -> Extent | None:
        """Create the stream or find it; what it holds, or None where there can be none (2.9, permissions)."""
        config = {
            "name": self.name,
            "subjects": list(SUBJECTS),
            "no_ack": True,
            "storage": "file",
            "retention": "limits",
            "discard": "old",
            "max_bytes": max_bytes,
            "max_age": int(max_age * NANOSECONDS),
            "max_msgs": -1,
            "max_msg_size": -1,
            "max_consumers": -1,
            "num_replicas": 1,
            "duplicate_window": 0,
        }
        body = await self._client.ask(f"$JS.API.STREAM.INFO.{self.name}", wait=_WAIT)
        if body is None or body.get("error"):
            body = await self._client.ask(f"$JS.API.STREAM.CREATE.{self.name}", config, wait=_WAIT)
        self.is_refused = body is not None and not is_unavailable(body)
        if body is None or body.get("error") or not (body.get("config") or {}).get("no_ack"):
            return None
        state = body.get("state") or {}
        created = timestamp(body.get("created")) or time.time()
        first = state.get("first_seq") or 0
        since = created if first <= 1 else timestamp(state.get("first_ts")) or time.time()
        if self._client.is_clustered:
            # While its own server was down, the others went on unrecorded.
            since = max(since, timestamp((body.get("cluster") or {}).get("leader_since")) or time.time())
        return Extent(first, state.get("last_seq") or 0, since)

    async def open(self, first: int) -> bool:
        """Read from number `first` on; False where the server refuses."""
        await self.close()
        self.position = max(self.position, first - 1)
        self._expected, self._heard, self._is_broken = 1, time.monotonic(), False
        inbox = self._client.new_inbox()
        self._subscription = await self._client.tap(inbox, self._received, self._received_run)
        config = {
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(first, 1),
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(_HEARTBEAT * NANOSECONDS),
            "mem_storage": True,
            "num_replicas": 1,
        }
        body = await self._client.ask(
            f"$JS.API.CONSUMER.CREATE.{self.name}", {"stream_name": self.name, "config": config}, wait=_WAIT
        )
        if body is None or body.get("error"):
            await self.close()
            return False
        self._consumer = str(body.get("name") or "")
        return True

    async def keep(self) -> bool:
        """Open it again where records were missed, or nothing was heard for some seconds; False where it is gone."""
        if self.position != self._kept:
            self._kept, self._heard = self.position, time.monotonic()
        if self._is_broken or time.monotonic() - self._heard > _SILENCE:
            return await self.open(self.position + 1)
        return True

    async def close(self) -> None:
        """End reading; the server removes the consumer."""
        subscription, self._subscription = self._subscription, None
        consumer, self._consumer = self._consumer, ""
        if subscription is not None:
            await self._client.untap(subscription)
        if consumer and self._client.is_connected:
            await self._client.ask(f"$JS.API.CONSUMER.DELETE.{self.name}.{consumer}", wait=_END_WAIT)

    def _received(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        if headers and not subject.startswith("$JS."):
            self._status(reply, headers)
            return
        tokens = reply.split(".")
        if len(tokens) > 9:
            del tokens[2:4]
        try:
            number, place, at = int(tokens[5]), int(tokens[6]), int(tokens[7]) / NANOSECONDS
        except (IndexError, ValueError):
            return
        if place != self._expected or self._is_broken:
            self._is_broken = True
            return
        self._expected = place + 1
        self.position = number
        self._record(subject, payload, number, at)

    def _received_run(self, run: list[tuple[bytes, ...]]) -> bool:
        """Acknowledgements that stand one behind the other in the recorder."""
        if self._is_broken or not run[0][4] or not run[-1][4]:
            return False
        number, place = map(int, run[0][4].split(b"."))
        end, last = map(int, run[-1][4].split(b"."))
        if place != self._expected or last != place + len(run) - 1 or not self._bulk(run, number):
            return False
        self._expected = last + 1
        self.position = end
        return True

    def _status(self, reply: str, headers: bytes) -> None:
        """A heartbeat, or the question whether we keep pace."""
        self._heard = time.monotonic()
        head = bytes(headers)
        if reply:
            self._answer(reply)
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"nats-last-consumer" and value.strip().isdigit():
                self._is_broken = self._is_broken or int(value) >= self._expected
            elif name.lower() == b"nats-consumer-stalled":
                self._answer(value.strip().decode(errors="replace"))

    def _answer(self, subject: str) -> None:
        task = asyncio.ensure_future(self._client.publish(subject, b""))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
