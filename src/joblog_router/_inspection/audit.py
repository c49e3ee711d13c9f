"""What keeps lines out of job logs, or puts them into the wrong hands, in the logging configuration as it is now.

A look at the loggers of this process: changes nothing, logs nothing, reads no file. Called by `snapshot`, on the writer
thread or a command's; imports the handler, the filter and the router to know them.
"""

from __future__ import annotations

import logging
import logging.handlers
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .._pipeline.router import router
from ..filters import JobContextFilter
from ..handlers import JobLogHandler

__all__ = ["Finding", "audit_logging", "loggers_that_pass_on", "open_handlers"]

# They keep their own access and error logs apart, on purpose, and say little about jobs.
_APART = frozenset({"django", "uvicorn", "gunicorn", "hypercorn", "daphne"})


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence with the fix. `kind` is a short name for programs, `logger` where it is ("" for the root)."""

    kind: str
    logger: str
    text: str


def audit_logging(root: logging.Logger | None = None, made: Iterable[JobLogHandler] = ()) -> tuple[Finding, ...]:
    """Look at `root` (the process's) and its loggers; `made` are the job handlers that exist, attached or not."""
    root = root or logging.getLogger()
    loggers = [root, *_below(root)]
    attached = [logger for logger in loggers if any(map(_is_ours, logger.handlers))]
    found: list[Finding] = []
    found += _root(root, attached, [*made])
    for logger in loggers:
        found += _filters(logger)
        found += _buffers(logger, bool(attached))
        if attached:
            found += _reach(logger, root)
            found += _twice(logger)
    if attached and (disabled := root.manager.disable) >= logging.INFO:
        found.append(
            Finding(
                "level",
                "",
                f"logging.disable({logging.getLevelName(disabled)}) was called: lines of that level and below reach no "
                "job's log. Call logging.disable(logging.NOTSET), or do not call it.",
            )
        )
    return tuple(found)


def loggers_that_pass_on() -> list[str]:
    """The loggers ("" is the root) that have a job handler, or a queue or buffer, behind which one may be."""
    root = logging.getLogger()
    return [
        _name(logger)
        for logger in (root, *_below(root))
        if any(_is_ours(each) or hasattr(each, "queue") or hasattr(each, "target") for each in logger.handlers)
    ]


def open_handlers() -> list[JobLogHandler]:
    """The job handlers that exist in this process, on a logger or not."""
    return [handler for handler in router.handlers() if isinstance(handler, JobLogHandler) and handler.is_open]


def _below(root: logging.Logger) -> list[logging.Logger]:
    named = list(root.manager.loggerDict.items())
    return [logger for _, logger in sorted(named, key=lambda item: item[0]) if isinstance(logger, logging.Logger)]


def _is_ours(handler: object) -> bool:
    return isinstance(handler, JobLogHandler)


def _root(root: logging.Logger, attached: list[logging.Logger], made: list[JobLogHandler]) -> Iterator[Finding]:
    if attached or any(map(_is_ours, _behind(root))):
        return
    if made:
        yield Finding(
            "root",
            "",
            "A JobLogHandler was configured, but no logger has it any more: something replaced the handlers of the "
            "root logger (Celery does unless worker_hijack_root_logger is False, logging.basicConfig(force=True), a "
            "second dictConfig). Configure logging after it, or add the handler again.",
        )
    else:
        yield Finding(
            "root",
            "",
            "No logger has a JobLogHandler: job logs stay empty. Add one to the handlers of the root logger.",
        )


def _behind(root: logging.Logger) -> Iterator[object]:
    """Handlers that buffers of the root logger pass their records to."""
    for handler in root.handlers:
        target = getattr(handler, "target", None)
        if target is not None:
            yield target
        yield from getattr(getattr(handler, "listener", None), "handlers", ())


def _filters(logger: logging.Logger) -> Iterator[Finding]:
    if any(isinstance(item, JobContextFilter) for item in logger.filters):
        yield Finding(
            "filter",
            _name(logger),
            f"JobContextFilter is on the logger {_shown(logger)}: a logger's filter does not see the records of the "
            "loggers below it, their lines have no job_id. Put it on the handlers instead: "
            "'handlers': {'console': {..., 'filters': ['job_context']}}.",
        )


def _buffers(logger: logging.Logger, has_ours: bool) -> Iterator[Finding]:
    for handler in logger.handlers:
        if any(isinstance(item, JobContextFilter) for item in handler.filters):
            continue
        kind = type(handler).__name__
        if isinstance(handler, logging.handlers.MemoryHandler) and _needs_job(handler.target):
            yield Finding(
                "buffer",
                _name(logger),
                f"The {kind} on the logger {_shown(logger)} keeps records and passes them to a job handler later: they "
                "get the job of whoever makes it flush. Add 'filters': ['job_context'] (joblog_router.JobContextFilter)"
                f" to the {kind} itself.",
            )
        elif isinstance(handler, logging.handlers.QueueHandler):
            targets = getattr(getattr(handler, "listener", None), "handlers", None)
            if any(map(_needs_job, targets)) if targets is not None else not has_ours:
                yield Finding(
                    "buffer",
                    _name(logger),
                    f"The {kind} on the logger {_shown(logger)} hands records to another thread, where no job is open. "
                    "Add 'filters': ['job_context'] (joblog_router.JobContextFilter) to the "
                    f"{kind} itself: then the job is on the record.",
                )


def _needs_job(handler: object) -> bool:
    return _is_ours(handler) or (
        isinstance(handler, logging.Handler) and any(isinstance(item, JobContextFilter) for item in handler.filters)
    )


def _reach(logger: logging.Logger, root: logging.Logger) -> Iterator[Finding]:
    """Whether INFO lines of this logger get to a job handler."""
    name = _name(logger)
    if name.partition(".")[0] in (*_APART, "joblog_router"):
        return
    if logger.disabled:
        yield Finding(
            "disabled",
            name,
            f"The logger {_shown(logger)} is disabled: it says nothing at all. dictConfig does that to loggers that "
            "exist already, unless it has 'disable_existing_loggers': False.",
        )
        return
    if not logger.propagate and logger is not root and not _reaches(logger) and (logger.handlers or not logger.parent):
        yield Finding(
            "propagate",
            name,
            f"The logger {_shown(logger)} has propagate=False and no job handler: what it and the loggers below it say "
            "reaches no job's log. Let it propagate, or add the job handler to it.",
        )
    elif logger.level > logging.INFO:
        yield Finding(
            "level",
            name,
            f"The level of the logger {_shown(logger)} is {logging.getLevelName(logger.level)}: its INFO lines reach "
            "no job's log. Set its level to INFO and give the handlers that are to stay quiet a level of their own.",
        )
    for handler in logger.handlers:
        if _is_ours(handler) and handler.level > logging.INFO:
            yield Finding(
                "level",
                name,
                f"The job handler on the logger {_shown(logger)} has the level {logging.getLevelName(handler.level)}: "
                "job logs go without INFO lines. Leave its level out.",
            )


def _reaches(logger: logging.Logger) -> bool:
    current: logging.Logger | None = logger
    while current is not None:
        if any(_is_ours(handler) or _is_ours(getattr(handler, "target", None)) for handler in current.handlers):
            return True
        current = current.parent if current.propagate else None
    return False


def _twice(logger: logging.Logger) -> Iterator[Finding]:
    ours = {id(handler) for handler in logger.handlers if _is_ours(handler)}
    above = logger.parent if logger.propagate else None
    while ours and above is not None:
        if ours & set(map(id, above.handlers)):
            yield Finding(
                "twice",
                _name(logger),
                f"The same job handler is on the logger {_shown(logger)} and on {_shown(above)} above it: every record "
                "is handled twice (and stored once). Take it off the one below.",
            )
            return
        above = above.parent if above.propagate else None


def _name(logger: logging.Logger) -> str:
    return "" if logger.parent is None else logger.name


def _shown(logger: logging.Logger) -> str:
    return "root" if logger.parent is None else repr(logger.name)
