"""Run a job: queue the pictures of its site, wait for the workers' results, clean up."""

from __future__ import annotations

import asyncio
import logging

from asgiref.sync import sync_to_async
from django.utils import timezone
from images.models import SourceImage
from jobs.models import Job

from joblog_router import job_context
from pipeline.connection import get_connection
from pipeline.queue import TaskQueueManager
from pipeline.results import close_results, expect_results

logger = logging.getLogger(__name__)

QUEUE_BATCH = 100
RESULTS_TIMEOUT = 60.0
DRAIN = 0.8  # seconds for the workers' last answers, before the queue is taken from them


async def run_job(job_id: int) -> Job:
    job = await Job.objects.aget(pk=job_id)
    with job_context(job.pk):
        await process(job)
    return job


async def process(job: Job) -> None:
    logger.info("job %s: started, %s", job.pk, job.name)
    await sync_to_async(set_status)(job, Job.Status.STARTED)
    client = await get_connection()
    queue = TaskQueueManager(client)
    try:
        images = await sync_to_async(collect_images)(job)
        results = await expect_results(client, job.pk, len(images))
        await queue_images(queue, job, images)
        async with asyncio.timeout(RESULTS_TIMEOUT):
            await results.complete.wait()
        await asyncio.sleep(DRAIN)
        await sync_to_async(set_status)(job, Job.Status.SUCCESS)
        logger.info(
            "job %s: done, %d pictures, %d skipped, %d moths",
            job.pk,
            results.saved,
            results.skipped,
            results.moths,
        )
    except Exception:
        logger.exception("job %s: failed", job.pk)
        await sync_to_async(set_status)(job, Job.Status.FAILURE)
    finally:
        close_results(job.pk)
        await queue.cleanup(job.pk)


def set_status(job: Job, status: Job.Status) -> None:
    job.status = status
    if status == Job.Status.STARTED:
        job.started_at = timezone.now()
    else:
        job.finished_at = timezone.now()
    job.save(update_fields=["status", "started_at", "finished_at"])


def collect_images(job: Job) -> list[str]:
    """The names of the pictures that nobody has looked at yet."""
    images = list(SourceImage.objects.filter(site=job.site, sharpness=None).order_by("taken_at"))
    if not images:
        raise RuntimeError(f"site {job.site} has no new pictures")
    nights = {image.taken_at.date() for image in images}
    job.images_total = len(images)
    job.save(update_fields=["images_total"])
    logger.info(
        "job %s: collected %d pictures of %d nights, %s to %s",
        job.pk,
        len(images),
        len(nights),
        images[0].name,
        images[-1].name,
    )
    return [image.name for image in images]


async def queue_images(queue: TaskQueueManager, job: Job, images: list[str]) -> None:
    await queue.ensure_stream(job.pk)
    await queue.ensure_consumer(job.pk)
    batches = [images[start : start + QUEUE_BATCH] for start in range(0, len(images), QUEUE_BATCH)]
    queued = 0
    for number, batch in enumerate(batches, 1):
        taken = await asyncio.gather(*(queue.publish_image(job.pk, image) for image in batch))
        queued += sum(taken)
        logger.info("job %s: queued batch %d/%d (%d pictures)", job.pk, number, len(batches), sum(taken))
    if queued < len(images):
        raise RuntimeError(f"only {queued} of {len(images)} pictures could be queued")
