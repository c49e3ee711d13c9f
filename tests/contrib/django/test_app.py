from __future__ import annotations

import pytest
from django.apps import apps

from tests.contrib.django.project import Project

INSTRUMENTED = """
from joblog_router.contrib.nats import instrumentation
print(instrumentation._installation is not None)
"""


def test_the_app_is_known_by_its_short_label() -> None:
    """Label, name and key type are what the migrations and the checks are named after."""
    config = apps.get_app_config("joblog_router")
    assert config.name == "joblog_router.contrib.django"
    assert config.default_auto_field == "django.db.models.BigAutoField"
    assert str(config.verbose_name) == "Job logs"


def test_the_start_opens_nothing(bare_project: Project) -> None:
    """`django.setup()` starts no thread, opens no connection and makes no file; it imports no nats-py if told so."""
    result = bare_project.run(
        """
        import sys, threading
        from django.db import connections
        assert threading.active_count() == 1
        assert all(one.connection is None for one in connections.all(initialized_only=True))
        assert "nats" not in sys.modules
        """
    )
    assert result.stderr == ""
    assert not list(bare_project.root.glob("*.sqlite3"))


def test_nats_is_instrumented_where_it_is_installed(bare_project: Project) -> None:
    """Without a word in the settings, and without NATS in JOBLOG_ROUTER, an installed nats-py is instrumented."""
    for settings in ("del JOBLOG_ROUTER", "JOBLOG_ROUTER = {}", "JOBLOG_ROUTER = {'NATS': True}"):
        bare_project.settings(settings)
        assert bare_project.run(INSTRUMENTED).stdout == "True\n"
    bare_project.settings("JOBLOG_ROUTER = {'NATS': False}")
    assert bare_project.run(INSTRUMENTED).stdout == "False\n"


def test_options_of_nats_are_handed_on(bare_project: Project) -> None:
    """A dictionary turns it on with these options."""
    bare_project.settings("JOBLOG_ROUTER = {'NATS': {'header': 'X-Job'}}")
    code = INSTRUMENTED + "print(instrumentation._installation.state.settings.header)"
    assert bare_project.run(code).stdout == "True\nX-Job\n"


def test_a_wrong_option_of_nats_stops_the_start(bare_project: Project) -> None:
    """The error names the setting and comes at start."""
    bare_project.settings("JOBLOG_ROUTER = {'NATS': {'haeder': 'X-Job'}}")
    assert "ConfigurationError: JOBLOG_ROUTER['NATS']: " in bare_project.manage("check", status=1).stderr


# None in sys.modules is Python's own way to say that a module is not there (the package itself is installed here).
WITHOUT_NATS = "import sys\nsys.modules['nats'] = None\n"


@pytest.mark.parametrize("choice", ["None", "False"])
def test_a_project_without_nats_starts(bare_project: Project, choice: str) -> None:
    """Where nats-py is not installed nothing happens and nothing is said."""
    bare_project.settings(f"{WITHOUT_NATS}JOBLOG_ROUTER = {{'NATS': {choice}}}")
    assert bare_project.manage("check").stderr == ""


@pytest.mark.parametrize("choice", ["True", "{'header': 'X-Job'}"])
def test_insisting_on_a_missing_nats_names_the_extra(bare_project: Project, choice: str) -> None:
    """Asking for it where it is not installed stops the start with the pip line."""
    bare_project.settings(f"{WITHOUT_NATS}JOBLOG_ROUTER = {{'NATS': {choice}}}")
    result = bare_project.manage("check", status=1)
    assert "MissingExtraError: nats-py is not installed. Run: pip install 'joblog-router[nats]'" in result.stderr


def test_a_folder_named_nats_is_not_nats(bare_project: Project) -> None:
    """A project's folder of that name (its server's configuration, say) is importable but is no nats-py."""
    (bare_project.root / "nats").mkdir()
    # The installed package would win over a folder without __init__.py: only the folder is left on the path.
    bare_project.settings(
        """
        import importlib.machinery, sys
        class OnlyTheFolder(importlib.machinery.PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return super().find_spec(name, [str(BASE_DIR)], target) if name == "nats" else None
        sys.meta_path.insert(0, OnlyTheFolder)
        JOBLOG_ROUTER = {}
        """
    )
    assert bare_project.manage("check").stderr == ""


def test_a_nats_that_cannot_be_instrumented_does_not_stop_a_project_that_did_not_ask(
    bare_project: Project,
) -> None:
    """A broken package costs one line on stderr by default, and the start only where it was asked for."""
    (bare_project.root / "nats").mkdir()
    (bare_project.root / "nats" / "__init__.py").write_text("raise RuntimeError('broken')")
    bare_project.settings("JOBLOG_ROUTER = {}")
    result = bare_project.manage("check")
    assert result.stderr.count("\n") == 1
    assert "nats-py is installed but could not be instrumented" in result.stderr
    assert "JOBLOG_ROUTER = {'NATS': False} turns this off" in result.stderr
    bare_project.settings("JOBLOG_ROUTER = {'NATS': True}")
    assert "broken" in bare_project.manage("check", status=1).stderr
