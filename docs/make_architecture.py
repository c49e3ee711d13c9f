"""Writes ARCHITECTURE.md from the code: the way of a record, who imports whom, and the rules that hold it.

python docs/make_architecture.py        # writes; a test tells when that is due
"""

from __future__ import annotations

import ast
import functools
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "joblog_router"

LOGGING = ("filters", "handlers", "_pipeline.resolve", "_pipeline.capture", "_pipeline.spool", "_pipeline.channel")
WRITING = (
    "_pipeline.writer",
    "_pipeline.channel_delivery",
    "_pipeline.delivery",
    "_pipeline.conversion",
    "_pipeline.folding",
    "_pipeline.capping",
    "_pipeline.rules",
    "_pipeline.redaction",
    "sinks.base",
)
READING = ("sinks.store", "sinks.opening", "_commands", "contrib.django.views")
"""The way of a record, module by module. Each must be led to by imports from the one before or an earlier one."""

HEAD = """# Architecture

One page, made by `docs/make_architecture.py` from the modules, their first sentences and their imports.

## The way of a record

```
logger.info(...)            any thread, task or process
"""

BETWEEN = f"   {' thread boundary: a bounded buffer and the spool ':~^105}\n"
AFTERWARDS = f"   {' whenever somebody looks ':~^105}\n"

AFTER = """```

Above the boundary is the hot path: no lock shared between threads, no query, no I/O but a store into a mapped file, no
import, and no exception that leaves it. `_pipeline.router` holds the channels of the process, one for each sink with
its settings, and starts the writer: one thread in an empty context. When a process was killed,
`_pipeline.recovery` of the next one sends what is in its spool down the same way from the writer on.

## Who imports whom

| package | what it is | imports |
|---|---|---|
"""

RULES = """
What the core reaches in `contrib` it reaches by dotted name, at the moment it is asked for: sinks by the table in
`_pipeline.sinks`, probes by the one in `doctor.configuration`, the rest where it is used. `lint-imports` holds these
contracts, in `pyproject.toml`:

"""


def modules() -> dict[str, Path]:
    """Every module of the package without its name in front, and its file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(module: str, known: dict[str, Path]) -> set[str]:
    """The modules of ours that `module` imports, at its head or in a function."""
    package = module if known[module].name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(_tree(known[module])):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = package.split(".") if package else []
        base = base[: len(base) - node.level + 1] + (node.module.split(".") if node.module else [])
        for name in node.names:
            target = ".".join([*base, name.name])
            found.add(target if target in known else ".".join(base))
    return found


def sentence(path: Path) -> str:
    """The first sentence of a module's docstring, without its full stop."""
    text = " ".join((ast.get_docstring(_tree(path)) or "").partition("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".")


def _steps(names: tuple[str, ...], known: dict[str, Path]) -> str:
    lines = []
    for name in names:
        text = textwrap.wrap(sentence(known[name]), 118 - 32, break_long_words=False)
        lines += [
            f"   {'│' if number else '├'} {name if not number else '':<26} {line}" for number, line in enumerate(text)
        ]
    return "\n".join(lines) + "\n"


def unconnected(known: dict[str, Path]) -> list[str]:
    """Steps that no earlier step, nor the router, imports: then the picture shows what is not so.

    The handler and the router make the rules; what redacts is reached through them.
    """
    way = [*LOGGING, *WRITING]
    reached = imports("_pipeline.router", known) | {way[0]}
    lacking = []
    for name in way:
        if name not in reached:
            lacking.append(name)
        reached |= imports(name, known)
    return lacking


def _package(module: str) -> str:
    """The package that a module counts for; what stands beside the packages is the core."""
    parts = module.split(".")
    if parts[0] == "contrib":
        return ".".join(parts[:2])
    return parts[0] if len(parts) > 1 or parts[0] in ("_pipeline", "_commands", "sinks", "doctor") else "core"


def _table(known: dict[str, Path]) -> str:
    packages: dict[str, set[str]] = {}
    for module in known:
        targets = packages.setdefault(_package(module), set())
        targets.update(_package(target) for target in imports(module, known))
    rows = []
    for name, targets in sorted(packages.items()):
        if name == "contrib":
            continue
        what = "the public modules beside the packages" if name == "core" else sentence(known[name])
        rows.append(f"| `{name}` | {what} | {', '.join(f'`{other}`' for other in sorted(targets - {name}))} |")
    return "\n".join(rows) + "\n"


def _contracts() -> str:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return "".join(f"- {contract['name']}\n" for contract in settings["contracts"])


def architecture_page() -> str:
    """The text of ARCHITECTURE.md. Raises ValueError where the way that it shows is not that of the imports."""
    known = modules()
    if lacking := unconnected(known):
        raise ValueError(f"the way of a record in docs/make_architecture.py is out of date at {', '.join(lacking)}")
    way = _steps(LOGGING, known) + BETWEEN + _steps(WRITING, known)
    way += AFTERWARDS + _steps(READING, known)
    return HEAD + way + AFTER + _table(known) + RULES + _contracts()


if __name__ == "__main__":
    (ROOT / "ARCHITECTURE.md").write_text(architecture_page())
