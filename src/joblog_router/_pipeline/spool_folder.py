"""The directory of spool segments: 0700 and the process's own, verified without following links.

Called at configuration, in the child of a fork with its first line, and by recovery. Raises OSError only.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: no spool there
    fcntl = None  # type: ignore[assignment]

SUFFIX = ".spool"

IS_SUPPORTED = fcntl is not None and hasattr(os, "posix_fallocate") and hasattr(os, "O_NOFOLLOW")


def default_directory(project: str) -> Path:
    """Where the segments of this user's processes of `project` are if no setting says otherwise."""
    uid = os.geteuid() if hasattr(os, "geteuid") else 0
    name = hashlib.blake2b(project.encode("utf-8", "surrogateescape"), digest_size=5).hexdigest()
    return Path(tempfile.gettempdir()) / f"joblog-router-{uid}-{name}"


def absolute(directory: str | os.PathLike[str]) -> Path:
    """Where a setting means: now, as the process may change its directory. Links in the last part are not followed."""
    path = Path(os.fspath(directory))
    return Path(os.path.realpath(path.parent)) / path.name


def open_directory(directory: Path) -> int:
    """A descriptor of `directory`, which is made if it is missing. Raises OSError if others could read or swap it."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700)
    except FileExistsError:
        pass
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        about = os.fstat(descriptor)
        if about.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, f"it belongs to user {about.st_uid}, not to {os.geteuid()}")
        if stat.S_IMODE(about.st_mode) & 0o077:
            raise PermissionError(errno.EPERM, "others may look into it; run: chmod 700")
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def segment_name(origin: str) -> str:
    """The file name of an origin's segment."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", origin) + SUFFIX


def try_lock(descriptor: int) -> bool:
    """Whether the file is this process's now: no living process has it, and it is still in its directory.

    A lock of fcntl, not flock: it is not inherited over fork, so the child of a dead owner keeps nothing locked. It
    is lost when the process closes any descriptor of the file, hence nobody here opens a file of its own twice.
    """
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(descriptor).st_nlink > 0
