"""What a killed process left is stored by the next one under the project's settings, which it knows a moment late."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contrib.django.project import Project
from tests.helpers import run_python

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


AWAITED = """
import os, sys
from joblog_router._pipeline.project import is_awaited, settle
APP = "joblog_router.contrib.django"
assert not is_awaited(), "no project"
os.environ["DJANGO_SETTINGS_MODULE"] = "project_settings"
assert not is_awaited(), "a project that this process does not use"
sys.path.insert(0, sys.argv[1])
import project_settings
assert project_settings.awaited, "logging is configured by the settings module, which is not at its end"
assert is_awaited(), "the app, installed"
for apps, awaited in (
    (["shop"], False),
    (["shop", APP + ".apps.Config"], True),
    (["shop", APP + "_like"], False),
    ([APP + "_like", APP], True),
    (None, False),
):
    project_settings.INSTALLED_APPS = apps
    assert is_awaited() is awaited, apps
del project_settings.INSTALLED_APPS
assert not is_awaited(), "a module that says nothing of apps"
from django.conf import settings
assert not is_awaited(), "settings that nobody has asked for yet"
project_settings.INSTALLED_APPS = [APP]
assert is_awaited()
settings.configure(INSTALLED_APPS=["shop"])
assert not is_awaited(), "the settings that count do not have the app"
settings.INSTALLED_APPS = [APP]
project_settings.INSTALLED_APPS = []
assert is_awaited(), "the settings that count have the app"
settle()
assert not is_awaited(), "it has read them"
"""


def test_recovery_waits_for_no_settings_that_do_not_come(tmp_path: Path) -> None:
    """Only where the app is installed and has not read them; else a dead process's lines would never be stored."""
    (tmp_path / "project_settings.py").write_text(
        "from joblog_router._pipeline.project import is_awaited\nawaited = is_awaited()\n"
        "INSTALLED_APPS = ['joblog_router.contrib.django']\n"
    )
    result = run_python(AWAITED, str(tmp_path), env={"DJANGO_SETTINGS_MODULE": ""})
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("command", ["stats", "tail", "export"])
def test_commands_that_read_have_what_a_killed_process_left(project: Project, command: str) -> None:
    """The first one after the end of that process, too, though there is much to store."""
    project.settings(SETTINGS)
    project.run(KILLED.replace("range(20)", "range(4000)"), status=-9)
    out = project.manage("joblog", command, "7").stdout
    assert ("job 7: 4002 lines" if command == "stats" else "signed with [redacted]") in out


def test_a_command_says_that_lines_of_a_killed_process_wait(project: Project) -> None:
    """Where their store is away; what can be read is read."""
    project.settings(SETTINGS + 'LOGGING["handlers"]["job"]["options"] = {"database": "elsewhere"}\n')
    project.run(KILLED, status=-9)
    result = project.manage("joblog", "stats", "7", "--store", "django:joblog", status=1)
    assert "job 7: 0 lines" in result.stdout
    assert (
        "lines of killed processes are still in the spool; joblog recover waits until they are stored" in result.stderr
    )
