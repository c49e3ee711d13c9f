"""What a worker fetches: its first batch, what came again, what was given up, and why nothing came.

Wraps `PullSubscription.fetch`, and `Client.close` for the last words; runs on the event loop, once per fetch. Where
no scope is open the job is the one that stream or consumer name. At most one request of ours per empty fetch, paced,
and beside the application's own work: it waits for none of them.
"""

from __future__ import annotations

import functools
import logging
import time
from typing import Any, Final, NamedTuple

from ....context import JobScope, current_job
from .. import told
from ..events import consumer_counters, limits_of
from ..naming import Delivery, Job, delivery_of_reply, job_in_header
from ..pacing import is_milestone
from ..told import LOGGER, failure, so_far, tell
from .advisories import heard, is_advisory
from .consumption import Consumption
from .exhaustion import infer, note_last_attempt, overdue, tell_given_up, tell_held_back
from .ownership import StreamKey, server_of
from .shortage import explain, tell_shortage
from .state import Coroutine, State, quietly, report_failure

# Between two questions about one consumer, in seconds: where messages have just run out; where some did; without
# that; and where nothing changes.
_AT_LEAST: Final = 0.2
_SOON: Final = 1.0
_FIRST_INTERVAL: Final = 10.0
_LONGEST_INTERVAL: Final = 60.0
# Nobody answered.
_UNANSWERED: Final = 600.0
_SERVERS: Final = "$JS.EVENT."


class Pull(NamedTuple):
    """One call of `fetch`. `started` is monotonic; `batch` is the caller's."""

    subscription: Any
    scope: JobScope | None
    started: float
    batch: Any

    @property
    def key(self) -> StreamKey:
        """The stream it asks."""
        return StreamKey(server_of(self.subscription._nc), self.subscription._stream or "")


def fetching(state: State, original: Coroutine) -> Coroutine:
    """`PullSubscription.fetch`, told in batches."""

    @functools.wraps(original)
    async def fetch(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not state.active or not state.settings.events:
            return await original(self, *args, **kwargs)
        pull = Pull(
            self,
            current_job(),
            time.monotonic(),
            args[0] if args else kwargs.get("batch", 1),
        )
        if pull.scope is not None:
            quietly(state.works_on, pull.scope, self._nc)
        try:
            messages = await original(self, *args, **kwargs)
        except TimeoutError:
            quietly(_nothing_came, state, pull)
            raise
        except Exception as error:
            quietly(_failed, state, pull, error)
            raise
        if messages:
            quietly(_came, state, pull, messages)
        else:
            quietly(_nothing_came, state, pull)
        return messages

    return fetch


def closing(state: State, original: Coroutine) -> Coroutine:
    """`Client.close` and `drain`: the last words about what this client fetched."""

    @functools.wraps(original)
    async def close(self: Any, *args: Any, **kwargs: Any) -> Any:
        if state.active:
            quietly(state.questions.end, self)
            quietly(_client_ends, state, self)
        return await original(self, *args, **kwargs)

    return close


def ending(state: State, key: StreamKey, consumer: str, infos: list[dict[str, Any]]) -> None:
    """A consumer, or a stream with all of them, is about to be deleted: what is not told yet is told now."""
    for taken in state.consumptions_of(key, consumer):
        state.questions.end_about(taken)
    by_name = {str(info.get("name") or ""): info for info in infos}
    for taken in state.consumptions_of(key, consumer):
        info = by_name.get(taken.consumer)
        if info is not None:
            infer(taken, overdue(taken, time.monotonic()), consumer_counters(info))
        _finish(taken)
        state.consumptions.pop((taken.key, taken.consumer, taken.job), None)


def _came(state: State, pull: Pull, messages: Any) -> None:
    """Book a batch. Asks for the consumer's limits once, where something comes again and they are not known."""
    advisories = [message for message in messages if is_advisory(message.subject)]
    if advisories:
        heard(state, pull.key.server, advisories)
    groups = _by_job(state, pull, messages)
    for job, group in groups.items():
        taken = _taken(state, pull, job)
        taken.ask_after = 0.0
        comes_again = any(delivery.attempt > 1 for delivery, _ in group)
        late = overdue(taken, pull.started)
        if ((comes_again and taken.limits is None) or late) and _is_time(taken, _pause(taken, late)):
            state.questions.beside(pull.subscription._nc, taken, _learn(state, pull, taken, late))
        _book(state, taken, group, pull.batch)
        pay_out(taken)
        finish_with(state, pull.scope, taken)


async def _learn(state: State, pull: Pull, taken: Consumption, late: list[int]) -> None:
    """Learn the consumer's limits and what is overdue, while the application goes on."""
    try:
        info = await _ask(state, pull, taken)
        if info:
            infer(taken, late, consumer_counters(info))
            pay_out(taken)
    except Exception as error:
        report_failure(_learn, error)


def _nothing_came(state: State, pull: Pull) -> None:
    """Find out why a fetch was empty, beside what the application does next; not oftener than it may change."""
    subscription, scope, key = pull.subscription, pull.scope, pull.key
    job = state.owner_of_event(key, scope, consumer=subscription._consumer or "")
    if job is None or not LOGGER.isEnabledFor(logging.INFO):
        return
    taken = _taken(state, pull, job)
    late = overdue(taken, pull.started)
    finish_with(state, scope, taken)
    if _is_time(taken, _pause(taken, late) if late else max(taken.ask_after, _SOON)):
        state.questions.beside(subscription._nc, taken, _explain(state, pull, taken, late))


async def _explain(state: State, pull: Pull, taken: Consumption, late: list[int]) -> None:
    """Say why a fetch was empty: at the first, and whenever the reason changes."""
    try:
        info = await _ask(state, pull, taken)
        if info is None:
            return
        if info:
            infer(taken, late, consumer_counters(info))
        tell_held_back(taken)
        taken.tell_tally()
        shortage = explain(info or None)
        if shortage.words != taken.shortage:
            taken.shortage = shortage.words
            taken.ask_after = _FIRST_INTERVAL
            tell_shortage(taken, shortage, info or None, pull.batch)
        else:
            taken.ask_after = min(max(taken.ask_after, _FIRST_INTERVAL) * 2, _LONGEST_INTERVAL)
    except Exception as error:
        report_failure(_explain, error)


def _pause(taken: Consumption, late: list[int]) -> float:
    """How long to wait between two questions: less where something ran out since the last one."""
    if taken.limits is None or not late:
        return _SOON
    ran_out = max(taken.last_attempts[seq].received for seq in late) + taken.limits.ack_wait
    return _AT_LEAST if taken.asked < ran_out else _SOON


def _is_time(taken: Consumption, interval: float) -> bool:
    """Whether to ask about a consumer now. Then it is being asked about from now on."""
    now = time.monotonic()
    if now - taken.asked < interval:
        return False
    taken.asked = now
    return True


async def _ask(state: State, pull: Pull, taken: Consumption) -> dict[str, Any] | None:
    """The consumer's description; empty if it is gone; None if nobody answered."""
    client = pull.subscription._nc
    prefix = pull.subscription._nms.partition(".CONSUMER.MSG.NEXT.")[0]
    subject = f"{prefix}.CONSUMER.INFO.{taken.key.stream}.{taken.consumer}"
    body = await state.questions.ask(client, state.request, subject)
    if body is None:
        if client.is_connected:
            taken.asked = time.monotonic() + _UNANSWERED
        return None
    error = body.get("error")
    if error:
        return {} if error.get("code") == 404 else None
    state.learn_limits(taken.key, taken.consumer, limits_of(body.get("config") or {}))
    taken.limits = state.limits[taken.key, taken.consumer]
    return body


def _by_job(state: State, pull: Pull, messages: Any) -> dict[Job, list[tuple[Delivery, Any]]]:
    """The messages of each job, with their deliveries. What is nobody's is left out."""
    subscription, scope, key = pull.subscription, pull.scope, pull.key
    if scope is not None:
        state.uses(key, scope)
    owner = state.owner(key, consumer=subscription._consumer or "", scope=scope)
    groups: dict[Job, list[tuple[Delivery, Any]]] = {}
    for message in messages:
        delivery = delivery_of_reply(message.reply or "")
        if delivery is None:
            continue
        job = owner
        if job is None and not message.subject.startswith(_SERVERS):
            header = job_in_header(message.headers, state.settings.header)
            job = state.owner_of_message(key.server, message.subject, message.reply, header, scope)
            if job is None and scope is not None:
                job = Job.of(scope)
        if job:
            groups.setdefault(job, []).append((delivery, message.data))
    return groups


def _taken(state: State, pull: Pull, job: Job) -> Consumption:
    subscription = pull.subscription
    client = subscription._nc
    taken = state.consumption(job, pull.key, subscription._consumer or "")
    taken.taken_by(client, subscription._deliver)
    return taken


def _book(state: State, taken: Consumption, group: list[tuple[Delivery, Any]], batch: Any) -> None:
    taken.fetches += 1
    taken.fetches_of_client += 1
    for delivery, payload in group:
        taken.add(delivery)
        note_last_attempt(taken, delivery, payload, state.settings.task_id_keys)
    if taken.fetches == 1:
        taken.told_steps = 1
        taken.tell_first_fetch(batch, [delivery for delivery, _ in group])
    elif is_milestone(taken.fetches):
        taken.tell_tally()


def pay_out(taken: Consumption) -> None:
    """Tell what came again and what was given up, as often as that may be told."""
    if taken.redeliveries and taken.redelivery_pace.is_due():
        taken.tell_redeliveries()
    if taken.to_give_up and taken.given_up_pace.is_due():
        tell_given_up(taken, source="inferred")


def finish_with(state: State, scope: JobScope | None, taken: Consumption) -> None:
    """Have the rest told when the scope closes, if there is one."""
    if scope is None or scope.closed:
        return
    ledger = state.ledgers.of(scope)
    if not ledger.lasting and ledger.say(("taken", taken.key, taken.consumer, taken.job)):
        ledger.at_close.append(lambda _: _finish(taken))


def _finish(taken: Consumption) -> None:
    tell_held_back(taken)
    taken.tell_tally(told.FETCHED)


def _client_ends(state: State, client: Any) -> None:
    for taken in list(state.consumptions.values()):
        if taken.client != id(client):
            continue
        tell_held_back(taken)
        # Who opens a client for each fetch gets no line for each.
        if taken.fetches_of_client > 1:
            taken.tell_tally(told.FETCHED)


def _failed(state: State, pull: Pull, error: Exception) -> None:
    key = pull.key
    job = state.owner_of_event(key, pull.scope, consumer=pull.subscription._consumer or "")
    if job is None:
        return
    taken = _taken(state, pull, job)
    name = type(error).__name__
    taken.failures[name] += 1
    count = taken.failures[name]
    if not is_milestone(count):
        return
    what = getattr(error, "description", None) or str(error)
    if getattr(error, "code", None) is None and name == "ServiceUnavailableError":
        what = "nobody answers, the consumer or its stream is gone"  # a 503 of the connection, not of the stream
    tell(
        job,
        told.FETCH_FAILED,
        key.stream,
        failure(error, what),
        so_far(count, " times"),
        error=error,
        **taken.fields,
        count=count,
        error_type=name,
        err_code=getattr(error, "err_code", None),
    )
