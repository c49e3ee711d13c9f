"""NATS JetStream: each message in its own job, and the life of streams and consumers in the job's log.

Call `instrument()` once when the program starts; nothing changes where nats-py is used. Two halves that do not
import each other, `client` and `monitoring`, over the modules that both share; on the event loops of their connections.
"""

from __future__ import annotations

from .instrumentation import instrument, uninstrument

__all__ = ["instrument", "uninstrument"]
