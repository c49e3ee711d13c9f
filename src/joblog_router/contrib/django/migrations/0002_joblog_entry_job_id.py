"""An index for readers that go on from where they were. What is older than it works with it and without."""

from __future__ import annotations

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("joblog_router", "0001_initial")]

    operations = [
        migrations.AddIndex(
            model_name="joblogentry",
            index=models.Index(fields=["namespace", "job_id", "id"], name="joblog_entry_job_id"),
        ),
    ]
