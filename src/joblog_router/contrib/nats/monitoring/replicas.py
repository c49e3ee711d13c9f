"""Has each job's stream a leader in its cluster? Tells when one moves, is missing, or is back.

Kept by a monitor for its whole life, over its terms: when a stream is without a majority, the monitor's own may be too.
Fed on the monitor's event loop, with advisories and with what became of questions. The server's word that a majority is
lost comes late (10 to 20 s), and where the leader itself is gone only when there is a new one; so questions count.
"""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any, Final

from .. import told
from ..bounded import shrink
from ..naming import Job
from ..told import duration, listed, named, tell

if TYPE_CHECKING:
    from .server import Server
    from .watching import Watch

SUBJECTS: Final = tuple(
    f"$JS.EVENT.ADVISORY.{about}.{kind}.>"
    for about in ("STREAM", "CONSUMER")
    for kind in ("LEADER_ELECTED", "QUORUM_LOST")
)
# What a server answers about a stream or consumer that has no leader: "JetStream system temporarily unavailable".
_NO_LEADER: Final = 10008
# An election takes some seconds in which there is no leader, either; one that merely does not answer may be slow.
_CONFIRM: Final = 3.0
_CONFIRM_SILENCE: Final = 10.0
_MAX_GROUPS: Final = 20_000
_MAX_NEWS: Final = 1_000
_MAX_ASKED: Final = 200


@dataclasses.dataclass(slots=True, eq=False)
class Missing:
    """A stream without a leader."""

    since: float = dataclasses.field(default_factory=time.monotonic)
    # Its consumers that have none, and "" for the stream itself.
    of: set[str] = dataclasses.field(default_factory=set)
    # A server said so, it is not only that nobody answers.
    is_certain: bool = False
    # In whose log it was told.
    job: Job | None = None

    @property
    def confirmed_after(self) -> float:
        """How long it must last before it is told."""
        return _CONFIRM if self.is_certain else _CONFIRM_SILENCE


class Replicas:
    """Who leads what, and the streams that nobody leads.

    `watch`: whose a stream, or consumer, is; of the last term that knew what is there.
    """

    watch: Watch

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self._leaders: dict[tuple[str, str], str] = {}
        self._news: list[tuple[Job, str, str, str]] = []
        self.missing: dict[str, Missing] = {}

    def advised(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        """An advisory, as a tap has it. Never raises."""
        try:
            _, _, _, about, kind, stream, *rest = subject.split(".")
            consumer = rest[0] if about == "CONSUMER" else ""
            leader = str(json.loads(payload).get("leader") or "")
        except (ValueError, IndexError, AttributeError):
            return
        if kind == "QUORUM_LOST":
            self._lacks(stream, consumer, is_certain=True)
        elif leader:
            self._elected(stream, consumer, leader)

    def asked(self, server: Server, stream: str, consumer: str, body: dict[str, Any] | None) -> None:
        """We asked for its description: the reply, None if nobody answered."""
        if body is None:
            if server.silence_tells:
                self._lacks(stream, consumer, is_certain=False)
        elif not body.get("error"):
            leader = str((body.get("cluster") or {}).get("leader") or "")
            if leader:
                self._leaders.setdefault((stream, consumer), leader)
                shrink(self._leaders, _MAX_GROUPS)
            if leader or not server.is_clustered:
                self._back(stream, consumer)
        elif body["error"].get("err_code") == _NO_LEADER:
            self._lacks(stream, consumer, is_certain=True)

    @property
    def is_half_back(self) -> bool:
        """Whether there is a stream of which it is only to be seen that it has a leader itself."""
        return any(missing.of == {""} for missing in self.missing.values())

    def listed(self, names: set[str]) -> None:
        """The server lists these streams as having none to describe them."""
        for stream in names:
            self._lacks(stream, "", is_certain=True)

    async def ask(self, server: Server) -> None:
        """Ask about what has no leader, and about one consumer of each stream; not about more than some."""
        wanted = [(stream, name) for stream, missing in self.missing.items() for name in missing.of if name]
        asked = list(dict.fromkeys(wanted + self.watch.consumers()))[:_MAX_ASKED]
        answers = await server.all(server.consumer(*one) for one in asked)
        for one, body in zip(asked, answers, strict=True):
            self.asked(server, *one, body)

    def forget(self, stream: str, consumer: str = "") -> None:
        """A consumer is gone, or a stream with all of them."""
        self._leaders.pop((stream, consumer), None)
        if not consumer:
            self.missing.pop(stream, None)
            self._leaders = {key: leader for key, leader in self._leaders.items() if key[0] != stream}
        elif stream in self.missing:
            self._back(stream, consumer)

    def report(self, *, may_write: bool) -> bool:
        """Tell what is new; whether there was anything. What another monitor is there to tell is dropped."""
        news, self._news = self._news, []
        lines = 0
        for job, stream, consumer, leader in news if may_write else ():
            _tell_elected(job, stream, consumer, leader)
            lines += 1
        now = time.monotonic()
        for stream, missing in list(self.missing.items()):
            waited = now - missing.since
            if not missing.of:
                del self.missing[stream]
                if missing.job is not None:
                    _tell_restored(missing.job, stream, self._leaders.get((stream, "")), waited)
                    lines += 1
            elif may_write and missing.job is None and waited >= missing.confirmed_after:
                missing.job = self.watch.job_of(stream, next(iter(missing.of)))
                missing.of.add("")  # elections are one by one: the stream's own is to be seen, too
                if missing.job is not None:
                    _tell_lost(missing.job, stream, sorted(missing.of - {""}))
                    lines += 1
        return lines > 0

    def _elected(self, stream: str, consumer: str, leader: str) -> None:
        job = self.watch.job_of(stream, consumer)
        if job is None:
            return
        before = self._leaders.get((stream, consumer))
        self._leaders[stream, consumer] = leader
        shrink(self._leaders, _MAX_GROUPS)
        missing = self.missing.get(stream)
        self._back(stream, consumer)
        # The first one is no news, and whoever leads after a time without any is told as that.
        if before in {None, leader} or (missing is not None and missing.job is not None):
            return
        if len(self._news) < _MAX_NEWS:
            self._news.append((job, stream, consumer, leader))

    def _lacks(self, stream: str, consumer: str, *, is_certain: bool) -> None:
        if self.watch.job_of(stream, consumer) is None or (
            stream not in self.missing and len(self.missing) >= _MAX_GROUPS
        ):
            return
        missing = self.missing.setdefault(stream, Missing())
        missing.of.add(consumer)
        missing.is_certain = missing.is_certain or is_certain

    def _back(self, stream: str, consumer: str) -> None:
        missing = self.missing.get(stream)
        if missing is not None:
            missing.of.discard(consumer)


def _tell_elected(job: Job, stream: str, consumer: str, leader: str) -> None:
    tell(
        job,
        told.LEADER_ELECTED,
        named(stream, consumer),
        leader,
        stream=stream,
        consumer=consumer or None,
        leader=leader,
        source="monitor",
    )


def _tell_lost(job: Job, stream: str, consumers: list[str]) -> None:
    tell(
        job,
        told.QUORUM_LOST,
        stream,
        stream=stream,
        consumers=listed(consumers) or None,
        source="monitor",
    )


def _tell_restored(job: Job, stream: str, leader: str | None, waited: float) -> None:
    tell(
        job,
        told.QUORUM_RESTORED,
        stream,
        f" ({leader})" if leader else "",
        duration(waited),
        stream=stream,
        leader=leader,
        duration=round(waited, 3),
        source="monitor",
    )
