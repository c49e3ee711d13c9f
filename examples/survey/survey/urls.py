from __future__ import annotations

from django.urls import path
from jobs import views

urlpatterns = [
    path("jobs/", views.active, name="active-jobs"),
    path("jobs/<int:pk>/", views.detail, name="job"),
    path("jobs/<int:pk>/run/", views.run, name="job-run"),
    path("jobs/<int:pk>/tasks/", views.tasks, name="job-tasks"),
    path("jobs/<int:pk>/result/", views.result, name="job-result"),
    path("jobs/<int:pk>/cancel/", views.cancel, name="job-cancel"),
]
