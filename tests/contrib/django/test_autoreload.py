"""`manage.py runserver` replaces its process when a file changes: no line is lost, and no spool is left."""

from __future__ import annotations

import signal
import socket
import time
import urllib.request
from http.client import HTTPException

from tests.contrib.django.project import Project
from tests.helpers import until

VIEWS = """
import logging
from django.http import HttpResponse
from joblog_router import job_context

VERSION = {version}

def view(request):
    with job_context(7):
        for number in range(20):
            logging.getLogger("shop.work").info("version %d, request %s, %d", VERSION, request.GET["n"], number)
    return HttpResponse(str(VERSION))
"""


def test_a_reload_loses_no_line_and_leaves_no_spool(project: Project) -> None:
    """Lines are logged right before the file is changed, three times over, then the server is killed."""
    views = project.root / "shop" / "views.py"
    views.write_text(VIEWS.format(version=0))
    (project.root / "urls.py").write_text(
        "from django.urls import path\nfrom shop.views import view\nurlpatterns = [path('', view)]\n"
    )
    project.settings(
        f"""
        ROOT_URLCONF = "urls"
        DEBUG = True
        JOBLOG_ROUTER["SPOOL"] = {str(project.root / "spool")!r}
        JOBLOG_ROUTER["FOLD"] = False
        """
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = project.start("-m", "django", "runserver", "--skip-checks", f"127.0.0.1:{port}")
    asked: list[tuple[int, int]] = []

    def answers(version: int) -> bool:
        if time.time() - views.stat().st_mtime > 3:
            views.touch()  # it was changed before the new process looked for the first time
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/?n={len(asked)}", timeout=5) as response:
                found = int(response.read())
        except (OSError, ValueError, HTTPException):  # the process went away while it answered
            return False
        asked.append((found, len(asked)))
        return found == version

    try:
        for version in range(3):
            views.write_text(VIEWS.format(version=version))
            until(lambda: answers(version))  # noqa: B023 - called in this round
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    # The one that reloads kills the server a quarter of a second after Ctrl-C, if that did not reach it.
    project.manage("joblog", "recover")
    wanted = {f"version {version}, request {n}, {at}" for version, n in asked for at in range(20)}
    rows = [row for row in project.rows() if row.startswith("version")]
    assert wanted <= set(rows)
    assert len(rows) == len(set(rows))
    assert [path.name for path in (project.root / "spool").iterdir() if path.suffix == ".spool"] == []
