"""The writer: order, retries, one row for one bad line, sinks that come and go."""

from __future__ import annotations

import logging
import logging.config
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from joblog_router import Entry, JobLogHandler, SinkUnavailableError, flush, job_context, stats
from joblog_router._pipeline import channel_delivery
from joblog_router._pipeline.channel import Item
from joblog_router._pipeline.channel_delivery import ChannelDelivery
from joblog_router._pipeline.overflow import Bounds
from joblog_router._pipeline.router import router
from joblog_router._pipeline.rules import Rules
from joblog_router.context import use_namespace
from tests.helpers import configure, job_handler, messages, run_python

log = logging.getLogger("app")


class Recording:
    """A sink that keeps what it gets and fails as told. A real store's failures are tested with the real store."""

    def __init__(self) -> None:
        self.written: list[Entry] = []
        self.calls = 0
        self.closed = 0
        self.fail: Any = None

    def write(self, entries: Sequence[Entry]) -> None:
        """Keep, or raise what `fail` gives for these entries."""
        self.calls += 1
        error = self.fail(entries) if self.fail else None
        if error is not None:
            raise error
        self.written.extend(entries)

    def close(self) -> None:
        """Count."""
        self.closed += 1


@pytest.fixture
def recording() -> Recording:
    """A recording sink behind a handler on the root logger."""
    sink = Recording()
    logging.getLogger().addHandler(JobLogHandler(fold=False, sink=sink))
    logging.getLogger().setLevel(logging.DEBUG)
    return sink


def test_order_is_kept_per_origin_under_threads(recording: Recording) -> None:
    """Eight threads at once: the store sees numbers rising without a gap, and each thread's lines in order."""

    def work(name: int) -> None:
        with job_context(name):
            for number in range(2000):
                log.info("%d", number)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flush(20)
    seqs = [entry.seq for entry in recording.written]
    assert seqs == list(range(seqs[0], seqs[0] + 16_000))
    for name in range(8):
        own = [int(entry.message) for entry in recording.written if entry.job_id == str(name)]
        assert own == list(range(2000))


def test_lines_are_written_in_batches(recording: Recording) -> None:
    """A thousand lines need a handful of writes, not a thousand."""
    with job_context(1):
        for number in range(1000):
            log.info("%d", number)
    assert flush(10)
    assert len(recording.written) == 1000
    assert recording.calls < 50


def test_an_unavailable_sink_is_tried_again_and_loses_nothing(
    recording: Recording, capfd: pytest.CaptureFixture[str]
) -> None:
    """While the store is away lines wait in order; one line on stderr says so, one when it is back."""
    recording.fail = lambda entries: SinkUnavailableError("the store is away", "start the store")
    with job_context(1):
        for number in range(100):
            log.info("%d", number)
    assert flush(0.3) is False
    assert stats()["waiting"] >= 100
    recording.fail = None
    assert flush(10)
    assert [int(entry.message) for entry in recording.written] == list(range(100))
    err = capfd.readouterr().err
    assert err.count("the store is away. start the store.") == 1
    assert err.count("takes entries again") == 1


def test_any_other_error_of_a_dead_sink_is_retried_too(recording: Recording) -> None:
    """A sink that fails for every entry is treated as away, whatever it raises."""
    recording.fail = lambda entries: RuntimeError("broken")
    with job_context(1):
        for number in range(50):
            log.info("%d", number)
    assert flush(0.3) is False
    assert recording.calls < 200, "a dead sink is not asked for every single entry"
    recording.fail = None
    assert flush(10)
    assert [int(entry.message) for entry in recording.written] == list(range(50))


@pytest.mark.parametrize(
    "poison",
    [
        {0},
        {49},
        {0, 1, 2, 3, 4},
        {0, 1, 2, 49},
        set(range(0, 50, 3)),
        set(range(49)),
        set(range(50)),
        {599},
        set(range(550)),
    ],
)
def test_a_line_the_sink_refuses_costs_that_line_only(recording: Recording, poison: set[int]) -> None:
    """Refused lines are counted and leave a word in the log; all others are stored once and in order."""

    def fail(entries: Sequence[Entry]) -> Exception | None:
        refused = any(entry.message.isdigit() and int(entry.message) in poison for entry in entries)
        return ValueError("poison") if refused else None

    recording.fail = fail
    count = 50 if max(poison) < 50 else 600
    before = stats()
    with job_context(1):
        for number in range(count):
            log.info("%d", number)
    assert flush(15)
    assert [entry.seq for entry in recording.written] == sorted({entry.seq for entry in recording.written})
    stored = [int(entry.message) for entry in recording.written if entry.message.isdigit()]
    assert stored == sorted(set(range(count)) - poison)
    words = [entry for entry in recording.written if entry.logger == "joblog_router"]
    assert len(words) == len(poison)
    assert all("could not be stored" in entry.message for entry in words)
    after = stats()
    assert after["quarantined"] - before["quarantined"] == len(poison)
    assert after["stored"] - before["stored"] == count - len(poison)
    assert after["waiting"] == 0


def test_a_line_that_is_refused_without_its_contents_too_costs_no_other_line_of_its_job(recording: Recording) -> None:
    """Another job's line tells that the sink is well; then each is tried by itself."""
    recording.fail = lambda entries: ValueError("level 25") if any(entry.level == 25 for entry in entries) else None
    before = stats()
    with job_context(1):
        for number in range(40):
            log.log(25 if number % 8 == 0 else logging.INFO, "%d", number)
        assert not flush(0.3), "it may be the sink"
        with job_context(2):
            log.info("99")
    assert flush(15)
    expected = [number for number in range(40) if number % 8]
    assert sorted(int(entry.message) for entry in recording.written if entry.message.isdigit()) == [*expected, 99]
    assert stats()["quarantined"] - before["quarantined"] == 5
    assert stats()["stored"] - before["stored"] == 36


def test_a_job_of_which_the_sink_takes_nothing_holds_up_no_other(recording: Recording) -> None:
    """Its lines are counted as quarantined, after a few tries and not one for each."""
    recording.fail = lambda entries: (
        ValueError("no such job") if any(entry.job_id == "1" for entry in entries) else None
    )
    before = stats()
    with job_context(1):
        for number in range(400):
            log.info("%d", number)
        with job_context(2):
            log.info("99")
    assert flush(15)
    assert [entry.message for entry in recording.written] == ["99"]
    assert stats()["quarantined"] - before["quarantined"] == 400
    assert recording.calls < 40


def test_a_line_that_the_rules_fail_for_costs_no_other(
    recording: Recording, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is counted as quarantined, and its job is named. Rules that fail are made up: none of ours does."""
    finish = Rules.finish

    def failing(self: Rules, lines: list[Entry]) -> list[Entry]:
        if any(entry.message == "bad" for entry in lines):
            raise ValueError("no rule for this")
        return finish(self, lines)

    monkeypatch.setattr(Rules, "finish", failing)
    before = stats()["quarantined"]
    with job_context(17):
        for message in ("a", "bad", "b"):
            log.info(message)
    assert flush(10)
    assert [entry.message for entry in recording.written] == ["a", "b"]
    assert stats()["quarantined"] - before == 1
    assert "a line of job '17' could not be stored: ValueError('no rule for this')" in capfd.readouterr().err


def test_one_dead_sink_does_not_hold_up_another(recording: Recording) -> None:
    """Each sink has its own buffer and its own retries."""
    healthy = Recording()
    logging.getLogger().addHandler(JobLogHandler(fold=False, sink=healthy))
    recording.fail = lambda entries: SinkUnavailableError("away")
    with job_context(1):
        log.info("x")
    assert flush(0.3) is False
    assert [entry.message for entry in healthy.written] == ["x"]
    recording.fail = None
    assert flush(10)


def test_a_second_configuration_keeps_the_buffer() -> None:
    """Lines that wait when `dictConfig` is called again are stored, and the same sink goes on."""
    collected.clear()
    gate.clear()
    configure(sink="callable", options={"target": "tests.test_writer.collect"})
    with job_context(1):
        log.info("before")
        configure(sink="callable", options={"target": "tests.test_writer.collect"})
        log.info("after")
    gate.set()
    assert flush(10)
    assert [entry.message for entry in collected] == ["before", "after"]
    assert len({entry.origin for entry in collected}) == 1


def test_lines_for_a_sink_that_was_configured_away_are_still_stored() -> None:
    """The old sink gets what was logged while it was configured, then it is closed."""
    old = Recording()
    logging.getLogger().setLevel(logging.INFO)
    handler = JobLogHandler(fold=False, sink=old)
    logging.getLogger().addHandler(handler)
    with job_context(1):
        log.info("for the old one")
        configure()
        log.info("for the new one")
    assert messages() == ["for the new one"]
    assert flush(10)
    assert [entry.message for entry in old.written] == ["for the old one"]
    log.info("wake up")
    with job_context(1):
        log.info("again")
    assert flush(10)
    assert old.closed == 1
    assert all(sink is not old for sink in router.sinks().values()), "nobody else can have it"


def test_a_memory_sink_ends_with_its_handler() -> None:
    """No other handler can have it, so its lines are not kept when a configuration has made a new one."""
    configure()
    old = job_handler().sink
    with job_context(1):
        log.info("for the old one")
        assert messages() == ["for the old one"]
        configure()
        for number in range(2):
            log.info("%d", number)
            assert messages() == [str(number) for number in range(number + 1)]
    assert all(sink is not old for sink in router.sinks().values())


def test_a_closed_handler_left_on_its_logger_goes_on(recording: Recording) -> None:
    """`dictConfig` closes handlers of loggers it does not configure: their lines must not vanish."""
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler))
    handler.close()
    with job_context(1):
        log.info("one")
        assert flush(10)
        log.info("two")
        assert flush(10)
    assert [entry.message for entry in recording.written] == ["one", "two"]
    handler.close()


def test_handler_flush_from_dictconfig_does_not_wait() -> None:
    """`dictConfig` flushes handlers while it holds logging's lock; a sink that logs would wait for that lock."""
    entered = threading.Event()

    class LogsThroughANewLogger:
        count = 0

        def write(self, entries: Sequence[Entry]) -> None:
            entered.set()
            self.count += 1
            # A never-used logger's first isEnabledFor needs the lock that dictConfig holds.
            logging.getLogger(f"fresh.{self.count}.{id(self)}").debug("writing")

        def close(self) -> None:
            pass

    logging.getLogger().addHandler(JobLogHandler(fold=False, sink=LogsThroughANewLogger()))
    logging.getLogger().setLevel(logging.INFO)
    stop = threading.Event()

    def busy() -> None:
        with job_context(1):
            while not stop.is_set():
                log.info("busy")
                stop.wait(0.0005)

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert entered.wait(10)
        import time

        start = time.monotonic()
        for _ in range(20):
            configure(handlers={"null": {"class": "logging.NullHandler"}})
        assert time.monotonic() - start < 2, "dictConfig waited for the writer"
    finally:
        stop.set()
        thread.join(10)
    assert not thread.is_alive()
    assert flush(10)


def test_a_number_lost_to_an_exception_holds_nothing_up(recording: Recording) -> None:
    """A number that was taken and never appended (an exception out of a signal handler) delays, but loses nothing."""
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler))
    with job_context(1):
        log.info("one")
        next(handler._channel.numbers)
        log.info("two")
        log.info("three")
    assert flush(10)
    assert [entry.message for entry in recording.written] == ["one", "two", "three"]


def test_counters_add_up(recording: Recording) -> None:
    """captured = stored + folded + waiting + dropped + quarantined, at rest."""
    with job_context(1):
        for _ in range(10):
            log.info("x")
    assert flush(10)
    counted = stats()
    assert counted["captured"] == sum(counted[key] for key in ("stored", "folded", "waiting", "dropped", "quarantined"))
    assert job_handler().sink is recording


def test_a_process_counts_what_it_logged_itself() -> None:
    """Nothing before its first line, whatever is configured, and nothing of its parent's after a fork."""
    code = """
import logging, os
from joblog_router import JobLogHandler, flush, job_context, stats
assert not any(stats().values()), stats()
logging.getLogger().addHandler(JobLogHandler(sink="memory"))
assert not any(stats().values()), stats()
with job_context(1):
    logging.warning("x")
assert flush(10)
assert {name: number for name, number in stats().items() if number} == {"captured": 1, "stored": 1}, stats()
if (pid := os.fork()) == 0:
    os._exit(any(stats().values()))
assert os.waitpid(pid, 0)[1] == 0
"""
    result = run_python(code)
    assert result.returncode == 0, result.stderr


def test_counting_stands_a_channel_that_comes_meanwhile(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed handlers that log again add channels without the lock; here just while it counts."""
    log.info("x")
    count = router._add
    come = iter(range(1, 1000))

    def add(counts: dict[str, int], delivery: ChannelDelivery) -> None:
        router._channels[f"come {next(come)}"] = delivery.channel  # no thread can be made to meet that moment
        count(counts, delivery)

    monkeypatch.setattr(router, "_add", add)
    before = dict(router._channels)
    try:
        assert stats()["waiting"] >= 0
    finally:
        for key in set(router._channels) - set(before):
            del router._channels[key]


def test_two_sinks_count_their_lines_without_gaps() -> None:
    """`n` has no gap in either store, however many sinks a record goes to; a dropped line leaves one."""
    one, two = Recording(), Recording()
    for sink in (one, two):
        logging.getLogger().addHandler(JobLogHandler(fold=False, sink=sink))
    logging.getLogger().setLevel(logging.INFO)
    with job_context(1):
        for _ in range(5):
            log.info("x")
        with job_context(1):
            log.info("inner")
    assert flush(10)
    assert [entry.n for entry in one.written] == [entry.n for entry in two.written] == [1, 2, 3, 4, 5, 6]
    three = Recording()
    handler = JobLogHandler(fold=False, sink=three, capacity=5)
    logging.getLogger().addHandler(handler)
    handler._channel.room = 0
    with job_context(1):
        log.info("dropped")
        handler._channel.delivery.make_room()
        log.info("kept")
    assert flush(10)
    assert [entry.n for entry in three.written if entry.logger == "app"] == [2]


def test_an_old_handler_beside_a_new_one_with_the_same_sink_loses_nothing() -> None:
    """A handler closed by `dictConfig` but left on its logger, a pause, then the same sink configured anew."""
    collected.clear()
    gate.set()
    job = {
        "class": "joblog_router.JobLogHandler",
        "fold": False,
        "sink": "callable",
        "options": {"target": "tests.test_writer.collect"},
    }
    base = {"version": 1, "disable_existing_loggers": False}
    shop = logging.getLogger("shop.old")
    logging.config.dictConfig(
        {**base, "handlers": {"job": job}, "loggers": {"shop.old": {"handlers": ["job"], "level": "INFO"}}}
    )
    with job_context(1):
        shop.info("one")
        assert flush(5)
        logging.config.dictConfig({**base, "root": {"level": "INFO", "handlers": []}})
        logging.getLogger("shop.wake").info("nobody")
        assert flush(5)
        logging.config.dictConfig({**base, "handlers": {"job": job}, "root": {"level": "INFO", "handlers": ["job"]}})
        shop.info("two")
        shop.info("three")
    assert flush(5)
    assert [entry.message for entry in collected] == ["one", "two", "three"]


def test_a_record_that_cannot_become_an_entry_does_not_hold_up_a_flush(recording: Recording) -> None:
    """A record without a name, as `makeLogRecord` makes it, costs itself only."""
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler))
    with job_context(1):
        log.info("one")
        handler.handle(logging.makeLogRecord({"msg": "nameless", "args": None, "name": object()}))
    assert flush(5)
    assert recording.written[0].message == "one"


def test_what_is_being_converted_counts_as_waiting(recording: Recording) -> None:
    """`flush` is not fooled by lines that are in the writer's hands."""
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler))
    assert handler._channel.delivery.is_empty()
    handler._channel.delivery.is_converting = True
    assert not handler._channel.delivery.is_empty()
    handler._channel.delivery.is_converting = False


def test_the_buffer_is_bounded_by_all_that_waits(recording: Recording) -> None:
    """Lines the writer has taken off but not stored use up the same room."""
    recording.fail = lambda entries: SinkUnavailableError("away")
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler))
    handler._channel.bounds = handler._channel.overflow.bounds = Bounds(300)
    handler._channel.delivery.make_room()
    before = stats()
    with job_context(1):
        for number in range(1000):
            log.info("%d", number)
            if number % 100 == 0:
                flush(0.05)
    assert handler._channel.delivery.waiting() <= 300
    recording.fail = None
    assert flush(10)
    lines = [entry for entry in recording.written if entry.logger == "app"]
    assert stats()["dropped"] - before["dropped"] == 1000 - len(lines) >= 700


def test_a_dead_sink_is_asked_less_and_less_often(recording: Recording) -> None:
    """Retries back off: many wake-ups in a short time are not many attempts."""
    recording.fail = lambda entries: SinkUnavailableError("away")
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler))
    with job_context(1):
        log.info("first")
    assert flush(0.3) is False
    handler._channel.delivery.retry_at = handler._channel.delivery.retry_at + 1000
    calls = recording.calls
    with job_context(1):
        for _ in range(50):
            log.info("more")
            router._writer.wake()
    deadline = threading.Event()
    deadline.wait(0.3)
    assert recording.calls == calls
    recording.fail = None
    assert flush(10)


def test_numbers_that_arrive_out_of_order_are_stored_in_order(recording: Recording) -> None:
    """A thread that was interrupted between taking its number and appending does not make others overtake it."""
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler))
    channel = handler._channel
    channel.awake = True
    with job_context(1):
        for number in range(6):
            log.info("%d", number)
        items = list(channel.buffer)
        channel.buffer.clear()
        channel.buffer.extend([items[0], items[2], items[3]])
        assert [item[2] for item in channel.delivery.take(10)] == [items[0][2]]
        channel.buffer.extend([items[1], items[5], items[4]])
        assert [item[2] for item in channel.delivery.take(10)] == [item[2] for item in items[1:]]
    channel.awake = False


def test_a_tenants_job_of_which_the_sink_takes_nothing_holds_up_no_other_tenants(recording: Recording) -> None:
    """Jobs of the same id in two namespaces are two jobs, also where one of them is suspected."""
    recording.fail = lambda entries: (
        LookupError("no such job") if any(entry.namespace == "left" for entry in entries) else None
    )
    before = stats()
    try:
        for tenant in ("left", "stays", "left", "stays"):
            use_namespace(tenant)
            with job_context(1):
                for number in range(3):
                    log.info("%s %d", tenant, number)
    finally:
        use_namespace("")
    assert flush(10)
    assert [entry.message for entry in recording.written] == 2 * [f"stays {number}" for number in range(3)]
    assert stats()["quarantined"] - before["quarantined"] == 6


def test_a_line_behind_a_missing_number_waits_its_time_at_each_gap(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago an earlier gap was. The clock is set here: no thread is interrupted for so long at will."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(channel_delivery, "time", SimpleNamespace(monotonic=lambda: clock.now))
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, JobLogHandler))
    channel = handler._channel
    channel.awake = True

    def taken(after: float, *come: Item) -> list[str]:
        clock.now += after
        channel.buffer.extend(come)
        return [item[4] for item in channel.delivery.take(10)]

    with job_context(1):
        for number in range(8):
            log.info("%d", number)
        items = list(channel.buffer)
        channel.buffer.clear()
    assert router._writer.pause(5)
    assert taken(0, items[0], items[2]) == ["0"]
    assert taken(0.15) == []
    assert taken(0.15) == ["2"]  # who took number 1 never comes
    assert taken(5, items[4]) == []
    assert taken(0.15, items[5]) == []
    assert taken(0.04, items[3], items[7]) == ["3", "4", "5"]
    assert taken(0.15) == []
    assert channel.delivery.waiting() == 1
    assert taken(0.01, items[6]) == ["6", "7"]
    channel.awake = False
    router._writer.resume()


def test_a_job_the_sink_can_never_store_does_not_hold_up_the_others(recording: Recording) -> None:
    """Lines of a job that is refused with and without their contents are given up once another job's are taken."""
    recording.fail = lambda entries: (
        LookupError("no such job") if any(entry.job_id == "deleted" for entry in entries) else None
    )
    before = stats()
    for _ in range(3):
        with job_context("deleted"):
            for number in range(600):
                log.info("%d", number)
        with job_context("good"):
            log.info("kept")
    assert flush(15)
    assert [entry.message for entry in recording.written] == ["kept"] * 3
    assert stats()["quarantined"] - before["quarantined"] == 1800


@pytest.mark.parametrize("error", [ConnectionError("reset by peer"), RuntimeError("in passing")])
@pytest.mark.parametrize("failures", [1, 2])
def test_a_store_that_fails_in_passing_loses_no_line(recording: Recording, failures: int, error: Exception) -> None:
    """One or two failed calls are no proof against a line."""
    left = [error] * failures
    recording.fail = lambda entries: left.pop() if left else None
    with job_context(1):
        log.warning("payment 17 failed")
    assert flush(10)
    assert [entry.message for entry in recording.written] == ["payment 17 failed"]


collected: list[Entry] = []
gate = threading.Event()


def collect(some: list[Entry]) -> None:
    """Wait for the gate, then keep: the target of the callable sink above."""
    assert gate.wait(10)
    collected.extend(some)


def test_those_who_flush_often_wait_for_a_store_that_is_away_only_once(recording: Recording) -> None:
    """After one flush in vain `flush_unless_stuck` does not wait, until what waited then is stored; then it does."""
    recording.fail = lambda entries: SinkUnavailableError("away")
    with job_context(1):
        log.info("one")
        started = time.monotonic()
        assert not router.flush_unless_stuck(0.3)
        assert time.monotonic() - started >= 0.3
        log.info("two")
        started = time.monotonic()
        for _ in range(100):
            assert not router.flush_unless_stuck(0.3)
        assert time.monotonic() - started < 0.3
        recording.fail = None
        assert flush(10)
        log.info("three")
        assert router.flush_unless_stuck(10)
    assert [entry.message for entry in recording.written] == ["one", "two", "three"]


def test_an_error_and_a_full_batch_are_written_at_once(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer waits for more lines, here for a minute, but not beyond an ERROR or a whole batch."""
    from joblog_router._pipeline import writer

    monkeypatch.setattr(writer, "LINGER", 60.0)
    written = threading.Event()
    recording.fail = lambda entries: written.set()
    with job_context(1):
        log.info("may wait")
        log.error("may not")
        assert written.wait(10)
        written.clear()
        for number in range(writer.BATCH):
            log.info("%d", number)
        assert written.wait(10)
