from __future__ import annotations

import pytest
from django.apps import apps

from tests.contrib.django.project import Project

NAMES = {"NATS": "nats", "CELERY": "celery"}
PACKAGES = {"NATS": "nats-py", "CELERY": "celery"}
both = pytest.mark.parametrize("setting", NAMES)


def instrumented(project: Project, setting: str) -> bool:
    """Whether the project's start turned that integration on."""
    name = NAMES[setting]
    code = f"from joblog_router.contrib.{name} import instrumentation as it; print(it._installed.now is not None)"
    return project.run(code).stdout == "True\n"


def choose(setting: str, choice: object) -> str:
    """The line of settings that says `choice` for one integration and turns the other off."""
    other = next(name for name in NAMES if name != setting)
    return f"JOBLOG_ROUTER = {{{setting!r}: {choice}, {other!r}: False}}"


def test_the_app_is_known_by_its_short_label() -> None:
    """Label, name and key type are what the migrations and the checks are named after."""
    config = apps.get_app_config("joblog_router")
    assert config.name == "joblog_router.contrib.django"
    assert config.default_auto_field == "django.db.models.BigAutoField"
    assert str(config.verbose_name) == "Job logs"


def test_the_start_opens_nothing(bare_project: Project) -> None:
    """`django.setup()` starts no thread, opens no connection, makes no file and imports no package that is off."""
    result = bare_project.run(
        """
        import sys, threading
        from django.db import connections
        assert threading.active_count() == 1
        assert all(one.connection is None for one in connections.all(initialized_only=True))
        assert "nats" not in sys.modules and "celery" not in sys.modules
        """
    )
    assert result.stderr == ""
    assert not list(bare_project.root.glob("*.sqlite3"))


@both
def test_what_is_installed_is_instrumented(bare_project: Project, setting: str) -> None:
    """Without a word in the settings, and where they ask for it; not where they say False."""
    for settings in ("del JOBLOG_ROUTER", "JOBLOG_ROUTER = {}", choose(setting, True), choose(setting, None)):
        bare_project.settings(settings)
        assert instrumented(bare_project, setting)
    bare_project.settings(choose(setting, False))
    assert not instrumented(bare_project, setting)


@pytest.mark.parametrize(
    ("setting", "options", "code"),
    [
        ("NATS", {"header": "X-Job"}, "state.settings.header"),
        ("CELERY", {"parameters": ["survey"]}, "tasks.finder._parameters[0]"),
    ],
)
def test_options_are_handed_on(bare_project: Project, setting: str, options: dict[str, object], code: str) -> None:
    """A dictionary turns it on with these options."""
    bare_project.settings(choose(setting, options))
    module = f"joblog_router.contrib.{NAMES[setting]}"
    result = bare_project.run(f"from {module} import instrumentation; print(instrumentation._installed.now.{code})")
    assert result.stdout in ("X-Job\n", "survey\n")


@both
def test_a_wrong_option_stops_the_start(bare_project: Project, setting: str) -> None:
    """The error names the setting and comes at start."""
    bare_project.settings(choose(setting, {"haeder": "X-Job"}))
    words = f"ConfigurationError: JOBLOG_ROUTER[{setting!r}]: "
    assert words in bare_project.manage("check", status=1).stderr


def without(setting: str) -> str:
    """None in sys.modules is Python's own way to say that a module is not there (the package is installed here)."""
    return f"import sys\nsys.modules[{NAMES[setting]!r}] = None\n"


@both
@pytest.mark.parametrize("choice", [None, False])
def test_a_project_without_the_package_starts(bare_project: Project, setting: str, choice: bool | None) -> None:
    """Where it is not installed nothing happens and nothing is said."""
    bare_project.settings(without(setting) + choose(setting, choice))
    assert bare_project.manage("check").stderr == ""


@both
@pytest.mark.parametrize("choice", [True, {"header": "X-Job"}])
def test_insisting_on_a_missing_package_names_the_extra(bare_project: Project, setting: str, choice: object) -> None:
    """Asking for it where it is not installed stops the start with the pip line."""
    bare_project.settings(without(setting) + choose(setting, choice))
    result = bare_project.manage("check", status=1)
    assert (
        f"MissingExtraError: {PACKAGES[setting]} is not installed. "
        f"Run: pip install 'joblog-router[{NAMES[setting]}]'" in result.stderr
    )


@both
def test_a_folder_of_that_name_is_not_the_package(bare_project: Project, setting: str) -> None:
    """A project's folder (its server's configuration, say) is importable but is not what is looked for."""
    (bare_project.root / NAMES[setting]).mkdir()
    # The installed package would win over a folder without __init__.py: only the folder is left on the path.
    bare_project.settings(
        f"""
        import importlib.machinery, sys
        class OnlyTheFolder(importlib.machinery.PathFinder):
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                return super().find_spec(name, [str(BASE_DIR)], target) if name == {NAMES[setting]!r} else None
        sys.meta_path.insert(0, OnlyTheFolder)
        {choose(setting, None)}
        """
    )
    assert bare_project.manage("check").stderr == ""


@both
def test_a_package_that_cannot_be_instrumented_does_not_stop_a_project_that_did_not_ask(
    bare_project: Project, setting: str
) -> None:
    """A broken package costs one line on stderr by default, and the start only where it was asked for."""
    (bare_project.root / NAMES[setting]).mkdir()
    (bare_project.root / NAMES[setting] / "__init__.py").write_text("raise RuntimeError('broken')")
    bare_project.settings(choose(setting, None))
    result = bare_project.manage("check")
    assert result.stderr.count("\n") == 1
    assert f"{PACKAGES[setting]} is installed but could not be instrumented" in result.stderr
    assert f"JOBLOG_ROUTER = {{{setting!r}: False}} turns this off" in result.stderr
    bare_project.settings(choose(setting, True))
    assert "broken" in bare_project.manage("check", status=1).stderr
