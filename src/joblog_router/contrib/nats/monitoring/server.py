"""The server as a monitor asks it: JetStream's API in dictionaries, a few questions at a time.

Made for each term of leading; called by `term`, `inventory` and `replicas` on the monitor's event loop. Imports
`questions`, which bounds each question in time and remembers what the account may not ask.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ..questions import Questions
from ..task_ids import task_of

if TYPE_CHECKING:
    from .observer import Observer

R = TypeVar("R")

_PARALLEL: Final = 8


class Server:
    """Whoever the monitor's connection is with. No question raises: None where there is no answer."""

    def __init__(self, client: Observer) -> None:
        self._client = client
        self._questions = Questions()
        self._limit = asyncio.Semaphore(_PARALLEL)

    @property
    def silence_tells(self) -> bool:
        """Whether a question without an answer says something: there is a connection, to one server of several."""
        return self._client.is_connected and self._client.is_clustered

    @property
    def is_clustered(self) -> bool:
        """Whether it is one of several."""
        return self._client.is_clustered

    async def ask(self, subject: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The API's reply, which may be an error."""
        payload = b"" if body is None else json.dumps(body).encode()
        return await self._questions.ask(self._client, type(self._client).request, subject, payload)

    async def consumer(self, stream: str, consumer: str) -> dict[str, Any] | None:
        """A consumer's description, or an error."""
        return await self.ask(f"$JS.API.CONSUMER.INFO.{stream}.{consumer}")

    async def pages(self, subject: str, what: str, without: set[str] | None = None) -> list[dict[str, Any]] | None:
        """Everything that a paged reply lists; None if nobody answered. `without`: gets what cannot be described."""
        found: list[dict[str, Any]] = []
        while True:
            body = await self.ask(subject, {"offset": len(found)})
            if body is None or body.get("error"):
                return None
            page = body.get(what) or []
            found += page
            if without is not None:
                without.update(map(str, body.get("missing") or ()), map(str, body.get("offline") or ()))
            if not page or len(found) >= (body.get("total") or 0):
                return found

    async def message(self, stream: str, seq: int) -> dict[str, Any] | None:
        """A stored message; empty if it is gone, or the account may not read it."""
        body = await self.ask(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": seq})
        if body is None:
            return None
        message = body.get("message")
        return message if isinstance(message, dict) else {}

    async def tasks(self, stream: str, seqs: list[int], keys: tuple[str, ...]) -> dict[int, str]:
        """The ids of the tasks in messages, by sequence; as far as the account may read them."""
        found: dict[int, str] = {}
        for seq in seqs if keys else ():
            message = await self.message(stream, seq)
            if message is None:
                break
            data = message.get("data")
            task = task_of(base64.b64decode(data), keys) if isinstance(data, str) else None
            if task is not None:
                found[seq] = task
        return found

    async def all(self, questions: Iterable[Awaitable[R]]) -> list[R]:
        """The answers to many, in order."""

        async def one(question: Awaitable[R]) -> R:
            async with self._limit:
                return await question

        return list(await asyncio.gather(*(one(question) for question in questions)))
