"""The one thread that takes entries out of the buffers and hands them to sinks.

Runs in an empty context, so that what sinks log is about no job and cannot come back as new entries. Nothing here is
called on a logging thread except `Writer.wake` (one append to a `SimpleQueue`, which is safe in signal handlers and
`__del__`) and, once per process, the start of the thread. Imports the deliveries it empties, of channels only what an
item is.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import Context
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Final

from ..entry import REFUSED_MARK, TALLY_MARKS, Entry
from ..exceptions import EntryRefusedError, SinkUnavailableError
from . import quarantine, switch
from .completeness import Key, key_of
from .conversion import convert
from .delivery import ChannelDelivery, Delivery
from .overflow import WRITER_NAME, weight
from .report import print_waiting, report, report_once
from .tally import TallyRow

LINGER = 0.05
_LOOK = 0.0125  # while it lingers, the writer looks this often whether a batch is there
BATCH = 500
_CONVERT = 2000
# While this process's own lines wait in batches, what dead ones left has every so many-th turn.
_RECOVERY_TURN = 8
# How far to look for an entry that tells whether a job or the sink is at fault, and how many jobs to ask.
_FAR = 5000
_SUSPECTS = 6
_FIRST_BACKOFF = 0.25
_LAST_BACKOFF = 30.0
_FLUSH_RETRY = 0.1
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
            return _FLUSH_RETRY
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
                self._make_entries(delivery, everything=True)
            delivery.add_tallies(everything=asked)
            delivery.add_markers(everything=asked)
        for ticket in self._tickets:
            if ticket.targets is None:
                ticket.targets = {delivery: delivery.last_seq() for delivery in self._own()}
                for delivery in ticket.targets:
                    delivery.retry_at = 0.0
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
        self._make_entries(delivery)
        if not delivery.ready or delivery.retry_at > time.monotonic():
            return False
        batch = list(islice(delivery.ready, BATCH))
        delivery.is_closed = False
        if delivery.idling is not None:
            self._idle_at[delivery] = time.monotonic() + _IDLE
        try:
            delivery.sink.write(delivery.not_stored(batch))
        except (SinkUnavailableError, OSError) as error:
            self._back_off(delivery, error)
            return False
        except Exception as error:
            return self._write_one_by_one(delivery, error)
        self._done(delivery, len(batch), lines=_lines_in(batch))
        return True

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

    def _make_entries(self, delivery: Delivery, everything: bool = False) -> None:
        """Turn records into entries at once, also while the sink is away: a record may hold on to large arguments."""
        delivery.is_converting = True  # what is taken is in no list for a moment: nobody may think it done
        items = delivery.take(max(_CONVERT, len(delivery.buffer)) if everything else _CONVERT)
        if items:
            entries = convert(delivery, items)
            delivery.ready.extend(entries)
            delivery.taken = items[-1][2]
            delivery.overflow.converted(items)
            delivery.overflow.ready_bytes += weight(entries)
            delivery.shed()
        delivery.is_converting = False
        delivery.make_room()

    def _write_one_by_one(self, delivery: Delivery, error: Exception) -> bool:
        """Find the entries a sink cannot store: they are set aside, the rest is written in order.

        An entry that is refused alone is offered without its contents: if that is taken, the contents were at fault and
        the job's log says that a line is missing. If not, an entry of another job tells whether it is the job or the
        sink; where it is the sink, everything waits.
        """
        handled = lines = tries = 0
        suspects: list[tuple[Entry, Exception]] = []
        stopped: Exception | None = None
        entries = list(islice(delivery.ready, _FAR))
        try:
            # Asked now: of the batch that failed the sink may have stored some.
            new = {(entry.origin, entry.seq) for entry in delivery.not_stored(entries)}
        except Exception as failed:
            self._back_off(delivery, failed)
            return False
        for entry in entries:
            if suspects and any(key_of(entry) == key_of(suspect) for suspect, _ in suspects):
                suspects.append((entry, suspects[0][1]))
                continue
            try:
                is_stored = (entry.origin, entry.seq) not in new or self._store_one(delivery, entry)
            except (SinkUnavailableError, OSError) as unavailable:
                stopped = unavailable
                break
            except Exception as refusal:
                suspects.append((entry, refusal))
                tries += 1
                if tries == _SUSPECTS:
                    break
                continue
            done, stored, stopped = self._judge(delivery, suspects)
            handled += done
            lines += stored
            if stopped is not None:
                break
            handled += 1
            lines += is_stored and not isinstance(entry, TallyRow)
            suspects.clear()
            tries = 0
            if handled >= BATCH:
                break
        if handled:
            self._done(delivery, handled, lines)
        if stopped is not None or suspects:
            self._back_off(delivery, stopped or error)
            return False
        return True

    def _judge(self, delivery: Delivery, suspects: list[tuple[Entry, Exception]]) -> tuple[int, int, Exception | None]:
        """The sink took another job's entry: how many of these are done, how many lines stored, and what stopped it.

        The first of a job is set aside. Is the next one refused as well, then nothing of that job is taken.
        """
        is_taken: dict[Key, bool | None] = {}  # by job; None while only one of it was refused
        stored = 0
        for number, (suspect, reason) in enumerate(suspects):
            job = key_of(suspect)
            why = reason
            if is_taken.get(job, False) is not False:
                try:
                    stored += self._store_one(delivery, suspect) and not isinstance(suspect, TallyRow)
                    is_taken[job] = True
                    continue
                except (SinkUnavailableError, OSError) as unavailable:
                    return number, stored, unavailable
                except Exception as refusal:
                    why = refusal
                    is_taken[job] = is_taken[job] or False
            else:
                is_taken.setdefault(job, None)
            self._set_aside(delivery, suspect, why)
        for suspect, _ in suspects:
            if not is_taken[key_of(suspect)]:
                delivery.missing.forget(suspect)  # nothing of this job is taken, nor would a word about it be
        return len(suspects), stored, None

    def _store_one(self, delivery: Delivery, entry: Entry) -> bool:
        """Whether the sink has `entry`; if not it is set aside. Raises where it may be the sink's fault."""
        reason: Exception | None = None
        for _ in range(2):  # once more: what failed in passing is no reason to lose a line
            try:
                delivery.sink.write([entry])
                return True
            except (SinkUnavailableError, OSError):
                raise
            except EntryRefusedError as error:
                self._set_aside(delivery, entry, error)
                return False
            except Exception as error:
                reason = error
        delivery.sink.write([_without_contents(entry)])
        self._set_aside(delivery, entry, reason)
        return False

    @staticmethod
    def _set_aside(delivery: Delivery, entry: Entry, reason: Exception | None) -> None:
        if not isinstance(entry, TallyRow):
            delivery.quarantined += 1
            counts = delivery.folder.jobs.of(entry)
            counts.quarantined += 1
            counts.stored -= 1  # _done() will count it among those
            delivery.missing.note(key_of(entry))
        kept_in = quarantine.keep(delivery, entry, reason)
        report_once(
            ("refused", delivery.key, type(reason).__name__),
            f"sink {delivery.name!r} refused a line of job {entry.job_id!r} (origin {entry.origin}, seq {entry.seq}): "
            f"{reason!r}. Such lines are counted as quarantined" + (f" and kept in {kept_in!r}" if kept_in else ""),
        )

    def _done(self, delivery: Delivery, count: int, lines: int) -> None:
        """The first `count` entries need no more work; `lines` lines among them are in the store."""
        popleft = delivery.ready.popleft
        done = [popleft() for _ in range(count)]
        delivery.overflow.ready_bytes -= weight(done)
        delivery.folder.jobs.stored(entry for entry in done if not isinstance(entry, TallyRow))
        delivery.stored += lines
        delivery.make_room()
        if delivery.failing:
            delivery.failing = False
            delivery.failures = 0
            delivery.retry_at = 0.0
            report(f"sink {delivery.name!r} takes entries again; {delivery.waiting()} are waiting")
        dropped = delivery.overflow.dropped.value()
        if dropped > delivery.told_dropped:
            report(f"sink {delivery.name!r}: {dropped - delivery.told_dropped} lines dropped, the buffer was full")
            delivery.told_dropped = dropped

    def _back_off(self, delivery: Delivery, error: Exception) -> None:
        pause = min(_FIRST_BACKOFF * 2**delivery.failures, _LAST_BACKOFF)
        delivery.failures = min(delivery.failures + 1, 10)
        delivery.retry_at = time.monotonic() + (_FLUSH_RETRY if self._tickets else pause)
        text = str(error) if isinstance(error, SinkUnavailableError) else f"sink {delivery.name!r} failed: {error!r}"
        if not delivery.failing or text != delivery.last_error:
            delivery.failing = True
            delivery.last_error = text
            advice = error.advice if isinstance(error, SinkUnavailableError) else ""
            report(
                f"{text}. {advice + '. ' if advice else ''}Job log lines {delivery.where_kept()} and are tried again; "
                "the application is not affected"
            )


def _wait_until_gone(thread: threading.Thread) -> None:
    """Wait a moment for the system's thread behind a joined one: Python 3.12 counts those for its warning at a fork."""
    place = f"/proc/self/task/{thread.native_id}"
    until = time.monotonic() + 0.02
    while os.path.exists(place) and time.monotonic() < until:  # noqa: PTH110 - nothing of the kind where no /proc is
        time.sleep(0.0001)


def _without_contents(entry: Entry) -> Entry:
    is_line = entry.tally is None
    fields = {REFUSED_MARK: True} if is_line else {name: entry.fields[name] for name in TALLY_MARKS}
    return entry._replace(
        logger="joblog_router",
        message="A line of this job could not be stored: the log's store refused its contents.",
        exception=None,
        fields=fields,
        path="",
        line=0,
    )


def _lines_in(batch: list[Entry]) -> int:
    return sum(not isinstance(entry, TallyRow) for entry in batch)
