"""Job tokens that are refused though they have not expired."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models
from django.db.migrations.operations.base import Operation


class Migration(migrations.Migration):
    dependencies: ClassVar[list[tuple[str, str]]] = [("joblog_router", "0002_joblog_entry_job_id")]

    operations: ClassVar[list[Operation]] = [
        migrations.CreateModel(
            name="RevokedToken",
            fields=[
                (
                    "id",
                    models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID"),
                ),
                ("namespace", models.CharField(blank=True, default="", max_length=255, verbose_name="namespace")),
                ("job_id", models.CharField(max_length=255, verbose_name="job")),
                ("token_id", models.CharField(blank=True, default="", max_length=40, verbose_name="token")),
                (
                    "revoked",
                    models.BigIntegerField(
                        help_text="Microseconds since 1970-01-01 00:00 UTC.", verbose_name="revoked"
                    ),
                ),
            ],
            options={
                "verbose_name": "revoked job token",
                "verbose_name_plural": "revoked job tokens",
                "default_permissions": ("view", "add", "delete"),
                "indexes": [models.Index(fields=["namespace", "job_id"], name="joblog_revoked_job")],
            },
        ),
    ]
