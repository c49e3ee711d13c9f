"""A name that is not known: which one may have been meant. For messages of configuration; imports nothing of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A question to put behind a sentence, with a space before it; "" if nothing known is like `name`."""
    near = difflib.get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
