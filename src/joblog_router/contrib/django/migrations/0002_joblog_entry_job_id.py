"""An index for readers that go on from where they were. What is older than it works with it and without."""

from __future__ import annotations

from typing import ClassVar

from django.db import migrations, models
from django.db.migrations.operations.base import Operation


class Migration(migrations.Migration):
    dependencies: ClassVar[list[tuple[str, str]]] = [("joblog_router", "0001_initial")]

    operations: ClassVar[list[Operation]] = [
        migrations.AddIndex(
            model_name="joblogentry",
            index=models.Index(fields=["namespace", "job_id", "id"], name="joblog_entry_job_id"),
        ),
    ]
