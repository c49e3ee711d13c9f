"""Helpers for the tests of projects."""

from __future__ import annotations

import logging

import pytest

from joblog_router import job_context
from joblog_router.testing import capture_job_logs

log = logging.getLogger("project")


def test_captured_logs_tell_jobs_apart(caplog: pytest.LogCaptureFixture) -> None:
    """Inside the block lines are collected per job, afterwards no more; caplog goes on beside it."""
    caplog.set_level(logging.INFO)
    with capture_job_logs() as logs:
        with job_context(1):
            log.info("of one")
        with job_context(2):
            log.info("of two")
        log.info("of nobody")
    with job_context(1):
        log.info("too late")
    assert logs.messages(1) == ["of one"]
    assert logs.messages() == ["of one", "of two"]
    assert logs.entries(2)[0].logger == "project"
    assert len(caplog.records) == 4
    assert not [handler for handler in logging.getLogger().handlers if type(handler).__name__ == "JobLogHandler"]


def test_one_logger_can_be_captured_alone() -> None:
    """With a name only that logger and those below it are listened to."""
    logging.getLogger("project").setLevel(logging.INFO)
    with capture_job_logs("project") as logs, job_context(1):
        log.info("kept")
        logging.getLogger("other").warning("not kept")
    assert logs.messages(1) == ["kept"]
