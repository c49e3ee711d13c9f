"""The doctor's look at what a job keeps in Redis or Valkey: sets and counters, by the pattern of their keys.

Called by the doctor on its own event loop, with a connection of its own. Reads sizes and numbers, changes nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Final

from .._pipeline.dotted import load
from .._pipeline.text import clip
from ..doctor.memory import refuses_writes
from ..doctor.probing import ProbeResult
from ..exceptions import ConfigurationError, MissingExtraError

__all__ = ["RedisProbe"]

_CONNECT_TIMEOUT: Final = 1.0
_MAX_VALUE: Final = 100
_SIZES: Final[Mapping[str, str]] = {"set": "scard", "list": "llen", "hash": "hlen", "zset": "zcard", "stream": "xlen"}


class RedisProbe:
    """`keys` name what to look at: `{"process": "job:{job_id}:pending_images:process", "total": ...}`.

    Only the size of sets, lists and hashes is asked for, and the value of what is a number. `expected` are the names of
    keys that exist from a job's start to its end (default: any one of them): where they are gone, the state was lost.
    Raises ConfigurationError for a wrong option, MissingExtraError without redis-py.
    """

    name = "redis"

    def __init__(
        self, url: str, keys: Mapping[str, str], expected: tuple[str, ...] | list[str] = (), **options: Any
    ) -> None:
        if not keys or not all("{job_id}" in str(pattern) for pattern in keys.values()):
            raise ConfigurationError("DOCTOR['REDIS']['keys'] must be patterns that hold {job_id}, by name")
        unknown = set(expected) - set(keys)
        if unknown:
            raise ConfigurationError(f"DOCTOR['REDIS']['expected'] names no key: {', '.join(sorted(unknown))}")
        if importlib.util.find_spec("redis") is None:
            raise MissingExtraError("redis", "redis")
        self._url = url
        self._keys = dict(keys)
        self._expected = list(expected)
        self._options = options

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `values` and `ttl` by name (None where there is no key), `lost`; `unreachable`, `refuses_writes`."""
        errors = load("redis.exceptions")
        client = load("redis.asyncio.Redis").from_url(
            self._url,
            **{
                "socket_connect_timeout": _CONNECT_TIMEOUT,
                "socket_timeout": _CONNECT_TIMEOUT,
                "retry": None,
                **self._options,
            },
        )
        try:
            values, ttl = {}, {}
            for name, pattern in self._keys.items():
                key = pattern.format(job_id=job_id)
                values[name] = await self._value(client, key)
                ttl[name] = None if values[name] is None else await client.ttl(key)
            uptime, refuses = await self._server(client)
        except (errors.AuthenticationError, errors.AuthorizationError, errors.NoPermissionError) as error:
            # It is there; that this account is refused says nothing about the job's.
            return ProbeResult(self.name, {}, f"Redis refuses the doctor's account: {error}")
        except (errors.ConnectionError, errors.TimeoutError, OSError) as error:
            return ProbeResult(
                self.name, {"unreachable": True}, f"Redis cannot be reached: {type(error).__name__}: {error}"
            )
        finally:
            await client.aclose()
        expected = self._expected or list(self._keys)
        gone = [name for name in expected if values[name] is None]
        lost = bool(gone) if self._expected else len(gone) == len(expected)
        return ProbeResult(
            self.name,
            {
                "values": values,
                "ttl": ttl,
                "lost": lost,
                "gone": gone,
                "uptime": uptime,
                "refuses_writes": refuses,
                "is_expected": bool(self._expected),
            },
        )

    @staticmethod
    async def _server(client: Any) -> tuple[int | None, str]:
        """How long it is up, and why it refuses writes, "" if it takes them. Nothing where the account may not ask."""
        errors = load("redis.exceptions")
        try:
            info = await client.info()
        except errors.ResponseError:
            return None, ""
        refuses = refuses_writes(info)
        is_failing = info.get("rdb_last_bgsave_status") == "err"
        if not refuses and is_failing and await _setting(client, "stop-writes-on-bgsave-error") == "yes":
            refuses = "its last snapshot to disk failed (stop-writes-on-bgsave-error)"
        return info.get("uptime_in_seconds"), refuses

    @staticmethod
    async def _value(client: Any, key: str) -> int | float | str | None:
        kind = (
            (await client.type(key)).decode() if not client.get_encoder().decode_responses else await client.type(key)
        )
        if kind == "none":
            return None
        if kind in _SIZES:
            return int(await getattr(client, _SIZES[kind])(key))
        raw = await client.get(key)
        text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
        try:
            return int(text)
        except ValueError:
            return clip(text, _MAX_VALUE)


async def _setting(client: Any, name: str) -> str:
    try:
        found = await client.config_get(name)
    except load("redis.exceptions").ResponseError:
        return ""  # this account may not ask
    return next((value.decode() if isinstance(value, bytes) else str(value) for value in found.values()), "")
