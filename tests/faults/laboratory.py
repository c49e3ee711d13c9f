"""The fault laboratory: one job with real servers behind it, brought into trouble step by step.

The job's row is a table of Django's, its queue a stream of a real nats-server, its counters in a real Valkey, its log a
directory of JSON lines. Nothing here knows the doctor's rules.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import nats
from asgiref.sync import sync_to_async
from django.db import connection, connections, models
from django.utils import timezone
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig

from joblog_router import Entry
from joblog_router.doctor import Verdict
from joblog_router.doctor.configuration import Configuration
from joblog_router.doctor.verdict import examine
from joblog_router.sinks import JsonLinesSink

PATIENCE = 0.4
LONG_AGO = 3600.0


class Job(models.Model):
    """A job as projects have it."""

    id = models.CharField(max_length=40, primary_key=True)
    status = models.CharField(max_length=20, default="STARTED")
    total = models.IntegerField(default=0)
    done = models.IntegerField(default=0)
    failed = models.IntegerField(default=0)
    created_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    updated_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "faults"

    def __str__(self) -> str:
        return self.id


@contextmanager
def table() -> Iterator[None]:
    """The table of jobs."""
    with connection.schema_editor() as editor:
        editor.create_model(Job)
    yield
    with connection.schema_editor() as editor:
        editor.delete_model(Job)


class Laboratory:
    """One job. `configuration` is what the project's setting DOCTOR would say."""

    def __init__(self, url: str, directory: Path) -> None:
        self.job_id = uuid4().hex[:12]
        self.stream = f"job_{self.job_id}"
        self.consumer = f"job-{self.job_id}-consumer"
        self.subject = f"job.{self.job_id}.tasks"
        self.url = url
        self.directory = directory
        self.store = JsonLinesSink(directory)
        self.configuration: dict[str, Any] = {
            "PATIENCE": PATIENCE,
            "JOB": {"model": Job},
            "NATS": {"servers": url, "window": 0.3},
        }
        self._lines = 0
        self._stopped = False  # nats-py's fetch may swallow a cancellation
        self._tasks: list[asyncio.Task[None]] = []
        self.client: Any = None

    async def connect(self) -> None:
        """A client of the application's."""
        self.client = await nats.connect(self.url)
        self.js = self.client.jetstream()

    async def close(self) -> None:
        """End workers and client, and take away the stream."""
        self._stopped = True
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=3)
        if self.client.is_connected:
            with suppress(Exception):
                await self.js.delete_stream(self.stream)
        with suppress(Exception):
            await asyncio.wait_for(self.client.close(), 1)
        await sync_to_async(connections.close_all)()

    # --- what a job does ---------------------------------------------------------------------------------------

    async def row(self, age: float = LONG_AGO, **fields: Any) -> None:
        """The job's row, made and started `age` seconds ago."""
        at = timezone.now() - timedelta(seconds=age)
        values = {"created_at": at, "started_at": at, "updated_at": at, **fields}
        await Job.objects.aupdate_or_create(id=self.job_id, defaults=values)

    def log(self, message: str, age: float = LONG_AGO, level: int = 20, **more: Any) -> None:
        """A line in its log."""
        self._lines += 1
        values: dict[str, Any] = {"exception": None, "fields": {}, "logger": "shop.work", **more}
        values.setdefault("origin", f"lab-{self.job_id}")
        self.store.write(
            [
                Entry(
                    job_id=self.job_id,
                    created=time.time() - age,
                    level=level,
                    message=message,
                    path="",
                    line=0,
                    seq=self._lines,
                    n=self._lines,
                    **values,
                )
            ]
        )

    def event(self, name: str, message: str = "told by NATS", **fields: Any) -> None:
        """A line as the NATS integration writes it."""
        level, age = fields.pop("level", 20), fields.pop("age", LONG_AGO)
        self.log(message, age, level, logger="joblog_router.nats", fields={"event": name, **fields})

    async def queue(self, tasks: int, consumer: bool = True, subject: str = "", **config: Any) -> None:
        """Stream, consumer and tasks."""
        await self.js.add_stream(
            StreamConfig(
                name=self.stream,
                subjects=[f"job.{self.job_id}.>"],
                retention=RetentionPolicy.LIMITS,
                storage=StorageType.MEMORY,
                max_age=86_400,
            )
        )
        if consumer:
            await self.js.add_consumer(
                self.stream,
                ConsumerConfig(
                    **{
                        "durable_name": self.consumer,
                        "filter_subject": self.subject,
                        "ack_policy": AckPolicy.EXPLICIT,
                        "max_deliver": 5,
                        "ack_wait": 30,
                        "max_ack_pending": 1000,
                        **config,
                    }
                ),
            )
        for number in range(tasks - 1):
            await self.client.publish(subject or self.subject, json.dumps({"task": number}).encode())
        if tasks:  # the last one's answer comes after all
            await self.js.publish(subject or self.subject, json.dumps({"task": tasks}).encode())

    async def fetch(self, count: int, timeout: float = 2.0) -> list[Any]:
        """What a worker is given."""
        pull = await self.js.pull_subscribe_bind(consumer=self.consumer, stream=self.stream)
        try:
            return await pull.fetch(count, timeout=timeout)
        finally:
            await pull.unsubscribe()

    async def work(self, count: int) -> None:
        """Take and acknowledge so many tasks."""
        left = count
        while left:
            messages = await self.fetch(left)
            for message in messages:
                await message.ack()
            left -= len(messages)
        await self.client.flush()

    def worker(self, how: str = "ack", seconds: float = 0.01, batch: int = 1) -> None:
        """A worker beside: `ack`, `nak`, or `crash` (never answers), each after so many seconds."""
        self._tasks.append(asyncio.create_task(self._work(how, seconds, batch)))

    async def _work(self, how: str, seconds: float, batch: int) -> None:
        pull = await self.js.pull_subscribe_bind(consumer=self.consumer, stream=self.stream)
        while not self._stopped:
            try:
                messages = await pull.fetch(batch, timeout=0.5)
            except (TimeoutError, nats.errors.Error):
                continue
            for message in messages:
                if how == "late":
                    self._tasks.append(asyncio.create_task(self._ack_later(message, seconds)))
                    continue
                await asyncio.sleep(seconds)  # the work itself
                if how == "ack":
                    await message.ack()
                elif how == "nak":
                    await message.nak()
            await asyncio.sleep(0.02 if how == "late" else seconds)

    @staticmethod
    async def _ack_later(message: Any, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await message.ack()

    async def until(self, **wanted: int) -> Mapping[str, Any]:
        """Wait until the consumer's numbers are at least these."""
        async with asyncio.timeout(10):
            while True:
                info = await self.js.consumer_info(self.stream, self.consumer)
                if all((getattr(info, name) or 0) >= value for name, value in wanted.items()):
                    return vars(info)
                await asyncio.sleep(0.02)  # the server tells nobody

    # --- the doctor --------------------------------------------------------------------------------------------

    async def examine(self) -> Verdict:
        """What the doctor says."""
        return await examine(self.job_id, self.store, Configuration.of(self.configuration))
