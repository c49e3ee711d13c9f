"""URLs of the test suite's project."""

from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("jobs/", include("joblog_router.contrib.django.urls")),
]
