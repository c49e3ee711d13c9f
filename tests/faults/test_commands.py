"""`joblog doctor`, `status` and `watch`, as an operator runs them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import termios
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from joblog_router._commands.console import Console
from joblog_router._commands.stages import Paces, Stage
from joblog_router.cli import main
from joblog_router.doctor import configuration
from joblog_router.sinks.opening import open_store
from tests.faults.laboratory import Laboratory
from tests.faults.test_queue import settle


@pytest.fixture
def run(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command on the laboratory's job, in a thread as a process would: status, output."""
    monkeypatch.setattr(configuration, "_default", lambda: configuration.Configuration.of(lab.configuration))

    async def ran(*arguments: str) -> tuple[int, str]:
        out, err = io.StringIO(), io.StringIO()
        given = [*arguments, "--store", f"jsonl:{lab.directory}"]
        status = await asyncio.to_thread(main, given, "joblog", Console(out, err))
        assert not err.getvalue()
        return status, out.getvalue()

    return ran


async def test_doctor_ends_with_1_for_a_finding(lab: Laboratory, run: Any) -> None:
    """Sentence, advice, how sure, evidence with source."""
    await lab.row(total=7)
    await lab.queue(7)
    await settle()
    status, text = await run("doctor", lab.job_id)
    assert status == 1
    lines = text.splitlines()
    assert lines[0].startswith(f"job {lab.job_id}: No worker has polled yet: 7 tasks waiting since")
    assert "how sure:   certain (nobody_polls)" in text
    assert "what to do: Start the workers" in text
    assert f"nats:       job_{lab.job_id}/" in text


async def test_doctor_ends_with_0_where_all_is_well(lab: Laboratory, run: Any) -> None:
    """And as JSON it gives what each probe said."""
    await lab.row(status="SUCCESS", total=7, done=7)
    lab.log("done")
    status, text = await run("doctor", lab.job_id, "--json")
    answer = json.loads(text)
    assert status == 0
    assert answer["cause"] == "finished"
    assert set(answer["probes"]) == {"log", "pipeline", "job", "nats", "workers", "processes"}
    assert not answer["failures"]


async def test_the_doctor_leaves_no_trace(lab: Laboratory, run: Any) -> None:
    """No message is taken, the consumer is as it was, the log has no new line."""
    await lab.row(total=7)
    await lab.queue(7)
    lab.log("queued")
    before = await lab.until()
    await run("doctor", lab.job_id)
    after = await lab.until()
    assert before["num_pending"] == after["num_pending"] == 7
    assert before["delivered"] == after["delivered"]
    assert lab.store.summary(lab.job_id, "staff").lines == 1


async def test_hostile_text_is_shown_as_text(lab: Laboratory, run: Any) -> None:
    """What the log says commands no terminal and forges no line."""
    await lab.row(status="FAILURE")
    lab.log("x\x1b[2J\njob 1: all is well", level=40)
    _, text = await run("doctor", lab.job_id)
    assert "\x1b" not in text
    assert "\njob 1: all is well" not in text


async def test_status_is_one_screen(lab: Laboratory, run: Any) -> None:
    """Row, queue with its settings, log."""
    await lab.row(age=125, total=200, done=50, failed=10)
    await lab.queue(12)
    lab.log("queued", age=3)
    await lab.fetch(2)
    status, text = await run("status", lab.job_id)
    assert status == 0, text
    assert "STARTED [######..............] 30.0 % (60 of 200, 10 failed) for 2 min 5 s" in text
    assert "10 waiting, 2 in work" in text
    assert "ack_wait 30 s, max_deliver 5, max_ack_pending 1000, max_age 24 h 0 min (server)" in text
    assert "1 lines, 0 errors, last line 3." in text
    assert len(text.splitlines()) < 24


async def test_watch_ends_with_the_job(lab: Laboratory, run: Any) -> None:
    """Line by line where there is no terminal; the exit status says how it ended."""
    await lab.row(age=10, total=4, done=1)
    lab.log("one", age=0.1)
    watching = asyncio.create_task(run("watch", lab.job_id, "--every", "0.1"))
    await asyncio.sleep(0.8)
    lab.log("two", age=0)
    await lab.row(status="SUCCESS", age=10, total=4, done=4)
    status, text = await asyncio.wait_for(watching, 15)
    assert status == 0
    assert "| INFO one" in text
    assert "| INFO two" in text
    assert text.count("INFO two") == 1
    assert "The job is done" in text
    assert not [one for one, next_one in pairwise(text.splitlines()) if one == next_one], "said again unchanged"


async def test_watch_shows_rates_and_how_long_it_will_take(lab: Laboratory, run: Any) -> None:
    """A bar, what is counted, what came since; the same as JSON."""
    await lab.row(age=10, total=400, done=100)
    await lab.queue(400)
    lab.worker()
    watching = asyncio.create_task(run("watch", lab.job_id, "--every", "0.1"))
    await asyncio.sleep(0.7)
    await lab.row(age=10, total=400, done=150)
    await asyncio.sleep(0.9)
    await lab.row(status="SUCCESS", age=10, total=400, done=400)
    _, text = await asyncio.wait_for(watching, 15)
    line = next(line for line in text.splitlines() if "37.5 %  150 of 400" in line)
    assert re.search(r"tasks +\[#{8}\.{12}\]  37\.5 %  150 of 400  [\d.]+/s  about [\d.]+ (s|min.*) to go", line), line
    assert re.search(r"while watched \(0\.3 s\): \d+ taken", text), text
    _, text = await run("watch", lab.job_id, "--json")
    assert json.loads(text)["stages"][0]["done"] == 400


def test_the_rate_is_that_of_the_last_minute() -> None:
    """It follows what happens; a stage that begins anew has none at first."""
    paces = Paces()
    for at, done in ((0, 0), (10, 500), (60, 500), (100, 540), (120, 560)):
        paces.add([Stage("x", done / 1000, done, 1000)], at)
    assert paces.rate(Stage("x", 0.56, 560, 1000)) == 1.0
    paces.add([Stage("x", 0.001, 1, 1000)], 130)
    assert paces.rate(Stage("x", 0.001, 1, 1000)) is None


async def test_watch_on_a_terminal(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn in place, in colour, with the log's tail; and what the log says commands no terminal."""
    monkeypatch.setattr(configuration, "_default", lambda: configuration.Configuration.of(lab.configuration))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    await lab.row(age=10, total=4, done=1)
    lab.log("first \x1b]0;title\x07 line", age=0.1)
    lab.log("it broke", age=0.1, level=40)
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    shown = bytearray()

    def read() -> None:
        with contextlib.suppress(OSError):
            while chunk := os.read(master, 65536):
                shown.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(slave, "w") as out:
        given = ["watch", lab.job_id, "--every", "0.1", "--store", f"jsonl:{lab.directory}"]
        watching = asyncio.create_task(asyncio.to_thread(main, given, "joblog", Console(out, io.StringIO())))
        await asyncio.sleep(0.6)
        await lab.row(status="SUCCESS", age=10, total=4, done=4)
        assert await asyncio.wait_for(watching, 15) == 0
    reader.join(5)
    os.close(master)
    text = shown.decode()
    assert "\x1b]0;" not in text
    assert "tasks" in text
    assert "1 of 4" in text
    assert "4 of 4" in text
    assert re.search(r"\x1b\[31m  \| ERROR it broke", text), text
    assert re.search(r"\x1b\[32mjob .*The job is done", text), text
    assert re.search(r"\x1b\[\d*A", text)  # the cursor goes up: drawn anew in place


async def test_watch_says_that_it_failed(lab: Laboratory, run: Any) -> None:
    """Exit status 1."""
    await lab.row(status="FAILURE", total=4)
    status, _ = await run("watch", lab.job_id)
    assert status == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"PATIENT": 3}, "Did you mean 'PATIENCE'"),
        ({"PATIENCE": "3"}, "must be a number of seconds"),
        ({"NATS": "nats://here"}, "must be a dictionary"),
    ],
)
def test_a_wrong_setting_is_named(given: dict[str, Any], message: str) -> None:
    """What the configuration alone shows is said at once."""
    with pytest.raises(configuration.ConfigurationError, match=message):
        configuration.Configuration.of(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"JOB": {"field": {}}}, "DOCTOR['JOB'] has no key 'field'. Did you mean 'fields'? Known: model, fields, "),
        ({"CELERY": {"ap": "x"}}, "DOCTOR['CELERY'] has no key 'ap'. Did you mean 'app'? Known: app, queues, "),
        ({"REDIS": {"keys": {"total": "{job_id}"}}}, "DOCTOR['REDIS'] needs the key 'url'"),
        ({"REST": True}, "DOCTOR['REST'] needs the key 'url'"),
        ({"PROBES": {"mine": "nowhere.Probe"}}, "DOCTOR['PROBES']['mine']: 'nowhere.Probe' cannot be imported"),
    ],
)
def test_a_wrong_option_of_a_probe_is_told_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    """In the words of the settings, not in Python's of a call."""
    monkeypatch.delenv("NATS_URL", raising=False)
    found = configuration.Configuration.of(given)
    with pytest.raises(configuration.ConfigurationError, match=re.escape(message)):
        configuration.probes_of(found, open_store(f"jsonl:{tmp_path}"))
    (mistake,) = configuration.mistakes_in(found)
    assert mistake.startswith(message)
