"""What a worker's client calls itself, by the inbox that it asks with: the server knows both.

Asked by `term` on the monitor's event loop, once for each new worker: `$SYS.REQ.ACCOUNT.PING.CONNZ` answers to every
account about its own connections, if the monitor's user may ask. In a cluster each server answers.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from .following import Followed, Worker

if TYPE_CHECKING:
    from .observer import Observer

_SUBJECT: Final = "$SYS.REQ.ACCOUNT.PING.CONNZ"
_WAIT: Final = 0.5
_MAX_ASKED: Final = 20
_MAX_NAME: Final = 64


class WorkerNames:
    """Asks a server what it knows; no more once it refused, or said nothing."""

    def __init__(self, client: Observer) -> None:
        self._client = client
        self._is_silent = False

    async def learn(self, news: list[Followed]) -> None:
        """Find the names of the workers that are not told yet, of so many as a line shows."""
        new = [worker for found in news for worker in found.workers.values() if not worker.is_told and not worker.name]
        for worker in new[:_MAX_ASKED]:
            if self._is_silent or not self._client.is_connected:
                return
            if worker.reply:
                worker.name = await self._name(worker)

    async def _name(self, worker: Worker) -> str:
        names: set[str] = set()
        answered = asyncio.Event()

        def heard(subject: str, reply: str, payload: bytes, headers: bytes) -> None:
            names.update(_names(payload, worker.reply))
            if names or not self._client.is_clustered:
                answered.set()

        inbox = self._client.new_inbox()
        tap = await self._client.tap(inbox, heard)
        try:
            asked = json.dumps({"filter_subject": worker.reply, "subscriptions": True}).encode()
            await self._client.publish(_SUBJECT, asked, inbox)
            async with asyncio.timeout(_WAIT):
                await answered.wait()
        except TimeoutError:
            self._is_silent = not self._client.is_clustered
        finally:
            await self._client.untap(tap)
        return names.pop() if len(names) == 1 else ""


def _names(payload: bytes, inbox: str) -> set[str]:
    """The names of the connections that listen at this very inbox. A worker's name is hostile text."""
    around = inbox.rpartition(".")[0]
    listens = {inbox, f"{around}.*", f"{around}.>"} if around != "_INBOX" else {inbox}
    try:
        connections: Any = json.loads(payload)["data"]["connections"] or ()
        found = [each for each in connections if listens & set(each.get("subscriptions_list") or ())]
        names = {str(each.get("name") or "") for each in found}
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {" ".join(name.split())[:_MAX_NAME] for name in names if name.strip() and name.isprintable()}
