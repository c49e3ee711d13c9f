"""Why a Redis or Valkey refuses writes, from what its INFO says. For the counters of jobs and for Celery's broker.

Called by the probes of `contrib.redis` and `contrib.celery`. Imports nothing of ours; a pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["refuses_writes"]


def refuses_writes(info: Mapping[str, Any]) -> str:
    """In words; "" where nothing speaks against it."""
    most, used = info.get("maxmemory") or 0, info.get("used_memory") or 0
    if info.get("role") == "slave":
        return "it is a replica, which takes reads only"
    if most and used >= most and info.get("maxmemory_policy") == "noeviction":
        return f"its memory is full (used {used:,} of maxmemory {most:,} bytes, policy noeviction)"
    return ""
