"""The documents say what the code says: Python in them compiles, links lead somewhere, the settings are current."""

from __future__ import annotations

import ast
import importlib.util
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_IMPORT = re.compile(r"^from (joblog_router[\w.]*) import ([\w, ]+)$", re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_python_in_documents_compiles_and_its_names_exist(path: Path) -> None:
    """Each block marked as Python parses, and what it imports of this library is there."""
    for block in _BLOCK.findall(path.read_text()):
        source = textwrap.dedent(block)
        try:
            ast.parse(source, str(path))
        except SyntaxError:
            ast.parse(f"{{{source}}}", str(path))  # items of a dictionary that stands before it
        for module, names in _IMPORT.findall(source):
            found = importlib.import_module(module)
            for name in names.split(","):
                assert hasattr(found, name.strip()), f"{module} has no {name.strip()}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    """Relative links name files that are in the repository."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_settings_reference_is_current() -> None:
    """docs/settings.md is what docs/make_settings.py makes of the typed settings now."""
    spec = importlib.util.spec_from_file_location("make_settings", ROOT / "docs" / "make_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs" / "settings.md").read_text() == module.settings_page(), "run: python docs/make_settings.py"
