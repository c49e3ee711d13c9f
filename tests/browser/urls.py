"""URLs of the site of the browser tests."""

from __future__ import annotations

import json
import logging

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template import engines
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from joblog_router import job_context


@csrf_exempt
def say(request: HttpRequest) -> HttpResponse:
    """Log lines as the site's own code does: a list of job, level, message and what goes into `extra`."""
    for job, level, message, extra in json.loads(request.body):
        with job_context(job):
            raised = None
            if extra.pop("raise", False):
                raised = ValueError("no such box")
            logging.getLogger(extra.pop("logger", "shop.work")).log(level, "%s", message, extra=extra, exc_info=raised)
    return HttpResponse()


def embedding(request: HttpRequest) -> HttpResponse:
    """A page of the site's own with a job's log in it."""
    page = engines["django"].from_string(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Job</title>{% load joblog %}"
        "<main style='width: {{ width }}'><h1>My job</h1>"
        "{% job_log job %}</main></html>"
    )
    return HttpResponse(page.render({"job": request.GET["job"], "width": request.GET.get("width", "auto")}, request))


def in_admin(request: HttpRequest) -> HttpResponse:
    """A page in the frame of Django's admin with a job's log in it."""
    page = engines["django"].from_string(
        "{% extends 'admin/base_site.html' %}{% load joblog %}{% block content %}{% job_log job %}{% endblock %}"
    )
    return HttpResponse(page.render({**admin.site.each_context(request), "job": request.GET["job"]}, request))


urlpatterns = [
    path("admin/", admin.site.urls),
    path("jobs/", include("joblog_router.contrib.django.urls")),
    path("say/", say),
    path("embedding/", embedding),
    path("in-admin/", in_admin),
]
