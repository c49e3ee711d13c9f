"""Where entries go. A sink of your own is a class with `write(entries)` and `close()`."""

from __future__ import annotations

from .base import Sink
from .callable import CallableSink
from .jsonl import JsonLinesSink
from .logger import LoggerSink
from .memory import MemorySink

__all__ = ["CallableSink", "JsonLinesSink", "LoggerSink", "MemorySink", "Sink"]
