"""The task queue: one JetStream stream and one consumer for each job."""

from __future__ import annotations

import json
import logging
import os

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StreamConfig
from nats.js.errors import NotFoundError

logger = logging.getLogger(__name__)

MAX_DELIVER = 3
ACK_WAIT = float(os.environ.get("NATS_TASK_TTR", "1"))  # seconds a worker has before a picture is delivered again
MAX_ACK_PENDING = int(os.environ.get("NATS_MAX_ACK_PENDING", "1000"))
MAX_AGE = 24 * 60 * 60


class TaskQueueManager:
    def __init__(self, client: Client) -> None:
        self.client = client
        self.js = client.jetstream()

    @staticmethod
    def stream_name(job_id: int) -> str:
        return f"job_{job_id}"

    @staticmethod
    def consumer_name(job_id: int) -> str:
        return f"job-{job_id}-consumer"

    @staticmethod
    def subject(job_id: int) -> str:
        return f"job.{job_id}.images"

    async def ensure_stream(self, job_id: int) -> None:
        name = self.stream_name(job_id)
        try:
            await self.js.stream_info(name)
            logger.debug("Stream %s is there already", name)
        except NotFoundError:
            await self.js.add_stream(
                StreamConfig(
                    name=name,
                    subjects=[self.subject(job_id)],
                    retention=RetentionPolicy.LIMITS,
                    max_age=MAX_AGE,
                )
            )
            logger.debug("Created stream %s", name)

    async def ensure_consumer(self, job_id: int) -> None:
        stream, consumer = self.stream_name(job_id), self.consumer_name(job_id)
        try:
            await self.js.consumer_info(stream, consumer)
            logger.debug("Consumer %s is there already", consumer)
        except NotFoundError:
            await self.js.add_consumer(
                stream,
                ConsumerConfig(
                    durable_name=consumer,
                    filter_subject=self.subject(job_id),
                    deliver_policy=DeliverPolicy.ALL,
                    ack_policy=AckPolicy.EXPLICIT,
                    max_deliver=MAX_DELIVER,
                    ack_wait=ACK_WAIT,
                    max_ack_pending=MAX_ACK_PENDING,
                ),
            )
            logger.debug("Created consumer %s", consumer)

    async def publish_image(self, job_id: int, image: str) -> bool:
        """Queue one picture; whether the queue took it."""
        payload = json.dumps({"job": job_id, "image_id": image}).encode()
        try:
            ack = await self.js.publish(self.subject(job_id), payload, stream=self.stream_name(job_id))
        except NatsError:
            logger.debug("job %s: could not queue %s", job_id, image, exc_info=True)
            return False
        logger.debug("job %s: queued %s as message %s", job_id, image, ack.seq)
        return True

    async def reserve(self, job_id: int, count: int) -> list[dict[str, str]]:
        """Up to `count` pictures for a worker: their names, and where their end is to be told."""
        stream, consumer = self.stream_name(job_id), self.consumer_name(job_id)
        subscription = await self.js.pull_subscribe_bind(consumer=consumer, stream=stream)
        try:
            messages = await subscription.fetch(count, timeout=0.1)
        except TimeoutError:
            return []
        except NatsError as error:
            logger.debug("job %s: nothing to reserve: %s", job_id, error)  # not made yet, or taken away
            return []
        finally:
            await subscription.unsubscribe()
        return [{"image": json.loads(message.data)["image_id"], "reply": message.reply} for message in messages]

    async def acknowledge(self, replies: list[str]) -> None:
        for reply in replies:
            await self.client.publish(reply, b"+ACK")
        await self.client.flush()

    async def cleanup(self, job_id: int) -> None:
        """Delete the job's consumer and stream; it goes on where one is missing."""
        stream, consumer = self.stream_name(job_id), self.consumer_name(job_id)
        try:
            await self.js.delete_consumer(stream, consumer)
            logger.debug("Deleted consumer %s", consumer)
        except NatsError as error:
            logger.warning("job %s: could not delete consumer %s: %s", job_id, consumer, error)
        try:
            await self.js.delete_stream(stream)
            logger.debug("Deleted stream %s", stream)
        except NatsError as error:
            logger.warning("job %s: could not delete stream %s: %s", job_id, stream, error)
