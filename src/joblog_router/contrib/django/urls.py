"""For a project's urls: `path("jobs/", include("joblog_router.contrib.django.urls"))`; the names are `joblog:page` …"""

from __future__ import annotations

from typing import Final

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.urls import URLPattern, path, register_converter

from ..._pipeline.escaping import escape_job_id, unescape_job_id
from ..._pipeline.text import clean

if not apps.is_installed("joblog_router.contrib.django"):
    raise ImproperlyConfigured(
        "The URLs of job logs are included, but INSTALLED_APPS lacks 'joblog_router.contrib.django'. Add it."
    )

from . import views

__all__ = ["app_name", "urlpatterns"]

app_name = "joblog"

_MAX_LENGTH: Final = 3000


class JobIdConverter:
    """A job id as one part of a URL; see `escape_job_id`."""

    regex = r"[A-Za-z0-9_~.-]{1,3000}"

    def to_python(self, value: str) -> str:
        """The id as the log has it. ValueError (no match) for what is no escape."""
        return clean(unescape_job_id(value))

    def to_url(self, value: object) -> str:
        """The id escaped; of one that is too long for a URL only a hash is left, which leads nowhere."""
        return escape_job_id(clean(str(value)), _MAX_LENGTH)


register_converter(JobIdConverter, "joblog_job_id")

urlpatterns: list[URLPattern] = [
    path("<joblog_job_id:job_id>/", views.page, name="page"),
    path("<joblog_job_id:job_id>/entries/", views.entries, name="entries"),
    path("<joblog_job_id:job_id>/stream/", views.stream, name="stream"),
    path("<joblog_job_id:job_id>/download/", views.download, name="download"),
    path("<joblog_job_id:job_id>/summary/", views.summary, name="summary"),
]
