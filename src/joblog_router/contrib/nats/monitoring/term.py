"""One monitor's term of leading: what passes the server goes to who follows it, and its news into the jobs' logs.

Made by `monitor` when it takes the lease, ended with it; runs on the monitor's event loop. Owns the taps and the
recorder, how far the records were told already, and the order of what is told; what is there is `inventory`'s.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import TYPE_CHECKING, Any, Final

from .... import aflush
from ..naming import NamePatterns
from .advisories import SUBJECTS, Advisories
from .following import Followed
from .inventory import Inventory
from .recorder import Extent, Recorder
from .reporting import finish, mark_of, report, tasks_wanted
from .server import Server
from .shares import divide
from .watching import Watch
from .worker_names import WorkerNames

if TYPE_CHECKING:
    from .lease import Lease
    from .observer import Observer
    from .replicas import Replicas

_PULLS: Final = "$JS.API.CONSUMER.MSG.NEXT.>"
_ANSWERS: Final = "$JS.ACK.>"
_MAX_TASKS: Final = 1_000
FLUSH: Final = 5.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """The options of `Monitor`."""

    interval: float
    patterns: NamePatterns
    keys: tuple[str, ...]
    name: str
    recorder: bool
    recorder_bytes: int
    recorder_age: float
    shared: frozenset[str]
    header: str


class Term:
    """One term of leading: from taking the lease to losing it."""

    def __init__(self, settings: Settings, client: Observer, lease: Lease, replicas: Replicas) -> None:
        self._settings = settings
        self._client = client
        self._lease = lease
        self._replicas = replicas
        self._server = Server(client)
        self._watch = Watch(settings.patterns, settings.shared)
        self._inventory = Inventory(self._watch, self._server, lease, replicas, settings.interval)
        self._advisories = Advisories(self._inventory, lease)
        self._names = WorkerNames(client)
        self._taps: list[Any] = []
        self._recorder: Recorder | None = None
        # One that does not answer now.
        self._waits_for: Recorder | None = None
        # Up to this record everything was told by whoever watched before; up to the other it was before we listened.
        self._told_to = lease.position
        self._recorded_before = 0

    @property
    def is_recording(self) -> bool:
        """Whether it reads the recorder, which misses nothing."""
        return self._recorder is not None

    async def begin(self) -> None:
        """Listen, learn what is there, and catch up with what happened meanwhile."""
        settings, client = self._settings, self._client
        for subject in SUBJECTS:
            self._taps.append(await client.tap(subject, self._advisories.advised))
        self._taps.append(await client.tap(_PULLS, self._pulled))
        extent = None
        if settings.recorder:
            recorder = Recorder(client, f"{settings.name}_RECORDER", self._recorded, self._recorded_run)
            extent = await self._extent(recorder)
            self._waits_for = recorder if extent is None and not recorder.is_refused else None
        await client.flush()
        if extent is not None:
            self._watch.since, self._recorded_before = extent.since, extent.last
            self._recorder = recorder
            await self._inventory.reconcile()
            if not await recorder.open(extent.first):
                self._recorder = extent = None
        if extent is None:
            self._watch.since = time.time()
            self._taps.append(await client.tap(_ANSWERS, self._answered, self._answered_run))
            await client.flush()
            await self._inventory.reconcile()
        elif extent.last:
            while self._recorder is not None and self._recorder.position < min(extent.last, self._told_to):
                if not (await self._recorder.keep() and client.is_connected):
                    break
                await asyncio.sleep(0.01)
        self._inventory.be_loud()

    async def _extent(self, recorder: Recorder) -> Extent | None:
        settings = self._settings
        return await recorder.prepare(max_bytes=settings.recorder_bytes, max_age=settings.recorder_age)

    async def look(self) -> bool:
        """One round: ask about what has changed, tell it. False once this monitor may not write any more."""
        if not self._client.is_connected:
            return False
        if self._recorder is not None and not await self._recorder.keep():
            return False
        if self._inventory.is_due:
            await self._inventory.reconcile()
            if self._waits_for is not None and await self._extent(self._waits_for) is not None:
                return False  # the recorder's server is back
        followed = list(self._watch.followed.values())
        due = await self._inventory.refresh()
        asked = set(due)
        return await self._tell(due + [found for found in followed if _has_news(found) and found not in asked])

    async def finish(self) -> None:
        """The monitor ends: tell what was held back, and let the next one take over."""
        await self._tell(list(self._watch.followed.values()), is_last=True)

    async def end(self) -> None:
        """Listen no more."""
        for tap in self._taps:
            await self._client.untap(tap)
        if self._recorder is not None:
            await self._recorder.close()

    async def _tell(self, due: list[Followed], *, is_last: bool = False) -> bool:
        gone = self._inventory.take_gone()
        due = await self._divided(due)
        ended = await self._divided([found for found, _ in gone])
        await self._names.learn(due)
        wanted = [found for found in due + ended if tasks_wanted(found)]
        tasks = dict(zip(wanted, await self._server.all(map(self._tasks, wanted)), strict=True))
        # From here to the last line nothing else runs: what is told is what was recorded up to here.
        if not self._lease.is_held:
            return False
        position = self._recorder.position if self._recorder is not None else 0
        for found in ended:
            finish(found, tasks.get(found) or {})
        is_news = self._advisories.tell_deleted() or bool(ended)
        reported = [found for found in due if report(found, tasks.get(found) or {}, is_last=is_last)]
        for found in {found.parent or found for found in reported}:
            await self._lease.mark(found.stream, found.consumer, mark_of(found))
        for stream, consumer in dict.fromkeys((found.stream, "" if whole else found.consumer) for found, whole in gone):
            await self._lease.unmark(stream, consumer)
        if self._replicas.report(may_write=True) or reported or is_news:
            await aflush(FLUSH)
        if is_last:
            await self._lease.release(position)
            return False
        return await self._lease.renew(position)

    async def _divided(self, news: list[Followed]) -> list[Followed]:
        """What is one job's, and the shares of jobs in what is several jobs'."""
        found = [followed for followed in news if followed.job]
        for shared in news:
            if self._watch.is_shared(shared):
                found += await divide(shared, self._server.message, self._settings.patterns, self._settings.header)
        return found

    async def _tasks(self, found: Followed) -> dict[int, str]:
        """The ids of the tasks that were given up, from their payloads."""
        return await self._server.tasks(found.stream, tasks_wanted(found)[:_MAX_TASKS], self._settings.keys)

    # What passes the server. Called at once for each message; none of these may raise.

    def _recorded(self, subject: str, payload: bytes, number: int, at: float) -> None:
        if number > self._told_to and not self._inventory.is_loud:
            self._inventory.be_loud()
        self._watch.tapped(subject, "", payload, at if number <= self._recorded_before else None)

    def _recorded_run(self, run: list[tuple[bytes, ...]], first: int) -> bool:
        if not self._inventory.is_loud or first <= max(self._recorded_before, self._told_to):
            return False
        self._watch.acknowledged(run)
        return True

    def _answered(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        self._watch.tapped(subject, "", payload)

    def _answered_run(self, run: list[tuple[bytes, ...]]) -> bool:
        self._watch.acknowledged(run)
        return True

    def _pulled(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        self._watch.tapped(subject, reply, payload)
        if self._recorder is None:
            self._watch.tapped(subject, "", payload)


def _has_news(followed: Followed) -> bool:
    return followed.has_news or any(share.has_news for share in followed.shares.values())
