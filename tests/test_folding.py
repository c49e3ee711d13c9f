"""Many similar lines become the first few and an exact tally; different lines, warnings and exceptions stay."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from joblog_router import Entry, aflush, flush, job_context, stats
from joblog_router._pipeline import folding
from joblog_router._pipeline.folding import KEPT, Folder, shape_of
from joblog_router._pipeline.scopes import JobScope
from joblog_router.sinks import MemorySink
from tests.helpers import auntil, configure, entries, job_handler, run_python

log = logging.getLogger("app")


def shown(rows: list[Entry]) -> list[Entry]:
    """What a reader shows: of each run the newest tally only."""
    newest = {row.fields["fold"]: row for row in rows if "fold" in row.fields}
    return [row for row in rows if "fold" not in row.fields or newest[row.fields["fold"]] is row]


def test_ten_thousand_similar_lines_are_a_dozen_rows_with_an_exact_tally() -> None:
    """The first lines are kept, the rest is counted exactly, with the first and the last of them."""
    configure(fold=True)
    before = stats()
    with job_context(1):
        for number in range(10_000):
            log.info("Published task for image %d to 'stream', sequence %d", number, number + 1, extra={"k": number})
    rows = shown(entries(1))
    assert len(rows) == KEPT + 1 <= 12
    tally = rows[-1]
    assert tally.fields["folded"] == 10_000 - KEPT
    assert tally.fields["first"] == f"Published task for image {KEPT} to 'stream', sequence {KEPT + 1}"
    assert tally.fields["last"] == tally.message == "Published task for image 9999 to 'stream', sequence 10000"
    assert tally.fields["k"] == 9999
    told = [row.fields["folded"] for row in entries(1) if "fold" in row.fields]
    assert {10, 100, 1000} <= set(told), "the count is told whenever it is ten times as high"
    assert len(entries(1)) < 15
    after = {key: value - before[key] for key, value in stats().items()}
    assert (after["captured"], after["stored"], after["folded"]) == (10_000, KEPT, 10_000 - KEPT)
    assert after["waiting"] == 0


def test_different_messages_through_one_helper_are_all_kept() -> None:
    """One call site that many messages pass through is not one run."""
    configure(fold=True)

    def tell(message: str) -> None:
        log.info("%s", message)

    words = ["queued", "started", "fetched", "classified", "saved", "done"]
    with job_context(1):
        for word in words:
            for _ in range(KEPT):
                tell(f"the job is {word}")
    assert len(entries(1)) == len(words) * KEPT
    assert not [row for row in entries(1) if "fold" in row.fields]


def test_warnings_and_exceptions_are_never_folded() -> None:
    """From WARNING on, and wherever there is a traceback, every line is stored."""
    configure(fold=True)
    with job_context(1):
        for number in range(50):
            log.warning("warning %d", number)
            log.error("error %d", number)
            try:
                raise ValueError(number)
            except ValueError:
                log.info("failed %d", number, exc_info=True)
            log.debug("debug %d", number)
    rows = entries(1)
    assert sum(row.message.startswith("warning") for row in rows) == 50
    assert sum(row.message.startswith("error") for row in rows) == 50
    assert sum(row.message.startswith("failed") for row in rows) == 50
    assert len(shown([row for row in rows if row.message.startswith("debug")])) == KEPT + 1


def test_jobs_call_sites_and_levels_are_folded_apart() -> None:
    """A tally counts lines of one job and one call site only."""
    configure(fold=True)
    with job_context(1), job_context(2):
        for number in range(100):
            log.info("line %d", number)
            log.info("line %d", number)
            log.info("line %d", number, extra={"job_log_id": 1})
    one, two = shown(entries(1)), shown(entries(2))
    assert [row.fields["folded"] for row in one if "fold" in row.fields] == [100 - KEPT]
    assert [row.fields["folded"] for row in two if "fold" in row.fields] == [100 - KEPT] * 2


def test_folding_can_be_off_for_a_handler_and_for_loggers() -> None:
    """`fold=False` stores everything; `unfolded` does so for whole logger subtrees."""
    configure(fold=False)
    with job_context(1):
        for number in range(100):
            log.info("line %d", number)
    assert len(entries(1)) == 100
    configure(fold=True, unfolded=["app.audit"])
    with job_context(2):
        for number in range(100):
            logging.getLogger("app.audit.money").info("line %d", number)
            log.info("line %d", number)
    rows = entries(2)
    assert sum(row.logger == "app.audit.money" for row in rows) == 100
    assert len(shown([row for row in rows if row.logger == "app"])) == KEPT + 1


async def test_a_run_that_stops_is_told_within_seconds_without_a_flush() -> None:
    """A live reader sees the true count soon after the last line, though nobody flushed."""
    handler = configure(fold=True)
    sink = handler.sink
    assert isinstance(sink, MemorySink)
    with job_context(1):
        for number in range(KEPT + 7):
            log.info("line %d", number)
    await auntil(lambda: [row for row in sink.entries(1) if row.fields.get("folded") == 7], 5)
    assert await aflush()
    assert len(sink.entries(1)) == KEPT + 1


def test_rows_and_tallies_come_in_the_order_of_their_numbers() -> None:
    """A reader that remembers the last number per origin misses no tally."""
    configure(fold=True)
    with job_context(1):
        for number in range(300):
            log.info("line %d", number)
            if number % 50 == 0:
                log.info("different: %s", "abcdefgh"[number // 50])
                assert flush(5)
    seqs = [row.seq for row in entries(1)]
    assert seqs == sorted(set(seqs))


def test_tallies_are_stored_when_the_process_ends(tmp_path: Path) -> None:
    """The count is complete at exit."""
    result = run_python(
        """
        import logging, logging.config, sys, joblog_router
        logging.config.dictConfig({"version": 1, "handlers": {"job": {"class": "joblog_router.JobLogHandler",
            "sink": "jsonl", "options": {"directory": sys.argv[1]}}}, "root": {"level": "INFO", "handlers": ["job"]}})
        with joblog_router.job_context(1):
            for number in range(777):
                logging.getLogger("x").info("line %d", number)
        """,
        str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "1.jsonl").read_text().splitlines()]
    assert sum("fold" not in row["fields"] for row in rows) == KEPT
    assert rows[-1]["fields"]["folded"] == 777 - KEPT
    assert rows[-1]["message"] == "line 776"


MANY_JOBS = """
import gc, logging, logging.config, sys, tracemalloc, joblog_router
from joblog_router._pipeline import folding
folding._FORGET = 0.05
logging.config.dictConfig({"version": 1, "handlers": {"job": {"class": "joblog_router.JobLogHandler",
    "sink": "memory", "options": {"max_entries": 10}}}, "root": {"level": "INFO", "handlers": ["job"]}})
log = logging.getLogger("x")
def jobs(start, count):
    for number in range(start, start + count):
        with joblog_router.job_context(number):
            log.info("line of %d", number)
        if number % 5000 == 0:
            assert joblog_router.flush(20)
    assert joblog_router.flush(20)
    import time
    until = time.monotonic() + 5
    from joblog_router._pipeline.router import router
    (channel,) = router._channels.values()
    while channel.delivery.folder._runs and time.monotonic() < until:
        time.sleep(0.06)  # a run is forgotten by time, there is no event to wait for
        with joblog_router.job_context("sweep"):
            log.warning("sweep")
        joblog_router.flush(5)
    gc.collect()
jobs(0, 10_000)
tracemalloc.start()
jobs(10_000, 10_000)
def traced(at):
    # The tables of bounded caches grow and shrink as they are refilled: what is kept of each job is there every time.
    for more in range(4):
        jobs(at + 1500 * more, 1500)
        yield tracemalloc.get_traced_memory()[0]
base = max(traced(10**6))
jobs(20_000, int(sys.argv[1]))
print(min(traced(2 * 10**6)) - base)
"""


def kept_memory(jobs: int, timeout: float) -> int:
    """The bytes that a process keeps of so many jobs."""
    result = run_python(MANY_JOBS, str(jobs), timeout=timeout)
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


def test_many_jobs_leave_no_memory_behind() -> None:
    """Opening, logging in and closing twenty thousand jobs keeps nothing per job: no object is so small."""
    assert kept_memory(20_000, timeout=58) < 500_000


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_hundred_thousand_jobs_leave_no_memory_behind() -> None:
    """The same with five times as many, and no more kept."""
    kept = kept_memory(100_000, timeout=590)
    print(f"100,000 jobs opened and closed: {kept} bytes kept")
    assert kept < 200_000


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("image 1 of 2", "image 17 of 500"),
        ("saved 'a b.jpg'", "saved 'c.jpg'"),
        ('saved "x"', 'saved "y z"'),
        ("task 550e8400-e29b-41d4-a716-446655440000 ok", "task 123e4567-e89b-12d3-a456-426614174000 ok"),
        ("commit deadbeefcafe", "commit 0123456789ab"),
        ("NR-0001.jpg saved", "NR-0420.jpg saved"),
        ("took 1.5s", "took 12.75s"),
    ],
)
def test_values_do_not_make_a_shape(one: str, other: str) -> None:
    """Numbers, ids and quoted values are masked."""
    assert shape_of(one) == shape_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("saved", "deleted"),
        ("job started", "job ended"),
        ("it's a", "it's b"),
        ("couldn't parse it, didn't go on", "couldn't reach it, didn't go on"),
        ("step 1:download", "step 1:unpack"),
    ],
)
def test_words_make_a_shape(one: str, other: str) -> None:
    """Different words are different lines."""
    assert shape_of(one) != shape_of(other)


@pytest.mark.timeout(20)
def test_the_shape_of_a_hostile_text_is_found_at_once() -> None:
    """No text makes the masking run away: its beginning counts, and no pattern backtracks far. The timeout tells."""
    for text in ("'" * 100_000, '"a' * 100_000, "a" * 100_000, "0-" * 100_000, "'" + "a" * 100_000, "ab1" * 50_000):
        for _ in range(100):
            assert shape_of(text[:300])


def test_this_librarys_own_lines_are_not_folded() -> None:
    """What the library says in a job's log is summed up already: each of its lines is stored."""
    configure(fold=True)
    with job_context(1):
        for number in range(20):
            logging.getLogger("joblog_router.nats").info("Queued %d of 20", number)
    assert len(entries(1)) == 20


def test_a_flush_waits_for_tallies_that_are_owed(tmp_path: Path) -> None:
    """Lines the writer has folded already are told by a flush, at exit, after a fork, and when a sink is closed."""
    result = run_python(
        """
        import logging, logging.config, os, sys, threading, time, joblog_router
        from joblog_router._pipeline.router import router
        logging.config.dictConfig({"version": 1, "handlers": {"job": {"class": "joblog_router.JobLogHandler",
            "sink": "jsonl", "options": {"directory": sys.argv[1]}}}, "root": {"level": "INFO", "handlers": ["job"]}})
        log = logging.getLogger("x")
        def lines(job):
            with joblog_router.job_context(job):
                for number in range(30):
                    log.info("line %d", number)
            (channel,) = router._channels.values()
            while channel.delivery.has_lines():
                time.sleep(0.01)  # until the writer has taken them; there is no event for that
        lines("flushed")
        assert joblog_router.flush(5)
        lines("forked")
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)
        assert joblog_router.flush(5)
        lines("at exit")
        """,
        str(tmp_path),
    )
    assert result.returncode == 0, result.stderr
    for name in ("flushed", "forked", "at~20exit"):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert rows[-1]["fields"]["folded"] == 30 - KEPT, name


def test_words_in_extra_and_long_texts_are_not_folded_away() -> None:
    """Lines that differ in a word of `extra`, or are long, or above INFO, are stored."""
    configure(fold=True)
    with job_context(1):
        for number in range(20):
            log.info("state changed", extra={"state": "abcdefghijklmnopqrst"[number]})
            log.info("x" * 301)
            log.log(25, "success")
    assert len(entries(1)) == 60


def test_a_flush_without_a_writer_thread_tells_what_is_owed() -> None:
    """Where no thread can be started, as at the end of a process, the caller's drain tells the tallies too."""
    from joblog_router._pipeline.router import router

    configure(fold=True)
    assert router._writer.pause(5)
    try:
        with job_context(1):
            for number in range(30):
                log.info("line %d", number)
        rows = entries(1)
    finally:
        router._writer.resume()
    assert shown(rows)[-1].fields["folded"] == 30 - KEPT


@pytest.mark.parametrize("is_over", [False, True])
def test_a_job_that_goes_on_soon_goes_on_with_its_runs(is_over: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened again within seconds, its similar lines are counted on; later, here at once, the first are stored anew."""
    monkeypatch.setattr(folding, "_FORGET", -1.0 if is_over else 60.0)
    configure(fold=True)
    for _ in range(2):
        with job_context(1):
            for number in range(20):
                log.info("line %d", number)
        assert flush(10)
    lines = [entry for entry in entries(1) if "fold" not in entry.fields]
    assert len(lines) == KEPT * (2 if is_over else 1)
    assert sum(row.fields["folded"] for row in shown(entries(1)) if "fold" in row.fields) == 40 - len(lines)


def test_a_run_is_told_a_moment_after_its_last_line() -> None:
    """Not after its first: while it goes on its count is told now and then only."""
    folder, scope = Folder(), JobScope("1")
    due = []
    for number in range(KEPT + 3):
        folder.pass_on(Entry("1", 0.0, 20, "app", f"line {number}", None, {}, "", 0, "here", number, number), scope)
        due.append(folder.next_due())
    first, second, third = due[KEPT:]
    assert first is not None
    assert second is not None
    assert third is not None
    assert first < second < third


def test_a_run_that_makes_room_for_others_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten thousand, here one: those that were quiet longest are forgotten, their counts are not."""
    monkeypatch.setattr(folding, "_MAX_RUNS", 1)
    monkeypatch.setattr(folding, "QUIET", 60.0)
    folder, scope = Folder(), JobScope("1")
    for run in ("first", "second"):
        for number in range(KEPT + 3):
            text = f"{run} {number}"
            folder.pass_on(Entry("1", 0.0, 20, "app", text, None, {}, "", 0, "here", number, number), scope)
    assert [(row.message, row.fields["folded"]) for row in folder.due()] == [(f"first {KEPT + 2}", 3)]
    assert [(row.message, row.fields["folded"]) for row in folder.due(True)] == [(f"second {KEPT + 2}", 3)]


def test_a_line_with_the_fields_of_a_tally_is_a_line() -> None:
    """Whether the call or its scope brings them: nothing the application says hides another line."""
    configure()
    with job_context(1, fold="top"):
        log.warning("card declined", extra={"folded": 1})
        log.warning("disk full", extra={"folded": 2, "fold": "mine", "first": "kept"})
    store = job_handler().sink
    assert isinstance(store, MemorySink)
    assert flush(10)
    assert [entry.message for entry in store.newest("1").entries] == ["card declined", "disk full"]
    assert [dict(entry.fields) for entry in entries(1)] == [
        {"fold_": "top", "folded_": 1},
        {"fold_": "mine", "folded_": 2, "first": "kept"},
    ]
    assert store.summary("1").levels == {logging.WARNING: 2}
