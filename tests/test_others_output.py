"""What is not logged by the application: programs it runs, warnings."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import warnings

import pytest

from joblog_router import job_context
from joblog_router.processes import run_logged
from tests.helpers import configure, entries, job_handler, messages

TALK = """
import sys, time
print("first", flush=True)
print("\\nwas für ein \\udce4".encode("utf-8", "surrogateescape").decode("latin-1") and "second")
sys.stdout.flush()
sys.stderr.write("trouble\\n")
sys.stdout.buffer.write(b"\\xff and no end")
sys.exit(3)
"""


def test_a_programs_output_is_in_the_jobs_log_line_by_line() -> None:
    """Both streams with their levels and the program's name; bytes that are no text cost nothing."""
    configure()
    with job_context(7):
        done = run_logged([sys.executable, "-c", TALK])
    run_logged([sys.executable, "-c", "print('outside')"])
    assert done.returncode == 3
    found = entries()
    assert {entry.job_id for entry in found} == {"7"}
    assert [entry.message for entry in found if entry.level == logging.INFO] == ["first", "second", "\ufffd and no end"]
    assert [entry.message for entry in found if entry.level == logging.WARNING] == ["trouble"]
    assert {entry.fields["program"] for entry in found} == {sys.executable}


def test_lines_come_while_the_program_runs() -> None:
    """The first line is in the log before the program ends: it waits for our answer to end."""
    configure()
    seen = threading.Event()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.set()

    logging.getLogger("joblog_router.process").addHandler(watch := Watch())
    code = "print('ready', flush=True); import sys; sys.stdin.read()"
    try:
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as gate:
            assert gate.stdin is not None

            def open_gate() -> None:
                if seen.wait(20):
                    gate.stdin.close()  # type: ignore[union-attr]

            opener = threading.Thread(target=open_gate)
            opener.start()
            with job_context(7):
                run_logged([sys.executable, "-c", code], stdin=gate.stdout, timeout=30)
            opener.join()
    finally:
        logging.getLogger("joblog_router.process").removeHandler(watch)
    assert messages("7") == ["ready"]


def test_failures_are_those_of_subprocess() -> None:
    """A program that is killed for its time, one that fails with `check`, and options that make no sense."""
    configure()
    with job_context(7):
        with pytest.raises(subprocess.TimeoutExpired):
            run_logged([sys.executable, "-c", "print('x', flush=True); import time; time.sleep(60)"], timeout=2)
        with pytest.raises(subprocess.CalledProcessError):
            run_logged([sys.executable, "-c", "raise SystemExit(1)"], check=True)
        with pytest.raises(TypeError, match="line by line"):
            run_logged(["true"], stdout=None)
        with pytest.raises(OSError, match="no-such-program"):
            run_logged(["no-such-program"])
    assert messages("7") == ["x"]


def test_warnings_are_in_the_jobs_log() -> None:
    """With `logging.captureWarnings(True)` a warning is a record of `py.warnings` like any other."""
    configure()
    logging.captureWarnings(True)
    try:
        with job_context(7), warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(False)
            logging.captureWarnings(True)
            warnings.warn("old function", stacklevel=1)
    finally:
        logging.captureWarnings(False)
    (entry,) = entries("7")
    assert entry.logger == "py.warnings"
    assert "old function" in entry.message
    assert job_handler().sink
