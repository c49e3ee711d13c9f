"""The demo, as somebody who tries the library runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import django
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.helpers import until
from tests.postgres import USER, PostgresServer

SURVEY = Path(__file__).resolve().parent.parent / "examples" / "survey"
Demo = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(autouse=True)
def _options_of_the_demo(request: pytest.FixtureRequest) -> None:
    """The demo's SQLite files have options that came with Django 5.1; on PostgreSQL it runs with older ones, too."""
    if django.VERSION < (5, 1) and "postgres" not in request.fixturenames:
        pytest.skip("the options of the demo's SQLite files came with Django 5.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the demo works; it stands in the command line of its processes, too."""
    made = tmp_path / "a folder with spaces"
    made.mkdir()
    return made


@pytest.fixture
def demo(folder: Path) -> Demo:
    """Starts the demo with its temporary folder inside `folder`, from a working directory that is not its own."""

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "TMPDIR": str(folder), "COLUMNS": "80"}
        environment.pop("DJANGO_SETTINGS_MODULE", None)
        environment.pop("DATABASE_URL", None)
        environment.update(variables)
        return subprocess.Popen(
            [sys.executable, str(SURVEY / "demo.py"), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    output, errors = process.communicate(timeout=50)
    return process.returncode, output, errors


def processes_in(folder: Path) -> list[str]:
    """Command lines of living processes that were started for the demo in `folder`."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            environment = (directory / "environ").read_bytes()
            command = (directory / "cmdline").read_bytes()
        except OSError:  # ended meanwhile
            continue
        if f"TMPDIR={folder}".encode() in environment.split(b"\0") and command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def values(output: str, row: str) -> list[str]:
    """The values of a row of the proof, and its verdict."""
    line = next(line for line in output.splitlines() if line.strip().startswith(row))
    return re.split(r"  +", line.strip())[1:]


def test_every_line_is_in_the_right_log(demo: Demo, folder: Path) -> None:
    """Two jobs at once on one connection: the database proves it, and nothing is left behind."""
    status, output, errors = outcome(demo("--images", "60"))
    assert (status, errors) == (0, "")
    assert "PROOF HOLDS" in output
    assert "WRONG" not in output
    assert "\x1b[" not in output, "colour is for terminals"
    assert values(output, "another job or its pictures") == ["0", "0", "ok"]
    assert values(output, "missing from its log") == ["0", "0", "ok"]
    assert values(output, "pictures queued: log says / is") == ["60 / 60", "60 / 60", "ok"]
    assert values(output, "results saved or skipped: log says / is") == ["60 / 60", "60 / 60", "ok"]
    assert values(output, "skipped: log says / is") == ["2 / 2", "1 / 1", "ok"]
    counters = " ".join(output[output.index("stats()") :].split())
    assert re.search(r"captured (\d+), stored \1, .*waiting 0, .*late 0, .*conflicts 0, .* ok", counters)
    captured, by_workers = re.findall(r"captured (\d+).*processes stored (\d+) lines", counters)[0]
    lines = values(output, "lines in the job's log")[:2]
    assert int(captured) + int(by_workers) == sum(map(int, lines))
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.postgresql
def test_the_proof_holds_on_postgresql(demo: Demo, postgres: PostgresServer) -> None:
    """DATABASE_URL points the demo at a server, where it leaves nothing behind."""
    name = postgres.create_database()
    url = f"postgres://{USER}@/{name}?host={postgres.host}"
    status, output, errors = outcome(demo("--images", "60", DATABASE_URL=url))
    assert (status, errors) == (0, "")
    assert "PROOF HOLDS" in output
    assert "PostgreSQL" in output
    schemas = postgres.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'survey%'", name)
    assert schemas == [(0,)]
    postgres.drop_database(name)


@pytest.mark.parametrize("url", ["mysql://x/y", "postgres://nobody@127.0.0.1:1/none"])
def test_a_database_that_cannot_be_used_is_said(demo: Demo, folder: Path, url: str) -> None:
    """A wrong DATABASE_URL is one line on stderr, and nothing is left behind."""
    status, output, errors = outcome(demo(DATABASE_URL=url))
    assert (status, output) == (2, "")
    assert "the database of DATABASE_URL cannot be used" in errors
    assert "Traceback" not in errors
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


def test_a_users_log_tells_the_story_in_order(demo: Demo) -> None:
    """From the stream's creation to its deletion, with the error's traceback in between, in eighty columns."""
    _, output, _ = outcome(demo("--images", "60", "--jobs", "1"))
    assert max(len(line) for line in output.splitlines() if not line.startswith("{")) <= 80
    log = " ".join(output[output.index("the log of job 1") : output.index("the same on the console")].split())
    story = [
        "job 1: started",
        "Created NATS stream job_1",
        "Created consumer job-1-consumer",
        "max_deliver 3, ack_wait 1 s, max_ack_pending 1000",
        "job 1: queued batch 1/1 (60 pictures)",
        "NR-0031.jpg cannot be read and is skipped",
        "Traceback (most recent call last)",
        "CorruptPictureError: NR/NR-0031.jpg is cut off",
        "job 1: saved 58 results (60 of 60 are in",
        "job 1: done, 58 pictures, 2 skipped",
        "Deleting consumer job-1-consumer",
        "Deleted consumer job-1-consumer",
        "Deleted NATS stream job_1",
    ]
    assert sorted(story, key=log.index) == story
    # One worker ended in the middle of a batch, and one picture is more than any of them can take.
    assert "Redelivery of " in log
    assert "(sent back, or not acknowledged within 1 s, as when a worker dies)" in log
    assert "(attempt 2 of 3)" in log
    assert "NR-0002.jpg is skipped: the model cannot take it" in log
    assert "Gave up 1 message of job_1 after 3 attempts: seq 2 (task NR-0002.jpg)" in log
    assert "Published 60 messages to NATS stream job_1 (stream_seq 1-60)" in log


def test_the_control_run_fails(demo: Demo) -> None:
    """Without the NATS integration the callback keeps the first job, and the proof finds the lines of the second."""
    status, output, _ = outcome(demo("--images", "60", "--without-guards"))
    assert status == 1
    assert "PROOF FAILS" in output
    misplaced, none, verdict = values(output, "another job or its pictures")
    assert (int(misplaced) > 0, none, verdict) == (True, "0", "WRONG")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_behind_a_script_can_be_ended(demo: Demo, folder: Path, number: signal.Signals) -> None:
    """Behind `&` in a script SIGINT is ignored: both signals end it cleanly; what nohup ignores stays ignored."""
    before = {ignored: signal.signal(ignored, signal.SIG_IGN) for ignored in (signal.SIGINT, signal.SIGHUP)}
    try:
        process = demo("--images", "1000")
    finally:
        for ignored, handler in before.items():
            signal.signal(ignored, handler)
    assert process.stdout is not None
    process.stdout.readline()
    mask = re.findall(r"SigIgn:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())[0]
    assert int(mask, 16) & (1 << signal.SIGHUP - 1)
    process.send_signal(number)
    status, output, _ = outcome(process)
    assert status == (130 if number == signal.SIGINT else 143)
    assert "PROOF" not in output
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(demo: Demo, folder: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end the server and the worker, and remove the folder."""
    process = demo("--images", "1000")
    assert process.stdout is not None
    process.stdout.readline()  # the jobs are about to run
    assert any("nats-server" in command for command in processes_in(folder))
    process.send_signal(number)
    status, output, _ = outcome(process)
    assert status == (130 if number == signal.SIGINT else 143)
    assert "PROOF" not in output
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


def test_the_logs_can_be_looked_at_in_the_browser(demo: Demo, folder: Path) -> None:
    """`--serve` says where and as whom; whoever logs in sees the page of a job's log, until Ctrl-C."""
    alone = without_what_only_others_bring("demo", folder.parent)
    process = demo("--images", "20", "--serve", "--color", "never", COLUMNS="200", PYTHONPATH=alone)
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or "Ctrl-C ends the server" not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], ("".join(lines), outcome(process))
    login = next(line.strip() for line in lines if "/admin/login/" in line)
    opener = build_opener(HTTPCookieProcessor())
    with pytest.raises(HTTPError, match="404"):
        opener.open(f"{login.partition('/admin')[0]}/logs/1/", timeout=20)  # nobody has logged in
    form = opener.open(login, timeout=20).read().decode()
    token = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', form)[0]
    password = re.findall(r"user demo, password ([\w-]+);", lines[-1])[0]
    given = {"username": "demo", "password": password, "csrfmiddlewaretoken": token, "next": "/logs/1/"}
    answer = opener.open(login, urlencode(given).encode(), timeout=20)
    page = answer.read().decode()
    assert answer.url.endswith("/logs/1/")
    assert "job 1: done, 18 pictures, 2 skipped" in page
    script = re.findall(r'src="(/static/[^"]+)"', page)[0]
    assert opener.open(f"{login.partition('/admin')[0]}{script}", timeout=20).status == 200
    process.send_signal(signal.SIGINT)
    status, _, errors = outcome(process)
    assert (status, errors) == (0, "")
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []


def test_ctrl_c_twice_leaves_nothing_either(demo: Demo, folder: Path) -> None:
    """The second one comes while the folder is being removed, and does not keep it from that."""
    process = demo("--images", "1000")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert process.stderr.readline() == "demo.py: interrupted\n"  # said right before the folder is removed
    process.send_signal(signal.SIGINT)
    assert outcome(process) == (130, "", "")
    assert list(folder.iterdir()) == []


def test_a_killed_demo_leaves_no_process(demo: Demo, folder: Path) -> None:
    """Server and worker end with the demo even where it cannot end them itself."""
    process = demo("--images", "1000")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=10)
    until(lambda: processes_in(folder) == [])


def test_colour_can_be_asked_for(demo: Demo) -> None:
    """Where the output is no terminal it is plain, which the first test sees, unless `--color always` is given."""
    _, coloured, _ = outcome(demo("--images", "20", "--color", "always"))
    assert "\x1b[" in coloured


def test_the_application_does_not_know_the_library() -> None:
    """Only settings, the demo itself and the one scope around the orchestration name the library."""
    knowing = {
        str(path.relative_to(SURVEY)) for path in SURVEY.rglob("*.py") if "joblog_router" in path.read_text("utf-8")
    }
    with_the_library = {"demo.py", "survey/settings.py", "survey/site_urls.py", "pipeline/orchestrate.py"}
    assert knowing == with_the_library
    orchestration = (SURVEY / "pipeline" / "orchestrate.py").read_text("utf-8")
    assert orchestration.count("joblog_router") == 1
    assert orchestration.count("job_context") == 2


def brought_by(extra: str) -> set[str]:
    """The distributions that installing joblog-router with `extra` alone brings, by their normal names."""
    found: set[tuple[str, str]] = set()
    waiting = [("joblog-router", ""), ("joblog-router", extra)]
    while waiting:
        name, its_extra = waiting.pop()
        if (name, its_extra) in found:
            continue
        found.add((name, its_extra))
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:  # meant for another Python or system
            continue
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": its_extra}):
                own = canonicalize_name(requirement.name)
                waiting += [(own, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in found}


def without_what_only_others_bring(extra: str, beside: Path) -> str:
    """A folder for PYTHONPATH where nothing can be imported but what `extra` brings, and what Python starts with."""
    wanted = brought_by(extra)
    at_start = subprocess.check_output([sys.executable, "-c", "import sys; print(*sys.modules)"], text=True).split()
    foreign = {
        module
        for module, names in packages_distributions().items()
        if not wanted & set(map(canonicalize_name, names)) and module not in at_start
    }
    made = beside / f"only-{extra}"
    made.mkdir()
    (made / "sitecustomize.py").write_text(f"""\
import sys

class Bounded:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {foreign!r} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Bounded, sys.meta_path)
""")
    return str(made)


def test_workers_over_rest_and_celery_leave_one_log_a_job(folder: Path) -> None:
    """Views, Celery tasks, NATS events: all of a job in its log; the cancelled one tells what came after its end."""
    # The tests' own packages are not there for it, as in an environment that was made for it.
    alone = without_what_only_others_bring("rest-demo", folder.parent)
    process = subprocess.Popen(
        [sys.executable, str(SURVEY / "rest_demo.py"), "--images", "40"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_SETTINGS", "CELERY"))}
        | {"TMPDIR": str(folder), "COLUMNS": "100", "PYTHONPATH": alone},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    status, output, errors = outcome(process)
    assert (status, errors) == (0, ""), output
    assert "ALL RIGHT" in output
    logs = output.split("the log of job ")
    story = [
        "job 1: asked to run",
        "job 1: started",
        "Created NATS stream job_1",
        "job 1: reserved",
        "NR-0002.jpg is skipped: the model cannot take it",
        "Deleted NATS stream job_1",
        "job 1: done, 38 pictures, 2 skipped",
    ]
    assert sorted(story, key=logs[1].index) == story
    assert "CorruptPictureError: NR/NR-0014.jpg is cut off" in logs[1]
    for words in ("job 3: cancelling", "job 3: revoked", "job 3: these came after it was cancelled, and are kept"):
        assert words in logs[3]
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []
