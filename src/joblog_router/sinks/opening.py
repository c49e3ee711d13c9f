"""Which store readers read: one function for the endpoint, the page, the commands and the deletion of jobs.

Called on the threads of readers. Imports the router only where it is asked: that one imports sinks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from .._pipeline import settings
from ..exceptions import ConfigurationError
from .base import Sink
from .store import Store

__all__ = ["ENVIRONMENT", "open_store", "readable_sinks"]

ENVIRONMENT: Final = "JOBLOG_STORE"

# The option that stands behind the colon, as in "jsonl:var/joblog".
_SHORT: Final[Mapping[str, str]] = {"jsonl": "directory", "django": "database"}


def open_store(named: object = None) -> Store:
    """The store to read: `named`, else what the environment's JOBLOG_STORE names, else the configured one.

    `named` is a store, a sink's name with an option behind a colon ("jsonl:var/joblog", "django:archive"), a dotted
    path, or `{"sink": ..., "options": {...}}`. Configured is JOBLOG_ROUTER["STORE"], else the first readable sink of
    this process's handlers, else Django's table where the app is installed. Opens nothing yet. Raises
    ConfigurationError where that is no store, or there is none.
    """
    if named:
        return _store_of(named, "the store")
    if os.environ.get(ENVIRONMENT):
        return _store_of(os.environ[ENVIRONMENT], ENVIRONMENT)
    configured, fallback = (None, None) if settings.current.store is None else settings.current.store()
    if configured:
        return _store_of(configured, "JOBLOG_ROUTER['STORE']")
    for sink in readable_sinks():
        return sink
    if fallback:
        return _store_of(fallback, "the store")
    raise ConfigurationError(
        "there is no store to read: no JobLogHandler of this process has a sink that can be read. "
        f"Name one: --store jsonl:DIRECTORY, {ENVIRONMENT}=jsonl:DIRECTORY, or JOBLOG_ROUTER['STORE']; for the store "
        "of a Django project run manage.py joblog, or set DJANGO_SETTINGS_MODULE"
    )


def readable_sinks() -> list[Store]:
    """The sinks of this process's handlers that can be read, the first configured first."""
    from .._pipeline.router import router

    return [sink for sink in router.sinks().values() if isinstance(sink, Store)]


def _store_of(named: object, place: str) -> Store:
    from .._pipeline.router import router
    from .._pipeline.sinks import make_sink

    sink: object = named
    options: dict[str, Any] = {}
    if isinstance(named, Mapping):
        unknown = set(named) - {"sink", "options"}
        if unknown or not named.get("sink"):
            raise ConfigurationError(f"{place} must have the keys 'sink' and 'options', not {sorted(map(str, named))}")
        sink, options = named["sink"], dict(named.get("options") or {})
    elif isinstance(named, str):
        name, _, rest = named.partition(":")
        if rest:
            if name not in _SHORT:
                raise ConfigurationError(f"{place}: {named!r} is not like 'jsonl:DIRECTORY' or 'django:ALIAS'")
            sink, options = name, {_SHORT[name]: rest}
        elif name == "memory":
            # A memory of its own would always be empty.
            found = next((one for one in readable_sinks() if type(one).__name__ == "MemorySink"), None)
            if found is None:
                raise ConfigurationError(f"{place}: no handler of this process has the sink 'memory'")
            return found
    try:
        made = make_sink(sink, options)
    except ConfigurationError as error:
        raise ConfigurationError(f"{place} ({named!r}): {str(error).removeprefix('JobLogHandler: ')}") from error
    # The handler's own object where it has the same place: it knows what it keeps in memory.
    store: Sink = router.sinks().get(made.key, made.sink)
    if not isinstance(store, Store):
        raise ConfigurationError(f"{place} ({named!r}) cannot be read: {made.name} is a sink and no store")
    return store
