"""Structlog by way of the standard library's `ProcessorFormatter`, whose records carry a dictionary for a message.

Needed only with `wrap_for_formatter` at the end of structlog's processors: what `render_to_log_kwargs` or a renderer
hands over is understood by JobLogHandler itself. Runs on the logging thread; imports nothing of structlog.
"""

from __future__ import annotations

import copy
import logging
import sys
from typing import Any, Final

from .._pipeline.attributes import BARE, STAMP
from .._pipeline.report import report_once
from ..handlers import JobLogHandler

__all__ = ["StructlogJobLogHandler"]

# Said by the record itself, or for the renderer only.
_NOT_FIELDS: Final = frozenset({"event", "level", "logger", "timestamp", "exc_info", "stack_info"})


class StructlogJobLogHandler(JobLogHandler):
    """A JobLogHandler that makes the event of a structlog record the line's message, and its values fields.

    `"class": "joblog_router.contrib.structlog.StructlogJobLogHandler"` in `dictConfig`, with the same options. Records
    of others, and what other handlers see, stay as they are.
    """

    def handle(self, record: logging.LogRecord) -> bool:
        """Capture `record` if it is about a job; whether it was captured. Never raises."""
        if type(record.msg) is not dict:
            return super().handle(record)
        try:
            plain = _plain(record, record.msg)
        except Exception as error:
            report_once(("structlog", repr(error)), f"an event of structlog could not be taken apart: {error!r}")
            return super().handle(record)
        captured = super().handle(plain)
        if STAMP in plain.__dict__:
            record.__dict__[STAMP] = plain.__dict__[STAMP]
        return captured


def _plain(record: logging.LogRecord, event: dict[Any, Any]) -> logging.LogRecord:
    plain = copy.copy(record)
    plain.msg = event.get("event", "")
    plain.args = ()
    plain.exc_info = record.exc_info or _exception(event.get("exc_info"))
    plain.stack_info = record.stack_info or event.get("stack_info")
    for name, value in event.items():
        if type(name) is str and name not in _NOT_FIELDS and name not in BARE and name not in plain.__dict__:
            setattr(plain, name, value)
    return plain


def _exception(given: Any) -> Any:
    """What structlog's `exc_info` stands for: True means the exception that is being handled."""
    if isinstance(given, BaseException):
        return (type(given), given, given.__traceback__)
    if isinstance(given, tuple):
        return given
    return sys.exc_info() if given and sys.exc_info()[0] else None
