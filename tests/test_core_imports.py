from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import joblog_router
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
    names = joblog_router.__all__
    assert sorted(set(names)) == names
    for name in names:
        assert getattr(joblog_router, name).__doc__


def names_of(module: ast.Module) -> Iterator[str]:
    """What a module makes for itself; what a decorator registers, and pytest's hooks, are found in another way."""
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if not node.decorator_list and not node.name.startswith("pytest_"):
                yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name) and target.id[:2] != "__")


def test_nothing_is_kept_that_nobody_uses() -> None:
    """Every name of a module is somewhere else in the package, too: code for tests alone belongs to the tests."""
    texts = [path.read_text() for path in Path(joblog_router.__file__).parent.rglob("*.py")]
    used = Counter(word for text in texts for word in re.findall(r"\w+", text))
    assert [name for text in texts for name in names_of(ast.parse(text)) if used[name] == 1] == []


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
