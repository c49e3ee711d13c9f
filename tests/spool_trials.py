"""Trials that kill a process at a random moment and count what its job logs have afterwards.

`python -m tests.spool_trials 1000 jsonl` (or sqlite, or postgresql) runs a thousand; the suite
runs a few with fixed seeds, and `-m soak` more.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
THREADS = 3

# Logs in three threads until it is killed; after each call that returned its number stands in a file.
CHILD = """
import logging, logging.config, mmap, os, struct, sys, threading
from tests.spool_trials import configure, THREADS
configure(sys.argv[1], sys.argv[2] == "fold")
from joblog_router import job_context
log = logging.getLogger("app")
with open(os.path.join(sys.argv[1], "returned"), "r+b") as file:
    returned = mmap.mmap(file.fileno(), 8 * THREADS)
words = memoryview(returned).cast("Q")
pause = float(sys.argv[3])
def work(index):
    wait = threading.Event().wait
    with job_context(f"job-{index}", thread=index):
        number = 0
        while True:
            number += 1
            if number % 97 == 0:
                try:
                    raise ValueError("expected %d" % number)
                except ValueError:
                    log.exception("line %d failed", number)
            elif number % 31 == 0:
                log.warning("line %d %s", number, "long " * 200)
            else:
                log.info("line %d", number, extra={"number": number} if number % 5 == 0 else None)
            words[index] = number
            if pause:
                wait(pause)
threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(THREADS)]
for thread in threads:
    thread.start()
print("ready", flush=True)
for thread in threads:
    thread.join()
"""

RECOVER = """
import sys, time
from tests.spool_trials import configure
configure(sys.argv[1], sys.argv[2] == "fold")
from joblog_router._pipeline.router import router
sys.exit(0 if router.recovery.run(20) else 1)
"""


def configure(folder: str, fold: bool) -> None:
    """The configuration of the process that is killed and of the one that recovers."""
    import logging.config

    kind = (Path(folder) / "kind").read_text()
    handler: dict[str, Any] = {
        "class": "joblog_router.JobLogHandler",
        "fold": fold,
        "spool": f"{folder}/spool",
        "sink": "jsonl",
        "options": {"directory": f"{folder}/logs"},
    }
    if kind != "jsonl":
        handler |= {"sink": "django", "options": {}}
        set_up_django(folder, kind)
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"job": handler},
        "root": {"level": "INFO", "handlers": ["job"]},
    }
    logging.config.dictConfig(config)


def set_up_django(folder: str, kind: str) -> None:
    """Django with nothing but the app, on a SQLite file or on the server whose address `kind` is."""
    import django
    from django.conf import settings

    from joblog_router.contrib.django.db import sqlite_alias

    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/default.sqlite3"}}
    databases["joblog"] = sqlite_alias(f"{folder}/joblog.sqlite3") if kind == "sqlite" else json.loads(kind)
    settings.configure(
        INSTALLED_APPS=["joblog_router.contrib.django"],
        DATABASES=databases,
        DATABASE_ROUTERS=["joblog_router.contrib.django.db.JobLogRouter"],
        LOGGING_CONFIG=None,
        USE_TZ=True,
        JOBLOG_ROUTER={"NATS": False, "CELERY": False},
    )
    django.setup()


@dataclass
class Outcome:
    """What a trial found."""

    returned: int
    lost: int
    doubled: int
    stored: int
    folded: int
    recovered: bool


def prepare(folder: Path, kind: str) -> None:
    """Make what both processes need."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kind").write_text(kind)
    (folder / "returned").write_bytes(bytes(8 * THREADS))
    if kind != "jsonl":
        code = (
            f"from tests.spool_trials import set_up_django; set_up_django({str(folder)!r}, {kind!r}); "
            "from django.core.management import call_command; call_command('migrate', database='joblog', verbosity=0)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=_environment())


def trial(folder: Path, kind: str, seed: int, fold: bool = False, recoverers: int = 1) -> Outcome:
    """One process, killed after a random time; then `recoverers` processes at once; then everything counted.

    The process says when it logs. It is killed from outside, so the moment may be anywhere in a call.
    """
    chosen = random.Random(seed)
    (folder / "returned").write_bytes(bytes(8 * THREADS))
    (folder / "kind").write_text(kind)
    mode = "fold" if fold else "all"
    pause = chosen.choice([0.0, 0.0002, 0.002])
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder), mode, str(pause)], stdout=subprocess.PIPE, env=_environment()
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    time.sleep(chosen.uniform(0, 0.35))  # the random moment
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    recovering = [
        subprocess.Popen([sys.executable, "-c", RECOVER, str(folder), mode], env=_environment())
        for _ in range(recoverers)
    ]
    recovered = [process.wait(60) for process in recovering] == [0] * recoverers
    with (folder / "returned").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as words:
        returned = struct.unpack(f"={THREADS}Q", words[:])
    return _count(rows(folder, kind), returned, recovered)


def _count(found: list[tuple[str, int, str, dict[str, Any]]], returned: tuple[int, ...], recovered: bool) -> Outcome:
    """Lines by job and number. Of folded ones the newest tally of each run counts."""
    lost = doubled = stored = folded = 0
    for index, count in enumerate(returned):
        own = [row for row in found if row[0] == f"job-{index}"]
        lines = Counter(int(row[2].split()[1]) for row in own if "fold" not in row[3])
        tallies: dict[str, int] = {}
        for row in own:
            if "fold" in row[3]:
                tallies[row[3]["fold"]] = max(tallies.get(row[3]["fold"], 0), row[3]["folded"])
        total = sum(lines.values()) + sum(tallies.values())
        doubled += sum(times - 1 for times in lines.values()) + max(0, total - count - 1)
        if tallies:
            lost += max(0, count - total)
        else:
            lost += sum(number not in lines for number in range(1, count + 1))
        stored += len(lines)
        folded += sum(tallies.values())
    return Outcome(sum(returned), lost, doubled, stored, folded, recovered)


def rows(folder: Path, kind: str) -> list[tuple[str, int, str, dict[str, Any]]]:
    """Job, number, message and fields of all that is stored."""
    if kind == "jsonl":
        lines = [line for path in (folder / "logs").glob("*.jsonl") for line in path.read_text().splitlines()]
        entries = [json.loads(line) for line in lines]
        return [(entry["job_id"], entry["seq"], entry["message"], entry["fields"]) for entry in entries]
    query = "SELECT job_id, seq, message, fields FROM joblog_router_joblogentry"
    if kind == "sqlite":
        database = sqlite3.connect(folder / "joblog.sqlite3")
        try:
            return [(*row[:3], json.loads(row[3])) for row in database.execute(query)]
        finally:
            database.close()
    import psycopg

    address = json.loads(kind)
    with psycopg.connect(
        host=address["HOST"], port=address["PORT"], user=address["USER"], dbname=address["NAME"]
    ) as db:
        return list(db.execute(query))


def clear(folder: Path, kind: str) -> None:
    """Empty the store for the next trial."""
    for path in (folder / "logs").glob("*.jsonl"):
        path.unlink()
    if kind == "sqlite":
        database = sqlite3.connect(folder / "joblog.sqlite3")
        database.execute("DELETE FROM joblog_router_joblogentry")
        database.commit()
        database.close()
    elif kind != "jsonl":
        import psycopg

        at = json.loads(kind)
        with psycopg.connect(host=at["HOST"], port=at["PORT"], user=at["USER"], dbname=at["NAME"]) as db:
            db.execute("TRUNCATE joblog_router_joblogentry")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}


def _server(stack: ExitStack) -> str:
    """A server for these trials alone; its address."""
    from tests.postgres import PORT, USER, PostgresServer

    server = stack.enter_context(PostgresServer())
    at = {"NAME": server.create_database(), "USER": USER, "HOST": server.host, "PORT": str(PORT)}
    return json.dumps({"ENGINE": "django.db.backends.postgresql", **at})


def main() -> int:
    """Run many trials and sum them up."""
    import tempfile

    count, kind = int(sys.argv[1]), sys.argv[2]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="trials")))
        if kind == "postgresql":
            kind = _server(stack)
        prepare(folder, kind)
        total = Counter[str]()
        for seed in range(count):
            outcome = trial(folder, kind, seed, fold=seed % 3 == 2, recoverers=1 + seed % 2)
            total.update(
                trials=1,
                returned=outcome.returned,
                lost=outcome.lost,
                doubled=outcome.doubled,
                stored=outcome.stored,
                folded=outcome.folded,
                unrecovered=not outcome.recovered,
            )
            if outcome.lost or outcome.doubled or not outcome.recovered:
                print(f"seed {seed}: {outcome}", flush=True)
            clear(folder, kind)
        print(dict(total))
    return 1 if total["lost"] or total["doubled"] or total["unrecovered"] else 0


if __name__ == "__main__":
    sys.exit(main())
