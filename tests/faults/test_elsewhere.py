"""What the project's REST interface says, what is known of workers elsewhere, and the settings in force."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from celery import Celery

from joblog_router import JobLogHandler, aflush
from joblog_router.contrib.celery.diagnosis import CeleryProbe
from joblog_router.contrib.nats.diagnosis import NatsProbe
from joblog_router.contrib.nats.monitor import Monitor
from joblog_router.contrib.redis import RedisProbe
from joblog_router.doctor.configuration import Configuration, probes_of
from joblog_router.doctor.probing import ask, in_thread
from joblog_router.doctor.rest import RestProbe, TasksProbe
from joblog_router.exceptions import ConfigurationError
from tests.faults.laboratory import Laboratory
from tests.faults.test_queue import is_cause, settle

NATS = "joblog_router.nats"
SECRET = "3f1c-very-secret"


class Api:
    """A web server of the project's: gives what `answer` says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: tuple[int, str] = (200, "{}")
        self.location = ""
        self.asked: list[tuple[str, str | None]] = []
        self.is_slow = threading.Event()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.asked.append((self.path, self.headers.get("Authorization")))
                if api.is_slow.is_set():
                    api.release.wait(10)
                code, text = api.answer
                self.send_response(code)
                if api.location:
                    self.send_header("Location", api.location)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *args: Any) -> None:
                pass

        self.release = threading.Event()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    def close(self) -> None:
        """End it."""
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def api() -> Iterator[Api]:
    """The project's web server."""
    server = Api()
    yield server
    server.close()


async def test_rest_is_read_by_template_map_and_header(api: Api) -> None:
    """The id is quoted, the header sent, facts come from where the map says; stages as a list or by name."""
    api.answer = (
        200,
        json.dumps(
            {
                "state": {"word": "BUSY"},
                "progress": {"summary": {"progress": 0.25}, "stages": [{"key": "process", "progress": 0.5}]},
                "started_at": "2026-01-02T03:04:05Z",
            }
        ),
    )
    probe = RestProbe(
        f"{api.url}/api/v2/jobs/{{job_id}}/",
        headers={"Authorization": lambda: f"Token {SECRET}"},
        fields={"status": "state.word"},
        statuses={"BUSY": "running"},
    )
    result = await probe.probe("a/b 7")
    assert api.asked == [("/api/v2/jobs/a%2Fb%207/", f"Token {SECRET}")]
    facts = result.facts
    assert (facts["status"], facts["phase"], facts["progress"]) == ("BUSY", "running", 0.25)
    assert facts["stages"] == [{"key": "process", "progress": 0.5}]
    assert facts["started"] == 1767323045
    api.answer = (200, json.dumps({"status": "STARTED", "stages": {"results": {"remaining": 3, "percentage": 40.0}}}))
    facts = (await probe.probe("7")).facts
    assert facts["stages"] == [{"name": "results", "remaining": 3, "progress": 0.4}]


@pytest.mark.parametrize(
    ("answer", "fact", "words"),
    [
        ((401, "no"), "is_refused", "401: the doctor's headers are not accepted"),
        ((404, "{}"), "is_absent", "knows no such job, or not for this account"),
        ((500, "boom"), "is_failing", "answers 500"),
        ((302, ""), "", "answers 302"),
        ((200, "<html>"), "", "answers 200 and no JSON"),
        ((200, "[1]"), "", "answers no JSON object"),
    ],
)
async def test_what_rest_does_not_say_is_a_line_without_secrets(
    api: Api, answer: tuple[int, str], fact: str, words: str
) -> None:
    """Whatever it answers: no exception, no header in the answer, no header sent to where it is redirected."""
    api.answer, api.location = answer, f"{api.url.replace('127.0.0.1', 'localhost')}/else" if answer[0] == 302 else ""
    address = api.url.replace("http://", f"http://user:{SECRET}@")
    probe = RestProbe(f"{address}/{{job_id}}?key={SECRET}", headers={"Authorization": f"Token {SECRET}"})
    result = await probe.probe("7")
    assert words in result.error
    assert not fact or result.facts[fact]
    assert SECRET not in repr(result)
    assert len(api.asked) == 1


@pytest.mark.parametrize("password", ["{0}/rest", "pa@{0}", "{0}@t/x", "{0}?y", "{0}#z", "12/{0}"])
async def test_a_password_that_was_not_escaped_is_not_told(password: str) -> None:
    """Whatever the libraries make of the address, and say about it."""
    account = "bot:" + password.format(SECRET)
    app = Celery(broker=f"redis://{account}@127.0.0.1:1/0", set_as_current=False)
    app.conf.broker_connection_retry = False
    probes = [
        RestProbe(f"http://{account}@127.0.0.1:1/jobs/{{job_id}}/"),
        TasksProbe(f"http://{account}@127.0.0.1:1/jobs/{{job_id}}/"),
        RedisProbe(f"redis://{account}@127.0.0.1:1/0", {"a": "job:{job_id}"}),
        NatsProbe(f"nats://{account}@127.0.0.1:1"),
        CeleryProbe(app),
    ]
    results = await ask(probes, "7", 4)
    assert [name for name, result in results.items() if result.error] == ["rest", "redis", "nats", "celery"]
    assert SECRET not in repr(results)


@pytest.mark.parametrize(
    "beginning", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "]
)
async def test_an_answer_that_drips_holds_no_thread_for_ever(beginning: bytes) -> None:
    """Head or body come byte by byte: the thread that reads ends by itself, all the same."""
    is_over, has_ended = asyncio.Event(), asyncio.Event()

    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while not is_over.is_set() and not writer.is_closing():
            writer.write(b" ")
            await asyncio.sleep(0.02)  # the pace of the drops
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        has_ended.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    probe = RestProbe(f"http://127.0.0.1:{port}/{{job_id}}", timeout=0.2)
    try:
        result = await asyncio.wait_for(probe.probe("7"), 20)  # its end is the thread's
    finally:
        is_over.set()
        await has_ended.wait()
        server.close()
    assert "TimeoutError" in result.error


async def test_looks_that_hang_are_not_added_to_for_ever() -> None:
    """So many of one kind; then the next is told so, and others are as before."""
    go_on = threading.Event()

    def hangs() -> None:
        go_on.wait(30)

    waiting = [asyncio.ensure_future(in_thread(hangs)) for _ in range(100)]
    await asyncio.sleep(0)  # lets the tasks begin
    with pytest.raises(RuntimeError, match="100 earlier looks of this kind"):
        await in_thread(hangs)
    assert await in_thread(lambda: 7) == 7
    go_on.set()
    await asyncio.gather(*waiting)
    assert await in_thread(hangs) is None


async def test_an_id_that_is_another_place_is_not_asked_for(api: Api) -> None:
    """The directory above is no job."""
    for job in (".", ".."):
        result = await RestProbe(f"{api.url}/jobs/{{job_id}}/status").probe(job)
        assert f"{job!r} in an address is another place" in result.error
    assert not api.asked


@pytest.mark.parametrize(
    "answer",
    [
        '{"status": "RUNNING", "total": Infinity, "done": 1}',
        '{"status": "RUNNING", "total": 1e999, "done": -Infinity, "failed": NaN}',
        '{"status": "RUNNING", "total": 1' + "0" * 400 + ', "done": 1}',
        '{"status": "RUNNING", "progress": NaN, "stages": [{"name": "a", "progress": NaN, "percentage": Infinity}]}',
        '{"status": "RUNNING", "started_at": Infinity, "finished_at": 1e300, "created": NaN, "updated": -Infinity}',
        '{"status": "SUCCESS", "finished_at": "0001-01-01T00:00:00+23:00", "started_at": "9999-12-31T23:59:59-23:00"}',
    ],
    ids=["infinite", "nan", "large", "progress", "times", "dates"],
)
async def test_numbers_that_are_none_are_not_reckoned_with(lab: Laboratory, api: Api, answer: str) -> None:
    """Infinite, NaN, beyond what a float can be: not known, and never 100 %; what is told is JSON."""
    api.answer = (200, answer)
    lab.configuration = {"PATIENCE": 0.4, "REST": {"url": f"{api.url}/jobs/{{job_id}}/"}}
    lab.log("hello", fields={"event": "nats.nak", "count": float("inf"), "attempt": float("nan")}, logger=NATS)
    found = (await lab.examine()).as_dict()
    assert set(found["failures"]) <= {"nats"}
    assert found["probes"]["rest"]["facts"].get("progress") is None
    assert "100 %" not in str(found)
    json.dumps(found, allow_nan=False)


async def test_rest_away(api: Api) -> None:
    """Nobody listens; a header or a function that cannot be used: a line of the answer, and no secret in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/{{job_id}}"
    result = await RestProbe(url, headers={"X": SECRET}).probe("7")
    assert result.facts["unreachable"]
    assert "ConnectionRefusedError" in result.error
    result = await RestProbe(f"{api.url}/{{job_id}}", headers={"X": f"{SECRET}\nEvil: 1"}).probe("7")
    assert "cannot be asked: ValueError" in result.error
    assert SECRET not in repr(result)

    def broken() -> str:
        raise LookupError(SECRET)

    result = await RestProbe(f"{api.url}/{{job_id}}", headers={"X": broken}).probe("7")
    assert "a header's function failed (LookupError)" in result.error
    assert SECRET not in repr(result)
    assert not api.asked


@pytest.mark.parametrize(
    ("key", "given", "words"),
    [
        ("REST", {"url": "file:///etc/{job_id}"}, "must be an http(s) address"),
        ("REST", {"url": "http://x/jobs/"}, "must be an http(s) address that holds {job_id}"),
        ("REST", {"url": "http://x/{job_id}", "fields": {"x": "y"}}, "has no fact 'x'"),
        ("TASKS", {}, "must hold 'url'"),
        ("SETTINGS", {"max_retries": {"env": "X"}}, "has no setting 'max_retries'"),
        ("SETTINGS", {"ttr": 30}, "must be {'env': NAME"),
    ],
)
def test_wrong_settings_are_told(tmp_path: Any, key: str, given: dict[str, Any], words: str) -> None:
    """At once, with the setting's name."""
    with pytest.raises(ConfigurationError) as caught:
        probes_of(Configuration.of({key: given}), None)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert key in str(caught.value)


async def test_the_tasks_endpoint_is_never_called(lab: Laboratory, api: Api) -> None:
    """It would reserve what it gives: the answer says so, and how many wait is told from the queue."""
    lab.configuration["TASKS"] = {"url": f"{api.url}/jobs/{{job_id}}/tasks/?batch=8"}
    await lab.row(total=7)
    await lab.queue(7)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls")
    facts = verdict.results["tasks"].facts
    assert facts["peeked"] is False
    assert "reserves what it gives" in facts["why"]
    assert not api.asked
    assert (await lab.until())["num_pending"] == 7


async def test_a_tasks_endpoint_that_gives_nothing(lab: Laboratory, api: Api) -> None:
    """Where it can be peeked at: it leaves the job out, though tasks wait."""
    api.answer = (200, '{"tasks": []}')
    lab.configuration["TASKS"] = {"url": f"{api.url}/x/{{job_id}}", "peek": f"{api.url}/jobs/{{job_id}}/tasks/?peek=1"}
    await lab.row(total=7)
    await lab.queue(7)
    await settle()
    is_cause(await lab.examine(), "endpoint_empty", certainly=False)
    assert api.asked == [(f"/jobs/{lab.job_id}/tasks/?peek=1", None)]
    api.answer = (200, '{"tasks": [1, 2]}')
    assert (await TasksProbe(peek=f"{api.url}/{{job_id}}").probe("7")).facts["count"] == 2


async def test_the_web_server_is_away(lab: Laboratory, api: Api) -> None:
    """Workers elsewhere cannot ask, and the job stands still; while it gets on, it is a line of the answer only."""
    api.answer = (503, "")
    lab.configuration["REST"] = {"url": f"{api.url}/jobs/{{job_id}}/"}
    await lab.row(total=7)
    await lab.queue(7)
    await settle()
    is_cause(await lab.examine(), "api_failing", certainly=False)
    api.close()
    is_cause(await lab.examine(), "api_unreachable", certainly=False)
    lab.worker()
    lab.log("working", age=0)
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert "cannot be reached" in verdict.failures["rest"]


async def test_rest_says_something_else_than_the_row(lab: Laboratory, api: Api) -> None:
    """Told beside the verdict."""
    api.answer = (200, '{"status": "SUCCESS"}')
    lab.configuration["REST"] = {"url": f"{api.url}/jobs/{{job_id}}/"}
    await lab.row(total=7)
    lab.log("queued")
    await lab.queue(7)
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls")
    assert [one.cause for one in verdict.others] == ["rest_differs"]


async def test_settings_with_value_source_and_drift(lab: Laboratory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the server has, and who asked for something else."""
    monkeypatch.setenv("LAB_TTR", "300")
    lab.configuration["SETTINGS"] = {
        "ttr": {"env": "LAB_TTR", "code": 30},
        "max_deliver": {"env": "LAB_UNSET", "code": "tests.faults.test_elsewhere.MAX_DELIVER"},
        "retention": {"code": 86_400},
        "max_ack_pending": {"code": "tests.faults.nowhere"},
    }
    await lab.row(total=7)
    lab.log("queued")
    await lab.queue(7)
    await settle()
    verdict = await lab.examine()
    found = {one.name: one for one in verdict.settings}
    ttr, limit = found["ack_wait"], found["max_deliver"]
    assert (ttr.value, ttr.source, ttr.wanted, ttr.wanted_source) == (30.0, "server", 300.0, "environment LAB_TTR")
    assert ttr.drift
    assert (limit.value, limit.wanted_source, limit.drift) == (5, "code tests.faults.test_elsewhere.MAX_DELIVER", False)
    assert not found["max_age"].drift
    assert found["max_ack_pending"].source == "server"
    is_cause(verdict, "nobody_polls")
    assert [one.cause for one in verdict.others] == ["drift"]
    text = "ack_wait 30 s (server; drift: environment LAB_TTR asks for 5 min 0 s)"
    assert text in verdict.others[0].sentence
    assert any(text in one.text for one in verdict.others[0].evidence)
    given = {one["name"]: one for one in verdict.as_dict()["settings"]}
    assert given["ack_wait"]["drift"] is True


MAX_DELIVER = 5


async def test_settings_without_a_queue(lab: Laboratory) -> None:
    """What is asked for, as there is no server's."""
    lab.configuration["SETTINGS"] = {"ack_wait": {"code": 12}}
    await lab.row(total=7)
    settings = (await lab.examine()).settings
    assert [(one.name, one.value, one.source, one.drift) for one in settings] == [("ack_wait", 12.0, "code", False)]


async def test_the_monitor_knows_that_ack_wait_is_too_short(lab: Laboratory) -> None:
    """Second acknowledgements that came long before the doctor looked: it reads what the monitor told."""
    handler = JobLogHandler(sink="jsonl", options={"directory": str(lab.directory)}, spool=None)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    lab.configuration["PATIENCE"] = 5
    lab.configuration["NATS"]["window"] = 0.05
    await lab.row(total=50)
    await lab.queue(50, ack_wait=0.2, max_deliver=50)
    try:
        async with Monitor(lab.url, interval=0.1, recorder=False, name=f"M{lab.job_id}") as monitor:
            async with asyncio.timeout(5):
                while not monitor.is_leading:
                    await asyncio.sleep(0.02)  # nothing announces it
            lab.worker("late", seconds=0.45, batch=10)
            async with asyncio.timeout(10):
                while "nats.ack.twice" not in (await told(lab)):
                    await asyncio.sleep(0.05)  # another task writes it
        verdict = await lab.examine()
    finally:
        await lab.js.delete_stream(f"M{lab.job_id}")
    handler.close()
    is_cause(verdict, "ack_wait_too_short", certainly=False)
    assert any("worked on twice" in one.text for one in verdict.diagnosis.evidence)
    workers = verdict.results["workers"].facts
    assert workers["nats"]["is_watched"]
    assert verdict.at - workers["nats"]["last"] < 10


async def told(lab: Laboratory) -> set[str]:
    """The events in the job's log."""
    await aflush(5)
    return {str(line.fields.get("event")) for line in lab.store.newest(lab.job_id).entries}


async def test_one_task_that_was_done_twice_is_no_matter_of_the_setting(lab: Laboratory) -> None:
    """One of thousands: told beside the verdict."""
    lab.configuration["PATIENCE"] = 5
    await lab.row(total=100)
    await lab.queue(100)
    lab.event("nats.ack.twice", "1 message was worked on twice", age=1, count=1, source="monitor")
    lab.event("nats.snapshot", "numbers", age=1, acknowledged=4000, source="monitor", workers=2, rate=12.5)
    lab.worker()
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()
    assert [one.cause for one in verdict.others] == ["ack_wait_too_short"]
    assert verdict.others[0].sure == "possible"


async def test_a_worker_that_crashed_once_is_no_finding(lab: Laboratory) -> None:
    """What it had in hand is delivered again and acknowledged at the second attempt: that is as it should be."""
    lab.configuration["PATIENCE"] = 5
    await lab.row(age=30, total=400)
    await lab.queue(400, ack_wait=0.3)
    await lab.fetch(30)
    await asyncio.sleep(0.35)  # until these run out
    lab.log("working", age=0)
    lab.worker(batch=5, seconds=0.002)
    await lab.until(num_redelivered=1)
    verdict = await lab.examine()
    assert not verdict.is_finding, verdict.as_dict()


async def test_much_is_delivered_again(lab: Laboratory) -> None:
    """Workers crash again and again in the middle of a batch, or are too slow: which is not said, that is said."""
    lab.configuration["PATIENCE"] = 5
    await lab.row(age=30, total=400)
    await lab.queue(400, ack_wait=0.2, max_deliver=50)
    for _ in range(3):
        await lab.fetch(25)
        await asyncio.sleep(0.25)  # until these run out
    lab.log("working", age=0)
    lab.worker(batch=2, seconds=0.02)
    await lab.until(num_redelivered=1)
    await asyncio.sleep(0.2)
    verdict = await lab.examine()
    is_cause(verdict, "redelivered", certainly=False)


async def test_workers_elsewhere_were_last_seen(lab: Laboratory) -> None:
    """By the lines that they send: who, when, what; and that it is told where nobody polls."""
    await lab.row(total=7)
    await lab.queue(7)
    lab.log("Finished batch 84. Total items: 672", age=250, origin="remote:0123456789abcdef:cam-3")
    await settle()
    verdict = await lab.examine()
    is_cause(verdict, "nobody_polls")
    (worker,) = verdict.results["workers"].facts["remote"]
    assert worker["worker"] == "cam-3"
    assert any("cam-3: last line received: Finished batch 84" in one.text for one in verdict.diagnosis.evidence)


async def test_settings_that_cannot_be_had_are_a_line_of_the_answer(
    lab: Laboratory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No number in the environment, a path that leads nowhere, a value that is none; times may be timedeltas."""
    monkeypatch.setenv("LAB_TTR", "soon")
    await lab.row(total=7)
    lab.configuration["SETTINGS"] = {"ttr": {"env": "LAB_TTR"}, "max_deliver": {"code": "tests.faults.nowhere"}}
    failure = (await lab.examine()).failures["settings"]
    assert "ack_wait: the environment's LAB_TTR is no number" in failure
    assert "max_deliver: " in failure
    lab.configuration["SETTINGS"] = {"ttr": {"code": timedelta(seconds=12)}, "max_age": {"env": "LAB_UNSET"}}
    settings = (await lab.examine()).settings
    assert [(one.name, one.value) for one in settings] == [("ack_wait", 12.0)]
