"""Watch from outside what any worker does with the jobs' streams, and write it into each job's log.

For workers that do not run this library, in whatever language. A connection of its own listens to the requests and
answers that pass the server; nothing of the application is acknowledged, pulled or changed. Several monitors may run:
one writes, the others wait. Called by the application or by `command`; runs on one event loop, as a coroutine
(`monitor`) or an object (`Monitor`). Owns the connection, the lease and what outlasts a term.
"""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Collection, Coroutine
from typing import TYPE_CHECKING, Any, Final, Self

from ... import aflush
from ..._pipeline.report import report, report_once
from ...context import detached
from ...exceptions import ConfigurationError, MissingExtraError
from .monitoring.lease import Lease
from .monitoring.replicas import SUBJECTS, Replicas
from .monitoring.server import Server
from .monitoring.term import FLUSH, Settings, Term
from .monitoring.watching import Watch
from .naming import DEFAULT_HEADER, NamePatterns
from .task_ids import DEFAULT_TASK_ID_KEYS

if TYPE_CHECKING:
    from .monitoring.observer import Observer

__all__ = ["Monitor", "monitor"]

_MAX_BYTES: Final = 64 * 1024 * 1024
_MAX_AGE: Final = 86_400.0
_LEASE: Final = 3
_MIN_LEASE: Final = 2.0


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
    - `shared`: streams of several jobs where no subject shows it; there a message's header (`header`) names its job.
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
        shared: Collection[str] = (),
        header: str = DEFAULT_HEADER,
        **connection: Any,
    ) -> None:
        if not isinstance(interval, int | float) or not interval > 0:
            raise ConfigurationError(f"Monitor: interval must be a number of seconds above 0, not {interval!r}")
        if isinstance(shared, str):
            raise ConfigurationError(f"Monitor: shared must be a list of streams' names, not {shared!r}")
        if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
            raise ConfigurationError(f"Monitor: name {name!r} must be of letters, digits, '_' and '-'")
        if importlib.util.find_spec("nats") is None:
            raise MissingExtraError("nats-py", "nats")
        self._servers = servers
        self._settings = Settings(
            interval=float(interval),
            patterns=NamePatterns() if patterns is None else NamePatterns(patterns),
            keys=tuple(task_id_keys),
            name=name,
            recorder=recorder,
            recorder_bytes=recorder_bytes,
            recorder_age=recorder_age,
            shared=frozenset(shared),
            header=header,
        )
        self._connection = connection
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._client: Observer | None = None
        # True while this one writes; and whether answers are seen, else only numbers are compared.
        self.is_leading = False
        self.is_recording = False
        self._term: Term | None = None
        # Whether it was said that no server answers; once for each time.
        self._is_away = False
        # What is known of the streams' leaders outlasts a term.
        self._replicas = Replicas(Watch(self._settings.patterns, self._settings.shared))

    async def start(self) -> None:
        """Connect and watch, in a task of its own."""
        from .monitoring.observer import INBOX, Observer

        self._client = Observer()
        self._stopping.clear()
        options = {
            "name": "joblog monitor",
            "inbox_prefix": INBOX,
            "max_reconnect_attempts": -1,
            "error_cb": self._failed,
            "reconnected_cb": self._answered,
            **self._connection,
        }
        with detached():
            await self._client.connect(self._servers, **options)
            await self._answered()
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
        text = str(error) or type(error).__name__
        if not isinstance(error, OSError):
            is_refusal = any(word in text.lower() for word in ("permission", "authoriz", "authent"))
            advice = "; see docs/nats-events.md for the permissions it needs" if is_refusal else ""
            report_once(("nats-monitor", text[:200]), f"NATS monitor: {text}{advice}")
        elif not self._is_away:
            self._is_away = True
            report(f"NATS monitor: {text}; no NATS server answers at {self._where()}; it is tried again until one does")

    async def _answered(self) -> None:
        if self._is_away:
            self._is_away = False
            report(f"NATS monitor: the server at {self._where()} answers")

    def _where(self) -> str:
        return ", ".join(map(_address, [self._servers] if isinstance(self._servers, str) else self._servers))

    async def _run(self, client: Observer) -> None:
        lasting = max(self._settings.interval * _LEASE, _MIN_LEASE)
        lease = Lease(client, self._settings.name, client.new_inbox(), lasting)
        if not await self._unless_stopping(lease.prepare()):
            return
        if not lease.is_possible:
            report_once(
                ("nats-monitor", "lease"),
                f"NATS monitor: the stream {lease.name} cannot be had; a second monitor would write every line again",
            )
        for subject in SUBJECTS:
            await client.tap(subject, self._replicas.advised)
        while not self._stopping.is_set():
            try:
                if client.is_connected and await lease.take():
                    await self._lead(client, lease)
                elif client.is_connected:
                    await self._look_on(client, lease)
            except Exception as error:
                report_once(("nats-monitor", type(error)), f"NATS monitor: {error!r}; it goes on. Please report it")
            self.is_leading = False
            await self._pause(min(self._settings.interval, lasting / 4))

    async def _lead(self, client: Observer, lease: Lease) -> None:
        term = self._term = Term(self._settings, client, lease, self._replicas)
        keeping = asyncio.ensure_future(lease.keep())
        try:
            await term.begin()
            self.is_leading, self.is_recording = True, term.is_recording
            while await term.look():
                if self._stopping.is_set():
                    await term.finish()
                    return
                await self._pause(self._settings.interval)
        finally:
            keeping.cancel()
            self._term = None
            await term.end()

    async def _look_on(self, client: Observer, lease: Lease) -> None:
        """Another monitor writes. Or nobody can: the lease has no leader itself, and the last who had it tells that."""
        if lease.is_orphaned:
            await self._replicas.ask(Server(client))
        if self._replicas.report(may_write=lease.is_orphaned):
            await aflush(FLUSH)

    async def _unless_stopping(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether `work` ended before this monitor is to."""
        working, stopping = asyncio.ensure_future(work), asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        is_done = working.done()
        for task in (working, stopping):
            task.cancel()
        return is_done

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def _address(url: str) -> str:
    """Without the user and the password."""
    return url.rpartition("@")[2].removeprefix("nats://")
