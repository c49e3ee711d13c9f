"""Streams and consumers that were created, reused, refused or deleted: the lines about them, with their numbers.

Called by `management` on the event loop, with the server's own descriptions, once for each event.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from .. import told
from ..events import consumer_config, consumer_counters, stream_fields
from ..naming import Job
from ..told import duration, some, tell


class Target(NamedTuple):
    """What it is about. `consumer` is "" for a stream, and for a consumer the server was to name."""

    kind: str
    stream: str
    consumer: str

    def __str__(self) -> str:
        if self.kind == "stream":
            return f"NATS stream {self.stream}"
        return f"consumer {self.consumer or '(without a name)'} of NATS stream {self.stream}"

    @property
    def fields(self) -> dict[str, Any]:
        """The fields that name it."""
        return {"stream": self.stream, "consumer": self.consumer or None}


class Refusal(NamedTuple):
    """Why a request came to nothing: the server's words, or the exception where there was no answer."""

    err_code: int | None
    description: str
    error: BaseException | None


def tell_stream(job: Job, target: Target, reply: dict[str, Any], is_new: bool) -> None:
    """A stream was created, or was there."""
    fields = stream_fields(reply)
    if is_new:
        tell(
            job,
            told.STREAM_CREATED,
            target,
            some((reply.get("config") or {}).get("subjects") or []),
            duration(fields["max_age"]),
            **target.fields,
            **fields,
        )
    else:
        tell(
            job,
            told.STREAM_REUSED,
            target,
            fields["last_seq"],
            fields["messages"],
            **target.fields,
            **fields,
        )


def tell_consumer(job: Job, target: Target, reply: dict[str, Any], is_new: bool) -> None:
    """A consumer was created, or was there; with its configuration, and what it has done so far."""
    config, counters = consumer_config(reply), consumer_counters(reply)
    snapshot = ", ".join(
        f"{name} {duration(value) if name == 'ack_wait' else value}"
        for name, value in config.items()
        if value is not None
    )
    if is_new:
        tell(
            job,
            told.CONSUMER_CREATED,
            target,
            snapshot,
            **target.fields,
            **config,
            **counters,
        )
    else:
        tell(
            job,
            told.CONSUMER_REUSED,
            target,
            _numbers(counters),
            snapshot,
            **target.fields,
            **config,
            **counters,
        )


def tell_final(job: Job, target: Target, reply: dict[str, Any]) -> None:
    """The last numbers of a consumer that is about to be deleted, alone or with its stream."""
    counters = consumer_counters(reply)
    given_up = _given_up(reply)
    tell(
        job,
        told.CONSUMER_FINAL,
        target,
        _numbers(counters),
        f", {given_up} given up after {(reply.get('config') or {}).get('max_deliver')} attempts" if given_up else "",
        **target.fields,
        **consumer_config(reply),
        **counters,
        given_up=given_up or None,
    )


def tell_deleted(job: Job, target: Target) -> None:
    """A stream or consumer was deleted."""
    tell(job, told.DELETED[target.kind], target, **target.fields)


def tell_already_gone(job: Job, target: Target, refusal: Refusal) -> None:
    """What should be deleted was not there."""
    name = str(target)
    tell(
        job,
        told.WAS_GONE[target.kind],
        name[0].upper() + name[1:],
        err_code=refusal.err_code,
        description=refusal.description,
        **target.fields,
    )


def tell_refused(job: Job, target: Target, action: str, refusal: Refusal) -> None:
    """The server refused, or did not answer, a request to create, update or delete."""
    code = f" (err_code {refusal.err_code})" if refusal.err_code is not None else ""
    tell(
        job,
        (told.DELETE_FAILED if action == "DELETE" else told.FAILED)[target.kind],
        "look up" if action == "INFO" else action.lower(),
        target,
        refusal.description + code,
        error=refusal.error,
        err_code=refusal.err_code,
        description=refusal.description,
        **target.fields,
    )


def _given_up(reply: dict[str, Any]) -> int:
    """How many messages the server gave up: counted as delivered again for ever, and waited for no more."""
    has_limit = ((reply.get("config") or {}).get("max_deliver") or 0) > 1
    return (reply.get("num_redelivered") or 0) if has_limit and not reply.get("num_ack_pending") else 0


def _numbers(counters: dict[str, Any]) -> str:
    return (
        f"{counters['delivered']} deliveries, finished up to stream_seq {counters['ack_floor']}, "
        f"{counters['num_ack_pending']} not acknowledged, "
        f"{counters['num_redelivered']} delivered again and never acknowledged, "
        f"{counters['num_pending']} not delivered yet"
    )
