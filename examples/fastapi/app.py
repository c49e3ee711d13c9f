"""FastAPI: work that a request starts logs into its job, and the job's log is an endpoint.

In the repository's folder:

    pip install . fastapi uvicorn
    uvicorn --app-dir examples/fastapi app:app

and in another terminal:

    curl -X POST http://127.0.0.1:8000/jobs/7
    curl http://127.0.0.1:8000/jobs/7/log

The last one prints five lines: `started`, three steps in threads, `done`. They are in `var/joblog/7.jsonl`; the
environment's JOBLOG_DIRECTORY names another folder.
"""

from __future__ import annotations

import asyncio
import logging
import logging.config
import os

from fastapi import BackgroundTasks, FastAPI

from joblog_router import aflush, job_context
from joblog_router.sinks import open_store

DIRECTORY = os.environ.get("JOBLOG_DIRECTORY", "var/joblog")
logging.config.dictConfig(
    {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {
            "job": {"class": "joblog_router.JobLogHandler", "sink": "jsonl", "options": {"directory": DIRECTORY}}
        },
        "root": {"level": "INFO", "handlers": ["job"]},
    }
)
logger = logging.getLogger("shop.work")
app = FastAPI()


async def work(job_id: str) -> None:
    async with job_context(job_id):
        logger.info("started")
        await asyncio.gather(*(step(number) for number in range(3)))
        logger.info("done")


async def step(number: int) -> None:
    await asyncio.to_thread(logger.info, "step %d in a thread", number)  # follows by itself


@app.post("/jobs/{job_id}", status_code=202)
async def start(job_id: str, tasks: BackgroundTasks) -> dict[str, str]:
    tasks.add_task(work, job_id)
    return {"log": f"/jobs/{job_id}/log"}


@app.get("/jobs/{job_id}/log")
async def log(job_id: str) -> list[str]:
    await aflush()
    page = await asyncio.to_thread(open_store().newest, job_id)  # your permission check comes before this
    return [f"{entry.level_name} {entry.logger}: {entry.message}" for entry in page.entries]
