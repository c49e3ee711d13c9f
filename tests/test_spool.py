"""The spool: what a killed process logged is stored by the next one, once; and what can be wrong with its files."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from joblog_router import JobLogHandler, SinkUnavailableError, flush, job_context, stats
from joblog_router._pipeline import delivery, spool_recovery, status_file
from joblog_router._pipeline import spool as spool_module
from joblog_router._pipeline.origins import new_origin
from joblog_router._pipeline.router import router
from joblog_router._pipeline.scopes import JobScope
from joblog_router._pipeline.spool import MAGIC, Spool
from joblog_router._pipeline.spool_folder import default_directory
from joblog_router._pipeline.status_file import StatusFile
from tests import spool_trials
from tests.helpers import run_python, run_script, until
from tests.postgres import PORT, USER, PostgresServer

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the spool needs fcntl")
log = logging.getLogger("app")

SETUP = """
import logging, logging.config, os, sys, threading, time
import joblog_router
from joblog_router import job_context, flush, stats
from joblog_router._pipeline.router import router
log = logging.getLogger("app")
def configure(sink="jsonl", **options):
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
        "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": False, "sink": sink,
                             "spool": sys.argv[1] + "/spool",
                             "options": options or {"directory": sys.argv[1] + "/logs"}}},
        "root": {"level": "INFO", "handlers": ["job"]}})
"""
# Before any line can be stored the process is gone.
KILLED = "import signal; os.kill(os.getpid(), signal.SIGKILL)\n"


def stored(folder: Path) -> list[dict[str, object]]:
    """Every line in the job logs below `folder`."""
    return [json.loads(line) for path in (folder / "logs").glob("*.jsonl") for line in path.read_text().splitlines()]


def segments(folder: Path) -> list[Path]:
    """The segments that are there."""
    return sorted((folder / "spool").glob("*.spool"))


def recover(folder: Path, code: str = "configure()") -> str:
    """Run a process that recovers; what it said on stderr."""
    result = run_python(SETUP + code + "\nsys.exit(0 if router.recovery.run(10) else 1)", str(folder))
    assert result.returncode == 0, result.stderr
    return result.stderr


# --- kills ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_a_random_moment_loses_and_doubles_nothing_in_files(tmp_path: Path, seed: int) -> None:
    """Every line whose call returned is in the files once; folded ones are counted once; two recover at once."""
    spool_trials.prepare(tmp_path, "jsonl")
    outcome = spool_trials.trial(tmp_path, "jsonl", seed, fold=seed % 3 == 2, recoverers=1 + seed % 2)
    assert (outcome.lost, outcome.doubled, outcome.recovered) == (0, 0, True), outcome
    assert segments(tmp_path) == []


def test_kills_at_random_moments_lose_and_double_nothing_in_sqlite(tmp_path: Path) -> None:
    """The same through Django's table in SQLite."""
    spool_trials.prepare(tmp_path, "sqlite")
    for seed in range(3):
        outcome = spool_trials.trial(tmp_path, "sqlite", seed, fold=seed == 2, recoverers=1 + seed % 2)
        assert (outcome.lost, outcome.doubled, outcome.recovered) == (0, 0, True), (seed, outcome)
        spool_trials.clear(tmp_path, "sqlite")


def postgres_kind(server: PostgresServer, name: str) -> str:
    """The address of a database as the trials want it."""
    database = {"ENGINE": "django.db.backends.postgresql", "NAME": name, "USER": USER, "HOST": server.host}
    return json.dumps({**database, "PORT": str(PORT)})


def test_kills_at_random_moments_lose_and_double_nothing_in_postgresql(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """The same through Django's table in PostgreSQL."""
    name = postgres.create_database()
    try:
        kind = postgres_kind(postgres, name)
        spool_trials.prepare(tmp_path, kind)
        for seed in range(3):
            outcome = spool_trials.trial(tmp_path, kind, seed, fold=seed == 2, recoverers=1 + seed % 2)
            assert (outcome.lost, outcome.doubled, outcome.recovered) == (0, 0, True), (seed, outcome)
            spool_trials.clear(tmp_path, kind)
    finally:
        postgres.drop_database(name)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["jsonl", "sqlite", "postgresql"])
def test_a_thousand_kills(tmp_path: Path, postgres: PostgresServer, kind: str) -> None:
    """334 trials in each store."""
    where = postgres_kind(postgres, postgres.create_database()) if kind == "postgresql" else kind
    spool_trials.prepare(tmp_path, where)
    for seed in range(334):
        outcome = spool_trials.trial(tmp_path, where, seed, fold=seed % 3 == 2, recoverers=1 + seed % 2)
        assert (outcome.lost, outcome.doubled, outcome.recovered) == (0, 0, True), (seed, outcome)
        spool_trials.clear(tmp_path, where)


FOLDING = """
logging.config.dictConfig({"version": 1, "disable_existing_loggers": False,
    "handlers": {"job": {"class": "joblog_router.JobLogHandler", "fold": True, "sink": "jsonl",
                         "spool": sys.argv[1] + "/spool", "options": {"directory": sys.argv[1] + "/logs"}}},
    "root": {"level": "INFO", "handlers": ["job"]}})
"""
LINES = """
with job_context(1):
    for number in range(30):
        log.info("line %d", number)
"""
# Between the store's commit and the acknowledgement, where nobody else can tell what is stored.
KILLED_AT_COMMIT = """
from joblog_router._pipeline import spool, spool_recovery
def kill(self, seq):
    if seq:
        os.kill(os.getpid(), 9)
spool.Spool.acknowledge = spool_recovery.DeadSegment.acknowledge = kill
"""


@pytest.mark.parametrize("killed", ["owner", "recovery"])
def test_lines_that_may_be_stored_are_not_counted_by_a_recovery_that_folds(tmp_path: Path, killed: str) -> None:
    """20 of 30 are stored and not acknowledged, and nobody folded them: all come whole, each once."""
    if killed == "owner":
        code = "configure()\nfrom joblog_router._pipeline.spool import Spool\nSpool.acknowledge = lambda *_: None\n"
        code += LINES.replace("30", "20") + "flush(10)\nrouter._writer.round = lambda: None\n"
        code += LINES.replace("30", "20, 30") + KILLED
    else:
        code = "configure()\nrouter._writer.round = lambda: None\n" + LINES + KILLED
    assert run_python(SETUP + code, str(tmp_path)).returncode == -9
    if killed == "recovery":
        code = KILLED_AT_COMMIT + "from joblog_router._pipeline import writer\nwriter.BATCH = 20\nconfigure()\n"
        assert run_python(SETUP + code + "router.recovery.run(10)", str(tmp_path)).returncode == -9
    assert len(stored(tmp_path)) == 20
    recover(tmp_path, FOLDING)
    lines = stored(tmp_path)
    assert [line["message"] for line in lines] == [f"line {number}" for number in range(30)]
    assert segments(tmp_path) == []


def test_a_run_that_a_killed_recovery_goes_on_counting_has_the_exact_sum(tmp_path: Path) -> None:
    """Killed after it stored its first tally; the next one goes on from the marks, whatever its own settings say."""
    code = FOLDING + "router._writer._write_some = lambda delivery: (delivery.make_entries(), False)[1]\n"
    code += LINES + "flush(1)\n" + KILLED
    assert run_python(SETUP + code, str(tmp_path)).returncode == -9
    assert run_python(SETUP + KILLED_AT_COMMIT + FOLDING + "router.recovery.run(10)", str(tmp_path)).returncode == -9
    recover(tmp_path)
    lines = stored(tmp_path)
    whole = [line for line in lines if "folded" not in line["fields"]]
    sums = {line["fields"]["fold"]: line["fields"]["folded"] for line in lines if "folded" in line["fields"]}
    assert len(whole) + sum(sums.values()) == 30, (len(whole), sums)
    assert len(sums) == 1
    assert segments(tmp_path) == []


def test_how_many_lines_were_recovered_is_said(tmp_path: Path) -> None:
    """Those that the dead process counted in a sum are recovered as well."""
    code = FOLDING + "router._writer._write_some = lambda delivery: (delivery.make_entries(), False)[1]\n"
    code += LINES + "flush(0.3)\n" + KILLED
    assert run_python(SETUP + code, str(tmp_path)).returncode == -9
    assert "30 job log lines of a process that ended before storing them were recovered" in recover(tmp_path)
    assert len(stored(tmp_path)) < 10


def test_what_is_recovered_is_what_was_logged(tmp_path: Path) -> None:
    """Exceptions, long and foreign text, extra, fields, levels, time and place come through as they would have."""
    code = """
def lines():
    with job_context("7/ä", stage="one", shape={"a": [1, None, 2.5, True]}):
        log.info("plain %d", 1)
        log.warning("long %s", "ä" * 90_000)
        log.info("foreign \\x00 \\ud800 🙂", extra={"rows": [1, {"b": "c"}], "big": 10**40})
        try:
            try:
                raise KeyError("inner")
            except KeyError as error:
                error.add_note("a note")
                raise ValueError("outer") from error
        except ValueError:
            log.exception("failed")
        class Name(str):
            pass
        log.log(33, Name("of a kind of its own"))
        log.handle(logging.makeLogRecord({"msg": "made by hand", "name": Name("other"), "levelno": 20, "args": None}))
"""
    result = run_python(SETUP + "configure()\n" + code + "lines(); flush(10)\n", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (tmp_path / "logs").rename(tmp_path / "straight")
    result = run_python(SETUP + "configure()\n" + code + "lines()\n" + KILLED, str(tmp_path))
    assert result.returncode == -9, result.stderr
    recover(tmp_path)
    (file,) = (tmp_path / "straight").iterdir()
    straight = [json.loads(line) for line in file.read_text().splitlines()]
    recovered = stored(tmp_path)
    assert len(recovered) == 6
    for one, other in zip(straight, recovered, strict=True):
        for key in ("created", "origin"):
            assert type(one.pop(key)) is type(other.pop(key))
        for entry in (one, other):
            # From 3.13 on a traceback has source lines of a program given by -c, as long as that runs.
            entry["exception"] = re.sub(r"\n    .*", "", str(entry["exception"]))
        assert one == other


def test_lines_for_a_callable_and_a_logger_come_at_least_once(tmp_path: Path) -> None:
    """Sinks that cannot tell what they have get all of a killed process's lines."""
    (tmp_path / "app_logs.py").write_text(
        "import os, pathlib\n"
        "def keep(entries):\n"
        "    if os.environ.get('AWAY'): raise OSError('away')\n"
        "    with open(os.environ['KEPT'], 'a') as file:\n"
        "        file.writelines(f'{entry.job_id} {entry.message}\\n' for entry in entries)\n"
        "import logging\n"
        "class Keep(logging.Handler):\n"
        "    def emit(self, record):\n"
        "        with open(os.environ['KEPT'], 'a') as file: file.write(f'{record.job_id} {record.getMessage()}\\n')\n"
    )
    for sink, options in (("callable", {"target": "app_logs.keep"}), ("logger", {"name": "kept"})):
        kept = tmp_path / f"{sink}.txt"
        env = {"KEPT": str(kept), "PYTHONPATH": f"{spool_trials.ROOT / 'src'}:{tmp_path}"}
        start = SETUP + f"configure({sink!r}, **{options!r})\n"
        logged = start + "with job_context(1):\n    for number in range(50): log.info('line %d', number)\n"
        result = run_python(logged + KILLED, str(tmp_path), env={**env, "AWAY": "1"})
        assert result.returncode == -9
        attach = "import app_logs; logging.getLogger('kept').addHandler(app_logs.Keep())\n"
        result = run_python(start + attach + "sys.exit(0 if router.recovery.run(10) else 1)", str(tmp_path), env=env)
        assert result.returncode == 0, result.stderr
        assert set(kept.read_text().splitlines()) >= {f"1 line {number}" for number in range(50)}
        assert segments(tmp_path) == []


APP_LOGS = """
import os
class Kept:
    def __init__(self, **options): pass
    def write(self, entries):
        if os.environ.get("AWAY"): raise OSError("away")
        with open(os.environ["KEPT"], "a") as file:
            file.writelines(entry.message + chr(10) for entry in entries)
    def close(self): pass
class Knows(Kept):
    def write(self, entries):
        if any(entry.message == "poison" for entry in entries): raise ValueError("poison")
        super().write(entries)
    def not_stored(self, entries):
        with open(os.environ["KEPT"]) as file: lines = file.read().split()
        return [entry for entry in entries if entry.message not in lines]
def keep(entries): Kept().write(entries)
def keeper(of):
    def keep_of(entries):
        if not os.environ.get("AWAY"):
            entries = [entry._replace(message=of + " " + entry.message) for entry in entries]
        keep(entries)
    return keep_of
"""
# Sinks by options that are spelled otherwise in each process, or are long.
PLACES = """
import app_logs
def place(sink, **options):
    spool = sys.argv[1] + "/spool"
    logging.getLogger().addHandler(joblog_router.JobLogHandler(sink=sink, options=options, spool=spool, fold=False))
logging.getLogger().setLevel("INFO")
"""
EACH_PLACE = """
place("callable", target=app_logs.keep)
place("callable", target=app_logs.keeper("audit"))
place("callable", target=app_logs.Kept().write)
place("callable", target=lambda entries: app_logs.keep(entries))
place("app_logs.Kept", only={"a", "b", "c", "d", "e"}, never=frozenset({("f", 1), ("g", 2)}))
place("app_logs.Kept", text="x" * 5000)
"""
ONE_LINE = "with job_context(1): log.info('x')\n"
RECOVERED = "sys.exit(0 if router.recovery.run(10) else 1)"


def run_with_places(folder: Path, code: str, seed: int, away: str = "") -> int:
    """Run `code` with that hash seed and stores that are there or away; the exit status."""
    (folder / "app_logs.py").write_text(APP_LOGS)
    env = {"KEPT": str(folder / "kept.txt"), "PYTHONPATH": f"{spool_trials.ROOT / 'src'}:{folder}", "AWAY": away}
    return run_python(SETUP + PLACES + code, str(folder), env={**env, "PYTHONHASHSEED": str(seed)}).returncode


def kept(folder: Path) -> list[str]:
    """The messages that those sinks have."""
    return sorted((folder / "kept.txt").read_text().splitlines()) if (folder / "kept.txt").exists() else []


def test_the_next_process_knows_its_sinks_again_whatever_their_options_are(tmp_path: Path) -> None:
    """Addresses, hash seeds and long options are of one process alone; its segments are recovered all the same."""
    assert run_with_places(tmp_path, EACH_PLACE + ONE_LINE + KILLED, 1, away="1") == -9
    assert len(segments(tmp_path)) == 6
    assert run_with_places(tmp_path, EACH_PLACE + RECOVERED, 2) == 0
    assert kept(tmp_path) == ["audit x", *["x"] * 5]
    assert segments(tmp_path) == []


def test_what_the_sink_knows_is_not_offered_again_where_another_line_is_refused(tmp_path: Path) -> None:
    """A batch that fails is offered line by line: those that were stored before the kill stay out of it there, too."""
    knows = "place('app_logs.Knows')\n"
    lines = "with job_context(1):\n    for text in ('a', 'b', 'poison', 'c'): log.info(text)\n"
    assert run_with_places(tmp_path, knows + lines + KILLED, 1, away="1") == -9
    (tmp_path / "kept.txt").write_text("a\n")  # what had been stored when it was killed
    assert run_with_places(tmp_path, knows + RECOVERED, 2) == 0
    refused = "A line of this job could not be stored: the log's store refused its contents."
    assert kept(tmp_path) == [refused, "a", "b", "c"]
    (file,) = (tmp_path / "spool").glob("*.quarantine.jsonl")
    assert [json.loads(line)["message"] for line in file.read_text().splitlines()] == ["poison"]


def test_two_functions_of_one_path_do_not_get_each_others_lines(tmp_path: Path) -> None:
    """A closure is told apart by what it closes over."""
    audit, users = (f"place('callable', target=app_logs.keeper({of!r}))\n" for of in ("audit", "users"))
    assert run_with_places(tmp_path, audit + ONE_LINE + KILLED, 1, away="1") == -9
    assert run_with_places(tmp_path, users + RECOVERED, 2) == 0
    assert kept(tmp_path) == []
    assert len(segments(tmp_path)) == 1


def test_a_segment_whose_header_does_not_parse_is_reported_and_listed(tmp_path: Path) -> None:
    """Of a damaged one nobody can tell what sink its lines are for, and `recover` says so."""
    segment = killed_with_lines(tmp_path)
    rewrite_about(segment, key="callable " + "x" * 5000)
    before = segment.read_bytes()
    code = "configure()\nrouter.recovery.run(10)\nprint(router.recovery.left_behind(), file=sys.stderr)"
    said = run_python(SETUP + code, str(tmp_path)).stderr
    assert f"{str(segment)!r} is a spool segment that does not say which sink its lines are for" in said
    assert f"[{str(segment)!r}]" in said
    assert segment.read_bytes() == before


def test_a_segment_waits_for_the_sink_it_was_for(tmp_path: Path) -> None:
    """A process with another sink leaves it alone."""
    code = SETUP + "configure()\nwith job_context(1): log.info('x')\n" + KILLED
    assert run_python(code, str(tmp_path)).returncode == -9
    recover(tmp_path, "configure('memory', max_entries=10)")
    assert len(segments(tmp_path)) == 1
    recover(tmp_path)
    assert [line["message"] for line in stored(tmp_path)] == ["x"]


def test_lines_left_out_of_a_long_log_are_counted_though_the_process_is_killed(tmp_path: Path) -> None:
    """What no stored marker counts stays in the spool; whoever recovers it counts on."""
    setup = SETUP.replace('"fold": False,', '"fold": False, "max_lines": 100,')
    code = """
configure()
with job_context(1):
    for number in range(5000): log.info("line %d", number)
    until = time.monotonic() + 10
    channel = logging.getLogger().handlers[0]._channel.delivery
    while channel.has_lines() and time.monotonic() < until: time.sleep(0.01)
    assert stats()["folded"] == 4900, stats()
"""
    assert run_python(setup + code + KILLED, str(tmp_path)).returncode == -9
    before = stored(tmp_path)
    assert 50 <= len(before) < 100
    result = run_python(setup + "configure()\nsys.exit(0 if router.recovery.run(10) else 1)", str(tmp_path))
    assert result.returncode == 0, result.stderr
    newest: dict[str, int] = {}
    lines = stored(tmp_path)
    for line in lines:
        fields = line["fields"]
        assert isinstance(fields, dict)
        if "fold" in fields:
            newest[fields["fold"]] = max(newest.get(fields["fold"], 0), fields["folded"])
    assert sum("fold" not in line["fields"] for line in lines) + sum(newest.values()) == 5000  # type: ignore[operator]
    assert segments(tmp_path) == []


def test_the_command_masks_and_reserves_what_it_is_told_to_and_folds_nothing(tmp_path: Path) -> None:
    """Without Django it cannot know the handler that the lines were logged through."""
    as_jsonl(killed_with_lines(tmp_path, 30, "key PAT-%d"), tmp_path)
    code = "import sys; from joblog_router.cli import main; sys.exit(main(sys.argv[1:]))"
    result = run_python(
        code,
        *("recover", "--spool", str(tmp_path / "spool"), "--store", f"jsonl:{tmp_path / 'logs'}"),
        *("--redact", "PAT-[0-9]+", "--staff", "app"),
    )
    assert result.returncode == 0, result.stderr
    assert [(line["message"], line.get("audience")) for line in stored(tmp_path)] == [("key [redacted]", "staff")] * 30


def test_what_is_recovered_goes_by_the_rules_of_the_handler_that_recovers_it(tmp_path: Path) -> None:
    """Also where it is stored before the handler is quite made."""
    as_jsonl(killed_with_lines(tmp_path, 30, "key PAT-%d"), tmp_path)
    code = """
from joblog_router import JobLogHandler
real = router.open_channel
def slow(*args):
    channel = real(*args)
    assert router.recovery.run(10)
    return channel
router.open_channel = slow
JobLogHandler(sink="jsonl", options={"directory": sys.argv[1] + "/logs"}, spool=sys.argv[1] + "/spool",
              fold=False, redact=[r"PAT-[0-9]+"], staff=["app"], max_lines=10)
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.returncode == 0, result.stderr
    lines = [line for line in stored(tmp_path) if line["logger"] == "app"]
    assert 10 <= len(lines) < 30
    assert {(line["message"], line.get("audience")) for line in lines} == {("key [redacted]", "staff")}


def test_recovery_while_the_store_is_away_keeps_the_segment(tmp_path: Path) -> None:
    """Nothing is acknowledged that is not stored, however recovery ends."""
    code = SETUP + "configure()\nwith job_context(1):\n    for _ in range(20): log.info('x')\n" + KILLED
    assert run_python(code, str(tmp_path)).returncode == -9
    (tmp_path / "logs").mkdir(exist_ok=True)
    for path in (tmp_path / "logs").iterdir():
        path.unlink()
    (tmp_path / "logs").rmdir()
    (tmp_path / "logs").write_text("in the way")
    result = run_python(SETUP + "configure()\nsys.exit(0 if router.recovery.run(0.5) else 1)", str(tmp_path))
    assert result.returncode == 1
    assert len(segments(tmp_path)) == 1
    (tmp_path / "logs").unlink()
    recover(tmp_path)
    assert [line["n"] for line in stored(tmp_path)] == list(range(1, 21))


# --- leaving -------------------------------------------------------------------------------------------------

LEAVING = {
    "the end of the program": ("", 0),
    "an exception": ("raise RuntimeError('end')", 1),
    "sys.exit": ("sys.exit(3)", 3),
    "os._exit": ("os._exit(4)", 4),
    "SIGTERM": ("import signal; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)", -15),
    "SIGTERM with the helper": (
        (  # the default, which what measures coverage replaces
            "import signal; signal.signal(signal.SIGTERM, signal.SIG_DFL); "
            "joblog_router.flush_on_sigterm(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
        ),
        -15,
    ),
    "SIGTERM with the helper and a handler": (
        (
            "import signal; signal.signal(signal.SIGTERM, lambda *args: sys.exit(5)); "
            "joblog_router.flush_on_sigterm(); "
            "joblog_router.flush_on_sigterm(); os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)"
        ),
        5,
    ),
    "an exit function that logs": ("import atexit; atexit.register(last)", 0),
    "a closed handler": ("log.parent.handlers[0].close()", 0),
    "a closed handler, later": ("log.parent.handlers[0].close(); assert flush(10)", 0),
    "a configuration without it": ('logging.config.dictConfig({"version": 1})', 0),
    "SIGKILL": (KILLED, -9),
}
NEEDS_RECOVERY = {"os._exit", "SIGTERM", "SIGKILL"}


@pytest.mark.parametrize("way", list(LEAVING))
def test_however_a_process_ends_all_its_lines_are_stored_once(tmp_path: Path, way: str) -> None:
    """At once where Python runs something at the end, by the next process where it does not."""
    ending, status = LEAVING[way]
    code = (
        SETUP
        + """
configure()
def last():
    with job_context(1):
        log.info("line %d", 500)
with job_context(1):
    for number in range(500):
        log.info("line %d", number)
"""
        + ending
    )
    result = run_python(code, str(tmp_path))
    assert result.returncode == status, result.stderr
    expected = 501 if "last" in ending else 500
    if way not in NEEDS_RECOVERY:
        assert list((tmp_path / "spool").iterdir()) == []
        assert len(stored(tmp_path)) == expected
    recover(tmp_path)
    assert Counter(str(line["message"]) for line in stored(tmp_path)) == {f"line {n}": 1 for n in range(expected)}
    assert segments(tmp_path) == []


def test_a_line_after_the_exit_of_a_process_that_could_not_store_all_is_in_its_spool(tmp_path: Path) -> None:
    """Also where its handler was closed: the segment stays open while something waits."""
    code = """
    import atexit, logging, sys
    from joblog_router import JobLogHandler, SinkUnavailableError, job_context
    log = logging.getLogger("app")
    log.setLevel("INFO")
    def late():
        with job_context(1):
            log.info("at the very end")
    atexit.register(late)
    def away(entries):
        raise SinkUnavailableError("away")
    import joblog_router._pipeline.router as module
    module.EXIT_TIMEOUT = 0.3
    handler = JobLogHandler(sink="callable", options={"target": away}, spool=sys.argv[1] + "/spool")
    log.addHandler(handler)
    with job_context(1):
        log.info("before")
    handler.close()
    """
    result = run_python(code, str(tmp_path))
    assert result.returncode == 0, result.stderr
    (segment,) = segments(tmp_path)
    data = segment.read_bytes()
    assert b"before" in data
    assert b"at the very end" in data


@pytest.mark.parametrize("seed", range(4))
def test_a_daemon_thread_that_logs_while_the_process_ends_loses_nothing(tmp_path: Path, seed: int) -> None:
    """It goes on after the last exit function; each line whose call returned is there, at the latest by recovery."""
    code = f"""
configure()
file = os.open(sys.argv[1] + "/returned", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def serve():
    with job_context(1):
        number = 0
        while True:
            log.info("line %d", number)
            os.write(file, b"%d\\n" % number)
            number += 1
threading.Thread(target=serve, daemon=True).start()
time.sleep({0.05 + 0.03 * seed})  # it logs meanwhile
{"log.parent.handlers[0].close()" if seed == 3 else ""}
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.returncode == 0, result.stderr
    returned = {f"line {number}" for number in (tmp_path / "returned").read_text().split()}
    recover(tmp_path)
    rows = Counter(str(line["message"]) for line in stored(tmp_path))
    assert returned
    assert not returned - set(rows)
    assert set(rows.values()) == {1}
    assert segments(tmp_path) == []


def test_flush_on_sigterm_is_for_the_main_thread() -> None:
    """Python allows signal handlers nowhere else; the error says so."""
    from joblog_router import JobLogError, flush_on_sigterm

    caught: list[Exception] = []

    def elsewhere() -> None:
        try:
            flush_on_sigterm()
        except JobLogError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


# --- processes -----------------------------------------------------------------------------------------------


def test_a_killed_child_and_a_killed_parent_lose_nothing(tmp_path: Path) -> None:
    """After a fork each has a segment of its own; neither ships the other's lines while it lives."""
    code = """
configure()
with job_context("parent"):
    log.info("parent 0")
    pid = os.fork()
    if pid == 0:
        with job_context("child"):
            for number in range(100): log.info("child %d", number)
        os._exit(9)
    os.waitpid(pid, 0)
    for number in range(1, 100): log.info("parent %d", number)
"""
    assert run_python(SETUP + code + KILLED, str(tmp_path)).returncode == -9
    recover(tmp_path)
    counted = Counter(str(line["message"]) for line in stored(tmp_path))
    assert counted == {f"{who} {number}": 1 for who in ("parent", "child") for number in range(100)}


def test_a_fork_without_hooks_leaves_the_parents_segment_as_it_was(tmp_path: Path) -> None:
    """What the child wrote there before it noticed is taken back: nobody's line comes twice or in another's place."""
    code = """
import ctypes
configure()
with job_context(1):
    log.info("of the parent")
    flush(10)
    time.sleep(0.1)  # as in test_processes: until the writer sleeps
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        with job_context(2):
            log.info("of the child")
            log.info("of the child again")
        os._exit(0 if flush(10) else 1)
    assert os.waitpid(pid, 0)[1] == 0
"""
    result = run_python(SETUP + code + KILLED, str(tmp_path))
    assert result.returncode == -9, result.stderr
    recover(tmp_path)
    assert sorted(str(line["message"]) for line in stored(tmp_path)) == [
        "of the child",
        "of the child again",
        "of the parent",
    ]


def test_many_processes_share_a_folder(tmp_path: Path) -> None:
    """Twelve at once, four of them killed; those that start later ship what is left while the others go on."""
    script = tmp_path / "script.py"
    script.write_text(
        SETUP
        + """
import multiprocessing
def work(number):
    configure()
    with job_context(number):
        for line in range(300):
            log.info("line %d", line)
    if number % 3 == 0:
        os.kill(os.getpid(), 9)
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(number,)) for number in range(12)]
    for process in processes: process.start()
    for process in processes: process.join()
    configure()
    sys.exit(0 if router.recovery.run(20) else 1)
"""
    )
    result = run_script(script, str(tmp_path), timeout=50)
    assert result.returncode == 0, result.stderr
    counted = Counter((str(line["job_id"]), str(line["message"])) for line in stored(tmp_path))
    assert counted == {(str(number), f"line {line}"): 1 for number in range(12) for line in range(300)}
    assert segments(tmp_path) == []


# --- the segment itself, in this process ---------------------------------------------------------------------


class Gate:
    """A sink that takes nothing until it is opened; the store's own absence is tested with real ones."""

    def __init__(self) -> None:
        self.is_open = False
        self.messages: list[str] = []

    def write(self, entries: object) -> None:
        """Take, or be away."""
        if not self.is_open:
            raise SinkUnavailableError("closed", "open it")
        self.messages += [entry.message for entry in entries]  # type: ignore[attr-defined]

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    """A handler with a spool in front of a closed gate."""
    sink = Gate()
    handler = JobLogHandler(sink=sink, spool=tmp_path / "spool", capacity=1000, fold=False)
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(logging.DEBUG)
    yield sink
    sink.is_open = True
    flush(5)


def own_spool() -> Spool:
    """The segment behind the root logger's handler."""
    handler = next(handler for handler in logging.getLogger().handlers if isinstance(handler, JobLogHandler))
    assert isinstance(handler._channel.spool, Spool)
    return handler._channel.spool


def test_lines_stand_in_the_file_before_the_call_returns_and_not_after_they_are_stored(
    gate: Gate, tmp_path: Path
) -> None:
    """Also the long ones; what is acknowledged is wiped, not only forgotten."""
    unspooled = stats()["unspooled"]  # of earlier tests
    with job_context(1):
        log.info("a secret: hunter2")
        log.info("a long secret: %s", "hunter3" * 500)
    (segment,) = segments(tmp_path)
    assert b"hunter2" in segment.read_bytes()
    assert b"hunter3" in segment.read_bytes()
    gate.is_open = True
    assert flush(10)
    assert b"hunter" not in segment.read_bytes()
    assert stats()["unspooled"] == unspooled


def test_files_and_directory_are_this_users_alone(gate: Gate, tmp_path: Path) -> None:
    """0600 in 0700, whatever the umask."""
    with job_context(1):
        log.info("x")
    (segment,) = segments(tmp_path)
    assert stat.S_IMODE(segment.stat().st_mode) == 0o600
    assert stat.S_IMODE(segment.parent.stat().st_mode) == 0o700


def test_two_sinks_in_one_directory_have_a_segment_and_an_origin_each(gate: Gate, tmp_path: Path) -> None:
    """Their lines have the same numbers, and a store knows a line by origin and number."""
    handler = JobLogHandler(sink="memory", spool=tmp_path / "spool", fold=False)
    logging.getLogger().addHandler(handler)
    with job_context(1):
        log.info("one")
    assert len(segments(tmp_path)) == 2
    gate.is_open = True
    assert flush(10)
    assert gate.messages == ["one"]
    first, second = (each._channel.origin for each in logging.getLogger().handlers if isinstance(each, JobLogHandler))
    assert first != second


def test_a_full_ring_costs_the_spool_not_the_line(gate: Gate) -> None:
    """Lines beyond the slots are stored all the same, and counted as not spooled."""
    ring = own_spool().mask + 1
    with job_context(1):
        for number in range(800):
            log.warning("line %d", number)
    assert ring >= 1000
    own_spool().limit = own_spool().near = 100  # as if the ring were shorter than what may wait
    before = own_spool().missed.value()
    with job_context(1):
        log.warning("beyond")
    assert own_spool().missed.value() == before + 1
    gate.is_open = True
    assert flush(10)
    assert gate.messages[-1] == "beyond"
    assert len(gate.messages) == 801


def test_of_a_line_that_no_pages_are_left_for_nothing_stays_in_the_file(gate: Gate, tmp_path: Path) -> None:
    """What was put into its first pages is wiped at once: nobody will acknowledge it."""
    with job_context(1):
        for number in range(4):
            log.info("line %d %s", number, f"hunter{number} " * 12_000)
    assert own_spool().missed.value() > 0
    gate.is_open = True
    assert flush(10)
    (segment,) = segments(tmp_path)
    assert b"hunter" not in segment.read_bytes()


def test_nothing_of_a_long_log_stays_in_the_spool_once_it_is_told(tmp_path: Path) -> None:
    """Neither the lines that are stored nor those that were left out and counted."""
    sink = Gate()
    sink.is_open = True
    logging.getLogger().addHandler(JobLogHandler(sink=sink, spool=tmp_path / "spool", fold=False, max_lines=100))
    logging.getLogger().setLevel(logging.INFO)
    with job_context(1):
        for number in range(500):
            log.info("hunter%d", number)
    assert flush(10)
    assert any(message.startswith("400 lines left out") for message in sink.messages)
    (segment,) = segments(tmp_path)
    assert b"hunter" not in segment.read_bytes()


def test_the_ring_goes_round(gate: Gate) -> None:
    """Many times as many lines as there are slots, with long ones among them: each is spooled, pages are given back."""
    gate.is_open = True
    with job_context(1):
        for number in range(5000):
            log.info("line %d %s", number, "long " * 300 if number % 50 == 0 else "")
            if number % 500 == 499:
                assert flush(10)
    assert len(gate.messages) == 5000
    assert own_spool().missed.value() == 0
    assert not any(own_spool()._owners)


def test_a_line_logged_inside_another_has_a_slot_of_its_own(gate: Gate, tmp_path: Path) -> None:
    """As in a signal handler or `__del__`: the inner one is whole, and so is the outer one."""

    class Talks:
        def __str__(self) -> str:
            alone.info("inner")
            return "outer"

    alone = logging.getLogger("alone")  # the test's other handlers format the message, too
    alone.propagate = False
    alone.addHandler(next(one for one in logging.getLogger().handlers if isinstance(one, JobLogHandler)))
    alone.setLevel(logging.INFO)
    with job_context(1):
        alone.info("%s", Talks())
    data = segments(tmp_path)[0].read_bytes()
    assert data.count(b"inner") == data.count(b"outer") == 1


# --- files that are not as they should be --------------------------------------------------------------------


def killed_with_lines(folder: Path, count: int = 10, text: str = "line %d") -> Path:
    """The segment of a process that was killed with `count` lines in it that no store has."""
    code = "configure('callable', target='nowhere.at_all')\nwith job_context(1):\n"
    code += f"    for number in range({count}): log.info({text!r}, number)\n"
    assert run_python(SETUP + code + KILLED, str(folder)).returncode == -9
    (segment,) = segments(folder)
    return segment


def as_jsonl(segment: Path, folder: Path) -> None:
    """Have the segment be one for the JSON-lines sink."""
    rewrite_about(segment, key=f"jsonl {os.path.realpath(folder / 'logs')}")


def rewrite_about(segment: Path, **about: str) -> None:
    """Change what the segment's header says about it; cut where it does not fit."""
    data = segment.read_bytes()
    said = json.loads(data[spool_module.ABOUT : spool_module.HEADER].rstrip(b"\0"))
    raw = json.dumps({**said, **about}).encode()[: spool_module.HEADER - spool_module.ABOUT]
    head = bytearray(data[: spool_module.HEADER])
    head[spool_module.ABOUT :] = raw.ljust(spool_module.HEADER - spool_module.ABOUT, b"\0")
    fixed = list(spool_module.FIXED.unpack_from(head))
    fixed[-1] = len(raw)
    spool_module.FIXED.pack_into(head, 0, *fixed)
    segment.write_bytes(bytes(head) + data[spool_module.HEADER :])


def test_a_line_that_was_not_committed_is_no_line(tmp_path: Path) -> None:
    """A body without its number, as a kill in the middle leaves it, is not recovered; the lines beside it are."""
    segment = killed_with_lines(tmp_path)
    as_jsonl(segment, tmp_path)
    data = bytearray(segment.read_bytes())
    at = spool_module.RING + 5 * spool_module.SLOT
    data[at : at + 8] = bytes(8)
    segment.write_bytes(data)
    recover(tmp_path)
    assert [line["message"] for line in stored(tmp_path)] == [f"line {number}" for number in range(10) if number != 4]


def test_a_torn_page_costs_its_line_and_the_file_is_kept(tmp_path: Path) -> None:
    """A long line whose checksum is wrong is reported, not stored in pieces."""
    segment = killed_with_lines(tmp_path, 3, "line %d " + "x" * 2000)
    as_jsonl(segment, tmp_path)
    data = segment.read_bytes()
    at = data.index(b"line 1 xxx")
    segment.write_bytes(data[:at] + b"LINE" + data[at + 4 :])
    err = recover(tmp_path)
    assert "1 lines in a spool segment" in err
    assert [str(line["message"])[:6] for line in stored(tmp_path)] == ["line 0", "line 2"]
    assert segments(tmp_path) == []
    ended = segment.name.removesuffix(".spool") + ".ended"
    assert {path.name for path in (tmp_path / "spool").iterdir()} == {segment.name + ".unreadable", ended}


def test_a_foreign_version_is_kept_and_reported(tmp_path: Path) -> None:
    """A format that this version does not know is for the version that wrote it."""
    segment = killed_with_lines(tmp_path)
    as_jsonl(segment, tmp_path)
    data = segment.read_bytes()
    segment.write_bytes(MAGIC + (99).to_bytes(4, "little") + data[12:])
    before = segment.read_bytes()
    err = recover(tmp_path)
    assert "of another version of this library (99); it is kept" in err
    assert segment.read_bytes() == before
    assert stored(tmp_path) == []


def test_segments_for_other_sinks_do_not_hide_those_behind_them(tmp_path: Path) -> None:
    """Nor do they become this sink's: each waits for its own, whatever its name in the directory."""
    both = "configure()\nwith job_context(1): log.info('here')\n"
    assert run_python(SETUP + both + KILLED, str(tmp_path)).returncode == -9
    (ours,) = segments(tmp_path)
    for name in ("aaa", "zzz"):
        other = ours.with_name(f"{name}.spool")
        other.write_bytes(ours.read_bytes())
        rewrite_about(other, key="callable nowhere.at_all", origin=name)
    recover(tmp_path)
    assert [line["message"] for line in stored(tmp_path)] == ["here"]
    assert [path.name for path in segments(tmp_path)] == ["aaa.spool", "zzz.spool"]


@pytest.mark.parametrize("is_only_header", [False, True])
def test_a_segment_that_was_cut_is_kept_and_reported(tmp_path: Path, is_only_header: bool) -> None:
    """By a byte, or down to its header: none of its lines is taken for whole."""
    segment = killed_with_lines(tmp_path)
    as_jsonl(segment, tmp_path)
    size = segment.stat().st_size
    os.truncate(segment, spool_module.HEADER if is_only_header else size - 1)
    before = segment.read_bytes()
    err = recover(tmp_path)
    assert f"{str(segment)!r} is too short for a spool segment; it is kept" in err
    assert segment.read_bytes() == before
    assert stored(tmp_path) == []


def test_dead_ones_lines_are_stored_though_the_next_process_logs_nothing(tmp_path: Path) -> None:
    """As a server that waits for its first request: that a sink is configured is enough."""
    as_jsonl(killed_with_lines(tmp_path), tmp_path)
    code = """
configure()
until = time.monotonic() + 20
while stats()["recovered"] < 10 and time.monotonic() < until:
    time.sleep(0.01)
print(stats()["recovered"])
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.stdout.split() == ["10"], result.stderr
    assert [line["message"] for line in stored(tmp_path)] == [f"line {number}" for number in range(10)]


def test_a_second_handler_brings_the_firsts_lines_into_its_spool(tmp_path: Path) -> None:
    """From then on, as both have one sink; those before are in none, and all are stored in turn."""
    sink = Gate()
    logging.getLogger().addHandler(JobLogHandler(sink=sink, fold=False))
    logging.getLogger().setLevel(logging.INFO)
    with job_context(1):
        log.info("before")
        second = JobLogHandler(sink=sink, fold=False, spool=tmp_path / "spool")
        log.info("behind")
    (segment,) = segments(tmp_path)
    assert (b"before" in segment.read_bytes(), b"behind" in segment.read_bytes()) == (False, True)
    sink.is_open = True
    assert flush(10)
    assert sink.messages == ["before", "behind"]
    second.close()


def test_a_worker_that_takes_a_killed_ones_place_stores_its_lines_at_once(tmp_path: Path) -> None:
    """As under a server that forks its workers: not only at the next look, half a minute later."""
    code = """
configure()
with job_context(0):
    log.info("of the parent")
assert flush(10)
def worker(work):
    if (pid := os.fork()) == 0:
        work()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def is_killed():
    router._writer.pause(5)
    with job_context(1):
        log.info("of the killed one")
    os.kill(os.getpid(), 9)
def takes_its_place():
    with job_context(2):
        log.info("of the next one")
    until = time.monotonic() + 15
    while stats()["recovered"] < 1 and time.monotonic() < until:
        time.sleep(0.02)
    os._exit(0 if stats()["recovered"] == 1 and flush(5) else 1)
print(worker(is_killed), worker(takes_its_place), stats()["recovered"])
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.stdout.split() == ["-9", "0", "0"], result.stderr
    assert {line["message"] for line in stored(tmp_path)} == {"of the parent", "of the killed one", "of the next one"}


def test_a_fork_in_the_middle_of_a_recovery_leaves_it_to_the_parent(tmp_path: Path) -> None:
    """The child keeps nothing of the dead one's segment open and counts nothing of it; the parent goes on."""
    as_jsonl(killed_with_lines(tmp_path), tmp_path)
    (tmp_path / "logs").write_text("a file where the store should be")
    code = """
configure()
until = time.monotonic() + 15
while not router.recovery.running():
    assert time.monotonic() < until, "no recovery begins"
    time.sleep(0.01)
dead = router.recovery.running()[0].segment.found.name
def is_open():
    links = [os.path.join("/dev/fd", name) for name in os.listdir("/dev/fd")]
    return any(os.path.basename(os.readlink(link)) == dead for link in links if os.path.islink(link))
assert is_open()
if (pid := os.fork()) == 0:
    os._exit(is_open() or bool(router.recovery.running()) or stats()["recovered"] or stats()["captured"])
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), router.recovery.run(0.2))
os.unlink(sys.argv[1] + "/logs")
print(router.recovery.run(20), stats()["recovered"])
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.stdout.split() == ["0", "False", "True", "10"], result.stderr
    assert [line["message"] for line in stored(tmp_path)] == [f"line {number}" for number in range(10)]
    assert segments(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"x" * 100, MAGIC + bytes(4096)])
def test_files_that_are_no_segments_are_left_alone(tmp_path: Path, content: bytes) -> None:
    """Rubbish in the directory costs nothing."""
    (tmp_path / "spool").mkdir(mode=0o700)
    rubbish = tmp_path / "spool" / "rubbish.spool"
    rubbish.write_bytes(content)
    recover(tmp_path)
    assert rubbish.read_bytes() == content


def wrong_directories(folder: Path) -> Iterator[tuple[str, str]]:
    """Directories that must not be used, and what is said about them."""
    (folder / "open").mkdir(mode=0o755)
    yield "open", "chmod 700"
    (folder / "elsewhere").mkdir(mode=0o700)
    (folder / "link").symlink_to(folder / "elsewhere")
    yield "link", "is off"
    (folder / "file").write_text("")
    yield "file", "is off"
    yield "file/below", "is off"


def test_a_directory_that_cannot_be_trusted_turns_the_spool_off(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Others' directories, links and files: said once, and the lines are stored without a spool."""
    for name, words in wrong_directories(tmp_path):
        sink = Gate()
        sink.is_open = True
        handler = JobLogHandler(sink=sink, spool=tmp_path / name)
        logging.getLogger().addHandler(handler)
        logging.getLogger().setLevel(logging.INFO)
        before = stats()["unspooled"]
        with job_context(1):
            log.info("one")
            log.info("two")
        assert flush(10)
        logging.getLogger().removeHandler(handler)
        assert sink.messages == ["one", "two"]
        assert stats()["unspooled"] - before == 2
        handler.close()
        err = capfd.readouterr().err
        assert words in err
        assert err.count("the spool in") == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_each_user_and_each_project_has_a_default_directory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Always the same one, named as `docs/uninstall.md` says."""
    uid = os.geteuid()
    ours = default_directory("shop")
    assert ours == default_directory("shop")
    assert ours.parent == Path(tempfile.gettempdir())
    assert re.fullmatch(rf"joblog-router-{uid}-[0-9a-f]{{10}}", ours.name)
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert len({ours, default_directory("shop"), default_directory("other"), default_directory("shop\udcff")}) == 4


def logs_without_a_spool(directory: Path) -> None:
    """A line of a handler that is told to use `directory`, and cannot, is stored all the same."""
    sink = Gate()
    sink.is_open = True
    logging.getLogger().addHandler(JobLogHandler(sink=sink, spool=directory))
    logging.getLogger().setLevel(logging.INFO)
    with job_context(1):
        log.info("one")
    assert flush(10)
    assert sink.messages == ["one"]


def test_a_directory_of_another_user_turns_the_spool_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is said whose it is. The user is another in name only: not everybody may change it."""
    (tmp_path / "spool").mkdir(mode=0o700)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    logs_without_a_spool(tmp_path / "spool")
    assert f"it belongs to user {uid}, not to {uid + 1}" in capfd.readouterr().err
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_child_of_a_fork_has_no_file_of_its_parents_spool_open(tmp_path: Path) -> None:
    """One segment of its own for each sink."""
    code = """
def spools():
    links = [os.path.join("/dev/fd", name) for name in os.listdir("/dev/fd")]
    links = [os.readlink(link) for link in links if os.path.islink(link)]
    return {os.path.basename(link) for link in links if link.endswith(".spool")}
configure()
before = spools()
with job_context(1):
    log.info("of the parent")
if (pid := os.fork()) == 0:
    with job_context(2):
        log.info("of the child")
    mine = spools()
    os._exit(not (len(mine) == 1 and not mine & before and flush(10)))
print(len(before), os.waitpid(pid, 0)[1], spools() == before)
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.stdout.split() == ["1", "0", "True"], result.stderr
    assert sorted(str(line["message"]) for line in stored(tmp_path)) == ["of the child", "of the parent"]


def test_no_room_for_a_segment_turns_the_spool_off(tmp_path: Path) -> None:
    """A limit on file sizes stands for a full disk: no SIGBUS, one line on stderr, all lines stored, nothing left."""
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
configure()
with job_context(1):
    for number in range(1000): log.info("line %d", number)
print(flush(10), stats()["unspooled"])
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.stdout.split() == ["True", "1000"], result.stderr
    assert result.stderr.count("the spool in") == 1
    assert len(stored(tmp_path)) == 1000
    assert list((tmp_path / "spool").iterdir()) == []


def test_the_spool_can_be_turned_on_and_off_by_reconfiguration(tmp_path: Path) -> None:
    """Many times a second: a segment goes when its setting has gone and its lines are stored, and no line is lost."""
    code = """
configure()
stop = threading.Event()
made = [0]
def busy():
    with job_context(1):
        while not stop.is_set():
            log.info("line %d", made[0])
            made[0] += 1
            time.sleep(0.0005)
handler = logging.getLogger().handlers[0]
thread = threading.Thread(target=busy)
thread.start()
for round in range(10):
    time.sleep(0.05)
    handler.close()  # as dictConfig does; beside an open handler with a spool it would stay on
    handler = joblog_router.JobLogHandler(sink="jsonl", options={"directory": sys.argv[1] + "/logs"}, fold=False,
                                          spool=None if round % 2 else sys.argv[1] + "/spool")
stop.set()
thread.join()
print(made[0], flush(10), stats()["stored"])
"""
    result = run_python(SETUP + code, str(tmp_path))
    made, flushed, counted = result.stdout.split()
    assert (flushed, made) == ("True", counted), result.stderr
    assert len(stored(tmp_path)) == int(made)
    assert segments(tmp_path) == []


def test_a_spool_that_is_turned_off_keeps_the_lines_that_the_writer_has_in_hand(
    gate: Gate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are in no buffer while they are converted, and not stored: the old segment stays until they are."""
    begun, go = threading.Event(), threading.Event()

    def convert(*arguments: Any, **named: Any) -> Any:
        begun.set()
        assert go.wait(10)
        return real(*arguments, **named)

    real = delivery.convert
    monkeypatch.setattr(delivery, "convert", convert)
    channel = next(each for each in logging.getLogger().handlers if isinstance(each, JobLogHandler))._channel
    with job_context(1):
        log.info("in hand")
    try:
        assert begun.wait(10)
        assert channel.use_spool(None)
    finally:
        go.set()
    assert not flush(0.2)
    (segment,) = segments(tmp_path)
    assert b"in hand" in segment.read_bytes()
    gate.is_open = True
    assert flush(10)
    assert gate.messages == ["in hand"]
    until(lambda: not segments(tmp_path))


def test_without_fcntl_there_is_no_spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: said once, lines are stored. The module is taken away here, as no such platform is at hand."""
    for module in (spool_module, spool_recovery, status_file):
        monkeypatch.setattr(module, "IS_SUPPORTED", False)
    logs_without_a_spool(tmp_path / "spool")
    assert not (tmp_path / "spool").exists()


def test_recovery_of_this_process_ignores_its_own_segment(gate: Gate) -> None:
    """A look for dead processes' segments while lines wait does not take them twice."""
    with job_context(1):
        log.info("one")
    assert router.recovery.run(2)
    gate.is_open = True
    assert flush(10)
    assert gate.messages == ["one"]


def test_a_running_process_says_how_it_is_beside_its_spool(tmp_path: Path) -> None:
    """Counters and more in a file of its own, which goes with the process; of a killed one it stays for a day."""
    code = """
configure()
with job_context(1):
    log.info("x")
assert flush(10)
from joblog_router._pipeline.status_file import running
from pathlib import Path
from types import SimpleNamespace
(said,) = running(Path(sys.argv[1]) / "spool")
print(said["pid"] == os.getpid(), said["stats"]["captured"] >= 1)
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.stdout.split() == ["True", "True"], result.stderr
    assert list((tmp_path / "spool").iterdir()) == []
    assert run_python(SETUP + code + KILLED, str(tmp_path)).returncode == -9
    (status,) = (tmp_path / "spool").glob("*.status")
    recover(tmp_path)
    assert [path.name for path in (tmp_path / "spool").iterdir()] == [status.with_suffix(".ended").name]
    assert list(status_file.running(tmp_path / "spool")) == []
    (said,) = status_file.ended(tmp_path / "spool")
    assert said["stats"]["captured"] >= 1


def test_that_a_process_was_killed_is_known_for_a_day(tmp_path: Path) -> None:
    """Whether it had said anything or not; older notes are swept. Links are not followed."""
    (tmp_path / "a-1-ab.status").write_text('{"origin": "a-1-ab", "pid": 1}')
    days_ago = time.time() - 2 * 86_400
    os.utime(tmp_path / "a-1-ab.status", (days_ago, days_ago))
    status_file.note_end(tmp_path, "a-1-ab.2")
    status_file.note_end(tmp_path, "a-2-ab")
    (tmp_path / "a-3-ab.2.spool").write_text("")
    status_file.note_end(tmp_path, "a-3-ab")  # there is more of it
    (tmp_path / "a-4-ab.ended").symlink_to(tmp_path / "elsewhere")
    status_file.note_end(tmp_path, "a-4-ab")
    status_file.note_end(tmp_path / "none", "a-5-ab")
    assert not (tmp_path / "elsewhere").exists()
    assert list(status_file.ended(tmp_path)) == [{"origin": "a-1-ab", "pid": 1}, {"origin": "a-2-ab"}]
    os.utime(tmp_path / "a-1-ab.ended", (days_ago, days_ago))
    assert list(status_file.ended(tmp_path)) == [{"origin": "a-2-ab"}]
    status_file.sweep(tmp_path)
    assert not (tmp_path / "a-1-ab.ended").exists()
    assert (tmp_path / "a-2-ab.ended").exists()


def test_what_processes_say_of_themselves_is_this_users_alone_and_leaves_no_file_open(tmp_path: Path) -> None:
    """0600, and as many descriptors after many times as after the first."""
    open_files = []
    for number in range(10):
        StatusFile(tmp_path / "spool", f"host-{number}").write(lambda: {"pid": 1})
        open_files.append(len(os.listdir("/dev/fd")))  # noqa: PTH208 - no files
    files = list((tmp_path / "spool").iterdir())
    assert len(files) == 10
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert open_files[-1] < open_files[0] + 5


def test_a_process_says_how_it_is_at_most_every_few_seconds_and_nothing_more_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often the writer comes round; the clock is set here."""
    clock = [1000.0]
    monkeypatch.setattr(status_file, "time", SimpleNamespace(monotonic=lambda: clock[0], time=time.time))
    asked = iter(range(100))
    file = StatusFile(tmp_path / "spool", "host-1")

    def said() -> list[dict[str, object]]:
        file.write(lambda: {"asked": next(asked)})
        return list(status_file.running(tmp_path / "spool"))

    assert said() == [{"asked": 0}]
    clock[0] += 5
    assert said() == [{"asked": 0}]
    clock[0] += 6
    assert said() == [{"asked": 1}]
    file.remove()
    clock[0] += 60
    assert said() == []
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_status_that_cannot_be_written_is_said_once_and_follows_no_link(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it could not be, and why; what a link in its place points to stays as it is."""
    (tmp_path / "spool").mkdir(mode=0o700)
    (tmp_path / "other").write_text("of another")
    (tmp_path / "spool" / "host-1.status.new").symlink_to(tmp_path / "other")
    monkeypatch.setattr(status_file, "_EVERY", 0.0)
    file = StatusFile(tmp_path / "spool", "host-1")
    for _ in range(3):
        file.write(lambda: {"pid": 1})
    assert (tmp_path / "other").read_text() == "of another"
    assert list(status_file.running(tmp_path / "spool")) == []
    assert flush(10)  # what the writer says for others
    err = capfd.readouterr().err
    assert err.count(f"no status file in {str(tmp_path / 'spool')!r}") == 1


def test_a_status_that_was_taken_away_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    """The process ends on one thread while the writer writes on another: here while it asks."""
    (tmp_path / "spool").mkdir(mode=0o700)
    file = StatusFile(tmp_path / "spool", "host-1")
    file.write(lambda: file.remove() or {"pid": 1})  # type: ignore[func-returns-value]
    assert list((tmp_path / "spool").iterdir()) == []


def test_the_end_waits_for_a_status_that_is_being_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would stay: the writer is a daemon thread. A pipe in the file's place holds it up here."""
    monkeypatch.setattr(status_file, "_AT_END", 30.0)
    making = tmp_path / "host-1.status.new"
    os.mkfifo(making)
    tmp_path.chmod(0o700)
    file = StatusFile(tmp_path, "host-1")
    writing = threading.Thread(target=file.write, args=(lambda: {"text": "x" * 2**20},), daemon=True)
    writing.start()
    with making.open("rb") as pipe:
        pipe.read(1)
        ending = threading.Thread(target=file.remove, daemon=True)
        ending.start()
        ending.join(0.2)
        assert ending.is_alive()
        pipe.read()
    writing.join(10)
    ending.join(10)
    assert not ending.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_captured_nothing_says_nothing(tmp_path: Path) -> None:
    """Though its writer came round: to recover what another left."""
    as_jsonl(killed_with_lines(tmp_path, 3), tmp_path)
    code = """
configure()
assert router.recovery.run(10) and stats()["recovered"] == 3, stats()
names = os.listdir(sys.argv[1] + "/spool")
assert not any(name.endswith((".status", ".new")) for name in names), names
"""
    result = run_python(SETUP + code, str(tmp_path))
    assert result.returncode == 0, result.stderr


def test_what_gone_processes_said_goes_with_the_last_they_left(tmp_path: Path) -> None:
    """By the next recovery: but not of those that may run, nor of those whose lines are not stored yet."""
    result = run_python("from joblog_router._pipeline.origins import new_origin; print(new_origin())")
    gone, spool = result.stdout.strip(), tmp_path / "spool"
    living = new_origin()
    elsewhere = gone.replace("-", "x-", 1)
    spool.mkdir(mode=0o700)
    for name in (gone, gone + "0", living, elsewhere, elsewhere + "0"):
        for suffix in (".status", ".status.new"):
            (spool / (name + suffix)).write_text(json.dumps({"origin": name}))
    (spool / f"{gone}0.2.spool").write_text("for a sink that is not here")
    (spool / "build.status").write_text("of something else")
    long_ago = time.time() - 2 * 86_400
    for suffix in (".status", ".status.new"):
        os.utime(spool / f"{elsewhere}0{suffix}", (long_ago, long_ago))
    os.utime(spool / "build.status", (long_ago, long_ago))
    assert len(list(spool.iterdir())) == 12
    recover(tmp_path)
    stay = {f"{name}{suffix}" for name in (gone + "0", living, elsewhere) for suffix in (".status", ".status.new")}
    assert {path.name for path in spool.iterdir()} == {*stay, f"{gone}0.2.spool", "build.status"}


def test_nothing_is_swept_from_a_directory_that_others_may_change(tmp_path: Path) -> None:
    """Nor through a link: what is deleted by its name must be this user's."""
    gone = run_python("from joblog_router._pipeline.origins import new_origin; print(new_origin())").stdout.strip()
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "linked").symlink_to(tmp_path / "own")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    for name in ("own", "open"):
        (tmp_path / name / f"{gone}.status").write_text("{}")
    for name in ("open", "linked"):
        status_file.sweep(tmp_path / name)
        assert len(list((tmp_path / name).iterdir())) == 1
    status_file.sweep(tmp_path / "own")
    assert list((tmp_path / "own").iterdir()) == []


def test_what_a_killed_process_said_goes_with_its_last_segment(tmp_path: Path) -> None:
    """Each of its sinks has one; what it said is of use as long as something is to be recovered; then a note stays."""
    killed = """
configure()
log.parent.addHandler(joblog_router.JobLogHandler(sink="jsonl", options={"directory": sys.argv[1] + "/more"},
                                                  spool=sys.argv[1] + "/spool"))
with job_context(1):
    log.info("x")
assert flush(10)
"""
    assert run_python(SETUP + killed + KILLED, str(tmp_path)).returncode == -9
    assert len(segments(tmp_path)) == 2
    code = 'configure(directory=sys.argv[1] + "/more")'
    recover(tmp_path, code)
    assert len(segments(tmp_path)) == 1
    assert len(list((tmp_path / "spool").glob("*.status"))) == 1
    recover(tmp_path)
    (note,) = (tmp_path / "spool").iterdir()
    assert note.suffix == ".ended"


def test_what_is_no_word_of_a_running_process_is_passed_over(tmp_path: Path) -> None:
    """What others wrote there, half a file, and what a process of days ago left behind."""
    for name, text in (("a", '{"pid": 1}'), ("b", "[1]"), ("c", '{"pid'), ("d", '{"pid": 2}')):
        (tmp_path / f"{name}.status").write_text(text)
    days_ago = time.time() - 2 * 86_400
    os.utime(tmp_path / "d.status", (days_ago, days_ago))
    assert list(status_file.running(tmp_path)) == [{"pid": 1}]


def test_a_segment_fills_from_where_it_begins(tmp_path: Path) -> None:
    """A spool that is turned on late has all its room: sums are told early beyond a quarter of it, no sooner."""
    spool = Spool(tmp_path / "spool", "key", "host-1", 1000)
    assert spool.open(after=5000)
    quarter = (spool.mask + 1) // 4
    assert [spool.is_filling(5000 + lines) for lines in (1, quarter - 1, quarter)] == [False, False, True]
    spool.close(is_done=True)


def test_what_is_noted_of_folded_lines_is_found_again_wherever_they_stand(tmp_path: Path) -> None:
    """In the near ring or the far one; and what the recovery notes in its turn is found by the next one."""
    spool = Spool(tmp_path / "spool", "key", "host-1", 4000)
    assert spool.open()
    record = log.makeRecord("app", logging.INFO, "app.py", 1, "line", (), None)
    for seq in range(1, 3001):
        spool.put(seq, spool_module.pack_scope(JobScope("1")), record, seq, f"line {seq}", None)
    spool.mark(500, 6, 495)
    spool.mark(2500, 1500, 1001)
    spool.let_go()
    wanted = {500: (6, 495), 2500: (1500, 1001)}
    for _ in range(2):
        (found,) = spool_recovery.find(tmp_path / "spool", None)
        dead = spool_recovery.DeadSegment(found)
        lines = [(item[2], item[4]) for item in dead.items()]
        assert lines == [(seq, f"line {seq}") for seq in range(1, 3001)]
        assert dead.marks == wanted
        dead.mark(501, 6, 496)
        dead.mark(2501, 1500, 1002)
        wanted |= {501: (6, 496), 2501: (1500, 1002)}
        dead.close(is_done=False)


def test_a_segment_that_was_let_go_leaves_nothing_open(tmp_path: Path) -> None:
    """Neither a descriptor nor a file, however often the configuration names another spool."""
    open_files = []
    for number in range(10):
        spool = Spool(tmp_path / "spool", "key", f"host-{number}", 1000)
        assert spool.open()
        spool.close(is_done=True)
        open_files.append(len(os.listdir("/dev/fd")))  # noqa: PTH208 - no files
    assert open_files[-1] < open_files[0] + 5
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_clock_that_is_set_back_changes_no_order_and_doubles_nothing(tmp_path: Path) -> None:
    """An hour, in a process that is killed: the numbers tell the order, whatever the times say.

    The clock of the machine cannot be set here, so the process's own `time` is changed.
    """
    code = """
configure()
real, ns = time.time, time.time_ns
with job_context(1):
    for number in range(600):
        if number == 300:
            time.time = lambda: real() - 3600
            time.time_ns = lambda: ns() - 3600 * 10**9
        log.info("%d", number)
        if number in (150, 450):
            assert flush(10)
    router._writer.pause(5)
    for number in range(600, 700):
        log.info("%d", number)
"""
    assert run_python(SETUP + code + KILLED, str(tmp_path)).returncode == -9
    recover(tmp_path)
    lines = sorted(stored(tmp_path), key=lambda line: line["seq"])  # type: ignore[arg-type, return-value]
    assert [line["message"] for line in lines] == [str(number) for number in range(700)]
    assert [line["n"] for line in lines] == list(range(1, 701))
    assert lines[300]["created"] < lines[299]["created"] - 3000  # type: ignore[operator]


def test_two_reconfigurations_a_second_under_load_lose_nothing(tmp_path: Path) -> None:
    """The same sink and spool, configured again and again while three threads log; then the process is killed."""
    code = """
configure()
stop = threading.Event()
counts = [0, 0, 0]
def busy(index):
    with job_context(index):
        while not stop.is_set():
            log.info("%d-%d", index, counts[index])
            counts[index] += 1
            time.sleep(0.0005)
threads = [threading.Thread(target=busy, args=(index,)) for index in range(3)]
for thread in threads:
    thread.start()
for _ in range(5):
    time.sleep(0.5)
    configure()
stop.set()
for thread in threads:
    thread.join()
print(*counts, stats()["unspooled"], stats()["dropped"], flush=True)
"""
    result = run_python(SETUP + code + KILLED, str(tmp_path))
    assert result.returncode == -9, result.stderr
    *counts, unspooled, dropped = map(int, result.stdout.split())
    assert (unspooled, dropped) == (0, 0)
    recover(tmp_path)
    wanted = Counter(f"{index}-{number}" for index, count in enumerate(counts) for number in range(count))
    assert Counter(line["message"] for line in stored(tmp_path)) == wanted


def test_segments_of_one_process_in_turn_are_files_of_their_own(gate: Gate, tmp_path: Path) -> None:
    """Back to a directory where lines still wait: none takes another's place."""
    channel = next(each for each in logging.getLogger().handlers if isinstance(each, JobLogHandler))._channel
    for number, directory in enumerate(("spool", "other", "spool")):
        assert channel.use_spool(tmp_path / directory) is (number > 0)
        router.renew_handlers()
        with job_context(1):
            log.info("kept-%d", number)
    data = b"".join(path.read_bytes() for folder in ("spool", "other") for path in (tmp_path / folder).glob("*.spool"))
    assert [data.count(b"kept-%d" % number) > 0 for number in range(3)] == [True] * 3
    gate.is_open = True
    assert flush(10)
    assert gate.messages == ["kept-0", "kept-1", "kept-2"]


def test_a_living_segment_stays_locked_where_one_before_it_is_done(tmp_path: Path) -> None:
    """Another process would take it for a dead one's, and it away."""
    code = """
    import logging, os, subprocess, sys, time
    from joblog_router import JobLogHandler, flush, job_context
    log = logging.getLogger("app")
    log.setLevel("INFO")
    before = None
    for spool in ("one", "two"):
        options = {"directory": f"{sys.argv[1]}/lines"}
        handler = JobLogHandler(sink="jsonl", options=options, spool=f"{sys.argv[1]}/{spool}")
        log.addHandler(handler)
        if before is not None:
            log.removeHandler(before)
            before.close()
        before = handler
        with job_context(1):
            log.info("in %s", spool)
    assert flush(10)
    until = time.monotonic() + 10
    while any(name.endswith(".spool") for name in os.listdir(sys.argv[1] + "/one")):
        assert time.monotonic() < until, "the first segment is not done"
        time.sleep(0.01)  # the writer takes it away after it answered the flush
    (name,) = (name for name in os.listdir(sys.argv[1] + "/two") if name.endswith(".spool"))
    lock = "import fcntl, os, sys; fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    tried = subprocess.run([sys.executable, "-c", lock, f"{sys.argv[1]}/two/{name}"], capture_output=True, text=True)
    assert "BlockingIOError" in tried.stderr, "the segment has no lock"
    """
    result = run_python(code, str(tmp_path))
    assert result.returncode == 0, result.stderr
