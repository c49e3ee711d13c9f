"""The doctor's look at a project's REST interface: what it says of the job, and what it would give to workers.

Reads with the standard library's client in a thread that nothing waits for. Follows no redirect, so that headers reach
the host that they are for and no other; neither headers nor what stands in the URL for a password is in any answer.
"""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlsplit

from .._pipeline.text import clean, clip
from ..exceptions import ConfigurationError
from .in_time import HANDLERS
from .phases import phase_of
from .places import MISSING, at, facts_from, number, places_with
from .probing import ProbeResult, in_thread

__all__ = ["RestProbe", "TasksProbe"]

_TIMEOUT: Final = 2.0
_MAX_BYTES: Final = 2_000_000
_MAX_TEXT: Final = 200
_REFUSED: Final = frozenset({401, 403})
_SERVER_ERROR: Final = 500
_NOT_FOUND: Final = 404
# Ids that no escaping makes a name in a path.
_OTHER_PLACES: Final = frozenset({".", ".."})
_RESERVES: Final = "it reserves what it gives, and is not called; its queue is looked at instead"

Headers = Mapping[str, str | Callable[[], str]]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


class _Client:
    """GET of one URL template, with headers whose values are never told."""

    def __init__(self, place: str, url: str, headers: Headers | None, timeout: float) -> None:
        if not isinstance(url, str) or "{job_id}" not in url or urlsplit(url).scheme not in {"http", "https"}:
            raise ConfigurationError(
                f"{place} must be an http(s) address that holds {{job_id}}, not {_shown(str(url))!r}"
            )
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not timeout > 0:
            raise ConfigurationError(f"the timeout beside {place} must be seconds above 0, not {timeout!r}")
        self._url = url
        self._headers = dict(headers or {})
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirect, *HANDLERS)

    def shown(self, job_id: str) -> str:
        """The address as it may be told."""
        return _shown(self._filled(job_id))

    def get(self, job_id: str) -> tuple[Any, dict[str, Any], str]:
        """What it answers (None where it did not), facts about the answer, and why there is none."""
        shown = self.shown(job_id)
        if job_id in _OTHER_PLACES:
            return None, {"url": shown}, f"{shown} is not asked: {job_id!r} in an address is another place"
        try:
            values = {name: value() if callable(value) else value for name, value in self._headers.items()}
        except Exception as error:  # the project's own function; its words may hold what must not be told
            return None, {"url": shown}, f"{shown} is not asked: a header's function failed ({type(error).__name__})"
        try:
            request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
                _without_account(self._filled(job_id)), headers={"Accept": "application/json", **values}
            )
            with self._opener.open(request, timeout=self._timeout) as response:
                code, raw = response.status, response.read(_MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            return None, {"url": shown, "code": error.code, **_meaning(error.code)}, _answered(shown, error.code)
        except (ValueError, TypeError, http.client.HTTPException) as error:
            # Their words quote the header or the address.
            return None, {"url": shown}, f"{shown} cannot be asked: {type(error).__name__} in address, header or answer"
        except OSError as error:
            reason = getattr(error, "reason", None) or error
            text = _scrubbed(f"{type(reason).__name__}: {reason}", [*values.values(), self._filled(job_id)])
            return None, {"url": shown, "unreachable": True}, f"{shown} cannot be reached: {text}"
        facts = {"url": shown, "code": code}
        if len(raw) > _MAX_BYTES:
            return None, facts, f"{shown} answers more than {_MAX_BYTES:,} bytes"
        try:
            return json.loads(raw), facts, ""
        except (ValueError, RecursionError):
            return None, facts, f"{shown} answers {code} and no JSON"

    def _filled(self, job_id: str) -> str:
        return self._url.replace("{job_id}", quote(job_id, safe=""))


class RestProbe:
    """What the project's own interface says: `url` holds `{job_id}`, `headers` say who asks.

    `fields` says where a fact is in the answer (`{"progress": "progress.summary.progress"}`), `statuses` what a status
    means, both as for the job's row. A header's value may be a function that gives it.
    """

    name = "rest"

    def __init__(
        self,
        url: str,
        headers: Headers | None = None,
        fields: Mapping[str, str] | None = None,
        statuses: Mapping[str, str] | None = None,
        timeout: float = _TIMEOUT,
    ) -> None:
        self._client = _Client("DOCTOR['REST']['url']", url, headers, timeout)
        self._places = places_with(fields, "DOCTOR['REST']['fields']")
        self._statuses = statuses

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts as of the job's row, and `url, code`; `unreachable`, `is_failing`, `is_refused`, `is_absent`."""
        answer, facts, error = await in_thread(self._client.get, job_id)
        if error:
            return ProbeResult(self.name, facts, error)
        if not isinstance(answer, Mapping):
            return ProbeResult(self.name, facts, f"{facts['url']} answers no JSON object")
        return ProbeResult(self.name, {**facts, **self._facts_of(answer)})

    def _facts_of(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        facts: dict[str, Any] = {"exists": True}
        facts |= facts_from(answer, self._places, _epoch, lambda value: clean(clip(str(value), _MAX_TEXT)))
        facts["phase"] = phase_of(facts["status"], self._statuses)
        return facts


class TasksProbe:
    """The endpoint that gives tasks to workers. `url` is only named: to call it would reserve what it gives.

    `peek` is an address that gives the same and reserves nothing, if the project has one; `tasks` is where the list is
    in its answer.
    """

    name = "tasks"

    def __init__(
        self,
        url: str = "",
        peek: str | None = None,
        headers: Headers | None = None,
        tasks: str = "tasks",
        timeout: float = _TIMEOUT,
    ) -> None:
        if not url and peek is None:
            raise ConfigurationError("DOCTOR['TASKS'] must hold 'url', the endpoint's address, or 'peek'")
        self._url = url
        self._client = None if peek is None else _Client("DOCTOR['TASKS']['peek']", peek, headers, timeout)
        self._tasks = tasks

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `peeked`, and then `count`, else `why` not; `unreachable`, `is_failing`."""
        if self._client is None:
            shown = _shown(self._url.replace("{job_id}", quote(job_id, safe="")))
            return ProbeResult(self.name, {"url": shown, "peeked": False, "why": _RESERVES})
        answer, facts, error = await in_thread(self._client.get, job_id)
        if error:
            return ProbeResult(self.name, {**facts, "peeked": False}, error)
        found = answer if isinstance(answer, list) else at(answer, self._tasks)
        if found is MISSING or not isinstance(found, list | int) or isinstance(found, bool):
            return ProbeResult(
                self.name, {**facts, "peeked": False}, f"{facts['url']}: there is no list at {self._tasks!r}"
            )
        return ProbeResult(
            self.name, {**facts, "peeked": True, "count": found if isinstance(found, int) else len(found)}
        )


def _meaning(code: int) -> dict[str, Any]:
    if code in _REFUSED:
        return {"is_refused": True}
    if code == _NOT_FOUND:
        return {"is_absent": True}
    return {"is_failing": True} if code >= _SERVER_ERROR else {}


def _answered(shown: str, code: int) -> str:
    if code in _REFUSED:
        return f"{shown} answers {code}: the doctor's headers are not accepted (DOCTOR, headers)"
    if code == _NOT_FOUND:
        return f"{shown} answers 404: it knows no such job, or not for this account"
    return f"{shown} answers {code}"


def _shown(url: str) -> str:
    """An address without account and query."""
    before, slashes, rest = url.partition("//")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if ":" in host:
        # A password may hold what should have been escaped, and then looks like port and path: rather show too little.
        rest = rest.rpartition("@")[2]
    shown = _without_account(before + slashes + rest)
    return clean(clip(shown.partition("?")[0].partition("#")[0], _MAX_TEXT))


def _without_account(url: str) -> str:
    return re.sub(r"//[^/?#]*@", "//", url)


def _scrubbed(text: str, secrets: list[str]) -> str:
    for secret in secrets:
        for part in {secret, secret.rpartition(" ")[2]} - {""}:
            text = text.replace(part, "…")
    return clean(clip(text, _MAX_TEXT))


def _epoch(value: Any) -> float | None:
    """A time in ISO 8601 (without a zone: UTC) or in seconds, as seconds."""
    if isinstance(value, str):
        try:
            found = datetime.fromisoformat(value)
            return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, OverflowError):
            return None
    seconds = number(value)
    return None if seconds is None else float(seconds)
