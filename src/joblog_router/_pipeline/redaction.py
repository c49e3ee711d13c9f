"""Secrets out of entries, before any sink, quarantine or message of ours sees them.

Runs on the writer thread (and in recovery), after folding: what is not stored costs nothing. Never raises; where
something fails the text is replaced whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from re import Pattern
from typing import Any, Final

from ..entry import Entry
from . import report
from .credentials import MASK, holds_no_credential, is_sensitive, mask_credentials
from .own_patterns import compile_patterns, mask_own
from .secrets import holds_no_secret, known_secrets, mask_cut_secret, mask_secrets
from .text import CUT, MAX_FIELD, MAX_MESSAGE, clip

_FAILED: Final = "[redacted: this text could not be searched for secrets]"
# Masking may bring together what then looks like a pair; more rounds than this change nothing any more.
_ROUNDS: Final = 3
_SHORT: Final = 6
# No credential is recognised in a single word that is shorter.
_TOKEN: Final = 16
_MAX_NAMES: Final = 1_000
_LONGEST_NAME: Final = 100
# A word at the place where a long text was cut may be the beginning of a secret.
_LONGEST_WORD: Final = 300
# So many lines are looked at together first; one that may hold a secret has each of them looked at.
_TOGETHER: Final = 16


class Redactor:
    """What is masked in the entries of a channel: registered secrets, credentials, own patterns. For any thread."""

    __slots__ = ("_innocent", "_own")

    def __init__(self, own: tuple[Pattern[str], ...] = ()) -> None:
        self._own = own
        # Names of fields that hold nothing, as they are few and come again; of these secrets. Replaced as a whole.
        self._innocent: tuple[object, set[str]] = (None, set())

    @classmethod
    def joined(cls, redactors: Iterable[Redactor]) -> Redactor:
        """One that masks what each of `redactors` masks."""
        return cls(tuple(dict.fromkeys(pattern for each in redactors for pattern in each._own)))

    def text(self, text: str, most: int = MAX_MESSAGE) -> str:
        """`text` without secrets; the same object where there are none. If it gets longer, it is cut at `most`."""
        if len(text) < _SHORT:
            return text
        try:
            masked = self._once(text)
            if masked is text or masked == text:
                return text
            for _ in range(_ROUNDS):
                again = self._once(masked)
                if again == masked:
                    break
                masked = again
            if len(masked) > len(text) and len(masked) > most:
                masked = clip(masked, most)
        except Exception:
            return _FAILED
        return masked

    def _once(self, text: str) -> str:
        if len(text) < _TOKEN and text.isidentifier():  # a word: most values of fields
            text = mask_secrets(text)
            return mask_own(self._own, text) if self._own else text
        if " more characters]" in text:
            text = _without_cut_words(text)
        text = mask_credentials(mask_secrets(text))
        return mask_own(self._own, text) if self._own else text

    def fields(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """`fields`, or a copy in which values under names like `password` are masked whole, and texts searched."""
        try:
            innocent = self._innocent_names()
            for name, value in fields.items():
                if self._value(name, value) is not value or (name not in innocent and self._name(name) is not name):
                    return {self._name(name): self._value(name, value) for name, value in fields.items()}
        except Exception:
            return {"redaction_error": _FAILED}
        return fields

    def entries(self, entries: list[Entry]) -> list[Entry]:
        """`entries` without secrets; those whose texts together hold nothing that begins one, as they are."""
        if self._own:
            return [self.entry(entry) for entry in entries]
        done: list[Entry] = []
        for at in range(0, len(entries), _TOGETHER):
            some = entries[at : at + _TOGETHER]
            texts = {entry.logger for entry in some}
            # Fields and tracebacks are rare, and looked at one by one.
            texts.update([entry.message for entry in some if not entry.fields and entry.exception is None])
            if _is_innocent("\n".join(texts)):
                done += [self.entry(entry) if entry.fields or entry.exception is not None else entry for entry in some]
            else:
                done += map(self.entry, some)
        return done

    def entry(self, entry: Entry) -> Entry:
        """`entry` without secrets in its message, exception, fields and logger's name."""
        logger, message, exception, fields = entry.logger, entry.message, entry.exception, entry.fields
        logger = self.text(logger)
        message = self.text(message)
        exception = exception and self.text(exception)
        fields = fields and self.fields(fields)
        if (logger, message, exception) == (entry.logger, entry.message, entry.exception) and fields is entry.fields:
            return entry
        return entry._replace(logger=logger, message=message, exception=exception, fields=fields)

    def _innocent_names(self) -> set[str]:
        """The names that are known to hold none of the secrets that are known now."""
        known, (of, names) = known_secrets(), self._innocent
        if of is not known or len(names) >= _MAX_NAMES:
            names = set()
            self._innocent = (known, names)
        return names

    def _name(self, name: str) -> str:
        innocent = self._innocent_names()  # before the search: a secret that is registered meanwhile makes another set
        if name in innocent:
            return name
        masked = self.text(name)
        if masked is name and len(name) <= _LONGEST_NAME:
            innocent.add(name)
        return masked

    def _value(self, name: str, value: Any) -> Any:
        if is_sensitive(name):
            return value if value is None or value == "" or isinstance(value, bool) else MASK
        return self._searched(value)

    def _searched(self, value: Any) -> Any:
        kind = type(value)
        if kind is str:
            text = self.text(value)
            return text if text is value else clip(text, MAX_FIELD)
        masked: Any = value
        if kind is dict:
            masked = {self._name(str(name)): self._value(str(name), inner) for name, inner in value.items()}
        elif kind is list:
            masked = [self._searched(inner) for inner in value]
        return value if masked == value else masked


def _is_innocent(text: str) -> bool:
    """Whether no part of `text` can hold what is masked: to be true only where it is so for every part."""
    return " more characters]" not in text and holds_no_secret(text) and holds_no_credential(text)


def _without_cut_words(text: str) -> str:
    """`text` without the words that cuts went through: each may be the beginning of a secret."""
    parts = []
    at = 0
    for note in CUT.finditer(text):
        parts += [_without_last_word(text[at : note.start()]), note[0]]
        at = note.end()
    return "".join((*parts, text[at:]))


def _without_last_word(text: str) -> str:
    text = mask_cut_secret(text)
    begin = max(text.rfind(" "), text.rfind("\n"), text.rfind("\t")) + 1
    length = len(text) - begin
    # What is longer than any token is no word: a picture in base64, a line of dots.
    return text[:begin] + MASK if _SHORT <= length <= _LONGEST_WORD else text


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
