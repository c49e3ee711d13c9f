"""Where there is no Django project, no store, or nobody left to read, each command says what it lacks and ends so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from joblog_router._commands import tail
from joblog_router.exceptions import JobLogError, SinkUnavailableError
from joblog_router.sinks import JsonLinesSink
from joblog_router.sinks.store import Page
from tests.helpers import SRC
from tests.test_cli import Ran
from tests.test_spool import KILLED, SETUP


@pytest.fixture(autouse=True)
def _no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.delenv("JOBLOG_STORE", raising=False)


def own_process(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in `folder`, without Django's settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DJANGO", "JOBLOG_STORE"))}
    return subprocess.run(
        [sys.executable, "-m", "joblog_router", *map(str, arguments)],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(SRC)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("backfill", "shop.Job", "log"), "backfill reads a Django project's model: run manage.py joblog backfill"),
        (("doctor", "1", "--tell", "--store", "jsonl:logs"), "--tell needs the project's logging"),
        (("prune", "--orphans"), "run manage.py joblog prune"),
        (("status", "--all-active", "--store", "jsonl:logs"), "run manage.py joblog status"),
        (("token", "7"), "job tokens are signed by a Django project: run manage.py joblog token JOB"),
        (("recover",), "recover: no handler of this project has a spool; for a program without Django"),
        (("recover", "--spool", "spool"), "recover: --spool needs --store jsonl:DIRECTORY"),
        (("stats",), "stats: name a job, or run it where a handler has a spool"),
    ],
)
def test_what_only_a_project_has_is_said_to_be_there(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Misuse, status 2, and the command that works; in a process that has no Django settings."""
    result = own_process(tmp_path, *arguments)
    assert words in result.stderr, result
    assert (result.returncode, result.stdout) == (2, "")


# --- processes -----------------------------------------------------------------------------------------------

SAID = {
    "pid": 1,
    "program": "work.py",
    "origin": "host-1-a",
    "started": 1_700_000_000,
    "time": 1_700_000_060,
    "stats": {"captured": 12, "stored": 12, "dropped": 0},
    "audit": [],
}


def say(spool: Path, name: str, **more: object) -> None:
    """What a process writes about itself beside its spool."""
    spool.mkdir(exist_ok=True)
    (spool / f"{name}.status").write_text(json.dumps({**SAID, **more}))


def test_processes_tell_how_they_are(tmp_path: Path) -> None:
    """Running or gone, since when, what they counted, what the audit found; 1 where lines were dropped."""
    spool = tmp_path / "spool"
    ran = Ran("stats", "--spool", spool)
    assert (ran.status, ran.out) == (0, f"no process has said anything in {spool}\n")
    say(spool, "one")
    say(spool, "two", pid=2**22 + 5, origin="host-2-b", started="long ago")
    ran = Ran("stats", "--spool", spool)
    assert ran.status == 0
    assert "work.py (pid 1, host-1-a): running" in ran.out
    assert "host-2-b): gone; it left nothing" in ran.out
    (spool / "host-2-b.2.spool").touch()
    (spool / "host-1-a0.spool").touch()
    ran = Ran("stats", "--spool", spool)
    assert "host-2-b): gone; the next process of its project, or joblog recover, stores the rest" in ran.out
    assert "captured 12, stored 12" in ran.out
    for pid in ("7", -1, 2**80, None):
        say(spool, "two", pid=pid, audit=[{"text": "a bare thread logged nowhere"}, "nonsense"])
        ran = Ran("stats", "--spool", spool)
        assert ran.status == 1
        assert ": gone;" in ran.out
        assert "  a bare thread logged nowhere" in ran.out
    say(spool, "two", stats={"dropped": 3})
    ran = Ran("stats", "--spool", spool, "--json")
    assert ran.status == 1
    assert sorted(one["alive"] for one in ran.json()) == [True, True]


def test_what_recovery_leaves_is_named(tmp_path: Path) -> None:
    """A file that cannot be stored now; status 1, in words and as JSON. Not in this process, which would try on."""
    code = "configure()\nwith job_context(1):\n    for number in range(3): log.info('line %d', number)\n"
    made = subprocess.run(
        [sys.executable, "-c", SETUP + code + KILLED, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(SRC)},
        timeout=30,
        check=False,
    )
    assert made.returncode == -9
    (tmp_path / "in the way").write_text("no folder")
    command = ("recover", "--spool", tmp_path / "spool", "--store", f"jsonl:{tmp_path / 'in the way'}", "--timeout", 1)
    ran = own_process(tmp_path, *command)
    assert ran.returncode == 1
    assert f"left: {tmp_path / 'spool'}" in ran.stdout
    assert len(json.loads(own_process(tmp_path, *command, "--json").stdout)["left"]) == 1
    assert len(list((tmp_path / "spool").glob("*.spool"))) == 1  # nothing of the commands themselves


def test_a_recovery_leaves_nothing_of_its_own(tmp_path: Path) -> None:
    """Neither segment nor word of itself, as its handler is closed before it ends."""
    spool = tmp_path / "spool"
    ran = own_process(tmp_path, "recover", "--spool", spool, "--store", f"jsonl:{tmp_path / 'logs'}")
    assert (ran.returncode, ran.stdout) == (0, f"0 lines were recovered\nspool: {spool}\n"), ran
    assert list(spool.iterdir()) == []


# --- the end of a command ------------------------------------------------------------------------------------


class Store(JsonLinesSink):
    """A store that fails as told."""

    error: BaseException

    def newest(self, *args: object, **options: object) -> Page:
        """Fails."""
        raise self.error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (SinkUnavailableError("the server is down", "start it"), 1, "the server is down. start it"),
        (SinkUnavailableError("the server is down"), 1, "the server is down"),
        (JobLogError("this log has no such place"), 1, "this log has no such place"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_stops_a_command_is_a_status_and_at_most_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, status: int, said: str
) -> None:
    """No traceback, whatever the store says. A store of the test's own: none fails in all these ways on demand."""
    store = Store(tmp_path)
    store.error = error
    monkeypatch.setattr(tail.arguments, "store_of", lambda options: store)
    ran = Ran("tail", "1", "--store", f"jsonl:{tmp_path}")
    assert ran.status == status
    assert said in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


@pytest.mark.parametrize("every", ["0", "often", "nan", "4000"])
def test_how_often_to_look_is_a_number_of_seconds(capsys: pytest.CaptureFixture[str], every: str) -> None:
    """Between a tenth of a second and an hour."""
    with pytest.raises(SystemExit) as caught:
        Ran("watch", "1", "--every", every, "--store", "jsonl:logs")
    assert caught.value.code == 2
    assert "is no number of seconds from 0.1 to 3600" in capsys.readouterr().err
