"""The one NATS connection of this process, opened by whoever needs it first; or one for a while."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.aio.client import Client

logger = logging.getLogger(__name__)

NATS_URL = os.environ.get("NATS_URL", "nats://127.0.0.1:4222")

_lock = asyncio.Lock()
_client: Client | None = None


async def get_connection() -> Client:
    global _client
    async with _lock:
        if _client is None:
            _client = await nats.connect(NATS_URL, name="survey")
            logger.debug("Connected to NATS at %s", NATS_URL)
        return _client


async def close_connection() -> None:
    global _client
    if _client is not None:
        await _client.drain()
        _client = None


@asynccontextmanager
async def connected() -> AsyncIterator[Client]:
    """A connection for a block: of code that has an event loop for that long only, as Celery tasks do."""
    client = await nats.connect(NATS_URL, name="survey task")
    try:
        yield client
    finally:
        await client.close()
