"""The table of job logs."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models
from django.db.migrations.operations.base import Operation


class Migration(migrations.Migration):
    initial: ClassVar[bool] = True

    dependencies: ClassVar[list[tuple[str, str]]] = []

    operations: ClassVar[list[Operation]] = [
        migrations.CreateModel(
            name="JobLogEntry",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                (
                    "namespace",
                    models.CharField(blank=True, default="", max_length=255, verbose_name="namespace"),
                ),
                ("job_id", models.CharField(max_length=255, verbose_name="job")),
                (
                    "created",
                    models.BigIntegerField(
                        help_text="Microseconds since 1970-01-01 00:00 UTC.", verbose_name="created"
                    ),
                ),
                ("level", models.SmallIntegerField(verbose_name="level")),
                ("logger", models.TextField(verbose_name="logger")),
                ("message", models.TextField(blank=True, verbose_name="message")),
                ("exception", models.TextField(blank=True, default="", verbose_name="exception")),
                ("fields", models.JSONField(blank=True, default=dict, verbose_name="fields")),
                ("path", models.TextField(blank=True, default="", verbose_name="path")),
                ("line", models.IntegerField(default=0, verbose_name="line")),
                (
                    "audience",
                    models.CharField(
                        choices=[("all", "everybody who may see the job"), ("staff", "staff only")],
                        default="all",
                        max_length=20,
                        verbose_name="audience",
                    ),
                ),
                (
                    "origin",
                    models.CharField(
                        help_text="The process that logged the line.", max_length=100, verbose_name="origin"
                    ),
                ),
                ("seq", models.BigIntegerField(verbose_name="number in the origin")),
                ("n", models.BigIntegerField(default=0, verbose_name="number in the scope")),
            ],
            options={
                "verbose_name": "job log entry",
                "verbose_name_plural": "job log entries",
                "default_permissions": ("view", "delete"),
                "indexes": [
                    models.Index(fields=["namespace", "job_id", "created", "id"], name="joblog_entry_job_created")
                ],
                "constraints": [models.UniqueConstraint(fields=("origin", "seq"), name="joblog_entry_origin_seq")],
            },
        ),
    ]
