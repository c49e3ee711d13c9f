"""Celery: each task in its job, from the argument that names it, and job handlers that survive the worker's start.

Call `instrument()` once when the program starts; nothing changes in tasks and where they are sent. Celery
calls the modules in here, on the thread that sends or runs a task.
"""

from __future__ import annotations

from .instrumentation import instrument, uninstrument

__all__ = ["instrument", "uninstrument"]
