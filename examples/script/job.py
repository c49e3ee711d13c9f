"""A plain script: two jobs in two threads, each with a log of its own.

In the repository's folder:

    pip install .
    python examples/script/job.py
    joblog tail --store jsonl:var/joblog resize-1

The console has the lines of both jobs, each with its job in brackets. The last command prints those of `resize-1`
alone: `resized a.png`, `resized b.png`, `resize-1 is done`. They are in `var/joblog/resize-1.jsonl`, or in the folder
that is given to `job.py`.
"""

from __future__ import annotations

import logging
import logging.config
import sys
from concurrent.futures import ThreadPoolExecutor

from joblog_router import carry, flush, job_context

logger = logging.getLogger("images")


def configure(directory: str) -> None:
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"job_context": {"()": "joblog_router.JobContextFilter"}},
            "formatters": {"plain": {"format": "%(levelname)s [%(job_id)s] %(name)s: %(message)s"}},
            "handlers": {
                "console": {"class": "logging.StreamHandler", "filters": ["job_context"], "formatter": "plain"},
                "job": {"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {"directory": directory}},
            },
            "root": {"level": "INFO", "handlers": ["console", "job"]},
        }
    )


def resize(image: str) -> None:
    logger.info("resized %s", image)  # knows nothing of jobs


def run(job: str, images: list[str]) -> None:
    with job_context(job, total=len(images)), ThreadPoolExecutor(2) as pool:
        # A pool's threads belong to nobody: carry() takes the job along.
        list(pool.map(carry(resize), images))
        logger.info("%s is done", job)


if __name__ == "__main__":
    configure(sys.argv[1] if len(sys.argv) > 1 else "var/joblog")
    logger.info("outside of any job")
    run("resize-1", ["a.png", "b.png"])
    run("resize-2", ["c.png"])
    flush()
