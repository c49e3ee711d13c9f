"""The survey's REST interface: for its users, and for workers that are elsewhere."""

from __future__ import annotations

import json
import logging

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST
from pipeline.connection import get_connection
from pipeline.orchestrate import set_status
from pipeline.progress import STAGES, Progress
from pipeline.queue import TaskQueueManager
from pipeline.tasks import run_job, save_results

from jobs.models import Job

logger = logging.getLogger(__name__)


@require_GET
def active(request: HttpRequest) -> JsonResponse:
    """The jobs that workers may ask for tasks of."""
    return JsonResponse({"jobs": list(Job.objects.filter(status=Job.Status.STARTED).values_list("pk", flat=True))})


@require_GET
def detail(request: HttpRequest, pk: int) -> JsonResponse:
    job = get_object_or_404(Job, pk=pk)
    progress = Progress(job.pk)
    stages = {name: progress.stage(name) for name in STAGES}
    return JsonResponse(
        {
            "status": job.status,
            "stages": {name: {**stage._asdict(), "percentage": stage.percentage} for name, stage in stages.items()},
        }
    )


@csrf_exempt
@require_POST
def run(request: HttpRequest, pk: int) -> JsonResponse:
    job = get_object_or_404(Job, pk=pk)
    logger.info("job %s: asked to run", job.pk)
    run_job.delay(job.pk)
    return JsonResponse({"status": job.status}, status=202)


async def tasks(request: HttpRequest, pk: int) -> HttpResponse:
    """Reserve pictures for a worker. None of a job that is not running."""
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET"])  # Django 4.2 has no decorators for asynchronous views
    job = await Job.objects.aget(pk=pk)
    if job.status != Job.Status.STARTED:
        return JsonResponse({"tasks": []})
    queue = TaskQueueManager(await get_connection())
    reserved = await queue.reserve(job.pk, int(request.GET.get("batch", 8)))
    if reserved:
        logger.info("job %s: reserved %d tasks for %s", job.pk, len(reserved), request.headers.get("X-Worker", "?"))
    return JsonResponse({"tasks": reserved})


@csrf_exempt
@require_POST
def result(request: HttpRequest, pk: int) -> JsonResponse:
    """Take a worker's results; a task saves them."""
    results = json.loads(request.body)["results"]
    save_results.delay(pk, results)
    logger.info("job %s: queued %d results", pk, len(results))
    return JsonResponse({"queued": len(results)}, status=202)


@csrf_exempt
@require_POST
async def cancel(request: HttpRequest, pk: int) -> JsonResponse:
    """Take the queue away. What workers have in hand may still come, and is kept."""
    job = await Job.objects.aget(pk=pk)
    logger.info("job %s: cancelling", job.pk)
    await sync_to_async(set_status)(job, Job.Status.CANCELING)
    await TaskQueueManager(await get_connection()).cleanup(job.pk)
    await sync_to_async(set_status)(job, Job.Status.REVOKED)
    logger.info("job %s: revoked", job.pk)
    return JsonResponse({"status": job.status})
