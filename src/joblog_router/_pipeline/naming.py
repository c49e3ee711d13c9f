"""Which loggers a handler listens to: whole dotted segments, answered from a small cache on the logging thread.

Made where logging is configured, which is when it raises ConfigurationError; asked by `capture`, the filters and
`rules`. Imports nothing but the errors.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

from ..exceptions import ConfigurationError

_MAX_CACHE = 4096


class LoggerNames:
    """The names of `loggers` and below, without those of `exclude` and below."""

    __slots__ = ("_cache", "_excluded", "_wanted")

    def __init__(self, wanted: tuple[str, ...] | None, excluded: tuple[str, ...]) -> None:
        self._wanted = wanted
        self._excluded = excluded
        self._cache: dict[str, bool] = {}

    @classmethod
    def of(
        cls, loggers: Any, exclude: Any, setting: str = "loggers", where: str = "JobLogHandler: "
    ) -> LoggerNames | None:
        """From the handler's settings; None where every logger is wanted. Raises ConfigurationError."""
        wanted = None if loggers is None else _names(where + setting, loggers)
        excluded = () if exclude is None else _names(f"{where}exclude", exclude)
        return None if wanted is None and not excluded else cls(wanted, excluded)

    @classmethod
    def joined(cls, names: Iterable[LoggerNames | None]) -> LoggerNames | None:
        """All that one of `names` has, none of which excludes anything; None if there are none."""
        wanted = [each._wanted or () for each in names if each is not None]
        return cls(tuple(dict.fromkeys(chain(*wanted))), ()) if wanted else None

    def wants(self, name: str) -> bool:
        """Whether records of the logger `name` are taken."""
        answer = self._cache.get(name)
        if answer is None:
            if len(self._cache) >= _MAX_CACHE:
                self._cache.clear()  # a project may have a logger per job
            answer = (self._wanted is None or _below(name, self._wanted)) and not _below(name, self._excluded)
            self._cache[name] = answer
        return answer


def _below(name: str, roots: tuple[str, ...]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


def _names(setting: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise ConfigurationError(f"{setting} must be a list of logger names, not {value!r}")
    names = tuple(value)
    for name in names:
        if not isinstance(name, str) or not all(name.split(".")) or any(char in name for char in "*? "):
            raise ConfigurationError(
                f"{setting} holds {name!r}, which is not a logger's name: "
                "dotted segments without wildcards, 'shop' includes 'shop.cart'"
            )
    return names
