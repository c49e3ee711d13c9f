"""Whether, and how, Python runs here as another Unix user."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys


@functools.cache
def as_nobody() -> tuple[str, ...]:
    """The beginning of a command that runs Python as another Unix user; () where that cannot be done."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None:
        return ()
    change = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        asked = [*change, python, "-I", "-S", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if subprocess.run(asked, cwd="/", capture_output=True, check=False).returncode == 0:
            return (*change, python)
    return ()
