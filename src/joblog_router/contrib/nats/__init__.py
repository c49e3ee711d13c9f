"""NATS JetStream: each message in its own job, and the life of streams and consumers in the job's log.

Call `instrument()` once when the program starts; nothing changes where nats-py is used.
"""

from __future__ import annotations

from .instrumentation import instrument, uninstrument

__all__ = ["instrument", "uninstrument"]
