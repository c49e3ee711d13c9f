"""Puts the logging module back as it was, so that a test may call `dictConfig` as an application does.

Called by an autouse fixture around every test, on pytest's own thread.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from joblog_router import JobLogHandler


@dataclass(frozen=True)
class _LoggerState:
    level: int
    handlers: list[logging.Handler]
    filters: Sequence[object]
    propagate: bool
    disabled: bool

    @classmethod
    def of(cls, logger: logging.Logger) -> _LoggerState:
        return cls(logger.level, logger.handlers[:], logger.filters[:], logger.propagate, logger.disabled)

    def restore(self, logger: logging.Logger) -> None:
        for handler in logger.handlers:
            if handler not in self.handlers:
                handler.close()
        # In place and not by addHandler: the lists may hold anything, and the order counts.
        logger.handlers[:] = self.handlers
        logger.filters[:] = self.filters  # type: ignore[assignment]
        logger.propagate = self.propagate
        logger.disabled = self.disabled
        logger.setLevel(self.level)  # also clears the loggers' cache of enabled levels


_FRESH = _LoggerState(logging.NOTSET, [], [], True, False)


def _loggers() -> list[logging.Logger]:
    named = logging.Logger.manager.loggerDict.values()
    return [logging.getLogger(), *(logger for logger in named if isinstance(logger, logging.Logger))]


def _job_handlers() -> set[JobLogHandler]:
    found = (reference() for reference in list(logging._handlerList))  # type: ignore[attr-defined]
    return {handler for handler in found if isinstance(handler, JobLogHandler)}


@contextmanager
def preserved_logging() -> Iterator[None]:
    """Restore handlers, filters, levels and switches of all loggers, and the module's own settings, on exit.

    Handlers that came meanwhile are closed; loggers that came meanwhile are reset, not removed, since modules
    keep references to them. pytest's own handlers (caplog and its report) are among those put back.
    """
    before = {logger: _LoggerState.of(logger) for logger in _loggers()}
    factory = logging.getLogRecordFactory()
    logger_class = logging.getLoggerClass()
    disabled_below = logging.root.manager.disable
    raise_exceptions = logging.raiseExceptions
    last_resort = logging.lastResort
    show_warning = warnings.showwarning
    job_handlers = _job_handlers()
    try:
        yield
    finally:
        logging.captureWarnings(False)
        warnings.showwarning = show_warning
        logging.lastResort = last_resort
        logging.raiseExceptions = raise_exceptions
        logging.setLoggerClass(logger_class)
        logging.setLogRecordFactory(factory)
        for logger in _loggers():
            before.get(logger, _FRESH).restore(logger)
        logging.disable(disabled_below)
        # Handlers that stand behind others, or on no logger: their settings would count in the tests that follow.
        for handler in _job_handlers() - job_handlers:
            handler.close()
