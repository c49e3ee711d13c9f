from __future__ import annotations

import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "survey.settings")
application = get_asgi_application()

# The views' tasks must know where to go.
from survey.celery import app  # noqa: E402, F401
