"""Questions of ours to the server, asked beside the application's own work, and what an account may not ask.

Called by the other modules on the event loop of the client in question. A question is bounded in time, in number and
by the life of its client; where the server refuses a kind of question it is not asked again on that client, since a
refusal reaches the application's error callback.
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import Coroutine as Coro
from typing import Any, Final, NamedTuple

from ...context import detached

MAX_WAIT: Final = 1.0
_MAX_ASKED: Final = 100
# A refusal is an error of the connection, not an answer: it is looked for this often.
_LOOK: Final = 0.02
_VIOLATION: Final = "permissions violation"


class _Asked(NamedTuple):
    client: int
    about: Any


class Questions:
    """What is on its way, by client and by what it is about; and which kinds were refused, by client."""

    __slots__ = ("_refused", "asked")

    def __init__(self) -> None:
        # asyncio holds its tasks by weak references only.
        self.asked: dict[asyncio.Task[None], _Asked] = {}
        self._refused: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()

    def beside(self, client: Any, about: Any, question: Coro[Any, Any, None]) -> asyncio.Task[None] | None:
        """Have `question` asked while the application goes on. Not where too many are on their way."""
        if len(self.asked) >= _MAX_ASKED:
            question.close()
            return None
        with detached():
            task = asyncio.get_running_loop().create_task(question)
        self.asked[task] = _Asked(id(client), about)
        task.add_done_callback(self._done)
        return task

    def end(self, client: Any) -> None:
        """The client is about to be closed: nothing of ours uses it any more."""
        self._cancel(lambda asked: asked.client == id(client))

    def end_about(self, about: Any) -> None:
        """What is asked about is about to be deleted: that it is gone then would be no news."""
        self._cancel(lambda asked: asked.about == about)

    def may_ask(self, client: Any, subject: str) -> bool:
        """Whether that kind of question was not refused before."""
        return _kind(subject) not in self._refused.get(client, ())

    async def ask(
        self, client: Any, request: Any, subject: str, payload: bytes = b"", wait: float = MAX_WAIT
    ) -> dict[str, Any] | None:
        """The API's reply; None if there is none in time, or the account may not ask. `request`: `Client.request`."""
        if request is None or not client.is_connected or not self.may_ask(client, subject):
            return None
        with detached():
            answer = asyncio.ensure_future(request(client, subject, payload, timeout=wait))
        before = client.last_error
        try:
            for _ in range(max(round(wait / _LOOK), 1)):
                await asyncio.wait({answer}, timeout=_LOOK)
                if answer.done():
                    break
                error = client.last_error
                words = str(error).lower() if error is not before else ""
                if _VIOLATION in words and subject.lower() in words:
                    self._refused.setdefault(client, set()).add(_kind(subject))
                    return None
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                return None
            body = json.loads(answer.result().data)
        except ValueError:
            return None
        finally:
            answer.cancel()
        return body if isinstance(body, dict) else None

    def _cancel(self, is_meant: Any) -> None:
        for task, asked in list(self.asked.items()):
            if is_meant(asked):
                # The loop of another thread's client may run it.
                task.get_loop().call_soon_threadsafe(task.cancel)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.asked.pop(task, None)
        if not task.cancelled():
            task.exception()  # seen: it is reported where it was raised


def _kind(subject: str) -> str:
    """`$JS.API.CONSUMER.INFO.stream.consumer` is of the kind `$JS.API.CONSUMER.INFO`."""
    return subject.partition(".INFO.")[0] if ".INFO." in subject else subject.rpartition(".")[0]
