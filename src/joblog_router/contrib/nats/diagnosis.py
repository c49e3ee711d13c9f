"""The doctor's look at NATS: a job's streams and consumers twice, and what is said about them in between.

Made by the doctor, which knows its dotted name; runs on its event loop with a connection of its own, made by an
untouched client: it leaves no line in the job's log. It fetches nothing and changes nothing. Raw JSON is read, as
nats-py's objects leave out the server's time.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from ..._pipeline.dotted import load
from ...doctor.probing import ProbeResult
from .answers import ACK, IN_PROGRESS, NAK, TERM, kind_of
from .events import filters_of, seconds, timestamp
from .naming import DEFAULT_PATTERNS, NamePatterns, delivery_of_reply, stream_of_subject

__all__ = ["NatsProbe"]

_REQUEST_TIMEOUT: Final = 1.0
_CONNECT_TIMEOUT: Final = 1.5
_MAX_PAGES: Final = 20
_MAX_STREAMS: Final = 5
_MAX_CONSUMERS: Final = 20
_MAX_TAPPED: Final = 20_000
# Error codes of the API: no such stream, no such consumer.
_NOT_FOUND: Final = frozenset({10059, 10014})
# Replicas are heard of every second.
_UNHEARD: Final = 5.0
# JetStream is not enabled, for this server or this account.
_OFF: Final = frozenset({10039, 10076})


class _ApiError(Exception):
    def __init__(self, reply: Mapping[str, Any]) -> None:
        error = reply.get("error") or {}
        self.code = error.get("err_code", 0)
        super().__init__(f"{error.get('description', 'error')} ({self.code})")


class NatsProbe:
    """Streams and consumers whose names name the job, or those that `stream` and `consumer` name.

    `servers` defaults to the environment's NATS_URL; `stream` and `consumer` may hold `{job_id}`; `patterns` are as for
    `instrument`; `window` is for how many seconds it watches; `connect` are further options of `nats.connect`.
    """

    name = "nats"

    def __init__(
        self,
        servers: str | Sequence[str] | None = None,
        *,
        stream: str | None = None,
        consumer: str | None = None,
        patterns: Sequence[str] = DEFAULT_PATTERNS,
        window: float = 0.8,
        prefix: str = "$JS.API",
        connect: Mapping[str, Any] | None = None,
    ) -> None:
        self._servers = servers or os.environ.get("NATS_URL") or "nats://127.0.0.1:4222"
        self._stream = stream
        self._consumer = consumer
        self._patterns = NamePatterns(list(patterns))
        self._window = window
        self._prefix = prefix
        self._connect = dict(connect or {})
        self._is_named = bool(servers or stream)
        self._errors: list[str] = []

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `streams`, each with its `consumers`; `unreachable`, `no_jetstream` where that is the trouble."""
        client = _untouched()
        self._errors = []
        try:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT) as limit:
                    await client.connect(
                        **{
                            "servers": self._servers,
                            "name": "joblog doctor",
                            "connect_timeout": _REQUEST_TIMEOUT,
                            "allow_reconnect": False,
                            "max_reconnect_attempts": 1,
                            "reconnect_time_wait": 0,
                            "error_cb": self._on_error,
                            **self._connect,
                        }
                    )
            except (OSError, load("nats.errors.Error")) as error:
                return self._refused(error, limit.expired())
            return await self._look(client, job_id)
        finally:
            with suppress(Exception):
                await asyncio.wait_for(client.close(), _REQUEST_TIMEOUT)

    def _refused(self, error: Exception, late: bool) -> ProbeResult:
        last = self._errors[-1] if self._errors else f"{type(error).__name__}: {error}"
        if "authorization" in last.lower() or "Authorization" in type(error).__name__:
            # The server is there; that this account is refused says nothing about the job's.
            return ProbeResult(self.name, {}, f"NATS refuses the doctor's account: {last}")
        if late and not self._errors:
            return ProbeResult(self.name, {}, f"no answer within {_CONNECT_TIMEOUT:g} s to the connection to NATS")
        return ProbeResult(self.name, {"unreachable": True}, f"no connection to NATS: {last}")

    async def _on_error(self, error: Exception) -> None:
        self._errors.append(f"{type(error).__name__}: {error}")

    async def _look(self, client: Any, job_id: str) -> ProbeResult:
        try:
            names = await self._names(client, job_id)
            taps = _Taps(job_id, self._patterns)
            await taps.open(client, names)
            before = await self._streams(client, names, job_id)
            await asyncio.sleep(self._window if any(stream["exists"] for stream in before) else 0)
            streams = await self._streams(client, names, job_id)
        except _ApiError as error:
            return ProbeResult(self.name, {"no_jetstream": True, "is_off": error.code in _OFF}, f"JetStream: {error}")
        except Exception as error:
            kind = type(error).__name__
            denied = next((text for text in self._errors if "permissions violation" in text.lower()), "")
            if denied:
                # JetStream is there; that this account may not ask says nothing about the job's.
                return ProbeResult(self.name, {}, f"the doctor's account may not ask JetStream: {denied}")
            if kind in {"NoRespondersError", "ServiceUnavailableError", "TimeoutError"}:
                return ProbeResult(
                    self.name,
                    {"no_jetstream": True, "is_off": kind == "NoRespondersError"},
                    f"JetStream does not answer ({kind}): it is off, has no quorum, or this account may not ask",
                )
            raise
        for stream, earlier in zip(streams, before, strict=True):
            taps.add_to(stream, earlier)
        facts = {
            "streams": streams,
            # A stream of many jobs: its figures are not this job's.
            "shared": [] if any(stream["exists"] for stream in streams) else await self._shared(client, job_id),
            "account": await self._account(client),
            "is_named": self._is_named,
            "foreign_pulls": taps.foreign(streams),
            "window": self._window,
            "server": (client._server_info or {}).get("version", ""),
            "trouble": self._errors[-3:],
        }
        return ProbeResult(self.name, facts)

    async def _names(self, client: Any, job_id: str) -> list[str]:
        if self._stream:
            return [self._stream.format(job_id=job_id)]
        named = [
            pattern.format(job_id=job_id)
            for pattern in self._patterns.patterns
            if pattern.format(job_id="x").isidentifier()
        ]
        found: list[str] = []
        offset = 0
        for _ in range(_MAX_PAGES):
            reply = await self._ask(client, "STREAM.NAMES", {"offset": offset})
            page = reply.get("streams") or []
            found += [name for name in page if self._patterns.jobs_in(name) == {job_id}]
            offset += len(page)
            if not page or offset >= reply.get("total", 0):
                break
        return (found or named[:1])[:_MAX_STREAMS]

    async def _shared(self, client: Any, job_id: str) -> list[str]:
        """Streams that take subjects which name the job."""
        found: set[str] = set()
        for pattern in self._patterns.patterns:
            if pattern.endswith("."):
                reply = await self._ask(client, "STREAM.NAMES", {"subject": pattern.format(job_id=job_id) + ">"})
                found |= set(reply.get("streams") or ())
        return sorted(found)[:_MAX_STREAMS]

    async def _account(self, client: Any) -> dict[str, Any]:
        """What the account uses and may use at most (-1: no limit); nothing where it may not ask."""
        try:
            reply = await self._ask(client, "INFO", {})
        except Exception:
            return {}
        limits = reply.get("limits") or {}
        used = {name: reply.get(name, 0) for name in ("memory", "storage", "streams")}
        return {**used, **{name: limits.get(name, -1) for name in ("max_memory", "max_storage", "max_streams")}}

    async def _streams(self, client: Any, names: list[str], job_id: str) -> list[dict[str, Any]]:
        return [await self._one(client, name, job_id) for name in names]

    async def _one(self, client: Any, name: str, job_id: str) -> dict[str, Any]:
        try:
            info = await self._ask(client, f"STREAM.INFO.{name}", {"subjects_filter": ">"})
        except _ApiError as error:
            if error.code not in _NOT_FOUND:
                raise
            return {"name": name, "exists": False, "consumers": []}
        config, state = info.get("config") or {}, info.get("state") or {}
        try:
            reply = await self._ask(client, f"CONSUMER.LIST.{name}", {"offset": 0})
        except _ApiError as error:
            if error.code not in _NOT_FOUND:
                raise
            reply = {}
        wanted = (self._consumer or "").format(job_id=job_id)
        named_for_job = self._patterns.jobs_in(name) == {job_id}
        consumers = [
            _consumer(one)
            for one in reply.get("consumers") or []
            if one.get("name") == wanted or named_for_job or self._patterns.jobs_in(one.get("name", "")) == {job_id}
        ]
        return {
            "name": name,
            "exists": True,
            "messages": state.get("messages", 0),
            "first_seq": state.get("first_seq", 0),
            "last_seq": state.get("last_seq", 0),
            "last_published": _age_of(state.get("last_ts"), info.get("ts")),
            "created": timestamp(info.get("created")),
            "age": _age_of(info.get("created"), info.get("ts")),
            "subjects": config.get("subjects") or [],
            "queued_subjects": dict(list((state.get("subjects") or {}).items())[:_MAX_CONSUMERS]),
            "retention": config.get("retention"),
            "max_age": seconds(config.get("max_age")),
            "bytes": state.get("bytes", 0),
            "max_msgs": config.get("max_msgs", -1),
            "max_bytes": config.get("max_bytes", -1),
            "discard": config.get("discard"),
            "missing_replicas": _missing(info.get("cluster")),
            "replicas": config.get("num_replicas", 1),
            "expected_consumer": wanted,
            "consumers": consumers[:_MAX_CONSUMERS],
        }

    async def _ask(self, client: Any, call: str, request: Mapping[str, Any]) -> dict[str, Any]:
        answer = await client.request(f"{self._prefix}.{call}", json.dumps(request).encode(), timeout=_REQUEST_TIMEOUT)
        reply: dict[str, Any] = json.loads(answer.data)
        if reply.get("error"):
            raise _ApiError(reply)
        return reply


class _Taps:
    """What is said about the job's consumers while it is watched: pulls and acknowledgements of all workers."""

    def __init__(self, job_id: str, patterns: NamePatterns) -> None:
        self._job = job_id
        self._patterns = patterns
        self._pulls: Counter[tuple[str, str]] = Counter()
        self._acks: dict[tuple[str, str], list[tuple[int, int, str]]] = {}
        self._count = 0

    async def open(self, client: Any, streams: Sequence[str]) -> None:
        """Listen from now on. Where that is not allowed, nothing is heard."""
        with suppress(Exception):
            await client.subscribe("$JS.API.CONSUMER.MSG.NEXT.*.*", cb=self._on_pull)
            for stream in streams:
                await client.subscribe(f"$JS.ACK.{stream}.>", cb=self._on_ack)
            await client.flush(timeout=_REQUEST_TIMEOUT)

    async def _on_pull(self, message: Any) -> None:
        about = stream_of_subject(message.subject)
        if about is not None and len(self._pulls) < _MAX_TAPPED:
            self._pulls[about] += 1

    async def _on_ack(self, message: Any) -> None:
        delivery = delivery_of_reply(message.subject)
        if delivery is None or self._count >= _MAX_TAPPED:
            return
        self._count += 1
        self._acks.setdefault((delivery.stream, delivery.consumer), []).append(
            (delivery.stream_seq, delivery.attempt, kind_of(bytes(message.data)))
        )

    def add_to(self, stream: dict[str, Any], earlier: Mapping[str, Any]) -> None:
        """Put into the second look what was heard since the first, and what has changed."""
        first = {consumer["name"]: consumer for consumer in earlier["consumers"]}
        for consumer in stream["consumers"]:
            key = (stream["name"], consumer["name"])
            heard = self._acks.get(key, [])
            kinds = Counter(kind for _, _, kind in heard)
            acks = [one for one in heard if one[2] == ACK]
            times = Counter(seq for seq, _, _ in acks)
            before = first.get(consumer["name"], consumer)
            consumer.update(
                pulls=self._pulls[key],
                acks=len(acks),
                acked_twice=sum(1 for count in times.values() if count > 1),
                late_acks=sum(1 for _, attempt, _ in acks if attempt > 1),
                naks=kinds[NAK],
                terms=kinds[TERM],
                in_progress=kinds[IN_PROGRESS],
                highest_attempt=max((attempt for _, attempt, _ in heard), default=0),
                moved=consumer["ack_floor"] - before["ack_floor"],
                newly_delivered=consumer["delivered"] - before["delivered"],
                newly_redelivered=consumer["num_redelivered"] - before["num_redelivered"],
            )

    def foreign(self, streams: Sequence[Mapping[str, Any]]) -> list[str]:
        """Consumers that were asked for messages, whose names name the job, and that do not exist."""
        known = {(stream["name"], consumer["name"]) for stream in streams for consumer in stream["consumers"]}
        return sorted(
            f"{stream}/{consumer}"
            for stream, consumer in self._pulls
            if (stream, consumer) not in known
            and self._job in self._patterns.jobs_in(stream) | self._patterns.jobs_in(consumer)
        )


def _untouched() -> Any:
    """A client whose methods are nats-py's own, whatever wraps them in this process."""
    client: Any = load("nats.aio.client.Client")
    originals = {
        name: inspect.unwrap(value)
        for name, value in vars(client).items()
        if inspect.isfunction(value) and hasattr(value, "__wrapped__")
    }
    return type("DoctorClient", (client,), originals)()


def _consumer(info: Mapping[str, Any]) -> dict[str, Any]:
    config = info.get("config") or {}
    delivered, floor = info.get("delivered") or {}, info.get("ack_floor") or {}
    return {
        "name": info.get("name", ""),
        "num_pending": info.get("num_pending", 0),
        "num_ack_pending": info.get("num_ack_pending", 0),
        "num_redelivered": info.get("num_redelivered", 0),
        "num_waiting": info.get("num_waiting", 0),
        "delivered": delivered.get("consumer_seq", 0),
        "delivered_stream_seq": delivered.get("stream_seq", 0),
        "ack_floor": floor.get("consumer_seq", 0),
        "last_delivered": _age_of(delivered.get("last_active"), info.get("ts")),
        "last_acked": _age_of(floor.get("last_active"), info.get("ts")),
        "age": _age_of(info.get("created"), info.get("ts")),
        "paused": bool(info.get("paused")),
        "push": bool(config.get("deliver_subject")),
        "push_bound": bool(info.get("push_bound")),
        "filter_subjects": filters_of(config),
        "ack_policy": config.get("ack_policy"),
        "deliver_policy": config.get("deliver_policy"),
        "ack_wait": seconds(config.get("ack_wait")) or 30.0,
        "max_deliver": config.get("max_deliver", -1),
        "max_ack_pending": config.get("max_ack_pending", 0),
        "missing_replicas": _missing(info.get("cluster")),
    }


def _missing(cluster: Mapping[str, Any] | None) -> int:
    """How many of a group's servers are away; -1 where it has no leader."""
    if not cluster or "replicas" not in cluster:
        return 0
    if not cluster.get("leader"):
        return -1
    return sum(
        1
        for replica in cluster["replicas"] or []
        if replica.get("offline") or (seconds(replica.get("active")) or 0) > _UNHEARD
    )


def _age_of(since: str | None, now: str | None) -> float | None:
    at = timestamp(since)
    if at is None or at <= 0:
        return None
    here = timestamp(now) if now else None
    return round(max(0.0, (here if here is not None else time.time()) - at), 3)
