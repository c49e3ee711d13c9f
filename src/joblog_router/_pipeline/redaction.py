"""Secrets out of entries, before any sink, quarantine or message of ours sees them.

Runs on the writer thread (and in recovery), after folding: what is not stored costs nothing. Never raises; where
something fails the text is replaced whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from re import Pattern
from typing import Any, Final

from ..entry import Entry
from . import report
from .credentials import MASK, is_sensitive, mask_credentials
from .own_patterns import compile_patterns, mask_own
from .secrets import mask_cut_secret, mask_secrets
from .text import MAX_FIELD, MAX_MESSAGE, clip, cut_of

_FAILED: Final = "[redacted: this text could not be searched for secrets]"
# Masking may bring together what then looks like a pair; more rounds than this change nothing any more.
_ROUNDS: Final = 3
_SHORT: Final = 6
# A word at the place where a long text was cut may be the beginning of a secret.
_LONGEST_WORD: Final = 300


class Redactor:
    """What is masked in the entries of a channel: registered secrets, credentials, own patterns. Immutable."""

    __slots__ = ("_own",)

    def __init__(self, own: tuple[Pattern[str], ...] = ()) -> None:
        self._own = own

    def text(self, text: str) -> str:
        """`text` without secrets; the same object where there are none."""
        if len(text) < _SHORT:
            return text
        try:
            masked = text
            for _ in range(_ROUNDS):
                again = self._once(masked)
                if again is masked or again == masked:
                    break
                masked = again
            if len(masked) > len(text) and len(masked) > MAX_MESSAGE:
                masked = clip(masked, MAX_MESSAGE)
        except Exception:
            return _FAILED
        return masked

    def _once(self, text: str) -> str:
        if cut := cut_of(text):
            text = _without_cut_word(text, cut)
        text = mask_credentials(mask_secrets(text))
        return mask_own(self._own, text) if self._own else text

    def fields(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """A copy of `fields` in which values under names like `password` are masked whole, and texts searched."""
        try:
            return {self._name(name): self._value(name, value) for name, value in fields.items()}
        except Exception:
            return {"redaction_error": _FAILED}

    def entry(self, entry: Entry) -> Entry:
        """`entry` without secrets in its message, exception, fields and logger's name."""
        exception = entry.exception
        return entry._replace(
            logger=self.text(entry.logger),
            message=self.text(entry.message),
            exception=None if exception is None else self.text(exception),
            fields=self.fields(entry.fields) if entry.fields else entry.fields,
        )

    def _name(self, name: str) -> str:
        return name if len(name) < 16 else self.text(name)

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, bool) or value is None or value == "":
            return value
        if is_sensitive(name):
            return MASK
        return self._searched(value)

    def _searched(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            masked = self.text(value)
            return masked if masked is value else clip(masked, MAX_FIELD)
        if kind is dict:
            return {self._name(str(name)): self._value(str(name), inner) for name, inner in value.items()}
        if kind is list or kind is tuple:
            return [self._searched(inner) for inner in value]
        return value


def _without_cut_word(text: str, cut: int) -> str:
    """`text`, whose note of what is missing begins at `cut`, without the word that the cut went through."""
    head = mask_cut_secret(text[:cut])
    if head.endswith(MASK):
        return head + text[cut:]
    begin = max(head.rfind(" "), head.rfind("\n"), head.rfind("\t")) + 1
    if len(head) - begin < _SHORT or len(head) - begin > _LONGEST_WORD:
        return head + text[cut:] if begin else text
    return head[:begin] + MASK + text[cut:]


def make_redactor(given: Any, setting: str) -> Redactor | None:
    """From a setting: True, or a list of own patterns on top of the built-in ones; None for False.

    Raises ConfigurationError for anything else and for a pattern that is wrong or slow.
    """
    if given is False:
        return None
    return Redactor() if given is True else Redactor(compile_patterns(given, setting))


# The built-in patterns and the registered secrets; also for what this library says on stderr.
STANDARD: Final = Redactor()
report.use_mask(STANDARD.text)
