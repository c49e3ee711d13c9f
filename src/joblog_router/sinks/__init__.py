"""Where entries go. A sink of your own is a class with `write(entries)` and `close()`; a store can be read, too."""

from __future__ import annotations

from .base import HoldingSink, IdleSink, KnowingSink, PlacedSink, Sink
from .callable import CallableSink
from .jsonl import JsonLinesSink
from .logger import LoggerSink
from .memory import MemorySink
from .opening import open_store
from .store import ALL, Page, Selection, Store, Summary

__all__ = [
    "ALL",
    "CallableSink",
    "HoldingSink",
    "IdleSink",
    "JsonLinesSink",
    "KnowingSink",
    "LoggerSink",
    "MemorySink",
    "Page",
    "PlacedSink",
    "Selection",
    "Sink",
    "Store",
    "Summary",
    "open_store",
]
