from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from joblog_router import Entry
from joblog_router._commands.console import Console
from joblog_router.cli import COMMANDS, main
from joblog_router.sinks import JsonLinesSink
from tests.helpers import SRC

HOSTILE = "\x1b[2Jgone\x07 \u202egnp.exe\n2026-01-01 00:00:00 ERROR x: forged\r\u2028line"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A store with two jobs: "1" with twelve lines, "2" with hostile ones."""
    sink = JsonLinesSink(tmp_path / "logs")
    levels = [20] * 10 + [30, 40]
    sink.write([_entry(at, f"line {at}", level=level) for at, level in enumerate(levels, 1)])
    sink.write(
        [
            _entry(20, HOSTILE, job_id="2", logger=f"x{HOSTILE}"),
            _entry(21, "failed", job_id="2", level=40, exception="Traceback\n  \x1b]0;title\x07"),
            _entry(22, "Published 9 of 90", job_id="2", fields={"fold": "f", "folded": 17}),
        ]
    )
    return tmp_path / "logs"


def _entry(seq: int, message: str, **given: object) -> Entry:
    values: dict[str, object] = {"level": 20, "logger": "shop", "exception": None, "fields": {}, "job_id": "1", **given}
    return Entry(created=1_700_000_000.0 + seq, message=message, path="", line=0, origin="o", seq=seq, n=seq, **values)  # type: ignore[arg-type]


class Ran:
    """A run of the command in this process."""

    def __init__(self, *arguments: object) -> None:
        out, err = io.StringIO(), io.StringIO()
        self.status = main([str(one) for one in arguments], console=Console(out, err))
        self.out, self.err = out.getvalue(), err.getvalue()
        self.lines = self.out.splitlines()
        # "a line" is what a newline ends; other characters that end one for some readers must not be there
        assert self.lines == self.out.split("\n")[:-1]

    def json(self) -> list[dict[str, object]]:
        """Each line as the object it is."""
        return [json.loads(one) for one in self.lines]


@pytest.fixture(autouse=True)
def _no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.delenv("JOBLOG_STORE", raising=False)


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    environment.pop("PYTHONUNBUFFERED", None)  # so that what is written late is seen
    return subprocess.Popen(
        [sys.executable, "-m", "joblog_router", *map(str, arguments)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment, **options},  # type: ignore[call-overload]
    )


def test_tail_writes_the_newest_lines(directory: Path) -> None:
    """Ten of them, or as many as asked for, oldest first, with time, level and logger."""
    ran = Ran("tail", "1", "--store", f"jsonl:{directory}")
    assert ran.status == 0
    assert [one.rpartition(": ")[2] for one in ran.lines] == [f"line {at}" for at in range(3, 13)]
    assert " ERROR    shop: line 12" in ran.lines[-1]
    assert len(Ran("tail", "1", "-n", 2, "--store", f"jsonl:{directory}").lines) == 2
    assert Ran("tail", "1", "-n", 2, "--store", f"jsonl:{directory}").err == ""


def test_the_store_may_come_from_the_environment(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`JOBLOG_STORE` names it; what the command line says wins."""
    monkeypatch.setenv("JOBLOG_STORE", f"jsonl:{directory}")
    assert len(Ran("tail", "1").lines) == 10
    ran = Ran("tail", "1", "--store", f"jsonl:{directory / 'elsewhere'}")
    assert (ran.status, ran.out) == (1, "")
    assert "nothing is stored for job '1'" in ran.err


def test_lines_can_be_selected(directory: Path) -> None:
    """By level, text, logger and origin."""
    store = f"jsonl:{directory}"
    assert len(Ran("show", "1", "--level", "warning", "--store", store).lines) == 2
    assert len(Ran("show", "1", "--text", "LINE 1", "--store", store).lines) == 4
    assert Ran("show", "1", "--logger", "sho", "--store", store).status == 1
    assert Ran("show", "1", "--origin", "p", "--store", store).status == 1


def test_several_jobs_are_told_apart(directory: Path) -> None:
    """Each line begins with its job."""
    ran = Ran("tail", "1", "2", "-n", 1, "--store", f"jsonl:{directory}")
    assert [one.split(" ")[0] for one in ran.lines] == ["[1]", "[2]"]


def test_each_of_several_jobs_has_a_colour_of_its_own_on_a_terminal(directory: Path) -> None:
    """Its name alone: the line keeps that of its level. Elsewhere, and with NO_COLOR, there is none."""
    given = ("tail", "1", "2", "-n", 1, "--store", f"jsonl:{directory}")
    shown = _on_a_terminal(*given)
    first, second = (re.search(rf"\x1b\[([\d;]+)m\[{job}\]\x1b\[0m ", shown) for job in (1, 2))
    assert first
    assert second
    assert first[1] != second[1]
    assert re.search(r"\[1\]\x1b\[0m \x1b\[31m2023-", shown)  # the ERROR itself is red
    assert "\x1b" not in _on_a_terminal(*given, NO_COLOR="1")
    assert "\x1b" not in Ran(*given).out


def test_no_text_of_a_log_commands_the_terminal_or_forges_a_line(directory: Path) -> None:
    """Control, escape and bidirectional characters are shown as such; what follows a newline is indented."""
    for arguments in (["show", "2"], ["tail", "2"], ["show", "2", "--json"], ["stats", "2"], ["export", "2"]):
        ran = Ran(*arguments, "--store", f"jsonl:{directory}")
        assert ran.status == 0
        for char in "\x1b\x07\r\u202e\u2028":
            assert char not in ran.out
    shown = Ran("show", "2", "--store", f"jsonl:{directory}")
    assert "\\x1b[2Jgone\\x07 \\u202egnp.exe" in shown.lines[0]
    assert shown.lines[1] == "    2026-01-01 00:00:00 ERROR x: forged\\r\\u2028line"
    assert not any(one.startswith("2026") for one in shown.lines)


def test_a_hostile_job_id_is_shown_as_text(directory: Path) -> None:
    """What is said about a job that is not there, too."""
    ran = Ran("show", "\x1b[31m", "--store", f"jsonl:{directory}")
    assert ran.status == 1
    assert "\x1b" not in ran.err
    assert "\x1b" not in Ran("stats", "\x1b[31m", "--store", f"jsonl:{directory}").out


def test_tracebacks_and_tallies_are_shown(directory: Path) -> None:
    """A traceback stands indented under its line; a tally says for how many lines it stands."""
    ran = Ran("show", "2", "--store", f"jsonl:{directory}")
    assert ran.lines[3:5] == ["    Traceback", "      \\x1b]0;title\\x07"]
    assert ran.lines[-1].endswith("shop: Published 9 of 90 (stands for 17 similar lines)")


def test_show_writes_the_fields(tmp_path: Path) -> None:
    """What `extra` added stands below the line, before the traceback; a tally's own numbers do not."""
    fields = {"image": 7, "site": "NR", "why": "too = dark\nnow", "seqs": [1, 2], "\x1b[2J": True}
    tally = {"fold": "f", "folded": 17, "first": 1.0, "last": 2.0, "batch": 3}
    made = [_entry(1, "failed", fields=fields, exception="Traceback"), _entry(2, "again", fields=tally)]
    JsonLinesSink(tmp_path).write(made)
    ran = Ran("show", "1", "--store", f"jsonl:{tmp_path}")
    assert ran.lines[1] == '    image=7 site=NR why="too = dark\\nnow" seqs=[1, 2] \\x1b[2J=true'
    assert ran.lines[2] == "    Traceback"
    assert ran.lines[4:] == ["    batch=3"]
    assert len(Ran("tail", "1", "--store", f"jsonl:{tmp_path}").lines) == 3


@pytest.mark.parametrize("command", ["show", "export"])
def test_an_empty_log_and_a_selection_of_nothing_are_told_apart(directory: Path, command: str) -> None:
    """Nothing is stored for the job, or nothing that was asked for."""
    store = ("--store", f"jsonl:{directory}")
    assert Ran(command, "99", *store).err == "joblog: nothing is stored for job '99'\n"
    ran = Ran(command, "99", "--store", f"jsonl:{directory / 'nowhere'}")
    assert ran.err == f"joblog: nothing is stored for job '99': there is no directory {str(directory / 'nowhere')!r}\n"
    assert Ran(command, "1", "--text", "nowhere", *store).err == "joblog: job '1' has no such lines\n"


def test_where_there_is_no_store_a_project_is_named_too() -> None:
    """The message has a way for JSON lines, and the one for a Django project."""
    process = start("show", "3")
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "--store jsonl:DIRECTORY" in err
    assert "run manage.py joblog, or set DJANGO_SETTINGS_MODULE" in err


def test_show_says_that_there_is_more(directory: Path) -> None:
    """On standard error, so that what is written can be used."""
    ran = Ran("show", "1", "-n", 3, "--store", f"jsonl:{directory}")
    assert len(ran.lines) == 3
    assert "the newest 3 lines" in ran.err


def test_json_is_written_where_it_is_asked_for(directory: Path) -> None:
    """An object a line, with the keys of the JSON-lines store."""
    for command in ("tail", "show", "export"):
        (first, *_) = Ran(command, "1", "--json", "--store", f"jsonl:{directory}").json()
        assert first["job_id"] == "1"
        assert first["level"] == "INFO"
    (found,) = Ran("stats", "1", "--json", "--store", f"jsonl:{directory}").json()
    assert found["lines"] == 12
    assert found["levels"] == {"INFO": 10, "WARNING": 1, "ERROR": 1}
    assert Ran("prune", "--keep", 5, "--dry-run", "--json", "--store", f"jsonl:{directory}").json() == [
        {"lines": 7, "dry_run": True}
    ]
    assert Ran("delete", "1", "--json", "--store", f"jsonl:{directory}").json() == [{"job_id": "1", "lines": 12}]


def test_an_export_is_a_store_again(directory: Path, tmp_path: Path) -> None:
    """All lines of a job, as they were written, make the same log elsewhere."""
    ran = Ran("export", "1", "--store", f"jsonl:{directory}")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "1.jsonl").write_text(ran.out)
    assert JsonLinesSink(tmp_path / "copy").newest("1").entries == JsonLinesSink(directory).newest("1").entries


def test_stats_for_people(directory: Path) -> None:
    """Lines, levels and the first error; a job without lines is a finding."""
    ran = Ran("stats", "1", "--store", f"jsonl:{directory}")
    assert ran.lines[0] == "job 1: 12 lines"
    assert any("first error" in one and "line 12" in one for one in ran.lines)
    assert Ran("stats", "3", "--store", f"jsonl:{directory}").status == 1


def test_prune_tells_before_it_deletes(directory: Path) -> None:
    """A dry run deletes nothing, and says how many lines would go; then as many go."""
    store = f"jsonl:{directory}"
    assert Ran("prune", "--keep", 5, "--dry-run", "--store", store).lines == ["7 lines would be deleted"]
    assert Ran("stats", "1", "--json", "--store", store).json()[0]["lines"] == 12
    assert Ran("prune", "--keep", 5, "--store", store).lines == ["7 lines were deleted"]
    assert Ran("stats", "1", "--json", "--store", store).json()[0]["lines"] == 5
    assert Ran("prune", "--older-than", "30d", "--store", store).lines == ["8 lines were deleted"]


def test_delete_removes_a_log(directory: Path) -> None:
    """One that is not there is a finding."""
    store = f"jsonl:{directory}"
    assert Ran("delete", "1", "--store", store).status == 0
    assert Ran("show", "1", "--store", store).status == 1
    assert Ran("delete", "1", "--store", store).status == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["tail"],
        ["tail", "1", "--level", "LOUD"],
        ["tail", "1", "-n", "-3"],
        ["tail", "1", "-n", "9" * 20],
        ["show", "1", "-n", "9" * 5000],
        ["show", "1", "-n", "٣"],
        ["tail", "1", "--level", "9" * 5000],
        ["tail", "1", "--level", "-1"],
        ["prune", "--keep", "9" * 30],
        ["prune", "--older-than", "9" * 5000 + "d"],
        ["prune", "--older-than", "9" * 400 + "d"],
        ["recover", "--timeout", "9" * 30],
        ["watch", "1", "--every", "nan"],
        ["watch", "1", "--every", "1e400"],
        ["token", "1", "--expires", "9" * 400 + "d"],
        ["prune", "--older-than", "30"],
        ["prune"],
        ["tail", "1", "--store", "jsnol:/tmp"],
        ["tail", "1", "--store", "memory"],
        ["tail", "1", "--store", "logger"],
        ["tail", "1", "--store", "nowhere.Store"],
    ],
)
def test_misuse_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """And with a line that says what is wrong."""
    try:
        status = main(arguments)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2
    error = capsys.readouterr().err
    assert error
    assert len(error) < 2_000


def test_leading_zeros_and_an_age_from_before_all_times_are_no_mistake(directory: Path) -> None:
    """A number has the value that it has; nothing is older than all."""
    store = f"jsonl:{directory}"
    assert len(Ran("tail", "1", "-n", "0" * 5000 + "3", "--store", store).lines) == 3
    assert Ran("prune", "--older-than", "9999999w", "--dry-run", "--store", store).status in (0, 1)


def test_without_any_store_it_says_how_to_name_one(tmp_path: Path) -> None:
    """Outside a project there is none to guess."""
    process = start("tail", "1", cwd=tmp_path)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert "--store jsonl:DIRECTORY" in err


def test_help_tells_each_command(capsys: pytest.CaptureFixture[str]) -> None:
    """And loads none of them."""
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        assert f"  {command.name} " in out
    for command in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([command.name, "--help"])
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: joblog {command.name} ")
        assert "--json" in shown or "--store" in shown  # of its own module


def _read(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def test_tail_follows_until_it_is_interrupted(directory: Path) -> None:
    """New lines come, also of a job that had none; Ctrl-C ends it without a word and with 0."""
    process = start("tail", "-f", "1", "9", "-n", 1, "--json", "--store", f"jsonl:{directory}")
    try:
        assert json.loads(_read(process, 1)[0])["message"] == "line 12"
        sink = JsonLinesSink(directory)
        sink.write([_entry(30, "new"), _entry(31, "first", job_id="9")])
        assert [json.loads(one)["message"] for one in _read(process, 2)] == ["new", "first"]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")
    finally:
        process.kill()
        process.communicate()


def test_a_closed_pipe_ends_it_quietly(directory: Path) -> None:
    """`joblog export 1 | head -1` says nothing on standard error."""
    sink = JsonLinesSink(directory)
    sink.write([_entry(at, "x" * 1000) for at in range(100, 1_500)])
    process = start("export", "1", "--store", f"jsonl:{directory}")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=20), err) == (0, "")


def test_a_pipe_that_is_closed_already_is_no_error(directory: Path) -> None:
    """What fails only when the last buffer is written, too."""
    ours, theirs = os.pipe()
    os.close(ours)
    process = start("tail", "1", "--store", f"jsonl:{directory}", stdout=theirs)
    os.close(theirs)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (0, "")


def _on_a_terminal(*arguments: object, **environment: str) -> str:
    ours, theirs = pty.openpty()
    inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    process = start(
        *arguments,
        stdout=theirs,
        env={**inherited, "PYTHONPATH": str(SRC), "TERM": "xterm", **environment},
    )
    os.close(theirs)
    shown = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            part = os.read(ours, 65_536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    process.communicate(timeout=20)
    return shown.decode()


@pytest.mark.parametrize("without_rich", [False, True])
def test_a_terminal_gets_colours(directory: Path, tmp_path: Path, without_rich: bool) -> None:
    """With rich and without; not where NO_COLOR is set. The log's own escapes are never among them."""
    more = {}
    if without_rich:
        (tmp_path / "hidden").mkdir()
        (tmp_path / "hidden" / "sitecustomize.py").write_text(
            "import importlib.util as u; f = u.find_spec\n"
            "u.find_spec = lambda name, package=None: None if name == 'rich' else f(name, package)\n"
        )
        more["PYTHONPATH"] = f"{tmp_path / 'hidden'}{os.pathsep}{SRC}"
    shown = _on_a_terminal("show", "2", "--store", f"jsonl:{directory}", **more)
    assert "\x1b[31m" in shown
    assert "failed" in shown
    assert "\x1b[2J" not in shown
    assert "\x1b]0;" not in shown
    assert "\x1b" not in _on_a_terminal("show", "2", "--store", f"jsonl:{directory}", NO_COLOR="1", **more)


def test_a_store_that_is_away_while_following_is_waited_for(directory: Path) -> None:
    """It is said once, and the lines that came meanwhile follow."""
    process = start("tail", "-f", "1", "-n", 1, "--json", "--store", f"jsonl:{directory}")
    try:
        _read(process, 1)
        path = directory / "1.jsonl"
        aside = directory / "aside"
        path.rename(aside)
        path.mkdir()
        assert process.stderr is not None
        assert "Trying again" in process.stderr.readline()
        path.rmdir()
        aside.rename(path)
        JsonLinesSink(directory).write([_entry(30, "new")])
        assert json.loads(_read(process, 1)[0])["message"] == "new"
    finally:
        process.kill()
        process.communicate()


def test_the_doctor_finds_a_job_that_logs_healthy_where_no_queue_is_configured(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the log alone: likely, with what to say to have the queue looked at; old lines are no such sign."""
    monkeypatch.delenv("NATS_URL", raising=False)
    fresh = [_entry(at, f"image {at}", job_id="3")._replace(created=time.time() - 3 + at) for at in (1, 2)]
    JsonLinesSink(directory).write(fresh)
    ran = Ran("doctor", "3", "--store", f"jsonl:{directory}")
    assert ran.status == 0
    assert "job 3: The job is healthy as far as its log tells: 2 lines" in ran.lines[0]
    assert "likely (healthy)" in ran.out
    assert "DOCTOR['NATS']" in ran.out
    unknown = Ran("doctor", "1", "--store", f"jsonl:{directory}").out
    assert "I don't know" in unknown
    assert "  job:        its row was not looked at: JOB_MODEL" in unknown
