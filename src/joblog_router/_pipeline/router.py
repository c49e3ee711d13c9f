"""The one router of a process: channels by sink, their writer, the way out at exit.

A record is captured once per sink however many handlers see it. Handlers come and go with every `dictConfig`; the
router, its buffers and its writer stay. Called by handlers where logging is configured, by who flushes, counts or ends
the process, on their threads, and by the writer on its own; a thread that logs comes here to wake the writer only. May
import all of the pipeline but `capture`, `policy` and what is built on the router.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from logging import LogRecord
from pathlib import Path
from typing import Any, Protocol

from ..sinks.base import Sink
from . import flushing, leaks, resolve, scopes, settings, switch
from .channel import Channel, Item, Use
from .channel_delivery import ChannelDelivery
from .delivery import Delivery
from .dotted import load
from .namespaces import in_force
from .origins import new_origin, of_channel
from .overflow import WRITER_NAME
from .recovery import Recovery, RecoveryDelivery
from .report import has_waiting, report_once, use_writer
from .rules import Rules
from .settings import SpoolSetting, Unset
from .sinks import NamedSink
from .spool import pack_scope
from .status_file import StatusFile
from .text import clean
from .writer import NOW, Writer

# Seconds without progress, and in all, that the end of the process may be held up; and a fork.
EXIT_TIMEOUT = 3.0
EXIT_AT_MOST = 20.0
FORK_TIMEOUT = 0.25


class Router:
    """Private; the process's one is `router` below. Configuration and flushing take a lock, capturing does not."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._channels: dict[str, Channel] = {}
        self._count = 0
        self._before: dict[str, int] = {
            "captured": 0,
            "stored": 0,
            "folded": 0,
            "dropped": 0,
            "quarantined": 0,
            "unspooled": 0,
        }
        self._status: StatusFile | None = None
        self.recovery = Recovery(self._channels, self.wake_writer)
        self._writer = Writer(self._deliveries, self.recovery.running, self._retire, self._before_round)
        self.origin = new_origin()
        # When the process ends: until when flushing may hold that up in all. None before.
        self._exit_deadline: float | None = None
        # Our exit function is over: nobody asks to flush what is logged from here on.
        self._is_past_exit = False
        # The segments were closed for the end: nothing is said of this process any more.
        self._has_left = False
        self._hooked = False
        self._process = os.getpid()
        # What has to be made anew in the child of a fork: each handler's capturing function.
        self._renewals: weakref.WeakSet[Renewable] = weakref.WeakSet()
        # What is left of handlers that were dropped without being closed, for the writer.
        self._abandoned: deque[Callable[[], None]] = deque()
        # What waited when a flush of `flush_unless_stuck` failed, and the last number of each.
        self._stuck: list[tuple[ChannelDelivery, int]] = []

    def open_channel(
        self,
        named: NamedSink,
        use: Use,
        spool: SpoolSetting = None,
    ) -> Channel:
        """The channel of a sink, with one user more. One that is known keeps its buffer and its own sink object."""
        self._release_abandoned()
        with self._lock:
            channel = self._channels.get(named.key)
            if channel is None:
                channel = Channel(named, self._next_origin(), use.bounds, wake=self._wake, deliver=ChannelDelivery)
                self._channels[named.key] = channel
            keeps_spool = bool(channel.uses) and (
                spool is None or (isinstance(spool, Unset) and not channel.uses_default_spool)
            )
            channel.uses.append(use)
            # Before the spool: what dead processes left there goes by these rules, too.
            channel.settle()
            channel.delivery.is_closed = False
            use_writer(self._writer.wake)
            if not keeps_spool:
                channel.uses_default_spool = isinstance(spool, Unset)
                self._use_spool(channel, settings.current.spool if isinstance(spool, Unset) else spool)
            if not self._hooked:
                # Not with the first line: what is registered while the exit functions run is never called.
                self._hooked = True
                atexit.register(self._at_exit)
                self._end_with_multiprocessing()
            return channel

    def settle_default_spool(self) -> None:
        """Handlers whose configuration names no spool have the settings' one: those there are, and those to come."""
        with self._lock:
            for channel in self._snapshot():
                if channel.uses_default_spool:
                    self._use_spool(channel, settings.current.spool)

    def _use_spool(self, channel: Channel, directory: Path | None) -> None:
        if not channel.use_spool(directory):
            return
        self.renew_handlers()
        if directory is None or channel.spool is None:
            return
        try:
            channel.spool.open(channel.delivery.last_seq())
            self.recovery.look(directory, channel)
        except Exception as error:  # the world's faults must not end a configuration
            report_once(("spool", str(directory), repr(error)), f"the spool in {str(directory)!r}: {error!r}")

    def _before_round(self) -> None:
        """What the writer does besides, each round, on its thread."""
        self._release_abandoned()
        self._tell_status()
        self.recovery.step()

    def _tell_status(self) -> None:
        if self._status is None:
            directory = min(self.recovery.directories(), default=None)
            # Before its first line a process has nothing to say, and may end without waiting for the writer.
            if directory is None or self._has_left or not any(one.last_seq() for one in self._deliveries()):
                return
            self._status = StatusFile(directory, self.origin)
        self._status.write(_snapshot)

    def _end_with_multiprocessing(self) -> None:
        """Flush where a child of multiprocessing ends: by os._exit, after its finalizers, without exit functions."""
        util: Any = sys.modules.get("multiprocessing.util")
        if util is not None and self._hooked:
            # It forgets finalizers at the start of a child, and then calls what is registered for this.
            util.register_after_fork(self, Router._add_finalizer)
            process: Any = sys.modules.get("multiprocessing.process")
            if process is not None and process.parent_process() is not None:
                self._add_finalizer()  # a child that is past its start already

    def _add_finalizer(self) -> None:
        util: Any = sys.modules["multiprocessing.util"]
        util.Finalize(None, self._at_end_of_child, exitpriority=0)

    def renew_after_fork(self, handler: Renewable) -> None:
        """Call `handler.renew()` in the child of every fork."""
        self._renewals.add(handler)

    def handlers(self) -> list[Renewable]:
        """What was given to `renew_after_fork` and is still there."""
        return list(self._renewals)

    def renew_handlers(self) -> None:
        """Have every handler make its capturing function anew."""
        for handler in self.handlers():
            handler.renew()

    def sinks(self) -> dict[str, Sink]:
        """The sinks that are open here, by key, the first configured first."""
        return {channel.key: channel.sink for channel in self._snapshot()}

    def rules_of(self, is_meant: Callable[[str, Sink], bool]) -> list[Rules]:
        """What the handlers ask whose channel, by its key and sink, is meant. On any thread."""
        meant = [channel for channel in self._snapshot() if is_meant(channel.key, channel.sink)]
        return [use.rules for channel in meant for use in channel.uses]

    def wake_writer(self) -> None:
        """Start the writer's thread if there is none."""
        self._writer.wake()

    def before_fork(self) -> None:
        """End the writer thread: no thread, lock or connection in use is copied. A stuck sink is not waited for."""
        if not self._writer.pause(FORK_TIMEOUT):
            return
        for delivery in (*self._deliveries(), *self.recovery.running()):
            if delivery.idling is not None:
                with contextlib.suppress(Exception):
                    delivery.idling.idle()

    def after_fork_in_parent(self) -> None:
        """Go on as before."""
        self._writer.resume()

    def after_fork_in_child(self) -> None:
        """Start with no job, no waiting line and a new origin: all that is the parent's."""
        scopes.forget_all()
        self._start_anew()
        self._end_with_multiprocessing()

    def _look_for_fork(self) -> None:
        if self._process != os.getpid():
            self._start_in_unannounced_child()

    def _start_in_unannounced_child(self) -> None:
        """A fork whose hooks did not run, as under uWSGI without --py-call-osafterfork, found with a line or a flush.

        The buffers hold lines of the parent, which stores them itself, and this process's own: their records tell.
        """
        process = os.getpid()
        own = {
            channel.key: [item for item in channel.buffer if getattr(item[0], "process", None) == process]
            for channel in self._snapshot()
        }
        for channel in self._snapshot():
            if channel.spool is not None:
                channel.spool.disown([item[2] for item in own[channel.key]])
        self._start_anew()
        for channel in self._snapshot():
            for item in own[channel.key]:
                self._append_again(channel, item)
            channel.awake = bool(channel.buffer)

    @staticmethod
    def _append_again(channel: Channel, item: Item) -> None:
        record, scope, _, n, message, more, name, level = item
        seq = next(channel.numbers)
        if channel.spool is not None and isinstance(record, LogRecord):
            channel.spool.put_anything(seq, pack_scope(scope), record, n, message, more)
        channel.buffer.append((record, scope, seq, n, message, more, name, level))

    def _start_anew(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()
        self._writer = Writer(self._deliveries, self.recovery.running, self._retire, self._before_round)
        self._status = None
        self._has_left = False
        self.recovery.start_anew()
        self.origin = new_origin()
        self._count = 0
        self._before = dict.fromkeys(self._before, 0)
        self._stuck = []
        for channel in self._snapshot():
            channel.begin_again(self._next_origin())
        self.renew_handlers()
        for counter in resolve.COUNTERS.values():
            counter.reset()
        leaks.forget()
        if self._hooked:
            use_writer(self._writer.wake)

    def _next_origin(self) -> str:
        self._count += 1
        return of_channel(self.origin, self._count)

    def close_channel(self, channel: Channel, use: Use) -> None:
        """One user less. The last one leaves the rest to the writer: nothing waits here, `dictConfig` holds locks."""
        with self._lock:
            channel.uses.remove(use)
            channel.settle()
        if self._exit_deadline is not None and not self._has_handlers():
            self._close_spools()  # logging.shutdown() has closed the last handler
            return
        if self._writer.is_running():
            self._writer.wake()

    def abandon(self, release: Callable[[], None]) -> None:
        """Have the writer call `release`, or who opens a channel next. For the garbage collector, which may come in the
        middle of anything: it must not take a lock, nor start a thread.
        """
        self._abandoned.append(release)
        if self._writer.is_running():
            self._writer.wake()

    def _release_abandoned(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._abandoned.popleft()()

    def flush(self, timeout: float) -> bool:
        """Wait until what was captured before is stored; whether it is. False at once on the writer thread."""
        self._look_for_fork()
        return flushing.flush(self._writer, self._waiting, timeout)

    async def aflush(self, timeout: float) -> bool:
        """`flush` for coroutines: the loop goes on meanwhile."""
        self._look_for_fork()
        return await flushing.aflush(self._writer, self._waiting, timeout)

    def flush_unless_stuck(self, timeout: float) -> bool:
        """`flush` for those who come often: once it failed, False at once until all that waited then is stored."""
        if any(delivery.done() < last for delivery, last in self._stuck):
            return False
        self._stuck = []
        if self.flush(timeout):
            return True
        self._stuck = [(one, one.last_seq()) for one in self._deliveries() if not one.is_empty()]
        return False

    def handler_flush(self) -> None:
        """`logging.Handler.flush`: a signal only, as `dictConfig` calls it with locks held; at exit it waits."""
        if self._exit_deadline is not None:
            self.flush(max(0.0, self._exit_deadline - time.monotonic()))
        elif self._writer.is_running():
            self._writer.wake()

    def completeness(self, job_id: object, namespace: str | None = None) -> dict[str, dict[str, int]]:
        """By sink: what became of a job's lines in this process."""
        job = clean(str(job_id))
        space = in_force(namespace)
        return {delivery.name: delivery.completeness(space, job) for delivery in self._deliveries()}

    def leave(self, timeout: float, is_last: bool) -> None:
        """Store what waits before a signal ends the process, for at most `timeout` seconds."""
        self.flush(timeout)
        if is_last:
            self._close_spools()

    def stats(self) -> dict[str, int]:
        """Counters of this process, exact when nothing is being captured at the moment."""
        with self._lock:
            counts = dict(self._before)
            waiting = 0
            for delivery in self._deliveries():
                self._add(counts, delivery)
                waiting += delivery.waiting()
        counts["captured"] += waiting
        return {
            **counts,
            "waiting": waiting,
            "recovered": self.recovery.lines,
            **{name: counter.value() for name, counter in resolve.COUNTERS.items()},
        }

    @staticmethod
    def _add(counts: dict[str, int], delivery: ChannelDelivery) -> None:
        dropped = delivery.overflow.dropped.value()
        counts["stored"] += delivery.stored
        counts["folded"] += delivery.folder.folded
        counts["quarantined"] += delivery.quarantined
        counts["unspooled"] += delivery.unspooled()
        counts["dropped"] += dropped
        counts["captured"] += delivery.stored + delivery.folder.folded + delivery.quarantined + dropped

    def _snapshot(self) -> list[Channel]:
        return list(self._channels.values())  # a line that comes late adds one without the lock

    def _deliveries(self) -> list[ChannelDelivery]:
        return [channel.delivery for channel in self._snapshot()]

    def _waiting(self) -> bool:
        return has_waiting() or any(not delivery.is_empty() for delivery in self._deliveries())

    def _wake(self, channel: Channel, *, hurry: bool = False) -> None:
        self._look_for_fork()
        # A handler that was closed but left on its logger logs again: its channel comes back as it was.
        self._channels.setdefault(channel.key, channel)
        self._writer.wake(NOW if hurry else None)
        if self._is_past_exit and not sys.is_finalizing() and threading.current_thread() is threading.main_thread():
            # An exit function that was registered before this library's. The process has nothing else to do.
            self.flush_unless_stuck(EXIT_TIMEOUT)

    def _retire(self, delivery: Delivery) -> None:
        """Close the sink of a channel without handlers and waiting lines, or end a recovery. On the writer thread.

        Where another handler may open the same place the channel stays, as an old handler may still be on its logger.
        """
        if not self._lock.acquire(blocking=False):
            return
        try:
            if isinstance(delivery, RecoveryDelivery):
                self._before["quarantined"] += delivery.quarantined
                self.recovery.end(delivery)
                return
            if not (isinstance(delivery, ChannelDelivery) and self._let_go(delivery)):
                return
        finally:
            self._lock.release()
        try:
            delivery.sink.close()
        except Exception as error:
            report_once(("close", delivery.key, repr(error)), f"closing sink {delivery.name!r} failed: {error!r}")

    def _let_go(self, delivery: ChannelDelivery) -> bool:
        channel = delivery.channel
        if not delivery.is_over() or self._channels.get(channel.key) is not channel:
            return False
        delivery.is_closed = True
        if not channel.is_shared:
            del self._channels[channel.key]
            if not delivery.is_empty():  # a line came in between
                self._channels[channel.key] = channel
                return False
            delivery.close_spools(is_done=True)
            self._add(self._before, delivery)
            delivery.forget_counts()
        return True

    def _has_handlers(self) -> bool:
        return any(channel.uses for channel in self._snapshot())

    def _at_end_of_child(self) -> None:
        self._at_exit()
        self._close_spools()

    def _close_spools(self) -> None:
        """Take away segments of which nothing is needed; the others are the next process's.

        Daemon threads go on logging while the interpreter ends: where there are any, all segments stay open.
        """
        self._has_left = True
        if self._status is not None:
            self._status.remove()
        here = (threading.main_thread(), threading.current_thread())
        goes_on = any(thread not in here and thread.name != WRITER_NAME for thread in threading.enumerate())
        is_alone = self._lock.acquire(timeout=1)  # the writer may let go of a closed handler's channel just now
        try:
            for delivery in self._deliveries():
                if goes_on:
                    delivery.acknowledge()
                else:
                    delivery.close_spools(is_done=delivery.is_empty())
        finally:
            if is_alone:
                self._lock.release()

    def _at_exit(self) -> None:
        """Store what waits: as long as that goes on, but not for ever."""
        at_most = time.monotonic() + EXIT_AT_MOST
        is_complete = False
        while not is_complete and time.monotonic() < at_most:
            before = self._waiting_lines()
            self._exit_deadline = time.monotonic() + EXIT_TIMEOUT
            is_complete = self.flush(EXIT_TIMEOUT)
            if not is_complete and self._waiting_lines() >= before:
                break
        self._is_past_exit = True
        use_writer(None)  # what is to be said from here on is said at once
        if is_complete and not self._has_handlers():
            self._close_spools()  # no handler is left that logging.shutdown() could close
        if not is_complete and (left := self._waiting_lines()):
            is_spooled = all(
                channel.delivery.is_spooled() for channel in self._snapshot() if channel.delivery.waiting()
            )
            kept = "they are in the spool, for the next process" if is_spooled else "they are lost"
            report_once(("exit",), f"the process ends with {left} job log lines that could not be stored; {kept}")

    def _waiting_lines(self) -> int:
        return sum(delivery.waiting() for delivery in self._deliveries())


class Renewable(Protocol):
    """What holds on to parts of a channel."""

    def renew(self) -> None:
        """Take them anew."""


def _snapshot() -> dict[str, Any]:
    # By name: it looks at handlers, which import this module.
    snapshot: dict[str, Any] = load("joblog_router._inspection.snapshot.snapshot")()
    return snapshot


router = Router()
switch.on_turn(router.renew_handlers)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=router.before_fork,
        after_in_parent=router.after_fork_in_parent,
        after_in_child=router.after_fork_in_child,
    )
