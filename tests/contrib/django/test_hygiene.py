"""Secrets, audience and length of logs as a Django project has them: by its settings, into its table."""

from __future__ import annotations

from tests.contrib.django.project import Project
from tests.planted import PLANTED

REGISTERED = "registered secret"


def test_no_planted_secret_reaches_the_table_or_stderr(project: Project) -> None:
    """Every kind, in message, exception and fields; the file of the database itself is searched."""
    project.settings("import sys; sys.path.insert(0, str(BASE_DIR))")
    (project.root / "lines.txt").write_text(
        repr([planted.line for planted in PLANTED if not planted.kind.startswith(REGISTERED)])
    )
    result = project.run(
        """
        from pathlib import Path
        with job_context(1):
            for line in eval(Path("lines.txt").read_text()):
                logger.warning("%s", line, extra={"note": line, "password": "field-pw-1"})
                try:
                    raise ValueError(line)
                except ValueError:
                    logger.exception("failed")
        assert flush(20)
        """
    )
    rows = project.rows("message, exception, fields")
    kinds = [planted for planted in PLANTED if not planted.kind.startswith(REGISTERED)]
    assert len(rows) == 2 * len(kinds) > 60
    stored = b"".join(path.read_bytes() for path in project.root.glob("joblog.sqlite3*"))
    text = repr(rows) + result.stderr
    assert [planted.kind for planted in kinds if planted.secret in text or planted.secret.encode() in stored] == []
    assert b"field-pw-1" not in stored


def test_the_projects_own_secrets_are_registered(project: Project) -> None:
    """SECRET_KEY, passwords of databases and mail; not one that is its user's name or a plain word."""
    project.settings(
        """
        SECRET_KEY = "dj4ngo-s3cret-key"
        SECRET_KEY_FALLBACKS = ["the-0ld-one"]
        EMAIL_HOST_PASSWORD = "m4il-pass"
        DATABASES["default"].update(USER="app", PASSWORD="Db-pass-77")
        DATABASES["other"] = {**DATABASES["default"], "USER": "shop-user-1", "PASSWORD": "shop-user-1"}
        DATABASES["third"] = {**DATABASES["default"], "PASSWORD": "postgres"}
        """
    )
    project.run(
        """
        with job_context(1):
            logger.info("a dj4ngo-s3cret-key b the-0ld-one c m4il-pass d Db-pass-77 e")
            logger.info("shop-user-1 on postgres")
        """
    )
    mask = "[redacted]"
    assert project.rows() == [f"a {mask} b {mask} c {mask} d {mask} e", "shop-user-1 on postgres"]


def test_a_project_without_a_secret_key_starts(bare_project: Project) -> None:
    """Django itself complains where the key is needed; a management command may not need it."""
    bare_project.settings("SECRET_KEY = ''")
    assert bare_project.run("print('up')").stdout == "up\n"


def test_settings_say_what_is_masked_and_for_whom(project: Project) -> None:
    """REDACT, STAFF and MAX_LINES count for handlers that say nothing; the column tells the audience."""
    project.settings(
        r"""
        JOBLOG_ROUTER |= {"REDACT": [r"PAT-\d+"], "STAFF": ["shop.billing"], "MAX_LINES": 10, "FOLD": False}
        """
    )
    project.run(
        """
        with job_context(1):
            logger.info("patient PAT-17, password=x1")
            logging.getLogger("shop.billing.cards").info("charged")
            logger.info("a look inside", extra={"job_log": "staff"})
        with job_context(2):
            for number in range(100):
                logger.info("line %d", number)
        """
    )
    assert project.rows("message, audience", "job_id='1'") == [
        ("patient [redacted], password=[redacted]", "all"),
        ("charged", "staff"),
        ("a look inside", "staff"),
    ]
    lines = project.rows("message", "job_id='2' AND message LIKE 'line%'")
    assert lines[:5] == [f"line {number}" for number in range(5)]
    assert lines[-5:] == [f"line {number}" for number in range(95, 100)]
    assert any(message.startswith("90 lines left out") for message in project.rows("message", "job_id='2'"))


def test_redaction_can_be_turned_off(project: Project) -> None:
    """REDACT: False, and a handler that says otherwise."""
    project.settings('JOBLOG_ROUTER |= {"REDACT": False}')
    project.run("with job_context(1): logger.info('password=x1')")
    project.settings('JOBLOG_ROUTER |= {"REDACT": False}; LOGGING["handlers"]["job"]["redact"] = True')
    project.run("with job_context(2): logger.info('password=x1')")
    assert project.rows(where="job_id='1'") == ["password=x1"]
    assert project.rows(where="job_id='2'") == ["password=[redacted]"]


def test_a_wrong_pattern_stops_the_start(bare_project: Project) -> None:
    """The error names the setting and the pattern."""
    bare_project.settings('JOBLOG_ROUTER |= {"REDACT": ["(a"]}')
    assert "JOBLOG_ROUTER: redact: '(a' is not a regular expression" in bare_project.run("", status=1).stderr
    bare_project.settings('JOBLOG_ROUTER |= {"MAX_LINES": 3}')
    assert "JOBLOG_ROUTER: max_lines must be a whole number of at least 10" in bare_project.run("", status=1).stderr
    bare_project.settings('JOBLOG_ROUTER |= {"STAFF": ["a.*"]}')
    assert "JOBLOG_ROUTER: staff holds 'a.*'" in bare_project.run("", status=1).stderr
