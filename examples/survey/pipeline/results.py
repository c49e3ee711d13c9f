"""Results of the workers: one subscription for all jobs, on the connection that they share."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any, NamedTuple

from asgiref.sync import sync_to_async
from django.db import transaction
from images.files import CorruptPictureError, read_size
from images.models import Detection, SourceImage
from jobs.models import Job
from nats.aio.client import Client
from nats.aio.msg import Msg

logger = logging.getLogger(__name__)

SUBJECT = "job.*.results"
BATCH = 100
BLURRY = 0.15  # below this sharpness species are guesses


class Results:
    """What has come back for one job."""

    def __init__(self, job_id: int, expected: int) -> None:
        self.job_id = job_id
        self.expected = expected
        self.saved = self.skipped = self.moths = 0
        self.unsaved: list[dict[str, Any]] = []
        self.complete = asyncio.Event()

    @property
    def received(self) -> int:
        return self.saved + self.skipped + len(self.unsaved)


_open: dict[int, Results] = {}
_lock = asyncio.Lock()
_subscribed_to: Client | None = None


async def expect_results(client: Client, job_id: int, expected: int) -> Results:
    """Collect the results of a job from now on. The first job makes the subscription, for all of them."""
    global _subscribed_to
    results = _open[job_id] = Results(job_id, expected)
    async with _lock:
        if _subscribed_to is not client:
            await client.subscribe(SUBJECT, cb=on_result)
            await client.flush()
            _subscribed_to = client
    return results


def close_results(job_id: int) -> None:
    _open.pop(job_id, None)


async def on_result(message: Msg) -> None:
    result = json.loads(message.data)
    results = _open.get(result["job"])
    if results is None:
        logger.warning("job %s: a result for %s came too late", result["job"], result["image"])
        return
    logger.debug("job %s: result for %s: %s", result["job"], result["image"], result)
    if "error" not in result and result["sharpness"] < BLURRY:
        logger.warning(
            "job %s: %s is blurry, its species are guesses",
            result["job"],
            result["image"],
            extra={"image": result["image"], "sharpness": result["sharpness"]},
        )
    results.unsaved.append(result)
    if len(results.unsaved) >= BATCH or results.received >= results.expected:
        await sync_to_async(save_batch)(results)
    if results.received >= results.expected:
        results.complete.set()


def save_batch(results: Results) -> None:
    batch, results.unsaved = results.unsaved, []
    stored = store(results.job_id, batch)
    results.saved += stored.saved
    results.skipped += stored.skipped
    results.moths += stored.moths
    Job.objects.filter(pk=results.job_id).update(images_done=results.saved, images_failed=results.skipped)
    logger.info(
        "job %s: saved %d results (%d of %d are in, %d moths)",
        results.job_id,
        stored.saved,
        results.received,
        results.expected,
        results.moths,
    )


class Stored(NamedTuple):
    """What became of some results."""

    saved: int
    skipped: int
    moths: int


def store(job_id: int, batch: list[dict[str, Any]]) -> Stored:
    """Keep the moths of these pictures, in one transaction; a picture that cannot be read is skipped."""
    images = SourceImage.objects.in_bulk([result["image"] for result in batch], field_name="name")
    saved = skipped = moths = 0
    with transaction.atomic():
        for result in batch:
            image = images[result["image"]]
            if "error" in result:
                logger.error("job %s: %s is skipped: %s", job_id, image.name, result["error"])
                skipped += 1
                continue
            try:
                detections = in_pixels(image, result["detections"])
            except CorruptPictureError:
                logger.exception("job %s: %s cannot be read and is skipped", job_id, image.name)
                skipped += 1
                continue
            image.sharpness = result["sharpness"]
            image.save(update_fields=["sharpness"])
            Detection.objects.bulk_create(detections)
            moths += len(detections)
            saved += 1
    return Stored(saved, skipped, moths)


def in_pixels(image: SourceImage, found: list[dict[str, Any]]) -> list[Detection]:
    """Workers measure in parts of the picture; its own size makes pixels of them."""
    width, height = read_size(image.path)
    return [
        Detection(
            image=image,
            x=int(moth["x"] * width),
            y=int(moth["y"] * height),
            width=int(moth["width"] * width),
            height=int(moth["height"] * height),
            species=moth["species"],
            score=moth["score"],
        )
        for moth in found
    ]
