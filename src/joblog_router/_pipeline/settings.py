"""What the project's settings say to the core: one object, `current`, until `hand_over` brings another.

Read at configuration and on the writer thread, by what has no word of a handler to go by. Imports nothing, so that
everything may import it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from .policy import Policy
    from .rules import Rules


class Unset:
    """The place of a setting that was not given, where None means something."""


UNSET: Final = Unset()
SpoolSetting: TypeAlias = "Path | Unset | None"


@dataclass(frozen=True, slots=True)
class Settings:
    """The Django app makes it from JOBLOG_ROUTER; elsewhere it stays as it is here."""

    # Whether lines are folded where the handler does not say.
    fold: bool = True
    # Masking, audience, length of a log and what says whose a record is, each where no handler says anything.
    rules: Rules | None = None
    attribution: Policy | None = None
    # Whose jobs they are: text, or what gives it for each scope.
    namespace: str | Callable[[], object] = ""
    # Where handlers that say nothing about it have their spool.
    spool: Path | None = None
    # The kill switch, or the question that the writer asks once a second.
    enabled: bool | Callable[[], bool] = True
    # The store to read, or None, and the one to read where no handler's sink can be read, or None.
    store: Callable[[], tuple[object, object]] | None = None


current = Settings()
