"""Sums over long logs. What is older than it works with the table and without, and so do the sums."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models
from django.db.migrations.operations.base import Operation


class Migration(migrations.Migration):
    dependencies: ClassVar[list[tuple[str, str]]] = [("joblog_router", "0003_revoked_token")]

    operations: ClassVar[list[Operation]] = [
        migrations.CreateModel(
            name="JobLogSum",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("namespace", models.CharField(blank=True, default="", max_length=255, verbose_name="namespace")),
                ("job_id", models.CharField(max_length=255, verbose_name="job")),
                ("after", models.BigIntegerField(verbose_name="after")),
                ("until", models.BigIntegerField(verbose_name="until")),
                ("oldest", models.BigIntegerField(verbose_name="oldest")),
                ("newest", models.BigIntegerField(verbose_name="newest")),
                ("oldest_id", models.BigIntegerField(verbose_name="oldest row")),
                ("sums", models.JSONField(blank=True, default=dict, verbose_name="sums")),
            ],
            options={
                "verbose_name": "sums of a job log",
                "verbose_name_plural": "sums of job logs",
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(fields=("namespace", "job_id", "after"), name="joblog_sum_block")
                ],
            },
        ),
    ]
