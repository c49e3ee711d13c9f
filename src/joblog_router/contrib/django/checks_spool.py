"""The system check about the spool: whether it can be used, and with `check --deploy` where it is.

Registered by the app's start; called by `manage.py check` and the commands that run the checks, on their thread.
"""

from __future__ import annotations

import os
from typing import Any

from django.core import checks

from ..._pipeline.spool_folder import IS_SUPPORTED, open_directory
from . import conf

__all__ = ["check_spool", "check_spool_place"]


@checks.register()
def check_spool(**kwargs: Any) -> list[checks.CheckMessage]:
    """`joblog_router.W020`: lines would not survive a killed process."""
    directory = conf.spool_directory()
    if directory is None:
        return []
    problem = "" if IS_SUPPORTED else "this platform lacks file locks or posix_fallocate"
    if not problem:
        try:
            os.close(open_directory(directory))
        except OSError as error:
            problem = error.strerror or str(error)
    if not problem:
        return []
    return [
        checks.Warning(
            f"The spool of the job logs, {str(directory)!r}, cannot be used: {problem}. Lines that are not stored yet "
            "are lost when a process is killed.",
            hint=f"Set {conf.SETTING}['SPOOL'] to a directory of the user that runs the project (mode 0700), or to "
            "None for no spool.",
            id="joblog_router.W020",
        )
    ]


@checks.register(deploy=True)
def check_spool_place(**kwargs: Any) -> list[checks.CheckMessage]:
    """`joblog_router.I020`: where lines are until they are stored, and whether that place outlives a restart."""
    directory = conf.spool_directory()
    if directory is None or conf.current().SPOOL is not True:
        return []
    return [
        checks.Info(
            f"Job log lines that are not stored yet are in {str(directory)!r}, in the temporary directory. A container "
            "that is replaced loses them.",
            hint=f"Set {conf.SETTING}['SPOOL'] to a directory on a volume that is kept.",
            id="joblog_router.I020",
        )
    ]
