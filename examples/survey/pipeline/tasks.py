"""The survey's Celery tasks: start a job, save the results that workers send. Each names its job by its argument."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from celery import shared_task
from jobs.models import Job

from pipeline.connection import connected
from pipeline.orchestrate import collect_images, queue_images, set_status
from pipeline.progress import Progress
from pipeline.queue import TaskQueueManager
from pipeline.results import BLURRY, store

logger = logging.getLogger(__name__)


@shared_task  # type: ignore[untyped-decorator]
def run_job(job_id: int) -> None:
    """Queue the pictures of a job and return: workers ask for them over REST, and their results come as tasks."""
    job = Job.objects.get(pk=job_id)
    logger.info("job %s: started, %s", job.pk, job.name)
    try:
        images = collect_images(job)
        Progress(job.pk).start(images)
        asyncio.run(queue(job, images))
        set_status(job, Job.Status.STARTED)  # from here on workers are given its pictures
    except Exception:
        logger.exception("job %s: failed", job.pk)
        set_status(job, Job.Status.FAILURE)


@shared_task  # type: ignore[untyped-decorator]
def save_results(job_id: int, results: list[dict[str, Any]]) -> None:
    job = Job.objects.get(pk=job_id)
    progress = Progress(job.pk)
    replies = [result["reply"] for result in results]
    fresh = progress.claim([result["image"] for result in results])
    results = [result for result in results if result["image"] in fresh]
    if not results:
        asyncio.run(acknowledge(job, replies))
        return
    for result in results:
        if "error" not in result and result["sharpness"] < BLURRY:
            logger.warning("job %s: %s is blurry, its species are guesses", job.pk, result["image"])
    stored = store(job.pk, results)
    left = progress.finish(fresh, failed=stored.skipped)
    logger.info("job %s: saved %d results (%d of %d left)", job.pk, stored.saved, left.remaining, left.total)
    if job.status in (Job.Status.CANCELING, Job.Status.REVOKED):
        logger.info("job %s: these came after it was cancelled, and are kept", job.pk)
        return
    asyncio.run(acknowledge(job, replies, clean_up=not left.remaining))
    if not left.remaining:
        Job.objects.filter(pk=job.pk).update(images_done=left.total - left.failed, images_failed=left.failed)
        set_status(job, Job.Status.SUCCESS)
        logger.info("job %s: done, %d pictures, %d skipped", job.pk, left.total - left.failed, left.failed)


async def queue(job: Job, images: list[str]) -> None:
    async with connected() as client:
        await queue_images(TaskQueueManager(client), job, images)


async def acknowledge(job: Job, replies: list[str], *, clean_up: bool = False) -> None:
    async with connected() as client:
        manager = TaskQueueManager(client)
        await manager.acknowledge(replies)
        if clean_up:
            await manager.cleanup(job.pk)
