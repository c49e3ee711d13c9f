"""Which task is in a message's payload? The first key that is there, and only if its value is short plain text.

Called on the event loop by both halves, for messages that are given up; imports the standard library only.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

DEFAULT_TASK_ID_KEYS: Final = ("id", "task_id", "image_id")

_MAX_PAYLOAD: Final = 65_536
_PLAIN: Final = re.compile(r"[\w.:/@#+ -]{1,100}")


def task_of(payload: Any, keys: tuple[str, ...]) -> str | None:
    """The task's id in a JSON payload, by the first of `keys` that is there; only if it is short plain text."""
    if not keys or not isinstance(payload, bytes) or len(payload) > _MAX_PAYLOAD:
        return None
    try:
        task = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(task, dict):
        return None
    value = next((task[key] for key in keys if key in task), None)
    if type(value) not in {str, int}:
        return None
    text = str(value)
    return text if _PLAIN.fullmatch(text) else None
