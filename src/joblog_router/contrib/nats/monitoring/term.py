"""One monitor's term of leading: what passes the server goes to who follows it, and its news into the jobs' logs.

Made by the monitor when it takes the lease, ended with it. Runs on the monitor's event loop.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from .... import aflush
from ...._pipeline.report import report_once
from .. import told
from ..events import timestamp
from ..naming import Job, NamePatterns
from ..questions import Questions
from ..task_ids import task_of
from ..told import tell
from .following import Followed
from .lease import Lease
from .recorder import Extent, Recorder
from .replicas import Replicas
from .reporting import apply_mark, finish, mark_of, report, tasks_wanted
from .shares import divide
from .watching import Watch
from .worker_names import ClientNames

if TYPE_CHECKING:
    from .observer import Observer

_PULLS: Final = "$JS.API.CONSUMER.MSG.NEXT.>"
_ANSWERS: Final = "$JS.ACK.>"
_ADVISORIES: Final = ("$JS.EVENT.ADVISORY.STREAM.>", "$JS.EVENT.ADVISORY.CONSUMER.>")
_GRACE: Final = 0.1
_MAX_POLL_PAUSE: Final = 60.0
_RECONCILE: Final = 60.0
_MAX_TASKS: Final = 1_000
_PARALLEL: Final = 8
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
    """One term of leading: from taking the lease to losing it. `known`: told when all streams are known."""

    def __init__(
        self,
        settings: Settings,
        client: Observer,
        lease: Lease,
        replicas: Replicas,
        known: Callable[[Watch], None],
    ) -> None:
        self._settings = settings
        self._client = client
        self._lease = lease
        self._watch = Watch(settings.patterns, settings.shared)
        self._names = ClientNames(client)
        self._replicas = replicas
        self._known = known
        self._questions = Questions()
        self._taps: list[Any] = []
        self._limit = asyncio.Semaphore(_PARALLEL)
        self.recorder: Recorder | None = None
        # One that does not answer now.
        self._waits_for: Recorder | None = None
        # Up to this record everything was told by whoever watched before.
        self._told_to = lease.position
        self._is_loud = False
        self._recorded_before = 0
        self._marks: dict[Followed, dict[str, Any]] = {}
        self._gone: list[tuple[Followed, bool]] = []
        self._deleted: list[tuple[Job, str, str, str]] = []
        self._reconciled = float("-inf")

    async def begin(self) -> None:
        """Listen, learn what is there, and catch up with what happened meanwhile."""
        settings, client = self._settings, self._client
        for subject in _ADVISORIES:
            self._taps.append(await client.tap(subject, self._advised))
        self._taps.append(await client.tap(_PULLS, self._pulled))
        extent = None
        if settings.recorder:
            recorder = Recorder(client, f"{settings.name}_RECORDER", self._recorded, self._recorded_run)
            extent = await self._extent(recorder)
            self._waits_for = recorder if extent is None and not recorder.is_refused else None
        await client.flush()
        if extent is not None:
            self._watch.since, self._recorded_before = extent.since, extent.last
            self.recorder = recorder
            await self._reconcile()
            if not await recorder.open(extent.first):
                self.recorder = extent = None
        if extent is None:
            self._watch.since = time.time()
            self._taps.append(await client.tap(_ANSWERS, self._answered, self._answered_run))
            await client.flush()
            await self._reconcile()
        elif extent.last:
            while self.recorder is not None and self.recorder.position < min(extent.last, self._told_to):
                if not (await self.recorder.keep() and client.is_connected):
                    break
                await asyncio.sleep(0.01)
        self._be_loud()

    async def _extent(self, recorder: Recorder) -> Extent | None:
        settings = self._settings
        return await recorder.prepare(max_bytes=settings.recorder_bytes, max_age=settings.recorder_age)

    async def look(self) -> bool:
        """One round: ask about what has changed, tell it. False once this monitor may not write any more."""
        if not self._client.is_connected:
            return False
        if self.recorder is not None and not await self.recorder.keep():
            return False
        is_stale = self._watch.is_stale or self._replicas.is_half_back
        pause = min(self._settings.interval, _RECONCILE) if is_stale else _RECONCILE
        if time.monotonic() - self._reconciled >= pause:
            await self._reconcile()
            if self._waits_for is not None and await self._extent(self._waits_for) is not None:
                return False  # the recorder's server is back
        now = time.monotonic()
        followed = list(self._watch.followed.values())
        missing = self._replicas.missing
        due = [found for found in followed if found.is_changed or now >= found.poll_at or found.stream in missing]
        await self._all(self._ask(found) for found in due)
        asked = set(due)
        return await self._tell(due + [found for found in followed if _has_news(found) and found not in asked])

    async def finish(self) -> None:
        """The monitor ends: tell what was held back, and let the next one take over."""
        await self._tell(list(self._watch.followed.values()), is_last=True)

    async def end(self) -> None:
        """Listen no more."""
        for tap in self._taps:
            await self._client.untap(tap)
        if self.recorder is not None:
            await self.recorder.close()

    async def _tell(self, due: list[Followed], *, is_last: bool = False) -> bool:
        gone, self._gone = self._gone, []
        unmarked = [(found.stream, "" if is_stream else found.consumer) for found, is_stream in gone]
        due = await self._divided(due)
        gone = [(share, is_stream) for found, is_stream in gone for share in await self._divided([found])]
        await self._names.learn(due)
        wanted = [found for found in [*due, *(found for found, _ in gone)] if tasks_wanted(found)]
        tasks = dict(zip(wanted, await self._all(self._tasks(found) for found in wanted), strict=True))
        # From here to the last line nothing else runs: what is told is what was recorded up to here.
        if not self._lease.is_held:
            return False
        position = self.recorder.position if self.recorder is not None else 0
        deleted, self._deleted = self._deleted, []
        for found, _ in gone:
            finish(found, tasks.get(found) or {})
        for sighting in deleted:
            self._sighted(*sighting)
        reported = [found for found in due if report(found, tasks.get(found) or {}, is_last=is_last)]
        for found in {found.parent or found for found in reported}:
            await self._lease.mark(found.stream, found.consumer, mark_of(found))
        for stream, consumer in dict.fromkeys(unmarked):
            await self._lease.unmark(stream, consumer)
        is_news = self._replicas.report(may_write=True)
        if reported or gone or deleted or is_news:
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
                found += await divide(shared, self._message, self._settings.patterns, self._settings.header)
        return found

    async def _message(self, stream: str, seq: int) -> dict[str, Any] | None:
        body = await self._question(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": seq})
        message = (body or {}).get("message")
        return message if isinstance(message, dict) else None

    async def _all(self, questions: Any) -> list[Any]:
        async def one(question: Any) -> Any:
            async with self._limit:
                return await question

        return list(await asyncio.gather(*(one(question) for question in questions)))

    # What passes the server. Called at once for each message; none of these may raise.

    def _recorded(self, subject: str, payload: bytes, number: int, at: float) -> None:
        if number > self._told_to and not self._is_loud:
            self._be_loud()
        self._watch.tapped(subject, "", payload, at if number <= self._recorded_before else None)

    def _answered(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        self._watch.tapped(subject, "", payload)

    def _recorded_run(self, run: list[tuple[bytes, ...]], first: int) -> bool:
        if not self._is_loud or first <= max(self._recorded_before, self._told_to):
            return False
        self._watch.acknowledged(run)
        return True

    def _answered_run(self, run: list[tuple[bytes, ...]]) -> bool:
        self._watch.acknowledged(run)
        return True

    def _pulled(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        self._watch.tapped(subject, reply, payload)
        if self.recorder is None:
            self._watch.tapped(subject, "", payload)

    def _be_loud(self) -> None:
        """From now on everything is news."""
        if self._is_loud:
            return
        self._is_loud = True
        marks, self._marks = self._marks, {}
        for key, followed in list(self._watch.followed.items()):
            if followed.described is None:
                del self._watch.followed[key]  # gone, and told about
            else:
                apply_mark(followed, marks.get(followed, {}))

    def _advised(self, subject: str, reply: str, payload: bytes, headers: bytes) -> None:
        try:
            self._advise(subject, json.loads(payload))
        except Exception as error:
            report_once(("nats-monitor", "advisory", type(error)), f"NATS monitor: {subject}: {error!r} was ignored")

    def _advise(self, subject: str, advisory: dict[str, Any]) -> None:
        tokens = subject.split(".")
        about, kind, stream = tokens[3], tokens[4], tokens[5]
        consumer = tokens[6] if about == "CONSUMER" and len(tokens) > 6 else ""
        job = self._watch.job_of(stream, consumer)
        if kind == "DELETED":
            # Told behind what is left to say about its consumers.
            self._forget(stream, consumer)
            if job is not None:
                self._deleted.append((job, f"{about}.{kind}", stream, consumer))
            return
        followed = self._watch.meet(stream, consumer) if consumer else None
        is_new = advisory.get("action") in {None, "create"}
        if followed is not None:
            followed.is_changed = True
            if kind == "MAX_DELIVERIES":
                followed.give_up(int(advisory["stream_seq"]), int(advisory.get("deliveries") or 0), is_dropped=True)
            elif kind == "CREATED":
                followed.is_seen_whole = followed.is_seen_whole or is_new
        if job is not None:
            kind = kind if is_new or kind != "CREATED" else "UPDATED"
            self._sighted(job, f"{about}.{kind}", stream, consumer)
        elif not consumer and kind in {"CREATED", "UPDATED"}:
            self._watch.is_stale = True  # its subjects may say whose it is

    def _sighted(self, job: Job, kind: str, stream: str, consumer: str) -> None:
        sentence = told.SEEN_CHANGES.get(kind)
        if sentence is None or not self._lease.is_held:
            return
        name = f"Consumer {consumer} of NATS stream {stream}" if consumer else f"NATS stream {stream}"
        tell(job, sentence, name, stream=stream, consumer=consumer or None, source="monitor")

    # Questions to the server.

    async def _question(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        payload = b"" if body is None else json.dumps(body).encode()
        return await self._questions.ask(self._client, type(self._client).request, subject, payload)

    async def _pages(self, subject: str, what: str, without: set[str] | None = None) -> list[dict[str, Any]] | None:
        """Everything that a paged reply lists; None if nobody answered. `without`: gets what cannot be described."""
        found: list[dict[str, Any]] = []
        while True:
            body = await self._question(subject, {"offset": len(found)})
            if body is None or body.get("error"):
                return None
            page = body.get(what) or []
            found += page
            if without is not None:
                without.update(map(str, body.get("missing") or ()), map(str, body.get("offline") or ()))
            if not page or len(found) >= (body.get("total") or 0):
                return found

    async def _reconcile(self) -> None:
        """Compare with what is there: for what was created and deleted while nobody could tell us."""
        unseen: set[str] = set()
        streams = await self._pages("$JS.API.STREAM.LIST", "streams", unseen)
        if streams is None:
            return
        self._reconciled = time.monotonic()
        self._known(self._watch)
        there = {str((info.get("config") or {}).get("name") or ""): info for info in streams}
        new = self._watch.learn(
            {name: list(info["config"].get("subjects") or ()) for name, info in there.items() if name}
        )
        self._replicas.listed(unseen)
        for name in new:
            self._replicas.asked(self._client, name, "", there[name])
        for stream in {stream for stream, _ in self._watch.followed} - set(there) - unseen:
            self._forget(stream)
        known = {stream for stream, _ in self._watch.followed}
        await self._all(self._consumers(stream) for stream in new if stream not in known)

    def _forget(self, stream: str, consumer: str = "") -> None:
        self._gone += [(found, not consumer) for found in self._watch.forget(stream, consumer)]
        self._replicas.forget(stream, consumer)

    async def _consumers(self, stream: str) -> None:
        for info in await self._pages(f"$JS.API.CONSUMER.LIST.{stream}", "consumers") or ():
            followed = self._watch.meet(stream, str(info.get("name") or ""))
            if followed is None:
                continue
            created = timestamp(info.get("created"))
            followed.born = created or 0.0
            followed.is_seen_whole = created is not None and created >= self._watch.since
            self._describe(followed, info, time.time())
            if not self._is_loud:
                self._marks[followed] = await self._lease.marked(stream, followed.consumer)

    def _describe(self, followed: Followed, info: dict[str, Any], asked: float) -> None:
        if not followed.job:
            self._watch.describe(followed, info.get("config") or {})
        followed.describe(info, asked)

    async def _ask(self, followed: Followed) -> None:
        """Compare a consumer with what the server says of it; ask the less often, the less happens."""
        was_changed, followed.is_changed = followed.is_changed, False
        asked, before = time.time(), followed.described
        body = await self._question(f"$JS.API.CONSUMER.INFO.{followed.stream}.{followed.consumer}")
        pause = self._settings.interval
        self._replicas.asked(self._client, followed.stream, followed.consumer, body)
        if body is None or body.get("error"):
            followed.poll_at = time.monotonic() + pause
            is_gone = body is not None and body["error"].get("code") == 404
            if is_gone and (followed.stream, followed.consumer) in self._watch.followed:
                self._forget(followed.stream, followed.consumer)
            return
        self._describe(followed, body, asked)
        followed.infer(_GRACE)
        known = followed.described
        if was_changed or before is None or known is None or known.counters != before.counters:
            followed.poll_pause = pause
        else:
            followed.poll_pause = min(max(followed.poll_pause, pause) * 2, max(_MAX_POLL_PAUSE, pause))
        wait = followed.poll_pause
        if known is not None and known.open and known.last_delivery is not None and followed.ack_wait:
            left = known.last_delivery + followed.ack_wait + 2 * _GRACE - known.now
            wait = min(wait, left) if left > 0 else wait
        followed.poll_at = time.monotonic() + wait

    async def _tasks(self, followed: Followed) -> dict[int, str]:
        """The ids of the tasks that were given up, from their payloads; as far as the account may read them."""
        if not self._settings.keys:
            return {}
        found: dict[int, str] = {}
        for seq in tasks_wanted(followed)[:_MAX_TASKS]:
            body = await self._question(f"$JS.API.STREAM.MSG.GET.{followed.stream}", {"seq": seq})
            if body is None:
                break
            data = (body.get("message") or {}).get("data")
            if isinstance(data, str):
                task = task_of(base64.b64decode(data), self._settings.keys)
                if task is not None:
                    found[seq] = task
        return found


def _has_news(followed: Followed) -> bool:
    return followed.has_news or any(share.has_news for share in followed.shares.values())
