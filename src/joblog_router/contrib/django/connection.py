"""The sink's own connection to a database alias, apart from those of the application.

Called by the sink, on the writer thread; at exit possibly on the thread that ends the process. The
application's connections, its transactions, its pool and the signals that close connections after a request
never meet this one.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.utils import load_backend

__all__ = ["PrivateConnection"]

# Connections a fork copied. Closing one in the child would end the parent's session; so would its destructor.
_inherited: Final[list[BaseDatabaseWrapper]] = []


class PrivateConnection:
    """A connection to `alias` that nobody else gets to see. Opens on use, again after `close()` or a fork."""

    def __init__(self, alias: str) -> None:
        self.alias = alias
        self._wrapper: BaseDatabaseWrapper | None = None
        self._settings: dict[str, Any] = {}
        self._pid = 0

    @contextmanager
    def in_place(self) -> Iterator[BaseDatabaseWrapper]:
        """Make this `connections[alias]` of the calling thread inside the block.

        So Django's public API (`using(alias)`, `atomic(using=alias)`) works on it, and other code on this
        thread (a callable sink's) keeps its own.
        """
        own = self._current()
        before = next((one for one in connections.all(initialized_only=True) if one.alias == self.alias), None)
        connections[self.alias] = own
        try:
            yield own
        finally:
            if before is None:
                del connections[self.alias]
            else:
                connections[self.alias] = before

    def close(self) -> None:
        """Close the connection if it is open. It opens again when it is used."""
        if self._wrapper is not None and self._pid == os.getpid():
            self._wrapper.close()

    def _current(self) -> BaseDatabaseWrapper:
        wanted = _private_settings(connections.settings[self.alias])
        if self._wrapper is not None:
            if self._pid != os.getpid():
                _inherited.append(self._wrapper)
                self._wrapper = None
            elif self._settings != wanted:  # test runners give an alias another NAME
                self._wrapper.close()
                self._wrapper = None
        if self._wrapper is None:
            self._wrapper = _make_wrapper(wanted, self.alias)
            self._settings = wanted
            self._pid = os.getpid()
        return self._wrapper


def _private_settings(shared: dict[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in shared.get("OPTIONS", {}).items() if name != "pool"}
    return {
        **shared,
        "OPTIONS": options,
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": False,
        "ATOMIC_REQUESTS": False,
        "AUTOCOMMIT": True,  # without it atomic() never commits
    }


def _make_wrapper(settings: dict[str, Any], alias: str) -> BaseDatabaseWrapper:
    backend = load_backend(settings["ENGINE"])
    # Under DEBUG every INSERT would be kept in queries_log and logged with all its values: 30 KB a batch.
    kind = type("PrivateConnection", (backend.DatabaseWrapper,), {"queries_logged": False})
    wrapper: BaseDatabaseWrapper = kind(settings, alias)
    wrapper.queries_log = deque(maxlen=0)
    wrapper.inc_thread_sharing()  # what waits at exit may be written by another thread than the writer
    return wrapper
