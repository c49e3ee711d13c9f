from __future__ import annotations

import logging
import logging.config
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings

from joblog_router import ConfigurationError, JobLogHandler, carry, flush, job_context
from joblog_router._pipeline import settings
from joblog_router._pipeline.handing_over import hand_over
from joblog_router._pipeline.rules import Rules
from joblog_router._pipeline.spool_folder import segment_name
from joblog_router.contrib.django import conf
from joblog_router.contrib.django.conf import JobLogSettings
from tests.contrib.django.project import Project
from tests.helpers import configure, entries, messages, until
from tests.test_overflow import Gate


def test_without_the_setting_the_defaults_hold() -> None:
    """No JOBLOG_ROUTER, None and an empty one are the same."""
    for value in (None, {}):
        with override_settings(JOBLOG_ROUTER=value):
            assert conf.current() == JobLogSettings(DATABASE=None, NATS=None, CELERY=None)


def test_override_settings_takes_effect_and_ends() -> None:
    """The settings are read when they are used: inside `override_settings` they are others, afterwards not."""
    before = conf.current()
    with override_settings(JOBLOG_ROUTER={"DATABASE": "default"}):
        assert conf.current().DATABASE == "default"
        assert conf.database_alias() == "default"
        with override_settings(JOBLOG_ROUTER={"DATABASE": "other"}):
            assert conf.database_alias() == "other"
        assert conf.database_alias() == "default"
    assert conf.current() == before


def test_the_alias_is_joblog_where_there_is_one_else_default() -> None:
    """Without DATABASE the alias "joblog" is used if DATABASES has it, otherwise "default"."""
    assert conf.database_alias() == "joblog"
    with override_settings(JOBLOG_ROUTER={"DATABASE": None}):
        assert conf.database_alias() == "joblog"


def test_a_project_without_an_alias_of_the_logs_own_uses_default(bare_project: Project) -> None:
    """The default alias is the fallback."""
    code = "from joblog_router.contrib.django import conf; print(conf.database_alias())"
    assert bare_project.run(code).stdout == "joblog\n"
    bare_project.settings("del DATABASES['joblog']")
    assert bare_project.run(code).stdout == "default\n"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "JOBLOG_ROUTER must be a dictionary, not []"),
        ({"DATABSE": "x"}, "JOBLOG_ROUTER has no setting 'DATABSE'. Did you mean 'DATABASE'?"),
        ({"nats": True}, "JOBLOG_ROUTER has no setting 'nats'. Did you mean 'NATS'?"),
        ({"COLOUR": 1}, "JOBLOG_ROUTER has no setting 'COLOUR'. Known: DATABASE, ENABLED, PERMISSION"),
        ({1: 1}, "JOBLOG_ROUTER has no setting 1."),
        ({"DATABASE": 3}, "JOBLOG_ROUTER['DATABASE'] must be the name of an alias in DATABASES, or None, not 3"),
        ({"DATABASE": ""}, "JOBLOG_ROUTER['DATABASE'] must be"),
        ({"LATE": {"app": "keep"}}, "JOBLOG_ROUTER: late must be a dictionary of logger names and 'drop' or 'mark'"),
        ({"LATE_GRACE": "1"}, "JOBLOG_ROUTER['LATE_GRACE'] must be a number of seconds, or None, not '1'"),
        ({"SERVICES": "app.poll"}, "JOBLOG_ROUTER['SERVICES'] must be a list of dotted names, or None"),
        ({"GENERATOR_DRIVERS": ["a b"]}, "JOBLOG_ROUTER: generator_drivers holds 'a b', which is not a dotted name"),
        ({"REPORT_TASKS": 1}, "JOBLOG_ROUTER['REPORT_TASKS'] must be True, False or None, not 1"),
        ({"FOLD": "no"}, "JOBLOG_ROUTER['FOLD'] must be True or False, not 'no'"),
        ({"NATS": "on"}, "JOBLOG_ROUTER['NATS'] must be True, False, None or a dictionary of options"),
        ({"NATS": 1}, "JOBLOG_ROUTER['NATS'] must be"),
        ({"TASKS": "on"}, "JOBLOG_ROUTER['TASKS'] must be True, False, None or a dictionary of options"),
        ({"THREADS": 1}, "JOBLOG_ROUTER['THREADS'] must be True or False, not 1"),
        ({"URLS": ["page"]}, "JOBLOG_ROUTER['URLS'] must be a dictionary of the names of URLs and their arguments"),
        ({"URLS": {"page": 1}}, "JOBLOG_ROUTER['URLS'] must be a dictionary of the names of URLs"),
        ({"CELERY": ["job_id"]}, "JOBLOG_ROUTER['CELERY'] must be True, False, None or a dictionary of options"),
    ],
)
def test_what_is_wrong_names_the_setting_and_the_key(value: Any, words: str) -> None:
    """An unknown key or a value of the wrong type is a ConfigurationError that says where and what is allowed."""
    with override_settings(JOBLOG_ROUTER=value), pytest.raises(ConfigurationError) as caught:
        conf.current()
    assert words in str(caught.value)


def test_a_wrong_setting_stops_the_start(bare_project: Project) -> None:
    """`django.setup()` raises for it: the mistake is met at start, not with the first line."""
    bare_project.settings("JOBLOG_ROUTER = {'DATABSE': 'default'}")
    result = bare_project.manage("check", status=1)
    assert "ConfigurationError: JOBLOG_ROUTER has no setting 'DATABSE'. Did you mean 'DATABASE'?" in result.stderr


def test_folding_follows_the_setting_unless_a_handler_says_otherwise() -> None:
    """JOBLOG_ROUTER["FOLD"] holds for handlers without `fold`; `override_settings` works and ends."""
    log = logging.getLogger("app.folding")

    def rows(**handler: Any) -> int:
        logging.config.dictConfig(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {"job": {"class": "joblog_router.JobLogHandler", "sink": "memory", **handler}},
                "root": {"level": "INFO", "handlers": ["job"]},
            }
        )
        with job_context(1):
            for number in range(30):
                log.info("line %d", number)
        assert flush(10)
        return len(logging.getLogger().handlers[0].sink.entries(1))  # type: ignore[attr-defined]

    assert rows() < 10
    with override_settings(JOBLOG_ROUTER={"FOLD": False}):
        assert rows() == 30
        assert rows(fold=True) < 10
    assert rows() < 10
    assert rows(fold=False) == 30


def test_settings_about_attribution_hold_where_no_handler_says_anything() -> None:
    """LATE counts for handlers without `late`; a handler that has one beats it; afterwards it is gone."""

    def late_lines(**handler: Any) -> list[str]:
        configure(**handler)
        with job_context("1"):
            log_late = carry(logging.getLogger("app").info)
        log_late("late")
        return messages()

    with override_settings(JOBLOG_ROUTER={"LATE": {"app": "mark"}}):
        assert late_lines() == ["late"]
        assert late_lines(late={"": "drop"}) == []
    assert late_lines() == []


def test_the_namespace_is_the_settings() -> None:
    """For every scope that is opened while it holds, and no longer."""
    configure()

    def logged() -> str:
        with job_context(1):
            logging.getLogger("app").info("x")
        return entries()[-1].namespace

    with override_settings(JOBLOG_ROUTER={"NAMESPACE": "north"}):
        assert logged() == "north"
    assert logged() == ""


def test_what_the_library_says_itself_is_masked_as_the_settings_say(capfd: pytest.CaptureFixture[str]) -> None:
    """It may quote what the application gave it; without the setting nobody knows that this is a secret."""
    configure()

    def said(number: str) -> str:
        with job_context(1):
            logging.getLogger("app").info("x", extra={"job_log": number})
        assert flush(10)
        return capfd.readouterr().err

    with override_settings(JOBLOG_ROUTER={"REDACT": [r"PAT-[0-9]+"]}):
        assert "extra={'job_log': '[redacted]'} names no audience" in said("PAT-1")
    assert "extra={'job_log': 'PAT-2'} names no audience" in said("PAT-2")


def test_a_spool_that_the_settings_name_is_for_handlers_that_are_there_already(tmp_path: Path) -> None:
    """And masks from the next line on where they say so; handlers that name one themselves keep it."""
    sink = Gate()
    logging.getLogger().setLevel(logging.INFO)
    says_nothing = JobLogHandler(sink=sink, fold=False)
    names_one = JobLogHandler(sink=(own := Gate()), fold=False, spool=tmp_path / "own")
    logging.getLogger().addHandler(says_nothing)
    logging.getLogger().addHandler(names_one)
    # Sinks that earlier tests have closed may have a segment for a moment, too.
    files = {"settings": says_nothing._channel.origin, "own": names_one._channel.origin}

    def in_files(folder: str) -> bytes:
        return (tmp_path / folder / segment_name(files[folder])).read_bytes()

    def log(line: str) -> None:
        with job_context(1):
            logging.getLogger("app").info(line)

    before = settings.current
    try:
        log("line 0")
        hand_over(replace(before, spool=tmp_path / "settings"))
        log("line 1 password=hunter1")
        hand_over(replace(settings.current, rules=Rules(spool_redact=True)))
        log("line 2 password=hunter2")
        for folder in ("settings", "own"):
            data = in_files(folder)
            assert [text in data for text in (b"line 1", b"hunter1", b"line 2", b"hunter2")] == [
                True,
                True,
                True,
                False,
            ]
        assert b"line 0" not in in_files("settings")
        hand_over(before)
        log("line 3")
        assert b"line 3" not in in_files("settings")
        assert b"line 3" in in_files("own")
    finally:
        hand_over(before)
        sink.is_open = own.is_open = True
    assert flush(10)
    assert [[entry.message[:6] for entry in each.written] for each in (sink, own)] == [
        [f"line {n}" for n in range(4)]
    ] * 2
    until(
        lambda: not (tmp_path / "settings" / segment_name(files["settings"])).exists()
    )  # right after the flush was answered
