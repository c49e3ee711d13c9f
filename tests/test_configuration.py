"""What the configuration alone shows to be wrong raises at start, once and clearly."""

from __future__ import annotations

import logging
import logging.config
import re
from pathlib import Path
from typing import Any

import pytest

from joblog_router import ConfigurationError, Entry, JobContextFilter, JobLogError, JobLogHandler, job_context
from joblog_router._pipeline.dotted import load
from joblog_router.sinks import Sink
from tests.helpers import configure, messages, run_python


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "no sink given"),
        ({"sink": "jsnol"}, "Did you mean 'jsonl'?"),
        ({"sink": "nowhere.at.all.Sink"}, "cannot be imported"),
        ({"sink": "joblog_router.sinks.Nothing"}, "has no 'Nothing'"),
        ({"sink": 5}, "sink must be a name"),
        ({"sink": "builtins.dict"}, "not a sink"),
        ({"sink": "jsonl"}, "needs options={'directory'"),
        ({"sink": "jsonl", "options": {"directroy": "x"}}, "Did you mean 'directory'?"),
        ({"sink": "jsonl", "options": {"directory": 5}}, "directory must be a path"),
        ({"sink": "jsonl", "options": "var/log"}, "options must be a dictionary"),
        ({"sink": "memory", "options": {"max_entries": 0}}, "max_entries must be a positive"),
        ({"sink": "callable", "options": {"target": "print"}}, "not a dotted path"),
        ({"sink": "callable", "options": {"target": 5}}, "must be a callable"),
        ({"sink": "memory", "loggers": "shop"}, "must be a list of logger names"),
        ({"sink": "memory", "loggers": ["shop.*"]}, "without wildcards"),
        ({"sink": "memory", "exclude": [""]}, "not a logger's name"),
        ({"sink": "memory", "capacity": True}, "capacity must be a positive whole number, not True"),
        ({"sink": "memory", "capacity_bytes": 0}, "capacity_bytes must be a positive whole number, not 0"),
        ({"sink": "memory", "block": -1}, "block must be seconds, 0 to "),
        ({"sink": "memory", "block": "1"}, "block must be seconds, 0 to "),
        ({"sink": "memory", "fold": 1}, "fold must be True or False, not 1"),
        ({"sink": "memory", "spool": ""}, "spool must be the path of a directory or None, not ''"),
        ({"sink": "memory", "spool": 7}, "spool must be the path of a directory or None, not 7"),
        ({"sink": "memory", "exclude": ["a..b"]}, "not a logger's name"),
        ({"sink": "memory", "capacity": 0}, "capacity must be a positive"),
        ({"sink": "memory", "capacity": "many"}, "capacity must be a positive"),
        ({"sink": "memory", "evidence": "job_id"}, "evidence must be a list"),
        ({"sink": "memory", "sinks": 1}, "has no setting 'sinks'. Did you mean 'sink'? It knows: level, sink"),
        ({"sink": "memory", "folt": False}, "Did you mean 'fold'?"),
        ({"sink": "memory", "level": "LOUD"}, "level 'LOUD'"),
    ],
)
def test_a_wrong_configuration_is_one_clear_error(settings: dict[str, Any], says: str) -> None:
    """The error is a ConfigurationError, is the library's and a ValueError, and says what to change."""
    with pytest.raises(ConfigurationError) as raised:
        JobLogHandler(**settings)
    assert says in str(raised.value)
    assert isinstance(raised.value, JobLogError)
    assert isinstance(raised.value, ValueError)


def test_dictconfig_shows_the_error_as_its_cause() -> None:
    """`dictConfig` wraps every error in a ValueError naming the handler; ours is the cause."""
    with pytest.raises(ValueError, match="handler 'job'") as raised:
        configure(sink="jsnol")
    assert isinstance(raised.value.__cause__, ConfigurationError)


def test_a_wrong_configuration_is_one_line_on_stderr() -> None:
    """The last line of the traceback is dictConfig's own, so the reason stands above it, on a line of its own."""
    code = """
        import logging.config
        logging.config.dictConfig({
            "version": 1, "handlers": {"job": {"class": "joblog_router.JobLogHandler", "sink": "jsnol"}},
        })
        """
    result = run_python(code)
    assert result.returncode == 1
    assert result.stderr.startswith("joblog_router: JobLogHandler: there is no sink 'jsnol'. Did you mean 'jsonl'?")
    assert result.stderr.count("\njoblog_router: ") == 0


def test_a_refused_configuration_leaves_no_user_behind() -> None:
    """A handler that could not be made holds no sink open."""
    from joblog_router._pipeline.router import router

    before = {key: len(channel.uses) for key, channel in router._channels.items()}
    with pytest.raises(ConfigurationError):
        JobLogHandler(sink="memory", exclude=["*"])
    assert {key: len(channel.uses) for key, channel in router._channels.items()} == before


def test_loggers_and_exclude_match_whole_dotted_segments() -> None:
    """`shop` is not `shopping`; what is excluded inside is out."""
    configure(loggers=["shop", "nats"], exclude=["shop.noisy"])
    with job_context(1):
        for name in ("shop", "shop.cart", "shopping", "shop.noisy", "shop.noisy.x", "shop.noisyx", "other", "nats.aio"):
            logging.getLogger(name).info(name)
    assert messages() == ["shop", "shop.cart", "shop.noisyx", "nats.aio"]


def test_a_dotted_name_may_be_nested_and_an_error_inside_its_module_is_that_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the module itself is missing the name is wrong; what it lacks is told as it is."""
    (tmp_path / "in_need.py").write_text("import nowhere_at_all\n")
    (tmp_path / "nameless.py").write_text("raise ModuleNotFoundError('not on this system')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert load("joblog_router.sinks.base.Sink.write") is Sink.write
    assert load("joblog_router.Entry") is Entry
    for path, says in (
        ("in_need.Sink", "No module named 'nowhere_at_all'"),
        ("nameless.Sink", "not on this system"),
        ("nowhere.at.all.Sink", "there is no such module"),
        ("joblog_router.sinks.base.Sink.wirte", "joblog_router.sinks.base has no 'Sink.wirte'"),
        ("joblog_router.nothing.Sink", "joblog_router has no 'nothing.Sink'"),
    ):
        with pytest.raises(ImportError, match=re.escape(says)):
            load(path)


@pytest.mark.parametrize("last", [True, False])
def test_a_filter_beside_the_job_filter_is_honoured(last: bool) -> None:
    """Before or behind it: what it keeps away is in no job's log."""
    handler = configure()
    for each in (JobContextFilter(), logging.Filter("a"))[:: 1 if last else -1]:
        handler.addFilter(each)
    with job_context(1):
        for name in ("a", "b"):
            logging.getLogger(name).info("of %s", name)
    assert messages() == ["of a"]


def test_the_handlers_level_and_filters_are_honoured() -> None:
    """Level and filters work as on every handler."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"only_a": {"name": "a"}},
            "handlers": {
                "job": {
                    "class": "joblog_router.JobLogHandler",
                    "fold": False,
                    "sink": "memory",
                    "level": "INFO",
                    "filters": ["only_a"],
                }
            },
            "root": {"level": "DEBUG", "handlers": ["job"]},
        }
    )
    with job_context(1):
        logging.getLogger("a").debug("too low")
        logging.getLogger("a").info("kept")
        logging.getLogger("b").info("filtered")
    assert messages() == ["kept"]


def test_no_level_of_the_users_loggers_is_changed() -> None:
    """Root at WARNING stays at WARNING, whatever job is open."""
    configure(level="WARNING")
    with job_context(1):
        logging.getLogger("x").info("below")
        logging.getLogger("x").warning("above")
    assert logging.getLogger().level == logging.WARNING
    assert messages() == ["above"]


def test_an_unwritable_directory_lets_the_application_work_and_says_so_once(tmp_path: Path) -> None:
    """The application starts, works and ends with its own status; one line on stderr names path and remedy."""
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    result = run_python(
        """
        import logging, logging.config, sys, joblog_router
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
            "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": "jsonl",
                                 "options": {"directory": sys.argv[1]}}},
            "root": {"level": "INFO", "handlers": ["job"]}})
        with joblog_router.job_context(1):
            for number in range(100):
                logging.getLogger("x").info("line %d", number)
        print(joblog_router.flush(1), joblog_router.stats()["waiting"])
        sys.exit(7)
        """,
        str(blocked / "logs"),
    )
    assert result.returncode == 7
    assert result.stdout.split() == ["False", "100"]
    assert result.stderr.count("cannot write to") == 1, result.stderr
    assert str(blocked / "logs") in result.stderr
    assert "make the directory writable" in result.stderr
    assert "ends with 100 job log lines that could not be stored" in result.stderr
    assert "Traceback" not in result.stderr
