"""The doctor's look at Celery: which workers answer, what they have of the job, and how much waits in the broker.

Asks the broker and the workers' remote control, in threads that nothing waits for. Takes no task from any queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..._pipeline.dotted import load
from ...doctor.memory import refuses_writes
from ...doctor.probing import ProbeResult, in_thread

__all__ = ["CeleryProbe"]

_REPLY_TIMEOUT: Final = 1.0
_CONNECT_TIMEOUT: Final = 1.0
# Less than the doctor has in all, so that it can say which of both it is.
_BROKER_TIMEOUT: Final = 2.0
_MAX_TASKS: Final = 20


class CeleryProbe:
    """`app` is the Celery application or its dotted path (default: the current one), `queues` those that matter.

    Workers have `timeout` seconds to answer.
    """

    name = "celery"

    def __init__(
        self,
        app: Any = None,
        queues: Sequence[str] | None = None,
        arguments: Sequence[str] = ("job_id", "job"),
        timeout: float = _REPLY_TIMEOUT,
    ) -> None:
        self._timeout = timeout
        self._app = app
        self._queues = list(queues) if queues is not None else None
        self._arguments = tuple(arguments)

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `workers`, `active` and `reserved` tasks of the job, `busy`, `depth` by queue, `taken`; `unreachable`.

        `depth_moved` is by how much the queues grew while workers were asked, where none answered.
        """
        app = load(self._app) if isinstance(self._app, str) else self._app or load("celery.current_app")
        try:
            async with asyncio.timeout(_BROKER_TIMEOUT) as limit:
                depth, refuses = await in_thread(self._depth, app)
        except Exception as error:
            if limit.expired():
                words = f"the broker gives no answer within {_BROKER_TIMEOUT:g} s"
                return ProbeResult(self.name, {"unreachable": True, "is_late": True}, words)
            if _is_refusal(error):
                # The broker is there; that this account is refused says nothing about the workers'.
                return ProbeResult(self.name, {}, f"the broker refuses the doctor's account: {type(error).__name__}")
            words = f"{type(error).__name__}: {error}"
            if not isinstance(error, OSError | load("kombu.exceptions.OperationalError")):
                # A package that is missing here, a setting that cannot be read: no word about the broker.
                return ProbeResult(self.name, {}, f"the doctor cannot ask the broker: {words}")
            return ProbeResult(self.name, {"unreachable": True}, f"the broker cannot be reached: {words}")
        if refuses:
            # Workers cannot be asked through it either.
            facts = {"refuses_writes": refuses, "depth": depth}
            return ProbeResult(self.name, facts, f"the broker takes no tasks: {refuses}")
        ping, active, reserved, taken = await asyncio.gather(
            *(in_thread(self._ask, app, what) for what in ("ping", "active", "reserved", "active_queues"))
        )
        of_job = {
            "active": self._of_job(active, job_id),
            "reserved": self._of_job(reserved, job_id),
        }
        moved = 0
        if not ping and any(depth.values()):
            later, _ = await in_thread(self._depth, app)
            moved = sum((later[name] or 0) - (count or 0) for name, count in depth.items())
        return ProbeResult(
            self.name,
            {
                "depth_moved": moved,
                "workers": sorted(ping),
                "depth": depth,
                # Whom workers that answer take tasks from; None where not all of them said so.
                "taken": sorted({queue.get("name", "") for queues in taken.values() for queue in queues})
                if set(taken) >= set(ping)
                else None,
                "busy": sum(len(tasks) for tasks in active.values()),
                "prefetched": sum(len(tasks) for tasks in reserved.values()),
                **of_job,
            },
        )

    def _depth(self, app: Any) -> tuple[dict[str, int | None], str]:
        """How many tasks wait, by queue; and why the broker takes no more, "" where nothing speaks against it."""
        names = self._queues or list(app.amqp.queues) or [app.conf.task_default_queue]
        found: dict[str, int | None] = {}
        # A connection of its own: those of the pool are for the application's tasks.
        with app.connection_for_read(connect_timeout=_CONNECT_TIMEOUT) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0, timeout=_CONNECT_TIMEOUT)
            for name in names:
                channel = connection.channel()
                try:
                    found[name] = int(channel.queue_declare(name, passive=True).message_count)
                except Exception:
                    found[name] = None  # it does not exist before the first task
                finally:
                    channel.close()
            return found, _refuses_writes(connection)

    def _ask(self, app: Any, what: str) -> dict[str, Any]:
        with app.connection_for_read(connect_timeout=_CONNECT_TIMEOUT) as connection:
            inspect = app.control.inspect(timeout=self._timeout, connection=connection)
            return getattr(inspect, what)() or {}

    def _of_job(self, tasks: Mapping[str, Any], job_id: str) -> list[dict[str, Any]]:
        found = []
        for worker, running in tasks.items():
            for task in running:
                kwargs, args = task.get("kwargs") or {}, task.get("args") or []
                named = (
                    any(str(kwargs[name]) == job_id for name in self._arguments if name in kwargs)
                    if isinstance(kwargs, Mapping)
                    else False
                )
                if named or (isinstance(args, list) and args and str(args[0]) == job_id):
                    found.append({"task": task.get("name"), "worker": worker, "started": task.get("time_start")})
        return found[:_MAX_TASKS]


def _refuses_writes(connection: Any) -> str:
    """Only of Redis and what speaks its protocol is it known."""
    if "redis" not in str(connection.transport_cls or ""):
        return ""
    try:
        return refuses_writes(connection.default_channel.client.info())
    except Exception:
        return ""  # this account may not ask


def _is_refusal(error: BaseException | None) -> bool:
    """Whether the broker said no to who asks."""
    while error is not None:
        if any(word in type(error).__name__ for word in ("Auth", "AccessRefused", "NoPermission")):
            return True
        if any(
            word in str(error)
            for word in ("WRONGPASS", "NOAUTH", "NOPERM", "invalid username-password", "ACCESS_REFUSED")
        ):
            return True
        error = error.__cause__ or error.__context__
    return False
