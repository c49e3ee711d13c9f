"""Switch the NATS integration on and off: patch public methods of nats-py's classes, and its task coroutines.

Called by the application when it starts (or by the Django app), on any thread, before or after nats-py is
imported. asyncio is never patched, no object of nats-py is changed, and what a patched method returns or
raises is what nats-py returns or raises.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from types import CodeType
from typing import Any, Final

from ..._pipeline.services import guard_services
from ...exceptions import ConfigurationError, MissingExtraError
from .._patching import Installed, Patches
from .client.acks import acknowledging
from .client.connections import connecting, losing, reconnecting
from .client.drift import comparing
from .client.fetching import closing, fetching
from .client.management import requesting
from .client.messages import masked, subscribing, waiting
from .client.publishing import answering, publishing, publishing_async
from .client.pushing import receiving
from .client.state import Coroutine, Settings, State
from .naming import NamePatterns

__all__ = ["instrument", "uninstrument"]

# Each of these runs as the root of a task of its own, for as long as the connection or subscription lives.
_LOOPS: Final = ("_read_loop", "_ping_interval", "_flusher", "_attempt_reconnect")
_ORDERED_LOOPS: Final = ("activity_check", "check_flow_control_response", "recreate_consumer")

_installed: Installed[_Installation] = Installed()


def instrument(**options: Any) -> None:
    """Give each NATS message its own job, and tell what happens to streams and consumers in the job's log.

    Options, all optional:

    - `patterns`: how names carry a job's id, `("job_{job_id}", "job.{job_id}.", "job-{job_id}-")` by default;
      see `naming.NamePatterns`. An empty list: names say nothing.
    - `header`: the message header that names the job, `"Joblog-Job-Id"` by default.
    - `header_subjects`: to which subjects JetStream messages that are published inside a job carry that header, as NATS
      patterns: `["survey.*.tasks", "results.>"]`. None by default: the header is read always and written only there.
    - `events`: whether to log lifecycle events on the logger `joblog_router.nats`, True by default. False
      leaves the guards alone: no callback and no task of nats-py inherits the job of whoever connected or
      subscribed.
    - `task_id_keys`: the keys of a JSON payload that name the task, `("id", "task_id", "image_id")` by default: the
      id stands in the line about messages that were given up, if it is short plain text. An empty list: no payload
      is ever read.

    Process-wide. Called again, it changes the options that are given and leaves the others. Connections that
    are open already are covered too, except for the callbacks they have: those run in no job. Raises
    ConfigurationError for a wrong option, MissingExtraError without nats-py.
    """
    changes = _checked(options)
    with _installed.lock:
        if _installed.now is not None:
            state = _installed.now.state
            state.settings = dataclasses.replace(state.settings, **changes)
            state.last_booking = None
            return
        _installed.now = _Installation(Settings(**changes))


def uninstrument() -> None:
    """Put back every method that `instrument()` replaced. What still runs in old tasks becomes inert."""
    _installed.end()


class _Installation:
    """The patches of one `instrument()`, and how to take them back."""

    def __init__(self, settings: Settings) -> None:
        had_clients = "nats.aio.client" in sys.modules
        try:
            client: Any = importlib.import_module("nats.aio.client").Client
            subscription: Any = importlib.import_module("nats.aio.subscription").Subscription
            jetstream: Any = importlib.import_module("nats.js.client").JetStreamContext
        except ImportError as error:
            raise MissingExtraError("nats-py", "nats") from error
        self.state = State(settings)
        self._patches = Patches()
        ordered = getattr(jetstream, "_JSI", None)
        loops = [
            (client, _LOOPS),
            (subscription, ("_wait_for_msgs",)),
            (ordered, _ORDERED_LOOPS),
        ]
        # Tasks of clients that are open already: what they inherited cannot be taken from them, but
        # recognised.
        codes = {code for owner, names in loops for name in names if (code := _code(owner, name)) is not None}
        self._end_guard = guard_services(codes) if had_clients else None
        replies = ((client, "_request_sub_callback"), (jetstream, "_handle_async_reply"))
        before = [vars(owner).get(name) for owner, name in replies]
        self._patch(jetstream, "_handle_async_reply", answering)
        internal = frozenset(filter(None, before + [vars(owner).get(name) for owner, name in replies]))
        special = {"_wait_for_msgs": waiting, "_attempt_reconnect": reconnecting}
        for owner, names in loops:
            for name in names:
                self._patch(owner, name, special.get(name, masked))
        self._patch(client, "connect", connecting)
        self._patch(client, "_process_op_err", losing)
        self._patch(client, "force_reconnect", masked)
        self._patch(client, "subscribe", lambda state, original: subscribing(state, original, internal))
        self._patch(client, "request", requesting)
        self._patch(client, "publish", acknowledging)
        self._patch(client, "close", closing)
        self._patch(client, "drain", closing)
        self._patch(getattr(jetstream, "PullSubscription", None), "fetch", fetching)
        self._patch(getattr(jetstream, "PushSubscription", None), "next_msg", receiving)
        self._patch(jetstream, "pull_subscribe", comparing)
        self._patch(jetstream, "subscribe", comparing)
        self._patch(jetstream, "publish", publishing)
        self._patch(jetstream, "publish_async", publishing_async)

    def _patch(self, owner: Any, name: str, wrap: Callable[[State, Coroutine], Coroutine]) -> None:
        if name in vars(owner or object):  # not in every version of nats-py, and nothing that is inherited
            self._patches.put(owner, name, functools.partial(wrap, self.state))

    def end(self) -> None:
        """Take the patches back; those that stay, below somebody else's, only pass on."""
        self.state.active = False
        self.state.last_booking = None
        self._patches.end()
        if self._end_guard is not None:
            self._end_guard()


def _code(owner: Any, name: str) -> CodeType | None:
    function = vars(owner).get(name) if owner is not None else None
    return getattr(inspect.unwrap(function), "__code__", None) if function is not None else None


def _checked(options: dict[str, Any]) -> dict[str, Any]:
    """The options as `Settings` takes them. Raises ConfigurationError."""
    known = sorted({"patterns", *_OPTIONS})
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ConfigurationError(f"NATS: no option {unknown[0]!r}; there are: {', '.join(known)}")
    changes: dict[str, Any] = {}
    for name, value in options.items():
        if name == "patterns":
            changes[name] = NamePatterns(value)
            continue
        is_right, what = _OPTIONS[name]
        if not is_right(value):
            raise ConfigurationError(f"NATS: {name} must be {what}, not {value!r}")
        changes[name] = tuple(value) if isinstance(value, list) else value
    return changes


def _is_header(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and bool(value) and not set(value) & {" ", ":"}


def _is_pattern(subject: Any) -> bool:
    """Whether it is a subject or pattern of the application's own."""
    if not isinstance(subject, str) or not subject.isprintable() or " " in subject or subject.startswith("$"):
        return False
    tokens = subject.split(".")
    return all(tokens) and ">" not in tokens[:-1]


def _is_list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(map(is_right, value))


# Each option but the patterns, which check themselves: how it is known to be right, and what it must be.
_OPTIONS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "header": (_is_header, "the name of a message header"),
    "header_subjects": (_is_list_of(_is_pattern), "a list of subjects such as 'survey.*.tasks'"),
    "events": (lambda value: isinstance(value, bool), "True or False"),
    "task_id_keys": (_is_list_of(lambda key: isinstance(key, str) and bool(key)), "a list of the payload's keys"),
}
