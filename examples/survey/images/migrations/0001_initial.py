from __future__ import annotations

import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="SourceImage",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("site", models.CharField(db_index=True, max_length=20)),
                ("name", models.CharField(max_length=100, unique=True)),
                ("path", models.CharField(max_length=200)),
                ("taken_at", models.DateTimeField()),
                ("sharpness", models.FloatField(blank=True, null=True)),
            ],
        ),
        migrations.CreateModel(
            name="Detection",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("x", models.PositiveIntegerField()),
                ("y", models.PositiveIntegerField()),
                ("width", models.PositiveIntegerField()),
                ("height", models.PositiveIntegerField()),
                ("species", models.CharField(max_length=100)),
                ("score", models.FloatField()),
                (
                    "image",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="detections", to="images.sourceimage"
                    ),
                ),
            ],
        ),
    ]
