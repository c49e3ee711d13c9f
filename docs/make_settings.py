"""Writes docs/settings.md from the typed settings, where names, defaults and descriptions stand.

python docs/make_settings.py            # writes; a test tells when that is due
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import sys
from pathlib import Path

HEAD = """# Settings

`JOBLOG_ROUTER` in a Django project's settings is a dictionary with any of these keys. They are read when they are used:
`override_settings` works. An unknown key or a wrong type is said at start, with the key that was meant. Made by
`docs/make_settings.py` from the code.

| key | default | |
|---|---|---|
"""

HANDLER = """
## The handler

Keywords of `joblog_router.JobLogHandler`, in `LOGGING["handlers"]`; where both say something they beat the settings.

"""

CHECKS = """
## System checks

What `manage.py check` says of a project, each with what to do; those that ask a database need `--database ALIAS`. An
error (E) or a warning (W) that is meant to be so: `SILENCED_SYSTEM_CHECKS = ["joblog_router.W016"]`.

| | |
|---|---|
"""
_ID = re.compile(r"\b(?:joblog_router\.)?([EW]\d{3})\b")


def _checks() -> str:
    """A row for each function that checks, by the ids in its docstring."""
    app = Path(__file__).parents[1] / "src" / "joblog_router" / "contrib" / "django"
    rows = {}
    for path in sorted(app.glob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name.startswith("check_"):
                text = " ".join((ast.get_docstring(function) or "").split())
                if ids := _ID.findall(text):
                    told = text.removeprefix(f"`joblog_router.{ids[0]}`: ").replace("joblog_router.", "")
                    rows[", ".join(f"`{one}`" for one in ids)] = f"{told[0].upper()}{told[1:]}"
    return CHECKS + "\n".join(f"| {ids} | {text} |" for ids, text in sorted(rows.items())) + "\n"


def settings_page() -> str:
    """The text of docs/settings.md."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    from joblog_router.contrib.django.conf import JobLogSettings
    from joblog_router.handlers import JobLogHandler

    rows = []
    for field in dataclasses.fields(JobLogSettings):
        text = field.metadata["meaning"].replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{field.default!r}` | {text[0].upper()}{text[1:]} |")
    keywords = [" ".join(item.split()) for item in re.split(r"\n- ", inspect.cleandoc(JobLogHandler.__doc__ or ""))[1:]]
    keywords[-1], last = re.split(r" (?=`evidence`, `late`)", keywords[-1], maxsplit=1)
    return (
        f"{HEAD}{chr(10).join(rows)}\n{HANDLER}"
        + "\n".join([*(f"- {text}" for text in keywords), "", last.partition(" Raises ")[0], ""])
        + _checks()
    )


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    sys.path.insert(0, str(root))
    (root / "docs" / "settings.md").write_text(settings_page())
