"""The site under ASGI, with its static files."""

from __future__ import annotations

import os

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from joblog_router.contrib.django import tailing

if "JOBLOG_TEST_SENT" in os.environ:  # as if there were so many viewers that each gets this little
    tailing._MAX_SENT = int(os.environ["JOBLOG_TEST_SENT"])  # type: ignore[misc]

application = ASGIStaticFilesHandler(get_asgi_application())
