"""The documents say what the code says: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import textwrap
from contextlib import redirect_stderr
from pathlib import Path
from types import ModuleType

import pytest
from django.core.management import load_command_class
from django.core.management.base import CommandParser

from joblog_router.cli import COMMANDS
from tests.contrib.django.project import Project

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "ARCHITECTURE.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)`((?:manage\.py |python manage\.py )?joblog [a-z][^`\n]*)`")

NOT_RUN = {
    "from rq import Worker": "run by tests/test_other_tools.py, in a worker of RQ",
    "from opentelemetry import trace": "run by tests/test_other_tools.py, against OpenTelemetry's SDK",
    "logging.Logger.callHandlers = ": "run by tests/test_other_tools.py, with New Relic's agent",
    "from .resizing import": "the tutorial, typed in by tests/test_tutorial.py",
    'RemoteJobLogHandler("https://example.org': "would send there; tests/contrib/remote sends to a real server",
    "run_logged([": "needs ffmpeg; tests/test_others_output.py runs programs",
}
"""Python blocks that are only compiled here, by a part of their text, and why."""

NO_COMMANDS = {
    "README.md": ("logger.info(...)  ", "a picture"),
    "ARCHITECTURE.md": ("logger.info(...)  ", "a picture"),
    "nats-events.md": ("permissions: {", "configuration of nats-server; tests/contrib/nats starts a server with it"),
}
"""Blocks without a language that are no commands."""

OTHER_LANGUAGES = {
    "diff": "docs/migrating.md tells of a project of somebody else's",
    "dockerfile": "no container engine is at hand in the tests",
    "text": "what a command prints; compared in tests/test_tutorial.py",
    "json": "what a request gives",
}

PROGRAMS = {"mkdir", "touch", "pip", "python3", ".ci/run", ".venv/bin/ruff", ".venv/bin/mypy", ".venv/bin/lint-imports"}
"""Programs whose own options are not looked at: they are not this project's."""


CONTRIBS = """
    INSTALLED_APPS = [
        "jobs", *INSTALLED_APPS, "django.contrib.admin", "django.contrib.auth", "django.contrib.contenttypes",
        "django.contrib.messages", "django.contrib.sessions", "django.contrib.staticfiles",
    ]
    STATIC_URL = "static/"
    TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True, "OPTIONS": {
        "context_processors": [
            "django.template.context_processors.request", "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ],
    }}]
"""
OWN_TABLE = """
from django.db import models
from shop.models import Job

class JobLog(models.Model):
    job = models.ForeignKey(Job, models.CASCADE)
    level = models.CharField(max_length=20)
    message = models.TextField()
    context = models.JSONField()
    created_at = models.DateTimeField(auto_now_add=True)
"""


def blocks(path: Path, *languages: str) -> list[str]:
    """The blocks of a document in one of `languages`; "" is none."""
    return [textwrap.dedent(text) for language, text in _BLOCK.findall(path.read_text()) if language in languages]


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """What failed of the blocks of each document, run in a migrated project."""
    project = Project(tmp_path_factory.mktemp("documents"))
    (project.root / "jobs").mkdir()
    (project.root / "jobs" / "__init__.py").touch()
    (project.root / "jobs" / "models.py").write_text(OWN_TABLE)
    project.settings(CONTRIBS)
    project.migrate()
    script = str(ROOT / "tests" / "document_blocks.py")
    done = project.finish(project.start("-P", script, json.dumps(list(NOT_RUN)), *map(str, DOCUMENTS)))
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_compiles_and_its_names_exist(path: Path) -> None:
    """Each block marked as Python parses, and what it imports is there, unless it is the reader's own."""
    for source in blocks(path, "python"):
        try:
            tree = ast.parse(source, str(path))
        except SyntaxError:
            tree = ast.parse(f"{{{source}}}", str(path))  # items of a dictionary that stands before it
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found = importlib.import_module(node.module)
                for name in node.names:
                    is_there = hasattr(found, name.name) or importlib.util.find_spec(f"{node.module}.{name.name}")
                    assert is_there, f"{node.module} has no {name.name}"


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks(path, "python")], ids=lambda path: path.name)
def test_python_in_documents_runs(path: Path, failures: dict[str, dict[str, str]]) -> None:
    """Each block and each setting in a sentence, in a Django project: no exception, and no complaint of the checks."""
    found = failures[str(path)]
    assert found == {}, "\n".join(f"{path.name}, {where}:\n{what}" for where, what in found.items())


def test_every_exemption_is_needed() -> None:
    """What is left out stands in a document, and each language is one that is run or has a reason."""
    sources = [source for path in DOCUMENTS for source in blocks(path, "python")]
    assert [begin for begin in NOT_RUN if not any(begin in source for source in sources)] == []
    languages = {language for path in DOCUMENTS for language, _ in _BLOCK.findall(path.read_text())}
    assert languages - {"python", "sh", "", *OTHER_LANGUAGES} == set()


def commands_in(text: str) -> list[list[str]]:
    """The commands of a block, without comments, redirections and variables set before them."""
    found = []
    for line in text.splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word in ("&&", "||", "|", ";"):
                while words and re.match(r"[A-Z_]+=", words[0]):
                    del words[0]
                if words:
                    found.append(words)
                words = []
            elif word in (">", "<"):
                words.append(word)
            elif words and words[-1] in (">", "<"):
                del words[-1]
            else:
                words.append(word)
    return found


def _parse(parser: argparse.ArgumentParser, arguments: list[str]) -> str:
    """What the parser has against `arguments`."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            parser.parse_args(arguments)
    except SystemExit:
        return said.getvalue()
    return ""


def _joblog(arguments: list[str]) -> str:
    command = next((command for command in COMMANDS if command.name == arguments[0]), None)
    if command is None:
        return f"there is no command {arguments[0]}"
    parser = argparse.ArgumentParser()
    importlib.import_module(command.module).add_arguments(parser)
    # Names of options alone are told of in sentences, with "..." for what goes without saying.
    return _parser_without_needs(parser, arguments[1:])


def _parser_without_needs(parser: argparse.ArgumentParser, arguments: list[str]) -> str:
    known = {option for action in parser._actions for option in action.option_strings}
    options = [word.partition("=")[0] for word in arguments if word.startswith("-")]
    if unknown := [option for option in options if option not in known]:
        return f"unknown options {unknown}"
    return ""


def _manage(arguments: list[str]) -> str:
    if arguments[0] == "joblog":
        return _joblog(arguments[1:])
    apps = {
        "migrate": "django.core",
        "check": "django.core",
        "shell": "django.core",
        "runserver": "django.core",
        "createsuperuser": "django.contrib.auth",
        "remove_stale_contenttypes": "django.contrib.contenttypes",
    }
    command = load_command_class(apps[arguments[0]], arguments[0])
    parser: CommandParser = command.create_parser("manage.py", arguments[0])
    return _parse(parser, [*arguments[1:]])


def wrong_in(words: list[str]) -> str:
    """What is wrong with a command; "" if nothing is."""
    program, *arguments = words
    if program == "python" or program.endswith("bin/python"):
        if arguments[:1] == ["manage.py"]:
            program, arguments = "manage.py", arguments[1:]
        elif arguments[:2] == ["-m", "joblog_router"]:
            program, arguments = "joblog", arguments[2:]
        elif arguments[:2] == ["-m", "django"]:
            return "" if arguments[2] == "startproject" else f"unknown: {arguments}"
        elif arguments[0] == "-m":
            return "" if importlib.util.find_spec(arguments[1]) or arguments[1] == "mkdocs" else f"no {arguments[1]}"
        else:
            return "" if (ROOT / arguments[0]).exists() else f"there is no {arguments[0]}"
    if program == "manage.py":
        return _manage(arguments)
    if program == "joblog":
        return _joblog(arguments)
    if program == "sh" and arguments[0] == "dev.sh":
        usage = subprocess.run(["sh", ROOT / "dev.sh", "help"], capture_output=True, text=True, check=True).stdout
        return "" if f"dev.sh {arguments[1]}" in usage else f"dev.sh has no {arguments[1]}"
    if program in PROGRAMS:
        return ""
    if program == "uvicorn":
        return "" if importlib.util.find_spec("uvicorn") else "no uvicorn"
    return f"unknown program {program}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_commands_in_documents_exist_with_their_options(path: Path) -> None:
    """Blocks of commands, and commands in sentences, by the parsers of this library, of Django, and of dev.sh."""
    exempt = NO_COMMANDS.get(path.name, ("\0", ""))[0]
    commands = [words for text in blocks(path, "sh", "") if exempt not in text for words in commands_in(text)]
    commands += [shlex.split(text) for text in _INLINE.findall(path.read_text())]
    assert [(words, wrong) for words in commands if (wrong := wrong_in(words))] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    """Relative links name files that are in the repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_reference_is_current() -> None:
    """docs/settings.md is what docs/make_settings.py makes of the typed settings now."""
    page = _script("make_settings").settings_page()
    assert (ROOT / "docs" / "settings.md").read_text() == page, "run: python docs/make_settings.py"


def test_every_system_check_is_in_the_settings_reference() -> None:
    """By its id, as the code gives it."""
    code = "".join(path.read_text() for path in (ROOT / "src/joblog_router/contrib/django").glob("*.py"))
    ids = set(re.findall(r"\"joblog_router\.([EW]\d{3})\"", code))
    table = (ROOT / "docs" / "settings.md").read_text().partition("## System checks")[2]
    assert set(re.findall(r"`([EW]\d{3})`", table)) == ids


def test_the_reference_of_commands_is_current() -> None:
    """docs/commands.md is what docs/make_commands.py makes of the parsers now."""
    page = _script("make_commands").commands_page()
    assert (ROOT / "docs" / "commands.md").read_text() == page, "run: python docs/make_commands.py"


def test_the_picture_of_the_architecture_is_current() -> None:
    """ARCHITECTURE.md is what docs/make_architecture.py makes of the modules and their imports now."""
    page = _script("make_architecture").architecture_page()
    assert (ROOT / "ARCHITECTURE.md").read_text() == page, "run: python docs/make_architecture.py"


def test_every_page_is_in_the_navigation() -> None:
    """A page that mkdocs.yml does not name is one that nobody finds, and ends the build of the site."""
    named = set(re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    made = {"index.md", "examples.md", "changelog.md", "architecture.md", "contributing.md", "license.md"}
    assert {path.name for path in (ROOT / "docs").glob("*.md")} == named - made


def test_every_public_name_is_in_a_document() -> None:
    """What `__all__` of a public module has is told of somewhere, and every module that documents name is public."""
    public = re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    text = "\n".join(path.read_text() for path in DOCUMENTS)
    words = set(re.findall(r"\w+", text.replace("::: ", "")))
    untold = [
        f"{module}.{name}" for module in public for name in importlib.import_module(module).__all__ if name not in words
    ]
    assert untold == []
    imported = {
        node.module
        for path in DOCUMENTS
        for source in blocks(path, "python")
        if "from joblog_router" in source
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("joblog_router")
    }
    assert imported - set(public) == set()


def test_the_reference_leaves_no_module_of_the_root_out() -> None:
    """Modules beside the root are in the reference, in the root's own list, or on a page of their own."""
    public = set(re.findall(r"^::: ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    beside = {f"joblog_router.{path.stem}" for path in (ROOT / "src" / "joblog_router").glob("[!_]*.py")}
    told_by_the_root = {f"joblog_router.{name}" for name in ("context", "entry", "filters", "handlers")}
    elsewhere = {"joblog_router.cli", "joblog_router.pytest_plugin"}  # commands.md, integrations.md
    assert beside - public - told_by_the_root - elsewhere == set()
