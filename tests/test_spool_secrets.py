"""Secrets and the spool: what stands in its files before and after lines are stored, and with `spool_redact`."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from joblog_router import ConfigurationError, JobLogHandler, flush, job_context
from tests.helpers import run_python, until
from tests.planted import PLANTED
from tests.test_overflow import Gate
from tests.test_redaction import FIELD_SECRETS, _registered, plant  # noqa: F401 - a fixture
from tests.test_spool import KILLED, SETUP, recover, stored

KINDS = {planted.kind: planted.secret for planted in PLANTED} | {
    name: name for name in FIELD_SECRETS if name != "5512345"
}


def contents(path: Path) -> bytes:
    """Of a file that may be renamed meanwhile, as the one that tells how the process is: then its next one is there."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def in_files(folder: Path) -> set[str]:
    """The kinds of planted secrets that stand in any file of the spool."""
    data = b"".join(map(contents, folder.iterdir()))
    # Texts that are long are cut into pages: a secret on a border would not be seen. None of these is that long.
    forms = {kind: (secret.encode(), json.dumps(secret)[1:-1].encode()) for kind, secret in KINDS.items()}
    return {kind for kind, both in forms.items() if any(form in data for form in both)}


def add(gate: Gate, folder: Path, **settings: object) -> None:
    """A handler with a spool before `gate`."""
    logging.getLogger().setLevel(logging.INFO)
    logging.getLogger().addHandler(JobLogHandler(sink=gate, spool=folder, fold=False, **settings))  # type: ignore[arg-type]


def test_without_spool_redact_secrets_stand_there_until_lines_are_stored(tmp_path: Path) -> None:
    """Then no file has them any more, for five seconds at most, and the file of refused lines never had."""
    gate = Gate()
    gate.refuses = "failed: jwt"
    add(gate, tmp_path / "spool")
    plant()
    before = in_files(tmp_path / "spool")
    assert len(before) > 25  # that none is found below means something
    gate.is_open = True
    assert flush(20)
    until(lambda: in_files(tmp_path / "spool") == set(), 5)


def test_refused_lines_are_kept_without_secrets(tmp_path: Path) -> None:
    """All of them refused, one by one."""
    gate = Gate()
    gate.is_open, gate.refuses = True, "e"
    add(gate, tmp_path / "spool")
    plant()
    flush(1)
    gate.refuses = "failed"
    assert flush(20)
    (file,) = (tmp_path / "spool").glob("*.quarantine.jsonl")
    assert len(file.read_text().splitlines()) >= len(PLANTED)
    text = file.read_text()
    assert [kind for kind, secret in KINDS.items() if secret in text or json.dumps(secret)[1:-1] in text] == []


@pytest.mark.parametrize("capacity", [5_000, 120])
def test_with_spool_redact_secrets_stand_in_no_file_at_any_moment(tmp_path: Path, capacity: int) -> None:
    """Neither while lines wait nor afterwards; messages, fields, the scope's fields, exceptions, loggers' names."""
    gate = Gate()
    add(gate, tmp_path / "spool", spool_redact=True, capacity=capacity)
    for _ in range(3):
        plant()
        assert in_files(tmp_path / "spool") == set()
    with job_context(2):
        logging.getLogger(f"app.{PLANTED[9].line}").warning("by name")
    assert in_files(tmp_path / "spool") == set()
    gate.is_open = True
    assert flush(20)
    assert in_files(tmp_path / "spool") == set()


def test_what_was_masked_is_recovered(tmp_path: Path) -> None:
    """As any other line."""
    setup = SETUP.replace('"fold": False', '"fold": False, "spool_redact": True')
    code = """
configure()
router._writer.pause(5)
with job_context(1, part=3):
    for number in range(2000):
        log.info("line %d password=hunter%d2", number, number)
    log.info("long " * 200 + "token=abcdefghij0123456789", extra={"password": "x1y2z3"})
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("failed")
"""
    assert run_python(setup + code + KILLED, str(tmp_path)).returncode == -9
    recover(tmp_path)
    lines = stored(tmp_path)
    assert len(lines) == 2002
    assert lines[7]["message"].startswith("line 7 password=")  # type: ignore[attr-defined]
    assert lines[7]["fields"] == {"part": 3}
    assert "hunter" not in json.dumps(lines)
    assert "ZeroDivisionError" in str(lines[-1]["exception"])


def test_spool_redact_is_a_switch() -> None:
    """Anything else is an error at start."""
    with pytest.raises(ConfigurationError, match="spool_redact"):
        JobLogHandler(sink="memory", spool_redact="yes")  # type: ignore[arg-type]
