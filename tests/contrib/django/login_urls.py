"""The recipe of docs/web.md: the page of a job's log asks to log in."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.urls import include, path

from joblog_router.contrib.django import urls as job_logs
from joblog_router.contrib.django import views

urlpatterns = [
    path("jobs/<joblog_job_id:job_id>/", login_required(views.page)),
    path("jobs/", include(job_logs)),
]
