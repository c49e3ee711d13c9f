"""The Django view that takes lines of workers elsewhere: `path("joblog/receive/", receive)`.

A request carries a job token (`Authorization: Bearer ...`, see `tokens`) and a batch of lines as JSON. Whatever the
lines say, they go into the log of the token's job, for the token's audience or fewer. An answer of 200 is given only
once they are stored, so that a worker may send a batch again until it gets one: `(origin, seq)` is stored once. The
origin that is stored names the job, so that no token reaches, hides or finds out about a line of another job.

Called by Django, on a request's thread, under WSGI and ASGI alike: synchronous. A part of Django's half, which it
imports. Never raises; what is refused is counted, see `counters`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, TypeGuard

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation, ValidationError
from django.core.signals import setting_changed
from django.db import DatabaseError, InterfaceError, transaction
from django.db import router as databases
from django.http import HttpRequest, JsonResponse
from django.http.request import UnreadablePostError
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from ..._pipeline import rules, switch
from ..._pipeline.attributes import AUDIENCE
from ..._pipeline.origins import of_worker
from ..._pipeline.primitives import freeze
from ..._pipeline.redaction import Redactor
from ..._pipeline.report import report_once
from ..._pipeline.router import router
from ..._pipeline.sinks import NamedSink, make_sink
from ..._pipeline.stats import Counter
from ..._pipeline.text import MAX_FIELD, MAX_MESSAGE, clean
from ...context import current_namespace
from ...entry import Entry
from ...exceptions import ConfigurationError, SinkUnavailableError
from ...sinks import KnowingSink, Sink
from ..django import conf, jobs
from ..django.model_store import ModelStore
from ..django.sink import DjangoSink
from .tokens import BadTokenError, Grant, check_revoked, read_token

__all__ = ["Limits", "counters", "receive"]

_ORIGIN: Final = re.compile(r"[A-Za-z0-9._-]{1,60}")
# How far a worker's clock may be off before its times are put right, and how old a line may be.
_TOLERANCE: Final = 5.0
_OLDEST: Final = 30 * 86_400.0
_MOST: Final = 2**62
# What a worker leaves where it cuts a text, which is some thousand characters beyond what is kept.
_NOTE_BEHIND: Final = re.compile(r"… \[([0-9]{1,20}) more characters\]\Z")
_NOTE_BEFORE: Final = re.compile(r"… \[([0-9]{1,20}) more characters\]\n")
_LONGEST_NOTE: Final = 50
_BEYOND: Final = 4_000
_SPACE: Final = re.compile(r"[ \n\t]")
# Fields by which readers take a line for something else: a tally, another audience.
_RESERVED: Final = ("fold", "folded", AUDIENCE)
_LOCK_TIMEOUT: Final = 10.0
_MOST_BUCKETS: Final = 10_000
# Numbers in one question to the database.
_MOST_ASKED: Final = 500
_WITHOUT_COPIES: Final = ("jsonl", "callable", "logger", "memory")

COUNTED: Final = (
    "stored",
    "known",
    "refused_lines",
    "forged",
    "expired",
    "revoked",
    "cross_job",
    "too_large",
    "too_fast",
    "malformed",
    "no_job",
    "unavailable",
)
_counts: Final[Mapping[str, Counter]] = {name: Counter() for name in COUNTED}


def counters() -> dict[str, int]:
    """What this process took and refused since its start.

    `stored` lines, `known` ones that came again, `refused_lines` that were no lines; requests whose token was `forged`,
    `expired` or `revoked`; lines or requests that named another job (`cross_job`); requests that were `too_large`,
    `too_fast` or `malformed`, for a job that is not there (`no_job`), or while nothing could be stored.
    """
    return {name: tally.value() for name, tally in _counts.items()}


class Limits(NamedTuple):
    """The setting `REMOTE`: bytes and lines of a request, lines of one job a minute (per process of the server).

    `sink` and `options` are as a handler's, for a sink that stores no line twice.
    """

    max_bytes: int = 1_000_000
    max_lines: int = 1_000
    lines_per_minute: int = 60_000
    sink: str = "django"
    options: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> Limits:
        """Raises ConfigurationError for an unknown name or a value of the wrong kind."""
        place = f"{conf.SETTING}['REMOTE']"
        unknown = sorted(set(given or {}) - set(cls._fields))
        if unknown:
            raise ConfigurationError(f"{place} has no setting {unknown[0]!r}; it knows: {', '.join(cls._fields)}")
        limits = cls(**(given or {}))
        for name in ("max_bytes", "max_lines", "lines_per_minute"):
            value: object = getattr(limits, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigurationError(f"{place}[{name!r}] must be a positive whole number, not {value!r}")
        if limits.sink in _WITHOUT_COPIES:
            raise ConfigurationError(f"{place}['sink']: {limits.sink!r} would store a line that comes twice twice")
        return limits


class _Refusal(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, reason: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.retry_after = retry_after


@csrf_exempt
@never_cache
@require_POST
@transaction.non_atomic_requests  # a request's own transaction would keep a log in the same SQLite file locked
def receive(request: HttpRequest) -> JsonResponse:
    """Take a batch of lines; see the module."""
    try:
        return JsonResponse(_taken(request))
    except _Refusal as refusal:
        return _refused(refusal)
    except (SinkUnavailableError, ConfigurationError, DatabaseError, InterfaceError) as error:
        advice = getattr(error, "advice", "")
        report_once(("receive", str(error)), f"lines of a worker could not be stored: {error}. {advice}".rstrip())
        return _refused(_Refusal("unavailable", 503, 5))


def _refused(refusal: _Refusal) -> JsonResponse:
    _counts[refusal.reason].add()
    answer = JsonResponse({"error": refusal.reason}, status=refusal.status)
    if refusal.retry_after is not None:
        answer["Retry-After"] = str(math.ceil(refusal.retry_after))
    return answer


def _taken(request: HttpRequest) -> dict[str, int]:
    limits = Limits.of(conf.current().REMOTE)
    # The token comes first: a forged request costs one signature, its body is not even read.
    grant = _grant(request)
    body = _body(request, limits)
    if not switch.is_on:
        raise _Refusal("unavailable", 503, 30)
    batch = _batch(body, limits)
    if "job_id" in batch and batch["job_id"] != grant.job_id:
        raise _Refusal("cross_job", 403)
    if _is_job_absent(grant):
        # Not committed yet, or deleted: the worker keeps its lines until its token expires.
        raise _Refusal("no_job", 409, 5)
    _keep_pace(grant, len(batch["entries"]), limits)
    entries, refused = _entries(batch, grant, _rules_for(_sink(limits)).redactor())
    stored, known, unfit = _store(entries, limits)
    for name, count in (("stored", stored), ("known", known), ("refused_lines", refused + unfit)):
        for _ in range(count):
            _counts[name].add()
    # `taken`: that all lines of this very batch were dealt with; one that is in it twice counts once above.
    return {"stored": stored, "known": known, "refused": refused + unfit, "taken": len(batch["entries"])}


def _grant(request: HttpRequest) -> Grant:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    try:
        grant = read_token(token.strip() if kind.lower() == "bearer" else "")
        check_revoked(grant)
    except BadTokenError as error:
        report_once(
            ("token", error.reason), f"a worker's request was refused: {error}. Such requests are counted ({__name__})"
        )
        raise _Refusal(error.reason, 401) from error
    return grant


def _body(request: HttpRequest, limits: Limits) -> bytes:
    try:
        length = int(request.headers.get("Content-Length") or 0)
    except ValueError:
        length = 0
    if length > limits.max_bytes:
        raise _Refusal("too_large", 413)
    try:
        body = request.body
    except (RequestDataTooBig, SuspiciousOperation) as error:
        raise _Refusal("too_large", 413) from error
    except (UnreadablePostError, OSError) as error:
        raise _Refusal("malformed", 400) from error
    if len(body) > limits.max_bytes:
        raise _Refusal("too_large", 413)
    return body


def _batch(body: bytes, limits: Limits) -> dict[str, Any]:
    try:
        batch = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _Refusal("malformed", 400) from error
    if not isinstance(batch, dict) or not isinstance(batch.get("entries"), list) or not _is_time(batch.get("sent")):
        raise _Refusal("malformed", 400)
    if len(batch["entries"]) > limits.max_lines:
        raise _Refusal("too_large", 413)
    return batch


def _is_job_absent(grant: Grant) -> bool:
    model = jobs.job_model()
    if model is None or grant.namespace != current_namespace():
        return False
    try:
        return not model._base_manager.using(databases.db_for_read(model)).filter(pk=grant.job_id).exists()
    except (ValueError, TypeError, OverflowError, ValidationError):
        return True  # no id of this model


# --- pace ---------------------------------------------------------------------------------------------------------

_buckets: dict[tuple[str, str], tuple[float, float]] = {}
_buckets_lock = threading.Lock()


def _keep_pace(grant: Grant, lines: int, limits: Limits) -> None:
    """Refuse what is more than a minute's worth at once, per job: how much may come fills up with time."""
    most = float(max(limits.lines_per_minute, limits.max_lines))
    per_second = limits.lines_per_minute / 60
    key = (grant.namespace, grant.job_id)
    now = time.monotonic()
    with _buckets_lock:
        if len(_buckets) >= _MOST_BUCKETS:
            _buckets.clear()
        left, since = _buckets.get(key, (most, now))
        left = min(most, left + (now - since) * per_second)
        if lines > left:
            _buckets[key] = (left, now)
            raise _Refusal("too_fast", 429, min(60.0, (lines - left) / per_second))
        _buckets[key] = (left - lines, now)


# --- lines ----------------------------------------------------------------------------------------------------------


def _entries(batch: Mapping[str, Any], grant: Grant, redactor: Redactor | None) -> tuple[list[Entry], int]:
    """The lines as they are stored, and how many were none."""
    now = time.time()
    ahead = batch["sent"] - now
    found: dict[tuple[str, int], Entry] = {}
    refused = 0
    # Of this job alone: a line with the origin and number of another job's would keep that one from being stored.
    owner = hashlib.sha256(f"{grant.namespace}\0{grant.job_id}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
    for line in batch["entries"]:
        if isinstance(line, dict) and line.get("job_id", grant.job_id) != grant.job_id:
            _counts["cross_job"].add()
            refused += 1
            continue
        entry = _entry(line, grant, owner, _Clock(now, ahead if abs(ahead) > _TOLERANCE else 0.0), redactor)
        if entry is None:
            refused += 1
        else:
            found.setdefault((entry.origin, entry.seq), entry)
    return list(found.values()), refused


class _Clock(NamedTuple):
    """The server's time, and how far a worker's is ahead of it."""

    now: float
    ahead: float


def _entry(line: Any, grant: Grant, owner: str, clock: _Clock, redactor: Redactor | None) -> Entry | None:
    """A line as an entry, cleaned and cut like every other; None where it is not one."""
    if not isinstance(line, dict):
        return None
    origin, message, created = line.get("origin"), line.get("message"), line.get("created")
    seq, n, level = line.get("seq"), line.get("n", 0), line.get("level")
    if (
        not (isinstance(origin, str) and _ORIGIN.fullmatch(origin))
        or not isinstance(message, str)
        or not _is_time(created)
        or not (_is_whole(seq) and seq > 0)
        or not _is_whole(n)
        or not _is_whole(level)
    ):
        return None
    fields = line.get("fields")
    kept: dict[str, Any] = freeze(fields) if isinstance(fields, dict) else {}
    # What is not for all for certain is for staff: a misspelled audience, too, and the mark of a scope.
    audiences = (grant.audience, line.get("audience", "all"), kept.get(AUDIENCE, "all"))
    for name in _RESERVED:
        kept.pop(name, None)
    if clock.ahead:
        # The worker's clock is off: its lines are put where they belong, and say so.
        kept["clock_ahead"] = round(clock.ahead, 1)
    number = line.get("line")
    return Entry(
        job_id=grant.job_id,
        created=max(min(created - clock.ahead, clock.now), clock.now - _OLDEST),
        level=min(level, 1_000),
        logger=_text(line.get("logger"), MAX_FIELD, redactor),
        message=_text(message, MAX_MESSAGE, redactor),
        exception=_text(line.get("exception"), MAX_MESSAGE, redactor, is_end=True) or None,
        fields=kept,
        path=_text(line.get("path"), MAX_FIELD, redactor),
        line=number if _is_whole(number) else 0,
        origin=of_worker(owner, origin),
        seq=seq,
        n=n,
        namespace=grant.namespace,
        audience="all" if audiences == ("all",) * 3 else "staff",
    )


def _text(value: Any, most: int, redactor: Redactor | None, is_end: bool = False) -> str:
    """The beginning of a text, or its end, cleaned. Half a secret stands at no cut, neither this one nor a worker's.

    Workers send somewhat more than is kept: what stands where this cuts is masked before it does, and what stood where
    a worker cut is in the part that goes; where masking made the text so short that it does not, whole words go.
    """
    if not isinstance(value, str):
        return ""
    text = clean(value)
    if len(text) <= most:
        return text
    note = _NOTE_BEFORE.match(text) if is_end else _NOTE_BEHIND.search(text, len(text) - _LONGEST_NOTE)
    if note is not None:
        text = text[note.end() :] if is_end else text[: note.start()]
    gone = int(note[1]) if note is not None else 0
    size = len(text)
    text = _shortened(text, most + _BEYOND, is_end, note is not None)
    gone += size - len(text)
    if redactor is not None:
        text = redactor.text(text, most=sys.maxsize)
    size = len(text)
    text = _shortened(text, most, is_end)
    gone += size - len(text)
    if not gone:
        return text
    told = f"… [{gone} more characters]"
    return f"{told}\n{text}" if is_end else f"{text}{told}"


def _shortened(text: str, most: int, is_end: bool, is_cut: bool = False) -> str:
    """At most so much of a text, without the part of a word at the cut, also at one that was made before."""
    if len(text) > most:
        text = text[-most:] if is_end else text[:most]
    elif not is_cut:
        return text
    if is_end:
        space = _SPACE.search(text, 0, _BEYOND)
        return text if space is None else text[space.end() :]
    end = max(text.rfind(space, len(text) - _BEYOND) for space in " \n\t") + 1
    return text[:end] if end else text


def _is_whole(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST


def _is_time(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e11


# --- storing --------------------------------------------------------------------------------------------------------

_sinks: dict[str, NamedSink] = {}
# A sink takes one call at a time. Requests that cannot be served in time are told to come again.
_sink_lock = threading.Lock()


def _store(entries: list[Entry], limits: Limits) -> tuple[int, int, int]:
    """How many lines are new, were known, and were refused by the store."""
    if not entries:
        return 0, 0, 0
    named = _sink(limits)
    entries = _rules_for(named).finish(entries)
    if not _sink_lock.acquire(timeout=_LOCK_TIMEOUT):
        raise SinkUnavailableError("other workers' lines are being stored for long", "see whether the store is slow")
    try:
        if isinstance(named.sink, ModelStore) and named.sink.lacks_job(entries[0].job_id):
            # They would wait here in memory, and the worker would think them stored.
            raise _Refusal("no_job", 409, 5)
        if isinstance(named.sink, KnowingSink):
            new = list(named.sink.not_stored(entries))
        else:
            known = _known(named, entries)
            new = [entry for entry in entries if (entry.origin, entry.seq) not in known]
        unfit = _write(named, new)
        return len(new) - unfit, len(entries) - len(new), unfit
    finally:
        _sink_lock.release()


def _sink(limits: Limits) -> NamedSink:
    key = f"{limits.sink} {sorted((limits.options or {}).items())!r}"
    if key not in _sinks:
        _sinks.setdefault(key, make_sink(limits.sink, limits.options))
    return _sinks[key]


def _rules_for(named: NamedSink) -> rules.Rules | rules.SeveralRules:
    """The strictest of what the project's settings ask and the handlers of this process that log to the same place."""
    asked = router.rules_of(lambda key, sink: key == named.key or _is_same_table(named.sink, sink))
    return rules.strictest([rules.Rules(), *asked])


def _is_same_table(sink: Sink, other: Sink) -> bool:
    return type(sink) is type(other) is DjangoSink and sink.alias == other.alias


def _known(named: NamedSink, entries: list[Entry]) -> set[tuple[str, int]]:
    """Those that are in the app's own table already: for the counters. Sinks refuse them, too."""
    sink = named.sink
    if not isinstance(sink, DjangoSink) or sink.is_in_memory():
        return set()
    from ..django.models import JobLogEntry

    by_origin: dict[str, list[int]] = {}
    for entry in entries:
        by_origin.setdefault(entry.origin, []).append(entry.seq)
    found: set[tuple[str, int]] = set()
    for origin, seqs in by_origin.items():
        rows = JobLogEntry.objects.using(sink.alias).filter(origin=origin).values_list("seq", flat=True)
        # Each by the index, not all between the first and the last: those may be as far apart as a worker likes.
        for start in range(0, len(seqs), _MOST_ASKED):
            found.update((origin, seq) for seq in rows.filter(seq__in=seqs[start : start + _MOST_ASKED]))
    return found


def _write(named: NamedSink, entries: list[Entry]) -> int:
    """Store all, one by one if one of them cannot be; how many could not."""
    if not entries:
        return 0
    try:
        named.sink.write(entries)
        return 0
    except (SinkUnavailableError, OSError) as error:
        raise _unavailable(error) from error
    except Exception as error:
        report_once(("receive", repr(error)), f"sink {named.name!r} refused lines of a worker: {error!r}")
    unfit = 0
    for entry in entries:
        try:
            named.sink.write([entry])
        except (SinkUnavailableError, OSError) as error:
            raise _unavailable(error) from error
        except Exception:
            unfit += 1
    return unfit


def _unavailable(error: Exception) -> SinkUnavailableError:
    return error if isinstance(error, SinkUnavailableError) else SinkUnavailableError(repr(error))


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting in (conf.SETTING, "DATABASES"):
        _sinks.clear()
        _buckets.clear()


setting_changed.connect(_forget, dispatch_uid="joblog_router.remote")
