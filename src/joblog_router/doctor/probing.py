"""What a probe is, and how several are asked at once: each with a time-out, none able to spoil the answer.

Called by `verdict` on the loop of who asks. Imports what masks passwords in messages.
"""

from __future__ import annotations

import asyncio
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

from .._pipeline.credentials import mask_credentials

__all__ = ["Probe", "ProbeResult", "ask", "in_thread"]

P = ParamSpec("P")
R = TypeVar("R")

_MAX_ERROR: Final = 300
# How many threads may be in one function at a time, and how many are.
_MAX_THREADS: Final = 100
_counting = threading.Lock()
_under_way: Counter[str] = Counter()
# Words of Python's and kombu's about an address: where a password holds a / that was not escaped, they quote it.
_ADDRESS: Final = re.compile(
    r"(?:Port could not be cast to integer value as|nonnumeric port:|Database is int between 0 and) .*", re.DOTALL
)
_UNREAD: Final = "the address cannot be read: in its password / @ ? # must be written %2F %40 %3F %23"


class ProbeResult(NamedTuple):
    """What one probe found out about one job.

    `facts` are plain data, ready for JSON; which there are is the probe's affair. `error` says why it could not be
    asked, "" where it could; facts may then be there all the same (`unreachable`). `at` is when, in epoch seconds, and
    `took` how long, in seconds; both are set by `ask`.
    """

    name: str
    facts: Mapping[str, Any]
    error: str = ""
    at: float = 0.0
    took: float = 0.0


@runtime_checkable
class Probe(Protocol):
    """Looks at one place where a job leaves traces: a table, a queue, a log. Never changes anything there.

    `probe` may raise and may hang: whoever asks bears it. It must not block the event loop (see `in_thread`).
    """

    name: str

    async def probe(self, job_id: str) -> ProbeResult:
        """What is there to see of the job now."""


async def ask(probes: Sequence[Probe], job_id: str, timeout: float) -> dict[str, ProbeResult]:
    """Ask all probes at the same time; a result of each, in their order. Raises nothing of theirs."""
    results = await asyncio.gather(*(_ask_one(probe, job_id, timeout) for probe in probes))
    return {result.name: result for result in results}


async def _ask_one(probe: Probe, job_id: str, timeout: float) -> ProbeResult:
    started, clock = time.time(), time.monotonic()
    try:
        async with asyncio.timeout(timeout) as limit:
            result = await probe.probe(job_id)
    except TimeoutError as error:
        reason = f"no answer within {timeout:g} s" if limit.expired() else f"TimeoutError: {error}"
        result = ProbeResult(probe.name, {}, reason)
    except Exception as error:
        result = ProbeResult(probe.name, {}, f"{type(error).__name__}: {error}")
    return result._replace(
        name=probe.name,
        facts=_finite(result.facts),
        error=mask_credentials(_ADDRESS.sub(_UNREAD, result.error))[:_MAX_ERROR],
        at=started,
        took=round(time.monotonic() - clock, 3),
    )


def _finite(value: Any) -> Any:
    """Facts without infinite numbers and NaN: None in their place, as JSON has no such thing."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(one) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_finite, value))
    return value


async def in_thread(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call what blocks in a thread of its own, which nothing waits for at the end: it may hang for ever.

    Raises RuntimeError where very many calls of `function` are under way already: they hang, and more would, too.
    """
    name = getattr(function, "__qualname__", repr(function))
    with _counting:
        if _under_way[name] >= _MAX_THREADS:
            raise RuntimeError(f"{_under_way[name]} earlier looks of this kind have not come back yet")
        _under_way[name] += 1
    loop = asyncio.get_running_loop()
    future: asyncio.Future[R] = loop.create_future()

    def tell(result: R | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def come_back() -> None:
        with _counting:
            _under_way[name] -= 1

    def call() -> None:
        result: R | None = None
        failure: BaseException | None = None
        try:
            result = function(*args, **kwargs)
        except StopIteration as error:  # a future takes none
            failure = RuntimeError(f"StopIteration: {error}")
        except BaseException as error:  # handed on
            failure = error
        finally:
            come_back()
        try:
            loop.call_soon_threadsafe(tell, result, failure)
        except RuntimeError:
            pass  # nobody waits any more, the loop is closed

    try:
        threading.Thread(target=call, name="joblog-probe", daemon=True).start()
    except RuntimeError:  # no thread can be had
        come_back()
        raise
    return await future
