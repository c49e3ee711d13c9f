"""The table of events against the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from joblog_router._nats_events import NatsEvent
from joblog_router.contrib.nats import told
from joblog_router.contrib.nats.told import Told

ROOT = Path(__file__).resolve().parents[3]


def test_every_event_is_told_and_in_the_table_and_nothing_else() -> None:
    """A name that the code knows can be told and has a row, and a row has an event."""
    sentences = [value for value in vars(told).values() if isinstance(value, Told)]
    for value in vars(told).values():
        if isinstance(value, dict):
            sentences += [sentence for sentence in value.values() if isinstance(sentence, Told)]
    assert {sentence.event for sentence in sentences} == set(get_args(NatsEvent))
    table = (ROOT / "docs/nats-events.md").read_text("utf-8")
    cells = re.findall(r"^\| (`nats\.[^|]+)", table, re.MULTILINE)
    rows = {name for cell in cells for name in re.findall(r"`(nats[^`]+)`", cell)}
    assert rows == set(get_args(NatsEvent))
