"""The one thread that takes lines out of the buffers and hands them to sinks: whose turn it is, and when.

Runs in an empty context, so that what sinks log is about no job and cannot come back as new entries. Nothing here is
called on a logging thread except `Writer.wake` (one append to a `SimpleQueue`, which is safe in signal handlers and
`__del__`) and, once per process, the start of the thread. What becomes of lines is the deliveries' own; imports those,
and the search for what a sink refuses.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from ..exceptions import SinkUnavailableError
from . import switch
from .delivery import FLUSH_RETRY, Delivery
from .overflow import WRITER_NAME
from .refusals import write_one_by_one
from .report import print_waiting, report_once
from .tally import TallyRow

if TYPE_CHECKING:
    from .channel_delivery import ChannelDelivery

LINGER = 0.05
_LOOK = 0.0125  # while it lingers, the writer looks this often whether a batch is there
BATCH = 500
# While this process's own lines wait in batches, what dead ones left has every so many-th turn.
_RECOVERY_TURN = 8
_IDLE = 1.0
_HELD = 0.25  # how often to look whether a sink has stored what it held


class Hurry:
    """A signal to begin without waiting for more."""


NOW: Final = Hurry()


class Ticket:
    """A caller of `flush`: done when every channel's lines are done that waited when the ticket came."""

    def __init__(self, deadline: float, on_done: Callable[[bool], None]) -> None:
        self.deadline = deadline
        self.on_done = on_done
        self.targets: dict[Delivery, int] | None = None


class Writer:
    """Delivers what the channels of one process have, and what dead processes left.

    `own` and `recoveries` give the deliveries to look after, `retire` is told of those that are over, `before_round` is
    called with each round.
    """

    def __init__(
        self,
        own: Callable[[], list[ChannelDelivery]],
        recoveries: Callable[[], Sequence[Delivery]],
        retire: Callable[[Delivery], None],
        before_round: Callable[[], None],
    ) -> None:
        self._own = own
        self._recoveries = recoveries
        self._retire = retire
        self._before_round = before_round
        self._signals: SimpleQueue[Ticket | Hurry | None] = SimpleQueue()
        self._tickets: list[Ticket] = []
        self._is_urgent = False
        self._turn = 0
        self._thread: threading.Thread | None = None
        # Taking the one item is the right to start the thread: atomic without a lock.
        self._may_start = iter((True,))
        self._paused = False
        self._process = os.getpid()
        # When a sink that wants to know is to be told that nothing was written for a while.
        self._idle_at: dict[Delivery, float] = {}
        # One round at a time: the thread's, or that of a caller who drains after the thread is gone.
        self._round_lock = threading.Lock()

    def wake(self, signal: Ticket | Hurry | None = None) -> None:
        """Have the writer look at what waits soon. Starts the thread the first time."""
        self._signals.put(signal)
        if not self.is_running():
            self._start()

    def is_running(self) -> bool:
        """Whether the thread is there to do the work."""
        thread = self._thread
        # A child of a fork has the object, not the thread; see Router for forks that were not announced.
        return thread is not None and thread.is_alive() and self._process == os.getpid()

    def is_current(self) -> bool:
        """Whether the caller is the writer thread itself."""
        return self._thread is threading.current_thread()

    def pause(self, timeout: float) -> bool:
        """End the thread and keep what waits, so that a fork copies no running thread; whether it ended in time."""
        thread = self._thread
        self._paused = True
        if thread is None or thread is threading.current_thread():
            return thread is None
        self._signals.put(None)
        thread.join(timeout)
        if thread.is_alive():
            return False
        _wait_until_gone(thread)
        return True

    def resume(self) -> None:
        """Let the thread be started again, at once if something waits."""
        self._paused = False
        if self._tickets or any(not delivery.is_empty() for delivery in self._all()):
            self.wake()

    def _start(self) -> None:
        if self._paused or not next(self._may_start, False):
            return
        thread = threading.Thread(target=Context().run, args=(self._run,), name=WRITER_NAME, daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:
            # The interpreter is shutting down: what waits is drained by the last flush.
            self._may_start = iter((True,))

    def _run(self) -> None:
        while True:
            try:
                self._wait()
                with self._round_lock:
                    # Before a fork, too: a thread that is started again right after it has Python 3.13 warn of threads.
                    self.round()
                if self._paused:
                    self._may_start = iter((True,))
                    return
                switch.ask()
            except BaseException as error:
                # The thread must outlive whatever happens in it; a second is long enough not to spin.
                report_once(("writer", repr(error)), f"the writer thread met {error!r} and goes on")
                time.sleep(1)

    def _wait(self) -> None:
        """Wait for work, then linger for more of it unless somebody waits for a flush."""
        timeout = self._until_retry()
        try:
            self._take_signal(self._signals.get(timeout=timeout))
        except Empty:
            return
        until = time.monotonic() + LINGER
        while not (self._tickets or self._paused or self._is_urgent) and (left := until - time.monotonic()) > 0:
            if any(len(delivery.buffer) >= BATCH for delivery in self._all()):
                break
            try:
                self._take_signal(self._signals.get(timeout=min(left, _LOOK)))
            except Empty:
                continue
        self._take_signals()
        self._is_urgent = False

    def _all(self) -> list[Delivery]:
        return [*self._own(), *self._recoveries()]

    def _take_signals(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._take_signal(self._signals.get_nowait())

    def _take_signal(self, signal: Ticket | Hurry | None) -> None:
        if isinstance(signal, Ticket):
            self._tickets.append(signal)
        elif signal is not None:
            self._is_urgent = True

    def _until_retry(self) -> float | None:
        now = time.monotonic()
        deliveries = self._all()
        pending = [delivery for delivery in deliveries if delivery.has_lines()]
        if pending and self._tickets:
            return FLUSH_RETRY
        times = [delivery.retry_at if delivery.failing else now + LINGER for delivery in pending]
        times += self._idle_at.values()
        times += [due for delivery in deliveries for due in delivery.due()]
        if any(delivery.waits_for_sink() for delivery in deliveries):
            times.append(now + _HELD)
        if (ask_at := switch.next_ask()) is not None:
            times.append(ask_at)
        return max(0.0, min(times) - now) if times else None

    def drain(self) -> None:
        """Do a round on the calling thread, where the writer's own is gone. In an empty context, as there."""
        if not self._round_lock.acquire(timeout=1):
            return
        try:
            self._take_signals()
            Context().run(self.round)
        finally:
            self._round_lock.release()

    def round(self) -> None:
        """Write what waits in every channel whose time has come, answer tickets, print reports."""
        self._before_round()
        asked = any(ticket.targets is None for ticket in self._tickets)
        for delivery in self._all():
            if asked:
                # What is still in the buffer may belong to a run as well.
                delivery.make_entries(everything=True)
            delivery.add_tallies(everything=asked)
            delivery.add_markers(everything=asked)
        for ticket in self._tickets:
            if ticket.targets is None:
                ticket.targets = {delivery: delivery.last_seq() for delivery in self._own()}
                for delivery in ticket.targets:
                    delivery.retry_at_once()
        again = True
        while again:
            again = self._write_in_turn()
            print_waiting()
            self._answer_tickets()
            again = again and not self._paused  # a fork waits for one batch at most
        self._tell_idle()
        for delivery in self._all():
            if delivery.is_over():
                self._retire(delivery)

    def _write_in_turn(self) -> bool:
        """Write a batch of each channel; whether there may be more to do at once.

        What dead processes left waits on disk, what this one logs waits in memory and is dropped where that is full: so
        of all recoveries together one batch is written beside a batch of each own channel, and while one of those has
        batches waiting, only now and then.
        """
        again = is_busy = False
        for delivery in self._own():
            if self._write_and_tell(delivery):
                again = True
                is_busy = is_busy or len(delivery.buffer) + len(delivery.ready) >= BATCH
        self._turn += 1
        if is_busy and self._turn % _RECOVERY_TURN:
            return again
        has_recovered = any(map(self._write_and_tell, self._recoveries()))
        # A round ends now and then: who asks for a flush meanwhile need not wait until all is recovered.
        return again or (has_recovered and bool(self._turn % _RECOVERY_TURN))

    def _write_and_tell(self, delivery: Delivery) -> bool:
        again = self._write_some(delivery)
        delivery.acknowledge()
        if self._tickets and (marker := delivery.add_markers(everything=True)):
            # Who waits for lines waits for the word about those that were dropped as well.
            again = True
            for ticket in self._tickets:
                if ticket.targets and delivery in ticket.targets:
                    ticket.targets[delivery] = max(ticket.targets[delivery], marker)
        return again

    def _answer_tickets(self) -> None:
        now = time.monotonic()
        waiting = []
        for ticket in self._tickets:
            behind = [delivery for delivery, target in (ticket.targets or {}).items() if delivery.done() < target]
            if behind and now < ticket.deadline:
                waiting.append(ticket)
            else:
                ticket.on_done(not behind)
        self._tickets = waiting

    def _write_some(self, delivery: Delivery) -> bool:
        """Write up to one batch; whether there may be more to do at once."""
        delivery.make_entries()
        if not delivery.may_write():
            return False
        if delivery.idling is not None:
            self._idle_at[delivery] = time.monotonic() + _IDLE
        batch = delivery.next_entries(BATCH)
        stopped: Exception | None = None
        try:
            delivery.offer(batch)
        except (SinkUnavailableError, OSError) as error:
            stopped = error
        except Exception as error:
            stopped = write_one_by_one(delivery, error, BATCH)
        else:
            delivery.mark_done(len(batch), lines=sum(not isinstance(entry, TallyRow) for entry in batch))
        if stopped is not None:
            delivery.back_off(stopped, is_awaited=bool(self._tickets))
        return stopped is None

    def _tell_idle(self) -> None:
        now = time.monotonic()
        for delivery in [delivery for delivery, at in self._idle_at.items() if at <= now]:
            del self._idle_at[delivery]
            try:
                if delivery.idling is not None:
                    delivery.idling.idle()
            except Exception as error:
                text = f"sink {delivery.name!r}: idle() failed: {error!r}"
                report_once(("idle", delivery.key, repr(error)), text)


def _wait_until_gone(thread: threading.Thread) -> None:
    """Wait a moment for the system's thread behind a joined one: Python 3.12 counts those for its warning at a fork."""
    place = f"/proc/self/task/{thread.native_id}"
    until = time.monotonic() + 0.02
    while os.path.exists(place) and time.monotonic() < until:  # noqa: PTH110 - nothing of the kind where no /proc is
        time.sleep(0.0001)
