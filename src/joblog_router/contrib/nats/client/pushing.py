"""What a consumer pushes: the first message is told, and a tally at the end; redeliveries and last attempts as fetched.

Called by `messages` around callbacks, and around `PushSubscription.next_msg`; runs on the event loop, once per message,
and logs none of them. Only for streams and messages that name a job: a scope alone does not make them its own.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from ....context import JobScope, current_job
from .. import told
from ..naming import Delivery, Job, delivery_of_reply, job_in_header
from ..pacing import is_milestone
from ..told import tell
from .consumption import Consumption
from .exhaustion import note_last_attempt
from .fetching import finish_with, pay_out
from .ownership import StreamKey, server_of
from .state import Coroutine, State, quietly

_FIRST_TALLY: Final = 100


def receiving(state: State, original: Coroutine) -> Coroutine:
    """`PushSubscription.next_msg`, counted."""

    @functools.wraps(original)
    async def next_msg(self: Any, *args: Any, **kwargs: Any) -> Any:
        message = await original(self, *args, **kwargs)
        if state.active and state.settings.events:
            quietly(_received, state, self, message)
        return message

    return next_msg


def _received(state: State, subscription: Any, message: Any) -> None:
    client = subscription._conn
    header = job_in_header(message.headers, state.settings.header)
    scope = current_job()
    job = state.owner_of_message(server_of(client), message.subject, message.reply or "", header, scope)
    delivered(state, client, subscription._subject, message, job=job, scope=scope)


def delivered(state: State, client: Any, inbox: str, message: Any, *, job: Job | None, scope: JobScope | None) -> None:
    """Count a message that a consumer pushed. `scope`: at whose end there is a tally."""
    delivery = delivery_of_reply(message.reply or "") if job else None
    if not job or delivery is None:
        return
    key = StreamKey(server_of(client), delivery.stream)
    taken = state.consumption(job, key, delivery.consumer)
    taken.taken_by(client, inbox)
    taken.fetches_of_client += 1
    taken.pushed += 1
    taken.add(delivery)
    note_last_attempt(taken, delivery, message.data, state.settings.task_id_keys)
    if taken.pushed == 1 and not taken.fetches:
        taken.told_steps = 1
        _tell_first(taken, delivery)
    elif taken.pushed >= _FIRST_TALLY and is_milestone(taken.pushed):
        taken.tell_tally()
    pay_out(taken)
    finish_with(state, scope, taken)


def _tell_first(taken: Consumption, delivery: Delivery) -> None:
    tell(
        taken.job,
        told.RECEIVED_FIRST,
        taken.worker,
        taken.key.stream,
        delivery.consumer_seq,
        **taken.fields,
        messages=1,
        consumer_seq=delivery.consumer_seq,
        stream_seq=delivery.stream_seq,
    )
