from __future__ import annotations

import sys

from tests.helpers import run_python

THIRD_PARTY = {"django", "nats", "loguru", "celery", "rich", "pythonjsonlogger", "psycopg", "asgiref", "orjson"}


def test_importing_the_core_imports_the_standard_library_only() -> None:
    """`import joblog_router` brings in nothing that is not part of Python."""
    result = run_python(
        """
        import sys
        before = set(sys.modules)
        import joblog_router
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print("\\n".join(sorted(new)))
        """
    )
    assert result.returncode == 0, result.stderr
    new = set(result.stdout.split())
    assert "joblog_router" in new
    assert not new & THIRD_PARTY
    assert new - {"joblog_router"} <= set(sys.stdlib_module_names)


def test_every_public_name_exists() -> None:
    """`__all__` names what is there, once and sorted."""
    import joblog_router

    names = joblog_router.__all__
    assert sorted(set(names)) == names
    for name in names:
        assert getattr(joblog_router, name).__doc__


def test_configuring_a_handler_starts_no_thread() -> None:
    """Only the first line of a job starts the writer: a thread at configuration would warn at every fork."""
    result = run_python(
        """
        import logging.config, threading
        logging.config.dictConfig({"version": 1, "root": {"level": "INFO", "handlers": ["job"]}, "handlers": {
            "job": {"class": "joblog_router.JobLogHandler", "sink": "memory"}}})
        logging.getLogger("x").info("no job")
        print(threading.active_count())
        """
    )
    assert result.stdout.strip() == "1", result.stderr
