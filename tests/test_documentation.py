"""docs/attribution.md against the tests it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = (ROOT / "docs/attribution.md").read_text("utf-8")


def _tests_in(path: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, functions) and node.name.startswith("test_")
    }


def test_every_test_that_the_table_names_exists() -> None:
    """A row without a proof, or one that names a test of yesterday, is a broken promise."""
    rows = [line for line in TABLE.splitlines() if re.match(r"\| (?!Scenario|What|---)", line) and "`tests/" in line]
    assert len(rows) > 100
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)
    missing = [f"{path}::{name}" for path, name in named if name not in _tests_in(ROOT / path)]
    assert missing == []


def test_every_row_names_its_test() -> None:
    """All rows of the scenarios' tables have four cells, the last of them a test."""
    scenarios = TABLE.partition("## Tasks and event loops")[2].splitlines()
    rows = [line for line in scenarios if line.startswith("| ") and not line.startswith("| Scenario")]
    assert [row for row in rows if not re.search(r"\| `tests/[\w/]+\.py::test_\w+` \|$", row)] == []
    assert [row for row in rows if row.count(" | ") + row.count("| |") != 3] == []


def test_every_conformance_test_is_in_the_table() -> None:
    """What is proven is told."""
    named = set(re.findall(r"`tests/conformance/(\w+\.py)::(\w+)`", TABLE))
    proven = {(path.name, name) for path in (ROOT / "tests/conformance").glob("test_*.py") for name in _tests_in(path)}
    assert proven == named


def test_every_test_that_the_page_about_reliability_names_exists() -> None:
    """The same for docs/reliability.md."""
    text = (ROOT / "docs/reliability.md").read_text("utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 10
    assert [f"{path}::{name}" for path, name in named if name not in _tests_in(ROOT / path)] == []
