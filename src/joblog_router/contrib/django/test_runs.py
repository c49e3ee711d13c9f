"""Whether this process runs a project's tests, in which lines of jobs stay in memory.

Asked where logging is configured and by the writer; does no I/O. Imports no model.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

from ..._pipeline.report import report_once

__all__ = ["is_test_run", "say_so", "sign"]

_COMMAND: Final = "django.core.management.commands.test"
# Imported by pytest where it starts; the variables are those of a run, of 8.2 and of any version.
_PLUGIN: Final = "joblog_router.pytest_plugin"
_VARIABLES: Final = ("PYTEST_VERSION", "PYTEST_CURRENT_TEST")

_sign = ""


def is_test_run() -> bool:
    """Whether this process runs a project's tests. If so it does to its end: lines may be stored after the last one."""
    global _sign
    if not _sign:
        _sign = _look()
    return bool(_sign)


def sign() -> str:
    """What says that this is a test run; empty where it is none."""
    return _sign if is_test_run() else ""


def _look() -> str:
    """What says so, or nothing. Not an argument "test" alone, nor that pytest was imported: any program may do that."""
    if sys.argv[1:2] == ["test"]:
        program = Path(sys.argv[0])
        if program.parts[-2:] == ("django", "__main__.py"):
            return "python -m django test"
        if program.stem in ("manage", "django-admin") or _COMMAND in sys.modules:
            return f"{program.name} test"
    # Both, as a program that a test starts has the variables, too.
    if "pytest" in sys.modules and (_PLUGIN in sys.modules or any(name in os.environ for name in _VARIABLES)):
        return "pytest"
    return ""


def say_so(tests: str) -> None:
    """Say on stderr, once, what becomes of lines in a test run."""
    if is_test_run():
        report_once(("test-run",), _what_it_means(tests))


def _what_it_means(tests: str) -> str:
    place = "go to test databases only" if tests == "database" else "stay in memory"
    return f"this is a test run ({_sign}): job log lines {place}, and there is no spool but one that a handler names"
