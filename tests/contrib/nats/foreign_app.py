"""An ordinary task queue over JetStream, written as such code is written: module loggers, no word of job logs."""

from __future__ import annotations

import json
import logging
from typing import Any, Self

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

logger = logging.getLogger(__name__)


class TaskQueueManager:
    """One stream and one consumer per job."""

    def __init__(self, url: str, ack_wait: float = 30, max_deliver: int = 5, max_msgs: int = -1) -> None:
        self.url = url
        self.ack_wait = ack_wait
        self.max_deliver = max_deliver
        self.max_msgs = max_msgs
        self.nc: Any = None
        self.js: Any = None

    async def __aenter__(self) -> Self:
        self.nc = await nats.connect(self.url)
        self.js = self.nc.jetstream()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.nc.close()

    @staticmethod
    def stream_name(job_id: str) -> str:
        """The job's stream."""
        return f"job_{job_id}"

    @staticmethod
    def subject(job_id: str) -> str:
        """Where its tasks are published."""
        return f"job.{job_id}.tasks"

    @staticmethod
    def consumer_name(job_id: str) -> str:
        """Who hands them out."""
        return f"job-{job_id}-consumer"

    async def ensure_stream(self, job_id: str) -> None:
        """Create the stream unless it is there."""
        name = self.stream_name(job_id)
        try:
            await self.js.stream_info(name)
        except NotFoundError:
            logger.warning("Stream %s does not exist", name)
            await self.js.add_stream(
                name=name,
                subjects=[self.subject(job_id)],
                max_age=86400,
                max_msgs=self.max_msgs,
                discard="new",
            )
            logger.info("Created stream %s", name)

    async def ensure_consumer(self, job_id: str) -> None:
        """Create the consumer unless it is there."""
        stream, consumer = self.stream_name(job_id), self.consumer_name(job_id)
        try:
            info = await self.js.consumer_info(stream, consumer)
            logger.debug("Consumer %s already exists: %s", consumer, info)
        except NotFoundError:
            await self.js.add_consumer(
                stream=stream,
                config=ConsumerConfig(
                    durable_name=consumer,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=self.ack_wait,
                    max_deliver=self.max_deliver,
                    deliver_policy=DeliverPolicy.ALL,
                    max_ack_pending=100,
                    filter_subject=self.subject(job_id),
                ),
            )
            logger.info("Created consumer %s", consumer)

    async def publish_task(self, job_id: str, data: dict[str, Any]) -> bool:
        """Queue one task; False if that failed."""
        try:
            await self.ensure_stream(job_id)
            await self.ensure_consumer(job_id)
            ack = await self.js.publish(self.subject(job_id), json.dumps(data).encode(), timeout=5)
            logger.debug("Published task to %s, sequence %s", self.subject(job_id), ack.seq)
        except Exception as error:
            logger.error("Failed to publish task for job %s: %s", job_id, error)
            return False
        return True

    async def reserve_tasks(self, job_id: str, count: int, timeout: float = 5) -> list[dict[str, Any]]:
        """Fetch up to `count` tasks; none if there are none."""
        await self.ensure_stream(job_id)
        await self.ensure_consumer(job_id)
        subscription = await self.js.pull_subscribe(
            self.subject(job_id), durable=self.consumer_name(job_id), stream=self.stream_name(job_id)
        )
        try:
            messages = await subscription.fetch(count, timeout=timeout)
        except TimeoutError:
            logger.debug("No tasks available")
            return []
        finally:
            await subscription.unsubscribe()
        logger.info("Reserved %s tasks", len(messages))
        return [{**json.loads(message.data), "reply": message.reply} for message in messages]

    async def acknowledge(self, reply: str) -> bool:
        """Mark a task as done."""
        await self.nc.publish(reply, b"+ACK")
        return True

    async def cleanup(self, job_id: str) -> bool:
        """Delete consumer and stream; False if that failed."""
        stream, consumer = self.stream_name(job_id), self.consumer_name(job_id)
        done = True
        for delete in (lambda: self.js.delete_consumer(stream, consumer), lambda: self.js.delete_stream(stream)):
            try:
                await delete()
            except Exception as error:
                logger.error("Failed to clean up job %s: %s", job_id, error)
                done = False
        return done
