"""What an origin is called: one process's life, a further sink's share of it, or a worker's that sends its lines.

    HOST-PID-RANDOM         the first channel of a process
    HOST-PID-RANDOM.2       its second
    remote:OWNER:ORIGIN     a worker elsewhere; OWNER stands for the job whose token it has

Made by the router where a channel is opened, and where lines of workers are received; read by channels, status files
and the doctor.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

from .text import clean

_REMOTE: Final = "remote:"


def new_origin() -> str:
    """One that no other process has, nor this one before a fork."""
    return f"{host()}-{os.getpid()}-{secrets.token_hex(4)}"


def host() -> str:
    """What origins call this host."""
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "host")
    return clean(name)[:40] or "host"


def of_channel(origin: str, number: int) -> str:
    """That of a process's channel number so and so; the first has the process's own."""
    return origin if number == 1 else f"{origin}.{number}"


def of_process(origin: str) -> str:
    """The process's own, by that of any of its channels."""
    head, dash, tail = origin.rpartition("-")
    return head + dash + tail.partition(".")[0]


def is_first(origin: str) -> bool:
    """Whether it is that of its process's first channel."""
    return "." not in origin.rpartition("-")[2]


def of_worker(owner: str, origin: str) -> str:
    """What the origin of a worker elsewhere is stored as, so that it is none of another owner's, nor of a process."""
    return f"{_REMOTE}{owner}:{origin}"


def worker_of(origin: str) -> str | None:
    """What a worker elsewhere calls itself; None for a process that stores its lines itself."""
    return origin.rpartition(":")[2] if origin.startswith(_REMOTE) else None
