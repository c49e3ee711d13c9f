"""What a log says of its own completeness; and what running processes say of themselves to `joblog stats`."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from joblog_router import Entry, flush, job_context
from joblog_router._commands.console import Console
from joblog_router.cli import main
from joblog_router.sinks.account import Account, account_of, take_account
from tests.helpers import configure, job_handler, run_python
from tests.test_spool import SETUP

log = logging.getLogger("app")


def entry(seq: int, n: int, message: str = "x", **given: object) -> Entry:
    """A line of a job."""
    values: dict[str, object] = {"logger": "app", "fields": {}, "origin": "o", **given}
    return Entry("1", float(seq), 20, message=message, exception=None, path="", line=0, seq=seq, n=n, **values)  # type: ignore[call-arg,arg-type]


def lost(*numbers: int) -> int:
    """What is lost where the lines in the order of `seq` have these `n`."""
    return take_account(entry(seq, n) for seq, n in enumerate(numbers, 1)).lost


@pytest.mark.parametrize(
    ("numbers", "missing"),
    [
        ((1, 2, 3), 0),
        ((1, 3), 1),
        ((1, 2, 7), 4),
        ((1, 2, 1, 2, 3), 0),  # two scopes
        ((1, 1, 2, 2, 3), 0),  # at one time
        ((1, 2, 4, 1, 2, 3, 4), 1),
        ((1, 2, 1, 3, 3), 1),
        ((2, 1, 3), 0),  # threads of one scope
        ((), 0),
        ((0, 0), 0),
    ],
)
def test_gaps_are_lines_that_are_lost(numbers: tuple[int, ...], missing: int) -> None:
    """Scopes count apart; lines from outside of one have no number."""
    assert lost(*numbers) == missing


def test_a_log_that_was_pruned_is_cut_not_lost() -> None:
    """Nobody can tell what of it was there."""
    assert take_account(entry(n, n) for n in (5, 6, 9)) == Account(3, 0, 0, 0, 0, 1)


def test_what_really_happened_adds_up_out_of_the_log() -> None:
    """Folded lines, two scopes in two threads, and a line that is taken out of the store."""
    configure(fold=True)
    sink = job_handler().sink

    def work() -> None:
        with job_context(1):
            for number in range(500):
                log.info("image %d", number)
            log.warning("end")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flush(10)
    account = account_of(sink, "1")  # type: ignore[arg-type]
    assert account.stored + account.folded == 1002
    assert account.folded > 900
    assert account.is_whole()
    rows = list(sink.after("1", "", limit=10_000).entries)  # type: ignore[attr-defined]
    gone = next(row for row in rows if row.message == "end")
    assert take_account(row for row in rows if row is not gone).lost in (0, 1)  # 0: the other scope's end is there
    image = next(row for row in rows if row.message.startswith("image") and row.n == 2)
    assert take_account(row for row in rows if row is not image).lost == 1


def test_dropped_and_refused_lines_are_accounted_for() -> None:
    """Markers and the word about a refused line stand for what is missing."""
    lines = [entry(n, n) for n in (1, 2, 8)]
    marker = entry(9, 0, "3 lines dropped", logger="joblog_router.overflow", fields={"dropped": 3})
    refused = entry(3, 3, "A line of this job could not be stored: ...", logger="joblog_router")
    assert take_account([*lines, marker, refused]) == Account(3, 0, 3, 1, 1, 0)


def test_a_refused_line_is_known_by_its_mark_not_by_its_words() -> None:
    """As the writer marks it: a change of wording, or a translation, costs no count."""
    configure()
    sink = job_handler().sink
    store = sink.write

    def refuse(entries: Sequence[Entry]) -> None:
        if any(entry.message == "poison" for entry in entries):
            raise ValueError("poison")
        is_word = [entry.logger == "joblog_router" and entry.n > 0 for entry in entries]
        store(
            [
                entry._replace(message="anders") if is_it else entry
                for entry, is_it in zip(entries, is_word, strict=True)
            ]
        )

    sink.write = refuse  # type: ignore[method-assign]
    with job_context(1):
        for message in ("a", "poison", "b"):
            log.info(message)
    assert flush(10)
    account = account_of(sink, "1")  # type: ignore[arg-type]
    assert (account.stored, account.quarantined, account.lost) == (2, 1, 0)


def test_loggers_of_other_packages_are_not_taken_for_ours() -> None:
    """Only `joblog_router` and what is below it; a name that begins alike is an application's."""
    fields = {"dropped": 5}
    lines = [
        entry(1, 0, logger="joblog_router_ui", fields=fields),
        entry(2, 0, logger="joblog_router.x", fields=fields),
    ]
    assert take_account(lines) == Account(1, 0, 5, 0, 0, 0)
    mark = entry(1, 1, logger="app", fields={"refused": True})
    assert take_account([mark]) == Account(1, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("count", [10**30, 2**61, -4, True, "5", 5.0, None])
def test_a_count_that_cannot_be_is_none(count: Any) -> None:
    """Whoever holds a job's token may write a line that tells of drops, or has any number, of that job."""
    real = entry(1, 0, logger="joblog_router.overflow", fields={"dropped": 3})
    told = {"dropped": count, "completeness": {"quarantined": count}}
    lines = [real, entry(2, 0, logger="joblog_router.remote", fields=told), entry(3, 1)]
    if type(count) is int:
        lines.append(entry(4, count, "numbered"))
    assert take_account(lines)[1:] == (0, 3, 0, 0, 0)


def joblog(*arguments: str) -> tuple[int, str]:
    """Run the command here."""
    out = io.StringIO()
    return main(list(arguments), console=Console(out, io.StringIO())), out.getvalue()


def test_stats_of_a_job_tell_of_a_gap(tmp_path: Path) -> None:
    """And end with 1."""
    lines = [entry(n, n).as_dict() for n in (1, 2, 4)]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    status, out = joblog("stats", "1", "--store", f"jsonl:{tmp_path}")
    assert status == 1
    assert "lines are missing: stored 3, lost 1" in out
    _, out = joblog("stats", "1", "--json", "--store", f"jsonl:{tmp_path}")
    assert json.loads(out)["completeness"]["lost"] == 1


@pytest.mark.parametrize("is_fine", [True, False])
def test_stats_without_a_job_ask_the_running_processes(tmp_path: Path, is_fine: bool) -> None:
    """Their counters and what their logging configuration loses; 1 where it loses something."""
    code = """
configure()
with job_context(1):
    log.info("x")
"""
    quiet = (
        "" if is_fine else "x = logging.getLogger('shop'); x.propagate = False; x.addHandler(logging.NullHandler())\n"
    )
    rest = "assert flush(10)\nprint('ready', flush=True)\nsys.stdin.read()\n"
    process = subprocess.Popen(
        [sys.executable, "-c", SETUP + quiet + code + rest, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        status, out = joblog("stats", "--spool", str(tmp_path / "spool"))
        assert f"(pid {process.pid}, " in out
        assert "running" in out
        assert "captured" in out
        assert (status, "'shop' has propagate=False" in out) == ((0, False) if is_fine else (1, True))
        process.kill()
        process.wait()
        assert "gone" in joblog("stats", "--spool", str(tmp_path / "spool"))[1]
    finally:
        process.communicate()


def test_stats_without_a_job_and_a_spool_say_what_is_wanted() -> None:
    """Misuse; in a process of its own, as here a spool of another test's may still be in use."""
    result = run_python("import sys; from joblog_router.cli import main; sys.exit(main(['stats']))")
    assert result.returncode == 2
    assert "name a job, or run it where a handler has a spool" in result.stderr
