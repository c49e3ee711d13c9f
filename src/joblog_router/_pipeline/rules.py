"""What a handler's settings ask of its entries beyond folding: audience, redaction, length of a job's log.

Checked where a handler is made; `finish` runs on the writer thread for all entries on their way to the sink. Imports
`redaction` and `capping`, nothing of channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final, NamedTuple

from ..entry import AUDIENCES, Entry
from ..exceptions import ConfigurationError
from . import settings
from .attributes import AUDIENCE
from .capping import FEWEST
from .naming import LoggerNames
from .redaction import STANDARD, Redactor, make_redactor
from .report import report_once, use_mask


class Rules(NamedTuple):
    """A channel's own rules; None is what the settings of the project say."""

    redact: Redactor | bool | None = None
    staff: LoggerNames | None = None
    max_lines: int | None = None
    spool_redact: bool | None = None

    @classmethod
    def of(
        cls, redact: Any, staff: Any, max_lines: Any, spool_redact: Any = None, label: str = "JobLogHandler: {}"
    ) -> Rules:
        """From the settings of a handler or of the project, which `label` names. Raises ConfigurationError."""
        redactor: Redactor | bool | None = None
        if redact is not None:
            redactor = make_redactor(redact, label.format("redact")) or False
        if max_lines is not None and (
            isinstance(max_lines, bool) or not isinstance(max_lines, int) or 0 < max_lines < FEWEST or max_lines < 0
        ):
            raise ConfigurationError(
                f"{label.format('max_lines')} must be a whole number of at least {FEWEST}, or 0 for no limit, "
                f"not {max_lines!r}"
            )
        if spool_redact is not None and not isinstance(spool_redact, bool):
            raise ConfigurationError(f"{label.format('spool_redact')} must be True or False, not {spool_redact!r}")
        names = None if staff is None else LoggerNames.of(staff, None, label.format("staff"), "")
        return cls(redactor, names, max_lines, spool_redact)

    def limit(self) -> int:
        """How many lines of a job a process stores; 0 for all."""
        own = self.max_lines
        return (_defaults().max_lines or 0) if own is None else own

    def staff_loggers(self) -> LoggerNames | None:
        """Whose lines are for staff; None where no logger's are."""
        return self.staff or _defaults().staff

    def redactor(self) -> Redactor | None:
        """What masks secrets; None where nothing is to be masked. On any thread."""
        redactor = self.redact if self.redact is not None else _defaults().redact
        if redactor is None:
            return STANDARD
        return redactor if isinstance(redactor, Redactor) else None

    def redacts_spool(self) -> bool:
        """Whether secrets are masked before a line stands in the spool, on the thread that logs."""
        own = self.spool_redact
        return bool(_defaults().spool_redact if own is None else own)

    def finish(self, entries: list[Entry]) -> list[Entry]:
        """`entries` as sinks may see them."""
        return _finished(entries, [self.staff_loggers()], self.redactor())


class SeveralRules:
    """What the handlers of one sink ask, the strictest of each: all patterns, all loggers, the lowest limit."""

    def __init__(self, rules: tuple[Rules, ...]) -> None:
        self._rules = rules

    def limit(self) -> int:
        """See `Rules`."""
        return min((limit for rules in self._rules if (limit := rules.limit())), default=0)

    def finish(self, entries: list[Entry]) -> list[Entry]:
        """See `Rules`."""
        return _finished(entries, [rules.staff_loggers() for rules in self._rules], self.redactor())

    def redactor(self) -> Redactor | None:
        """See `Rules`."""
        return _joined(tuple(rules.redactor() for rules in self._rules))

    def redacts_spool(self) -> bool:
        """See `Rules`."""
        return any(rules.redacts_spool() for rules in self._rules)


def strictest(rules: Iterable[Rules]) -> Rules | SeveralRules:
    """The rules of a channel whose handlers have these."""
    different = tuple(dict.fromkeys(rules))
    return different[0] if len(different) == 1 else SeveralRules(different)


class Asked(NamedTuple):
    """What handlers ask of a sink's lines: the rules, and whether similar ones become a tally, but for which loggers.

    `fold` is None where the settings say it.
    """

    rules: Rules | SeveralRules
    fold: bool | None = None
    unfolded: LoggerNames | None = None


@lru_cache(maxsize=64)
def _joined(redactors: tuple[Redactor | None, ...]) -> Redactor | None:
    masking = [redactor for redactor in redactors if redactor is not None]
    return Redactor.joined(masking) if masking else None


def mask_reports() -> None:
    """Search this library's own messages for secrets, as the settings say but in any case for those known by sight."""
    redact = _defaults().redact
    use_mask((redact if isinstance(redact, Redactor) else STANDARD).text)


_NONE: Final = Rules()


def _defaults() -> Rules:
    """What counts where handlers say nothing."""
    return settings.current.rules or _NONE


def _finished(entries: list[Entry], staff: Iterable[LoggerNames | None], redactor: Redactor | None) -> list[Entry]:
    names = [each for each in staff if each is not None]
    entries = [
        _for_audience(entry)
        if AUDIENCE in entry.fields or (names and any(each.wants(entry.logger) for each in names))
        else entry
        for entry in entries
    ]
    return entries if redactor is None else redactor.entries(entries)


def _for_audience(entry: Entry) -> Entry:
    """`entry` without the mark. An audience that is not known is taken for staff: rather too few readers."""
    fields = dict(entry.fields)
    audience = fields.pop(AUDIENCE, "staff")
    if audience not in AUDIENCES:
        report_once(
            ("audience", str(audience)),
            f"extra={{'job_log': {audience!r}}} names no audience; known are 'all' and 'staff'. The line is for staff",
        )
        audience = "staff"
    return entry._replace(fields=fields, audience=audience)
