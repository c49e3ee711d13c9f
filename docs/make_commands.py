"""Writes docs/commands.md from the parsers of the commands.

python docs/make_commands.py            # writes; a test tells when that is due
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from pathlib import Path

HEAD = """# Commands

`joblog`, `python -m joblog_router` and `manage.py joblog` are the same. The store is `--store`, else the environment's
`JOBLOG_STORE`, else what the settings of `DJANGO_SETTINGS_MODULE` say. The exit status is 0 if all is well, 1 for a
finding (no such log, a store that cannot be read) and 2 for misuse. Made by `docs/make_commands.py` from the parsers.
"""


def _name(action: argparse.Action) -> str:
    """How the option or argument is written."""
    value = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    if not action.option_strings:
        return f"{value} ..." if action.nargs in ("*", "+") else value
    takes = "" if action.nargs == 0 else f" {value}"
    return ", ".join(action.option_strings) + takes


def _help(action: argparse.Action) -> str:
    text = " ".join((action.help or "").split())
    return (text % {"default": action.default, "prog": "joblog", "dest": action.dest}).replace("|", "\\|")


def commands_page() -> str:
    """The text of docs/commands.md."""
    from joblog_router.cli import COMMANDS

    parts = [HEAD]
    for command in COMMANDS:
        module = importlib.import_module(command.module)
        parser = argparse.ArgumentParser(prog=f"joblog {command.name}", add_help=False)
        module.add_arguments(parser)
        parts.append(f"## joblog {command.name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n")
        described = inspect.cleandoc(parser.description or module.__doc__ or "").split("\n\n")
        if len(described) > 1:
            parts.append("\n\n".join(described[1:]) + "\n")
        rows = [
            f"| `{_name(action)}` | {_help(action)} |"
            for action in parser._actions
            if action.help is not argparse.SUPPRESS
        ]
        parts.append("\n".join(["| | |", "|---|---|", *rows, ""]))
    return "\n".join(parts)


if __name__ == "__main__":
    root = Path(__file__).parents[1]
    sys.path.insert(0, str(root))
    (root / "docs" / "commands.md").write_text(commands_page())
