from __future__ import annotations

from typing import ClassVar

from django.db import models


class Job(models.Model):
    """One run over the pictures of one site: find the moths, name their species."""

    class Status(models.TextChoices):
        CREATED = "CREATED"
        PENDING = "PENDING"
        STARTED = "STARTED"
        CANCELING = "CANCELING"
        REVOKED = "REVOKED"
        SUCCESS = "SUCCESS"
        FAILURE = "FAILURE"

    name = models.CharField(max_length=200)
    site = models.CharField(max_length=20)
    status = models.CharField(max_length=20, choices=Status.choices, default=Status.CREATED)
    images_total = models.PositiveIntegerField(default=0)
    images_done = models.PositiveIntegerField(default=0)
    images_failed = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects: ClassVar[models.Manager[Job]] = models.Manager()

    def __str__(self) -> str:
        return f"job {self.pk}: {self.name} ({self.status})"
