from __future__ import annotations

import io
import logging
import logging.config
import warnings
from uuid import uuid4

import pytest

from tests.isolation import preserved_logging


class ClosingHandler(logging.Handler):
    """Remembers whether it was closed."""

    closed = False

    def close(self) -> None:
        """Remember it."""
        self.closed = True
        super().close()


def test_a_dict_config_is_undone() -> None:
    """Handlers, levels, filters and switches of the root logger and of named ones are as they were before."""
    root = logging.getLogger()
    known = logging.getLogger(f"known.{uuid4()}")
    known.setLevel(logging.ERROR)
    known.addHandler(old := logging.NullHandler())
    handlers, level = root.handlers[:], root.level
    with preserved_logging():
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": True,
                "handlers": {"new": {"class": "logging.StreamHandler", "stream": io.StringIO()}},
                "root": {"level": "DEBUG", "handlers": ["new"]},
            }
        )
        root.addFilter(lambda _record: False)
        known.setLevel(logging.DEBUG)
        known.removeHandler(old)
        assert known.disabled
        assert root.handlers != handlers
    assert root.handlers == handlers
    assert root.level == level
    assert not root.filters
    assert not known.disabled
    assert known.level == logging.ERROR
    assert known.handlers == [old]


def test_a_new_logger_is_reset_and_its_handler_closed() -> None:
    """What a test hung on a logger of its own does not stay, nor does an open file behind it."""
    with preserved_logging():
        logger = logging.getLogger(f"new.{uuid4()}")
        logger.addHandler(handler := ClosingHandler())
        logger.setLevel(logging.DEBUG)
        logger.propagate = False
    assert handler.closed
    assert not logger.handlers
    assert logger.level == logging.NOTSET
    assert logger.propagate


def test_levels_take_effect_at_once() -> None:
    """A level that was asked for meanwhile is not answered from the logging module's cache."""
    logger = logging.getLogger(f"cached.{uuid4()}")
    logger.setLevel(logging.ERROR)
    with preserved_logging():
        logger.setLevel(logging.DEBUG)
        assert logger.isEnabledFor(logging.DEBUG)
    assert not logger.isEnabledFor(logging.DEBUG)


def test_module_settings_are_restored() -> None:
    """Record factory, logger class, `disable` and `raiseExceptions` are as they were."""
    factory, logger_class = logging.getLogRecordFactory(), logging.getLoggerClass()
    with preserved_logging():
        logging.setLogRecordFactory(logging.makeLogRecord)
        logging.setLoggerClass(type("OwnLogger", (logging.Logger,), {}))
        logging.disable(logging.CRITICAL)
        logging.raiseExceptions = False
    assert logging.getLogRecordFactory() is factory
    assert logging.getLoggerClass() is logger_class
    assert logging.root.manager.disable == logging.NOTSET
    assert logging.raiseExceptions


def test_warnings_can_be_captured_again_and_again() -> None:
    """After a test that had warnings logged they go to pytest as before, and the next test may do so too."""
    show = warnings.showwarning
    for _ in range(2):
        with preserved_logging():
            logging.captureWarnings(True)
            assert warnings.showwarning is not show
        assert warnings.showwarning is show
    with pytest.warns(UserWarning, match="seen by pytest"):
        warnings.warn("seen by pytest", stacklevel=1)


def test_caplog_works_again_afterwards(caplog: pytest.LogCaptureFixture) -> None:
    """A dictConfig takes pytest's own handlers off the root logger; afterwards they are back in place."""
    with preserved_logging():
        logging.config.dictConfig({"version": 1, "root": {"level": "DEBUG", "handlers": []}})
        logging.getLogger("lost").error("not captured")
    logging.getLogger().error("captured")
    assert [record.getMessage() for record in caplog.records] == ["captured"]
