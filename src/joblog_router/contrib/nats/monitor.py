"""Watch from outside what any worker does with the jobs' streams, and write it into each job's log.

For workers that do not run this library, in whatever language. A connection of its own listens to the requests and
answers that pass the server; nothing of the application is acknowledged, pulled or changed. Several monitors may run:
one writes, the others wait. Runs on one event loop, as a coroutine (`monitor`) or an object (`Monitor`).
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import json
import logging
import time
from typing import TYPE_CHECKING, Any, Final, Self

from ... import aflush
from ..._pipeline.report import report_once
from ...context import detached
from ...exceptions import ConfigurationError, MissingExtraError
from .events import tell, timestamp
from .exhaustion import task_of
from .following import Followed
from .lease import Lease
from .naming import Job, NamePatterns
from .questions import Questions
from .recorder import Recorder
from .reporting import apply_mark, finish, mark_of, report, tasks_wanted
from .state import DEFAULT_TASK_ID_KEYS
from .watching import Watch

if TYPE_CHECKING:
    from .observer import Observer

__all__ = ["Monitor", "monitor"]

_PULLS: Final = "$JS.API.CONSUMER.MSG.NEXT.>"
_ANSWERS: Final = "$JS.ACK.>"
_ADVISORIES: Final = ("$JS.EVENT.ADVISORY.STREAM.>", "$JS.EVENT.ADVISORY.CONSUMER.>")
_GRACE: Final = 0.1
_MAX_POLL_PAUSE: Final = 60.0
_RECONCILE: Final = 60.0
_MAX_TASKS: Final = 1_000
_PARALLEL: Final = 8
_MAX_BYTES: Final = 64 * 1024 * 1024
_MAX_AGE: Final = 86_400.0
_LEASE: Final = 3
_MIN_LEASE: Final = 2.0
_FLUSH: Final = 5.0
_SIGHTINGS: Final = {
    "STREAM.CREATED": ("nats.stream.created", "was created", logging.INFO),
    "STREAM.UPDATED": ("nats.stream.updated", "was changed", logging.INFO),
    "STREAM.DELETED": ("nats.stream.deleted", "was deleted", logging.INFO),
    "CONSUMER.CREATED": ("nats.consumer.created", "was created", logging.INFO),
    "CONSUMER.UPDATED": ("nats.consumer.updated", "was changed", logging.INFO),
    "CONSUMER.DELETED": ("nats.consumer.deleted", "was deleted", logging.INFO),
    "STREAM.LEADER_ELECTED": ("nats.leader.elected", "has a new leader in its cluster", logging.INFO),
    "CONSUMER.LEADER_ELECTED": ("nats.leader.elected", "has a new leader in its cluster", logging.INFO),
    "STREAM.QUORUM_LOST": ("nats.quorum.lost", "has no majority of its replicas: nothing is stored", logging.ERROR),
    "CONSUMER.QUORUM_LOST": ("nats.quorum.lost", "has no majority of its replicas: nothing moves", logging.ERROR),
}


async def monitor(servers: str | list[str], **options: Any) -> None:
    """Watch until cancelled. Options as for `Monitor`."""
    async with Monitor(servers, **options) as running:
        await running.wait()


class Monitor:
    """Watches every job's streams on one account.

    - `interval`: seconds between two looks; also how soon messages are told to be given up, past `ack_wait`.
    - `patterns`, `task_id_keys`: as for `instrument()`.
    - `recorder`: keep what workers do in a stream of its own (`<name>_RECORDER`, servers from 2.10 on), so that nothing
      is missed while no monitor runs: 64 MiB and a day at most (`recorder_bytes`, `recorder_age`).
    - `name`: of the streams that monitors share; monitors of one name never write a line twice.
    - anything else goes to nats-py's `connect`.

    `async with Monitor(…)`, or `await start()` and `await stop()`. `start` raises what connecting raises; after that
    nothing is raised: what cannot be done is said once on stderr, and tried again.
    """

    is_leading: bool
    is_recording: bool

    def __init__(
        self,
        servers: str | list[str],
        *,
        interval: float = 10.0,
        patterns: Any = None,
        task_id_keys: tuple[str, ...] = DEFAULT_TASK_ID_KEYS,
        recorder: bool = True,
        recorder_bytes: int = _MAX_BYTES,
        recorder_age: float = _MAX_AGE,
        name: str = "JOBLOG_MONITOR",
        **connection: Any,
    ) -> None:
        if not isinstance(interval, int | float) or not interval > 0:
            raise ConfigurationError(f"Monitor: interval must be a number of seconds above 0, not {interval!r}")
        if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
            raise ConfigurationError(f"Monitor: name {name!r} must be of letters, digits, '_' and '-'")
        if importlib.util.find_spec("nats") is None:
            raise MissingExtraError("nats-py", "nats")
        self._servers = servers
        self._interval = float(interval)
        self._patterns = NamePatterns() if patterns is None else NamePatterns(patterns)
        self._keys = tuple(task_id_keys)
        self._wants_recorder = recorder
        self._recorder_bytes, self._recorder_age = recorder_bytes, recorder_age
        self._name = name
        self._connection = connection
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Observer | None = None
        # True while this one writes; and whether answers are seen, else only numbers are compared.
        self.is_leading = False
        self.is_recording = False
        self._watching: _Watching | None = None

    async def start(self) -> None:
        """Connect and watch, in a task of its own."""
        from .observer import INBOX, Observer

        self._client = Observer()
        self._stopping.clear()
        options = {
            "name": "joblog monitor",
            "inbox_prefix": INBOX,
            "max_reconnect_attempts": -1,
            "error_cb": self._failed,
            **self._connection,
        }
        with detached():
            await self._client.connect(self._servers, **options)
            self._task = asyncio.get_running_loop().create_task(self._run(self._client))

    async def stop(self) -> None:
        """Tell what is held back, hand over to the next monitor, and close the connection."""
        self._stopping.set()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.wait({task})
        if self._client is not None and not self._client.is_closed:
            await self._client.close()

    async def wait(self) -> None:
        """Until `stop()` is called somewhere else."""
        if self._task is not None:
            await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    async def _failed(self, error: Exception) -> None:
        text = str(error)
        report_once(
            ("nats-monitor", text[:200]),
            f"NATS monitor: {text or type(error).__name__}; see docs/nats-events.md for the permissions it needs",
        )

    async def _run(self, client: Observer) -> None:
        lasting = max(self._interval * _LEASE, _MIN_LEASE)
        lease = Lease(client, self._name, client.new_inbox(), lasting)
        await lease.prepare()
        if not lease.is_possible:
            report_once(
                ("nats-monitor", "lease"),
                f"NATS monitor: the stream {self._name} cannot be had; a second monitor would write every line again",
            )
        while not self._stopping.is_set():
            try:
                if client.is_connected and await lease.take():
                    await self._lead(client, lease)
            except Exception as error:
                report_once(("nats-monitor", type(error)), f"NATS monitor: {error!r}; it goes on. Please report it")
            self.is_leading = False
            await self._pause(min(self._interval, lasting / 4))

    async def _lead(self, client: Observer, lease: Lease) -> None:
        watching = self._watching = _Watching(self, client, lease)
        keeping = asyncio.ensure_future(lease.keep())
        try:
            await watching.begin()
            self.is_leading, self.is_recording = True, watching.recorder is not None
            while await watching.look():
                if self._stopping.is_set():
                    await watching.finish()
                    return
                await self._pause(self._interval)
        finally:
            keeping.cancel()
            self._watching = None
            await watching.end()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


class _Watching:
    """One term of leading: from taking the lease to losing it."""

    def __init__(self, settings: Monitor, client: Observer, lease: Lease) -> None:
        self._settings = settings
        self._client = client
        self._lease = lease
        self._watch = Watch(settings._patterns)
        self._questions = Questions()
        self._taps: list[Any] = []
        self._limit = asyncio.Semaphore(_PARALLEL)
        self.recorder: Recorder | None = None
        # Up to this record everything was told by whoever watched before.
        self._told_to = lease.position
        self._is_loud = False
        self._recorded_before = 0
        self._marks: dict[Followed, dict[str, Any]] = {}
        self._gone: list[tuple[Followed, bool]] = []
        self._deleted: list[tuple[Job, str, str, str]] = []
        self._reconciled = 0.0

    async def begin(self) -> None:
        """Listen, learn what is there, and catch up with what happened meanwhile."""
        settings, client = self._settings, self._client
        for subject in _ADVISORIES:
            self._taps.append(await client.tap(subject, self._advised))
        self._taps.append(await client.tap(_PULLS, self._pulled))
        extent = None
        if settings._wants_recorder:
            recorder = Recorder(client, f"{settings._name}_RECORDER", self._recorded, self._recorded_run)
            extent = await recorder.prepare(max_bytes=settings._recorder_bytes, max_age=settings._recorder_age)
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
                await self.recorder.keep()
                if not client.is_connected:
                    break
                await asyncio.sleep(0.01)
        self._be_loud()

    async def look(self) -> bool:
        """One round: ask about what has changed, tell it. False once this monitor may not write any more."""
        if not self._client.is_connected:
            return False
        if self.recorder is not None:
            await self.recorder.keep()
        if time.monotonic() - self._reconciled > _RECONCILE:
            await self._reconcile()
        now = time.monotonic()
        followed = list(self._watch.followed.values())
        due = [found for found in followed if found.is_changed or now >= found.poll_at]
        await self._all(self._ask(found) for found in due)
        asked = set(due)
        return await self._tell(due + [found for found in followed if found.has_news and found not in asked])

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
        told = [found for found in due if report(found, tasks.get(found) or {}, is_last=is_last)]
        for found in told:
            await self._lease.mark(found.stream, found.consumer, mark_of(found))
        for found, is_stream in gone:
            await self._lease.unmark(found.stream, "" if is_stream else found.consumer)
        if told or gone or deleted:
            await aflush(_FLUSH)
        if is_last:
            await self._lease.release(position)
            return False
        return await self._lease.renew(position)

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
        if kind == "MAX_DELIVERIES":
            followed = self._watch.meet(stream, consumer)
            if followed is not None:
                followed.give_up(int(advisory["stream_seq"]), int(advisory.get("deliveries") or 0), is_dropped=True)
                followed.is_changed = True
            return
        job = self._watch.job_of(stream, consumer)
        if job is None:
            return
        if kind == "PAUSE":
            followed = self._watch.meet(stream, consumer)
            if followed is not None:
                followed.is_changed = True
            return
        if kind == "DELETED":
            # Told behind what is left to say about its consumers.
            self._gone += [(found, not consumer) for found in self._watch.forget(stream, consumer)]
            self._deleted.append((job, f"{about}.{kind}", stream, consumer))
            return
        is_new = advisory.get("action") in {None, "create"}
        self._sighted(job, f"{about}.{kind}" if is_new or kind != "CREATED" else f"{about}.UPDATED", stream, consumer)
        if kind == "CREATED" and consumer:
            followed = self._watch.meet(stream, consumer)
            if followed is not None:
                followed.is_seen_whole = followed.is_seen_whole or is_new
                followed.is_changed = True

    def _sighted(self, job: Job, kind: str, stream: str, consumer: str) -> None:
        known = _SIGHTINGS.get(kind)
        if known is None or not self._lease.is_held:
            return
        event, words, level = known
        name = f"Consumer {consumer} of NATS stream {stream}" if consumer else f"NATS stream {stream}"
        tell(job, level, event, "%s %s", name, words, stream=stream, consumer=consumer or None, source="monitor")

    # Questions to the server.

    async def _question(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        payload = b"" if body is None else json.dumps(body).encode()
        return await self._questions.ask(self._client, type(self._client).request, subject, payload)

    async def _pages(self, subject: str, what: str) -> list[dict[str, Any]] | None:
        """Everything that a paged reply lists; None if nobody answered."""
        found: list[dict[str, Any]] = []
        while True:
            body = await self._question(subject, {"offset": len(found)})
            if body is None or body.get("error"):
                return None
            page = body.get(what) or []
            found += page
            if not page or len(found) >= (body.get("total") or 0):
                return found

    async def _reconcile(self) -> None:
        """Compare with what is there: for what was created and deleted while nobody could tell us."""
        self._reconciled = time.monotonic()
        streams = await self._pages("$JS.API.STREAM.LIST", "streams")
        if streams is None:
            return
        there: set[str] = set()
        new: list[str] = []
        for info in streams:
            config = info.get("config") or {}
            name = str(config.get("name") or "")
            there.add(name)
            if self._watch.learn(name, list(config.get("subjects") or ())) is not None:
                new.append(name)
        for stream in {stream for stream, _ in self._watch.followed} - there:
            self._gone += [(found, True) for found in self._watch.forget(stream)]
        known = {stream for stream, _ in self._watch.followed}
        await self._all(self._consumers(stream) for stream in new if stream not in known)

    async def _consumers(self, stream: str) -> None:
        for info in await self._pages(f"$JS.API.CONSUMER.LIST.{stream}", "consumers") or ():
            followed = self._watch.meet(stream, str(info.get("name") or ""))
            if followed is None:
                continue
            created = timestamp(info.get("created"))
            followed.born = created or 0.0
            followed.is_seen_whole = created is not None and created >= self._watch.since
            followed.describe(info, time.time())
            if not self._is_loud:
                self._marks[followed] = await self._lease.marked(stream, followed.consumer)

    async def _ask(self, followed: Followed) -> None:
        """Compare a consumer with what the server says of it; ask the less often, the less happens."""
        was_changed, followed.is_changed = followed.is_changed, False
        asked, before = time.time(), followed.described
        body = await self._question(f"$JS.API.CONSUMER.INFO.{followed.stream}.{followed.consumer}")
        pause = self._settings._interval
        if body is None:
            followed.poll_at = time.monotonic() + pause
            return
        if body.get("error"):
            if body["error"].get("code") == 404 and (followed.stream, followed.consumer) in self._watch.followed:
                self._gone += [(found, False) for found in self._watch.forget(followed.stream, followed.consumer)]
            return
        followed.describe(body, asked)
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
        if not self._settings._keys:
            return {}
        found: dict[int, str] = {}
        for seq in tasks_wanted(followed)[:_MAX_TASKS]:
            body = await self._question(f"$JS.API.STREAM.MSG.GET.{followed.stream}", {"seq": seq})
            if body is None:
                break
            data = (body.get("message") or {}).get("data")
            if isinstance(data, str):
                task = task_of(base64.b64decode(data), self._settings._keys)
                if task is not None:
                    found[seq] = task
        return found
