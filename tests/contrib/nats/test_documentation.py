"""The table of events against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from joblog_router._nats_events import NatsEvent
from joblog_router.contrib.nats import told

ROOT = Path(__file__).resolve().parents[3]
CODE = ROOT / "src/joblog_router/contrib/nats"

# What is told, by the names that the code has for it.
EVENTS = {name: value for name, value in vars(told).items() if isinstance(value, told.Told)} | {
    f"{name}[{key}]": one
    for name, value in vars(told).items()
    if isinstance(value, dict)
    for key, one in value.items()
    if isinstance(one, told.Told)
}


def test_every_event_is_told_and_in_the_table_and_nothing_else() -> None:
    """A name that the code knows can be told and has a row, and a row has an event."""
    table = (ROOT / "docs/nats-events.md").read_text("utf-8")
    cells = re.findall(r"^\| (`nats\.[^|]+)", table, re.MULTILINE)
    rows = {name for cell in cells for name in re.findall(r"`(nats[^`]+)`", cell)}
    assert rows == set(get_args(NatsEvent)) == {one.event for one in EVENTS.values()}


def test_what_can_be_told_is_in_one_module_and_is_told() -> None:
    """No other module makes an event of its own, which the table would lack; each event has a module that tells it."""
    others = {path: path.read_text("utf-8") for path in CODE.rglob("*.py") if path.name != "told.py"}
    assert [path.name for path, text in others.items() if re.search(r"\bTold\(|[\"']event[\"']: ", text)] == []
    used = set(re.findall(r"\btold\.([A-Z_]+)\b", "".join(others.values())))
    assert {name.partition("[")[0] for name in EVENTS} - used == set()
