"""From the `sink` and `options` of a handler to a sink object. The one table of sinks by name.

Called where a handler is made or a store is opened, on that thread; raises ConfigurationError. Imports the protocols of
`sinks.base`, sinks themselves by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import count
from typing import Any, Final, NamedTuple

from ..exceptions import ConfigurationError, JobLogError
from ..sinks.base import PlacedSink, Sink
from .dotted import load
from .lasting import digest
from .unknown import did_you_mean

# Dotted names, so that nothing is imported before it is asked for.
SINKS: Final[Mapping[str, str]] = {
    "memory": "joblog_router.sinks.memory.MemorySink",
    "jsonl": "joblog_router.sinks.jsonl.JsonLinesSink",
    "callable": "joblog_router.sinks.callable.CallableSink",
    "logger": "joblog_router.sinks.logger.LoggerSink",
    "django": "joblog_router.contrib.django.sink.DjangoSink",
    "model": "joblog_router.contrib.django.model_store.ModelStore",
}

# A place that is longer than this stands in a spool segment as a digest.
_LONGEST_PLACE: Final = 1000

_fresh = count(1)


class NamedSink(NamedTuple):
    """A sink, what it is called in messages, and a key that two handlers share if they mean the same place.

    `lasting` is what the next process calls that place, too.
    """

    sink: Sink
    name: str
    key: str
    is_shared: bool
    lasting: str


def make_sink(sink: object, options: object) -> NamedSink:
    """The sink that a handler's settings describe. Raises ConfigurationError for what they show to be wrong."""
    given = _checked_options(options)
    if sink is None:
        raise ConfigurationError(f"JobLogHandler: no sink given; set sink to {_listed()}, or a dotted path")
    if not isinstance(sink, str):
        if not isinstance(sink, Sink) or inspect.isclass(sink):
            raise ConfigurationError(
                f"JobLogHandler: sink must be a name, a dotted path or an object with write() and close(), not {sink!r}"
            )
        if given:
            raise ConfigurationError("JobLogHandler: options are for a sink given by name, not for a sink object")
        name = type(sink).__name__
        return NamedSink(sink, name, f"{name} {id(sink)}", False, name)
    factory = _load_factory(sink)
    _check_signature(sink, factory, given)
    try:
        made = factory(**given)
    except JobLogError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"JobLogHandler: sink {sink!r} does not accept {given!r}: {error}") from error
    if not isinstance(made, Sink):
        raise ConfigurationError(f"JobLogHandler: {sink!r} is not a sink: it lacks write() or close()")
    if sink == "memory":
        # Belongs to the handler it was made for; the others are the same place whoever asks.
        return NamedSink(made, sink, f"{sink} #{next(_fresh)}", False, sink)
    if isinstance(made, PlacedSink) and made.place:
        key = f"{sink} {made.place}"
        return NamedSink(made, sink, key, True, key if len(key) <= _LONGEST_PLACE else f"{sink} {digest(key)}")
    key = f"{sink} {sorted(given.items(), key=lambda item: item[0])!r}"
    return NamedSink(made, sink, key, True, f"{sink} {digest(given)}")


def _load_factory(name: str) -> Any:
    if name in SINKS:
        return load(SINKS[name])
    if "." not in name:
        hint = did_you_mean(name, SINKS)
        raise ConfigurationError(f"JobLogHandler: there is no sink {name!r}.{hint} Known: {_listed()}, a dotted path")
    try:
        factory = load(name)
    except ImportError as error:
        raise ConfigurationError(f"JobLogHandler: sink {name!r} cannot be imported: {error}") from error
    if not callable(factory):
        raise ConfigurationError(f"JobLogHandler: sink {name!r} is not a class")
    return factory


def _check_signature(name: str, factory: Any, given: dict[str, Any]) -> None:
    try:
        signature = inspect.signature(factory)
    except (TypeError, ValueError):
        return
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        return
    known = [name for name, parameter in signature.parameters.items() if parameter.kind is not parameter.VAR_POSITIONAL]
    for option in given:
        if option not in known:
            hint = did_you_mean(option, known)
            takes = f"it takes {', '.join(known)}" if known else "it takes none"
            raise ConfigurationError(f"JobLogHandler: sink {name!r} has no option {option!r}; {takes}.{hint}")
    for option, parameter in signature.parameters.items():
        if parameter.default is parameter.empty and option not in given and option in known:
            raise ConfigurationError(f"JobLogHandler: sink {name!r} needs options={{{option!r}: ...}}")


def _checked_options(options: object) -> dict[str, Any]:
    if options is None:
        return {}
    if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
        raise ConfigurationError(f"JobLogHandler: options must be a dictionary with names as keys, not {options!r}")
    return {key: options[key] for key in options}


def _listed() -> str:
    return ", ".join(repr(name) for name in SINKS)
