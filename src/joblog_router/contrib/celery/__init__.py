"""Celery: each task in its job, from the argument that names it, and job handlers that survive the worker's start.

Call `instrument()` once when the program starts; nothing changes in tasks and where they are sent.
"""

from __future__ import annotations

from .instrumentation import instrument, uninstrument

__all__ = ["instrument", "uninstrument"]
