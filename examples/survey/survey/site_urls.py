from __future__ import annotations

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("logs/", include("joblog_router.contrib.django.urls")),  # (joblog) /logs/7/ is the log of job 7
]
