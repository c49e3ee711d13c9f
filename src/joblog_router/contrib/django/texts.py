"""What the page's script says, in the reader's language. Called by the view of the page, on its thread."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

from django.utils.translation import get_language, ngettext
from django.utils.translation import gettext as _

__all__ = ["texts_as_json"]


def texts_as_json() -> str:
    """The texts by the names that `joblog.js` uses; `%(n)s` is filled in there."""
    return _texts(get_language())


@functools.lru_cache(maxsize=200)
def _texts(language: str | None) -> str:
    return json.dumps(
        {
            "absent": _("There is no such job log."),
            "failed": _("The log cannot be read at the moment."),
            "empty": _("This job has not logged anything yet."),
            "nothing": _("No line of this log is like that."),
            "line": _forms(lambda n: ngettext("%(n)s line", "%(n)s lines", n)),
            "new": _forms(lambda n: ngettext("%(n)s new line", "%(n)s new lines", n)),
            "folded": _forms(lambda n: ngettext("stands for %(n)s similar line", "stands for %(n)s similar lines", n)),
            "log": _("Lines of the log"),
            "live": _("live"),
            "polling": _("live, every 2 seconds"),
            "connecting": _("connecting…"),
            "paused": _("paused"),
            "finished": _("finished"),
            "quiet": _("no new lines"),
            "filters": _("Filters"),
            "level": _("Level"),
            "logger": _("Logger"),
            "process": _("Process"),
            "search": _("Search"),
            "all": _("all"),
            "above": _("%(level)s and above"),
            "only": _("only these"),
            "previous": _("Previous line with this text"),
            "next": _("Next line with this text"),
            "error": _("error"),
            "previouserror": _("Previous error"),
            "nexterror": _("Next error"),
            "firsterror": _("First error"),
            "follow": _("Follow"),
            "times": _("Times"),
            "local": _("local"),
            "relative": _("since the start"),
            "textfile": _("Download"),
            "jsonfile": _("as JSON lines"),
            "keys": _("Keys"),
            "key_error": _("next or previous error"),
            "key_search": _("search"),
            "key_found": _("next or previous line found"),
            "key_follow": _("follow the newest lines, or stop"),
            "key_move": _("next or previous line"),
            "key_open": _("open or close a line"),
            "key_ends": _("first line, or newest line and follow"),
            "signs": _("Signs"),
            "sign_live": _("lines come as they are logged"),
            "sign_calm": _("none come now: finished, paused, or no new lines"),
            "sign_process": _("which process logged a line, where there are several"),
            "close": _("Close"),
            "details": _("Details"),
            "traceback": _("traceback"),
            "staff": _("staff only"),
            "place": _("logged at"),
            "time": _("time"),
            "copy": _("Copy"),
            "copied": _("Copied."),
            "permalink": _("Link to this line"),
            "cut": _("cut; the whole text is in the download"),
            "searching": _("Searching…"),
            "fromlast": _("Reached the first line, went on from the last."),
            "fromfirst": _("Reached the last line, went on from the first."),
            "text_none": _("No line has this text."),
            "text_filtered": _("With these filters no line has this text."),
            "text_only": _("No other line has this text."),
            "error_none": _("There is no error."),
            "error_filtered": _("With these filters there is no error."),
            "error_only": _("There is no other error."),
            "progress": _("Progress"),
            "diagnosis": _("Diagnosis"),
            "looking": _("Looking…"),
            "undiagnosed": _("No diagnosis can be had at the moment."),
            "again": _("Look again"),
            "likely": _("likely"),
            "possible": _("possible"),
            "advice": _("What to do:"),
            "evidence": _("What shows it"),
            "others": _("It may also be"),
            "unasked": _("Could not be asked"),
            "age": _("%(n)s s ago"),
            "lookedat": _("As of %(time)s."),
            "chart": _("Lines over time, from %(first)s to %(last)s; errors and warnings stand out."),
        }
    )


def _forms(text: Callable[[int], str]) -> dict[str, Any]:
    """A text with a number in all its forms, and which of them each number has.

    Languages look at small numbers, and at the last two digits of larger ones: 200 numbers tell all.
    """
    texts = [text(n) for n in range(200)]
    forms = list(dict.fromkeys(texts))
    return {"forms": forms, "of": "".join(str(forms.index(one)) for one in texts)}
