"""What a killed process left is stored by the next one under the project's settings, which it knows a moment late."""

from __future__ import annotations

import pytest

from tests.contrib.django.project import Project

SETTINGS = """
SECRET_KEY = "the-long-key-of-this-project-0123456789"
LOGGING["handlers"]["job"]["spool"] = str(BASE_DIR / "spool")
JOBLOG_ROUTER |= {"FOLD": False, "REDACT": [r"PAT-[0-9]+"], "STAFF": ["shop.billing"]}
"""
HERE = """
import logging.config
LOGGING_CONFIG = None
logging.config.dictConfig(LOGGING)
from joblog_router._pipeline.router import router
router.recovery.run(1)
"""
KILLED = """
import os
from django.conf import settings
with job_context(7):
    for number in range(20):
        logger.info("key PAT-%d", number)
    logger.info("signed with %s", settings.SECRET_KEY)
    logging.getLogger("shop.billing").info("margin")
    os.kill(os.getpid(), 9)
"""
WAITING = """
with job_context(7):
    logger.info("waits for its table")
"""


@pytest.mark.parametrize("in_settings", [False, True])
def test_recovery_waits_for_the_projects_settings(project: Project, in_settings: bool) -> None:
    """Also where logging is configured by the settings module itself."""
    project.settings(SETTINGS)
    project.run(KILLED, status=-9)
    assert project.rows() == []
    if in_settings:
        project.settings(SETTINGS + HERE)
    else:
        # Imported by django.setup() between logging and the app's start.
        code = "from joblog_router._pipeline.router import router\nrouter.recovery.run(1)\n"
        (project.root / "shop" / "__init__.py").write_text(code)
    project.run("from joblog_router._pipeline.router import router\nassert router.recovery.run(10)")
    found = project.rows("message, audience")
    assert found == [("key [redacted]", "all")] * 20 + [("signed with [redacted]", "all"), ("margin", "staff")]


def test_recovery_goes_on_by_itself_once_the_settings_are_known(project: Project) -> None:
    """Nobody has to log a line for it."""
    project.settings(SETTINGS)
    project.run(KILLED, status=-9)
    project.run(
        """
        import time
        until = time.monotonic() + 20
        while stats()["recovered"] < 22 and time.monotonic() < until:
            time.sleep(0.02)
        assert stats()["recovered"] == 22
        """
    )
    assert len(project.rows()) == 22


def test_migrate_does_not_speak_of_the_table_that_it_makes(bare_project: Project) -> None:
    """What waits in the spool for the table is left alone until it is there, and then it is stored."""
    bare_project.settings(SETTINGS)
    assert "the table of the job logs is missing" in bare_project.run(WAITING).stderr
    assert bare_project.manage("migrate", "--verbosity=0").stderr == ""
    made = bare_project.manage("migrate", "--database=joblog", "--verbosity=0").stderr
    assert "missing" not in made
    bare_project.run("from joblog_router._pipeline.router import router\nassert router.recovery.run(10)")
    assert bare_project.rows() == ["waits for its table"]
