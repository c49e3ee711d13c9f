"""The table of events against the code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def test_every_event_is_in_the_table_and_nothing_else() -> None:
    """An event that the code can tell has a row, and a row has an event."""
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src/joblog_router/contrib/nats").glob("*.py"))
    told = set(re.findall(r'"(nats\.[a-z_]+(?:\.[a-z_]+)?)"', source)) - {"nats.aio.client"}
    told = {name for name in told if not re.match(r"nats\.(aio|js)\b", name)}
    told |= {
        f"nats.{kind}.{what}" for kind in ("stream", "consumer") for what in ("deleted", "failed", "delete_failed")
    }
    table = (ROOT / "docs/nats-events.md").read_text("utf-8")
    cells = re.findall(r"^\| (`nats\.[^|]+)", table, re.MULTILINE)
    rows = {name for cell in cells for name in re.findall(r"`(nats[^`]+)`", cell)}
    assert rows == told
