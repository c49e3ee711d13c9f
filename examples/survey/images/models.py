from __future__ import annotations

from typing import ClassVar

from django.db import models


class SourceImage(models.Model):
    """A picture that a camera trap took."""

    site = models.CharField(max_length=20, db_index=True)
    name = models.CharField(max_length=100, unique=True)
    path = models.CharField(max_length=200)
    taken_at = models.DateTimeField()
    sharpness = models.FloatField(null=True, blank=True)

    objects: ClassVar[models.Manager[SourceImage]] = models.Manager()

    def __str__(self) -> str:
        return self.name


class Detection(models.Model):
    """A moth in a picture, in pixels, and the species the classifier takes it for."""

    image = models.ForeignKey(SourceImage, on_delete=models.CASCADE, related_name="detections")
    x = models.PositiveIntegerField()
    y = models.PositiveIntegerField()
    width = models.PositiveIntegerField()
    height = models.PositiveIntegerField()
    species = models.CharField(max_length=100)
    score = models.FloatField()

    objects: ClassVar[models.Manager[Detection]] = models.Manager()

    def __str__(self) -> str:
        return f"{self.species} ({self.score:.0%}) in {self.image}"
