"""A worker: finds the moths in pictures and names them. A process of its own, with the settings of the project.

python -m pipeline.worker nats://127.0.0.1:4222
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import signal
from collections.abc import Collection
from typing import Any

import django
import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.client import JetStreamContext

from pipeline.queue import MAX_DELIVER

logger = logging.getLogger(__name__)

SPECIES = [
    "Noctua pronuba",
    "Agrotis exclamationis",
    "Xestia c-nigrum",
    "Hoplodrina octogenaria",
    "Idaea aversata",
    "Biston betularia",
    "Deilephila elpenor",
    "Arctia caja",
]
BATCH = 25
SECONDS_PER_BATCH = 0.04


def classify(image: str, seed: int) -> dict[str, Any]:
    """What a model would say. The same for the same picture and seed."""
    rng = random.Random(f"{seed} {image}")
    is_blurry = rng.random() < 0.008
    moths = [
        {
            "x": rng.uniform(0, 0.8),
            "y": rng.uniform(0, 0.8),
            "width": rng.uniform(0.02, 0.2),
            "height": rng.uniform(0.02, 0.2),
            "species": rng.choice(SPECIES),
            "score": round(rng.uniform(0.4, 0.99), 3),
        }
        for _ in range(rng.choice([0, 0, 1, 1, 1, 2, 3]))
    ]
    sharpness = rng.uniform(0.02, 0.14) if is_blurry else rng.uniform(0.2, 0.95)
    return {"image": image, "sharpness": round(sharpness, 3), "detections": moths}


class Worker:
    def __init__(self, client: Client, seed: int, heavy: Collection[str], poison: Collection[str]) -> None:
        self.heavy = heavy
        self.poison = poison
        self.client = client
        self.js = client.jetstream()
        self.seed = seed
        self.queues: dict[str, JetStreamContext.PullSubscription] = {}

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.find_queues()
            await asyncio.gather(*(self.work(stream) for stream in self.queues))
            if not self.queues:
                await asyncio.sleep(0.05)

    async def find_queues(self) -> None:
        streams = {info.config.name or "" for info in await self.js.streams_info()}
        jobs = {name for name in streams if name.startswith("job_")}
        for name in jobs - self.queues.keys():
            consumer = f"job-{name.removeprefix('job_')}-consumer"
            try:
                await self.js.consumer_info(name, consumer)
            except NatsError:
                continue  # not made yet
            self.queues[name] = await self.js.pull_subscribe_bind(consumer=consumer, stream=name)
            logger.info("working for %s", name)
        for name in self.queues.keys() - jobs:
            await self.drop(name)

    async def drop(self, stream: str) -> None:
        queue = self.queues.pop(stream)
        with contextlib.suppress(NatsError):
            await queue.unsubscribe()
        logger.info("%s is gone", stream)

    async def work(self, stream: str) -> None:
        try:
            messages = await self.queues[stream].fetch(BATCH, timeout=0.2)
        except TimeoutError:
            return
        except NatsError as error:
            logger.info("%s: %s", stream, error)
            return
        await asyncio.sleep(SECONDS_PER_BATCH)  # a model would work here
        for message in messages:
            await self.process(message)
        logger.info("%s: finished a batch of %d", stream, len(messages))

    async def process(self, message: Msg) -> None:
        task = json.loads(message.data)
        image, attempt = task["image_id"], message.metadata.num_delivered
        if image in self.heavy and attempt == 1:
            raise MemoryError(f"{image} is too large")  # ends this worker, in the middle of its batch
        if image in self.poison:
            if attempt == MAX_DELIVER:
                failure = {"job": task["job"], "image": image, "error": "the model cannot take it"}
                await self.client.publish(f"job.{task['job']}.results", json.dumps(failure).encode())
            await message.nak()
            return
        result = {"job": task["job"], **classify(image, self.seed)}
        await self.client.publish(f"job.{task['job']}.results", json.dumps(result).encode())
        await message.ack()


async def main(server: str, name: str, seed: int, heavy: Collection[str], poison: Collection[str]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    client = await nats.connect(server, name=name)
    logger.info("%s is ready", name)
    await Worker(client, seed, heavy, poison).run(stop)
    await client.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("server")
    parser.add_argument("--name", default="worker")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--heavy", action="append", default=[], help="a picture that ends whoever looks at it first")
    parser.add_argument("--poison", action="append", default=[], help="a picture that no worker can take")
    options = parser.parse_args()
    django.setup()
    asyncio.run(main(options.server, options.name, options.seed, options.heavy, options.poison))
