"""What dead processes left is stored beside the lines of the living one, and costs it little."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from joblog_router import Entry, JobLogHandler, flush, job_context
from joblog_router._pipeline.router import router
from joblog_router.sinks import JsonLinesSink
from tests.helpers import run_python
from tests.test_sinks import entry, lines

log = logging.getLogger("app")

# Ends with 2,000 lines in its spool.
LEAVES = """
import logging, os, signal, sys
import joblog_router
class Ordered:
    place = "the store of this test"
    def write(self, entries): raise OSError("away")
    def close(self): pass
sys.modules["tests.test_recovery_in_turn"] = sys.modules["__main__"]
logging.getLogger().addHandler(joblog_router.JobLogHandler(
    sink="tests.test_recovery_in_turn.Ordered", spool=sys.argv[1], fold=False))
logging.getLogger().setLevel("INFO")
with joblog_router.job_context(1):
    for number in range(2000): logging.info("left %d", number)
os.kill(os.getpid(), signal.SIGKILL)
"""


class Ordered:
    """A store that notes which lines come, and waits until it is let go."""

    place = "the store of this test"
    batches: ClassVar[list[tuple[str, int]]] = []
    may_go: ClassVar[threading.Event] = threading.Event()
    is_there: ClassVar[threading.Event] = threading.Event()

    def write(self, entries: Sequence[Entry]) -> None:
        """Note whose lines these are, and how many."""
        self.is_there.set()
        assert self.may_go.wait(20)
        self.batches.append((entries[0].message.split()[0], len(entries)))

    def close(self) -> None:
        """Nothing is kept open."""


def test_own_lines_come_before_those_that_three_dead_processes_left(tmp_path: Path) -> None:
    """While batches of its own wait they are written first, a recovered one now and then; then all the others."""
    for _ in range(3):
        assert run_python(LEAVES, str(tmp_path)).returncode == -9
    assert len(list(tmp_path.glob("*.spool"))) == 3
    handler = JobLogHandler(sink="tests.test_recovery_in_turn.Ordered", spool=str(tmp_path), fold=False)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    Ordered.batches.clear()
    Ordered.is_there.clear()
    Ordered.may_go.clear()
    with job_context(2):
        log.info("own first")
        assert Ordered.is_there.wait(20)
        for number in range(6000):
            log.info("own %d", number)
    Ordered.may_go.set()
    assert flush(20)
    own_at = [at for at, (whose, _) in enumerate(Ordered.batches) if whose == "own"]
    assert sum(count for whose, count in Ordered.batches if whose == "own") == 6001
    # Before: three recovered batches beside each of its own.
    assert own_at[-1] - len(own_at) < 6
    assert router.recovery.run(20)
    assert sum(count for whose, count in Ordered.batches if whose == "left") == 6000
    handler.close()


def test_a_file_is_read_once_and_then_only_what_was_added(tmp_path: Path) -> None:
    """Its beginning is made unreadable: what was found there is known all the same."""
    sink = JsonLinesSink(tmp_path)
    sink.write([entry(seq=seq) for seq in range(1, 201)])
    asked = [entry(seq=seq) for seq in range(100, 301)]
    assert [one.seq for one in sink.not_stored(asked)] == list(range(201, 301))
    path = tmp_path / "1.jsonl"
    with path.open("r+b") as file:
        file.write(b"x" * (path.stat().st_size * 9 // 10))
    assert [one.seq for one in sink.not_stored(asked)] == list(range(201, 301))
    JsonLinesSink(tmp_path).write([entry(seq=250), entry(seq=251, origin="another")])
    assert [one.seq for one in sink.not_stored(asked)] == [*range(201, 250), *range(251, 301)]


def test_a_file_that_is_another_now_is_read_again(tmp_path: Path) -> None:
    """Pruned, deleted, begun anew; and where lines are asked for that were not looked for the first time."""
    sink = JsonLinesSink(tmp_path)
    asked = [entry(seq=seq) for seq in range(50, 61)]
    assert [one.seq for one in sink.not_stored(asked)] == list(range(50, 61))
    sink.write([entry(seq=seq, created=float(seq)) for seq in range(1, 56)])
    assert [one.seq for one in sink.not_stored(asked)] == list(range(56, 61))
    earlier = [entry(seq=3), entry(seq=0), entry(seq=57), entry(seq=4, origin="another")]
    assert [one.seq for one in sink.not_stored(earlier)] == [0, 57, 4]
    sink.prune(older_than=53.0)
    assert [one.seq for one in sink.not_stored(asked)] == [50, 51, 52, *range(56, 61)]
    sink.delete("1")
    assert sink.not_stored(asked) == asked
    sink.write([entry(seq=52), entry(seq=58)])
    assert [one.seq for one in sink.not_stored(asked)] == [50, 51, 53, 54, 55, 56, 57, 59, 60]


def test_what_only_looks_like_a_line_is_not_known(tmp_path: Path) -> None:
    """Fields and messages that name an origin and a number; a line that was torn; origins that need an escape."""
    sink = JsonLinesSink(tmp_path)
    odd = 'host "1"\\é'
    sink.write(
        [
            entry(seq=1, fields={"origin": "origin", "seq": 7}),
            entry(seq=2, message='"origin": "origin", "seq": 8'),
            entry(seq=9, origin=odd, fields={"origin": "origin", "seq": 1}),
        ]
    )
    with (tmp_path / "1.jsonl").open("a") as file:
        file.write('{"origin": "origin", "seq": 3}')
    assert [one.seq for one in sink.not_stored([entry(seq=seq) for seq in (1, 2, 3, 7, 8, 9)])] == [3, 7, 8, 9]
    assert not sink.not_stored([entry(seq=9, origin=odd)])
    sink.write([entry(seq=3)])
    assert len(lines(tmp_path / "1.jsonl")) == 4
    assert not sink.not_stored([entry(seq=3)])
