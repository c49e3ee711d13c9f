"""The configuration in force: the value of each setting, where it comes from, and whether it is what was asked for.

A probe, run by `probing`, and what rules and commands ask of its answer. Imports `case`, and dotted names of the
project.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .._pipeline.dotted import load
from ..exceptions import ConfigurationError
from .case import Case, Evidence, span
from .probing import ProbeResult

__all__ = ["NAMES", "Setting", "SettingsProbe", "effective", "settings_evidence", "shortened", "worded"]

# As NATS calls them, and in other words.
NAMES: Final = ("ack_wait", "max_deliver", "max_ack_pending", "max_age")
_OTHER_WORDS: Final[Mapping[str, str]] = {"ttr": "ack_wait", "retention": "max_age"}
_DURATIONS: Final = frozenset({"ack_wait", "max_age"})
_SOURCES: Final = ("env", "code")


class Setting(NamedTuple):
    """One setting. `source` is "server", "environment NAME" or "code NAME".

    `wanted` is what was asked for and `wanted_source` by whom; `drift`: the server has another value.
    """

    name: str
    value: float | None
    source: str
    where: str = ""
    wanted: float | None = None
    wanted_source: str = ""
    drift: bool = False


class SettingsProbe:
    """Where the project takes the queue's settings from: `{"ack_wait": {"env": "NATS_TASK_TTR", "code": 30}}`.

    Names are those of NATS (`ttr` and `retention` are understood); `env` is a variable of the environment, `code` a
    value or the dotted path of one, which holds where the variable is not set. Times are in seconds.
    """

    name = "settings"

    def __init__(self, **settings: Any) -> None:
        self._settings: dict[str, Mapping[str, Any]] = {}
        for given, sources in settings.items():
            name = _OTHER_WORDS.get(given.lower(), given.lower())
            if name not in NAMES:
                raise ConfigurationError(
                    f"DOCTOR['SETTINGS'] has no setting {given!r}. Known: {', '.join((*NAMES, *_OTHER_WORDS))}"
                )
            if not isinstance(sources, Mapping) or not sources or set(sources) - set(_SOURCES):
                raise ConfigurationError(
                    f"DOCTOR['SETTINGS'][{given!r}] must be {{'env': NAME, 'code': value or dotted path}}, "
                    f"not {sources!r}"
                )
            self._settings[name] = sources

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `wanted`, by name `[value, source]`; of those that cannot be had the error tells."""
        wanted: dict[str, list[Any]] = {}
        problems = []
        for name, sources in self._settings.items():
            try:
                found = _wanted(sources)
            except (ImportError, ValueError, TypeError) as error:
                problems.append(f"{name}: {error}")
                continue
            if found is not None:
                wanted[name] = found
        if problems and not wanted:
            return ProbeResult(self.name, {"wanted": {}}, "; ".join(problems))
        return ProbeResult(self.name, {"wanted": wanted, "problems": problems})


def effective(case: Case) -> tuple[Setting, ...]:
    """Every setting of every consumer of the job; where there is none, what is asked for."""
    wanted: Mapping[str, Any] = case.facts("settings").get("wanted") or {}
    told = {
        **case.event("nats.stream.created").get("fields", {}),
        **case.event("nats.consumer.created").get("fields", {}),
    }
    found = []
    for stream, consumer in case.consumers:
        where = f"{stream['name']}/{consumer['name']}"
        for name in NAMES:
            value = stream["max_age"] if name == "max_age" else consumer.get(name)
            asked, by = wanted.get(name) or (None, "")
            if asked is None and isinstance(told.get(name), int | float) and not _is_same(name, told[name], value):
                asked, by = told[name], "when it was made (log)"
            drift = asked is not None and not _is_same(name, asked, value)
            found.append(Setting(name, value, "server", where, asked, by, drift))
    if not found:
        found = [Setting(name, *wanted[name]) for name in NAMES if name in wanted]
    return tuple(found)


def settings_evidence(case: Case, *names: str) -> tuple[Evidence, ...]:
    """What these settings are where it is known who asked for them, and every drift."""
    return tuple(
        Evidence("settings", f"{one.where + ': ' if one.where else ''}{worded(one)}", 0.0)
        for one in effective(case)
        if (one.name in names and (one.wanted_source or not one.where)) or one.drift
    )


def worded(setting: Setting) -> str:
    """A setting in words: `ack_wait 30 s (server; drift: environment NATS_TASK_TTR asks for 5 min 0 s)`."""
    text = f"{setting.name} {_said(setting.name, setting.value)}"
    if setting.drift:
        asked = f"{setting.wanted_source} asks for {_said(setting.name, setting.wanted)}"
        return f"{text} ({setting.source}; drift: {asked})"
    if setting.wanted_source:
        return f"{text} ({setting.source}, as {setting.wanted_source})"
    return f"{text} ({setting.source})"


def shortened(setting: Setting) -> str:
    """The same without the server: `ack_wait 30 s [NATS_TASK_TTR: 5 min 0 s, drift], max_deliver 5 [code]`."""
    text = f"{setting.name} {_said(setting.name, setting.value)}"
    by = setting.wanted_source if setting.where else setting.source
    kind, _, name = by.partition(" ")
    by = name if kind == "environment" else kind
    if setting.drift:
        return f"{text} [{by}: {_said(setting.name, setting.wanted)}, drift]"
    return f"{text} [{by}]" if by else text


def _wanted(sources: Mapping[str, Any]) -> list[Any] | None:
    variable = sources.get("env")
    if variable is not None and (text := os.environ.get(str(variable))):
        try:
            return [float(text), f"environment {variable}"]
        except ValueError:
            raise ValueError(f"the environment's {variable} is no number") from None
    if "code" not in sources:
        return None
    code = sources["code"]
    value, source = (load(code), f"code {code}") if isinstance(code, str) else (code, "code")
    if hasattr(value, "total_seconds"):
        value = value.total_seconds()
    return [float(value), source]


def _is_same(name: str, one: float | None, other: float | None) -> bool:
    return _plain(name, one) == _plain(name, other)


def _plain(name: str, value: float | None) -> float:
    """Nothing, 0 and -1 all mean that there is no limit."""
    return 0.0 if value is None or value <= 0 else round(float(value), 3)


def _said(name: str, value: float | None) -> str:
    if name in _DURATIONS:
        return span(value) if value else "none"
    return "unknown" if value is None else f"{value:g}" if value < 1e6 else f"{value:,.0f}"
