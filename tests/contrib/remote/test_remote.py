"""Workers elsewhere: nothing lost, nothing let in. A real HTTP server and real workers, in processes of their own."""

from __future__ import annotations

import contextlib
import contextvars
import json
import logging
import pwd
import re
import socketserver
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from django.core import signing

from joblog_router import ConfigurationError, job_context
from joblog_router._pipeline.origins import worker_of
from joblog_router.contrib.remote import send
from joblog_router.contrib.remote.receive import Limits
from joblog_router.contrib.remote.send import RemoteJobLogHandler, job
from tests.contrib.remote.conftest import Receiver, Worker, line
from tests.helpers import until

pytestmark = pytest.mark.timeout(120)

HANDLER = """
handler = joblog_send.RemoteJobLogHandler(sys.argv[1], spool=sys.argv[3] if len(sys.argv) > 3 else None)
log.addHandler(handler)
log.setLevel("INFO")
"""


def test_a_worker_with_one_file_writes_into_its_jobs_log(receiver: Receiver, worker: Worker) -> None:
    """Messages, fields, traceback and audience arrive in order, masked, in the job of the token; nothing else does."""
    out = worker.run(
        HANDLER
        + """
log.info("outside of any job")
with joblog_send.job(sys.argv[2], worker="w1"):
    log.info("fetched %d images", 8, extra={"batch": [1, 2], "thing": object()})
    log.warning("password=hunter2secret was used")
    log.info("for us", extra={"job_log": "staff"})
    log.info("not for the log", extra={"job_log": False})
    try:
        1 / 0
    except ZeroDivisionError:
        log.exception("broken \\ud800\\x00")
log.info("outside again")
assert handler.flush(20)
print(handler.stats())
""",
        receiver.url,
        receiver.token("job ä/7"),
    )
    rows = receiver.rows("job ä/7", "message, level, exception, fields, audience, origin")
    assert [row[0] for row in rows[:1] + rows[2:]] == ["fetched 8 images", "for us", "broken \\ud800␀"]
    assert "hunter2secret" not in rows[1][0]
    assert rows[1][0].startswith("password=")
    assert [row[1] for row in rows] == [20, 30, 20, 40]
    assert "ZeroDivisionError" in rows[3][2]
    assert json.loads(rows[0][3]) == {"worker": "w1", "batch": [1, 2], "thing": "<object>"}
    assert [row[4] for row in rows] == ["all", "all", "staff", "all"]
    (origin,) = {row[5] for row in rows}
    assert worker_of(origin)
    assert receiver.project.rows("count(*), 1") == [(4, 1)]
    assert "'sent': 4, 'dropped': 0, 'refused': 0, 'waiting': 0" in out


def test_nothing_is_lost_or_doubled_while_the_server_restarts(receiver: Receiver, worker: Worker) -> None:
    """Lines of two jobs at once, while the server is killed and started again three times: each is there once."""
    process = worker.start(
        HANDLER
        + """
import itertools, os, threading
def work(token, name):
    with joblog_send.job(token):
        for number in itertools.count():
            if os.path.exists(sys.argv[5]):
                return
            log.info("%s %d", name, number)
            logged[name] = number + 1
            time.sleep(0.004)
logged = {}
threads = [threading.Thread(target=work, args=pair) for pair in ((sys.argv[2], "a"), (sys.argv[4], "b"))]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(handler.flush(30), logged["a"], logged["b"])
""",
        receiver.url,
        receiver.token(1),
        str(worker.root / "spool"),
        receiver.token(2),
        str(worker.root / "stop"),
    )
    try:
        for _ in range(3):
            before = len(receiver.rows("1"))
            until(lambda: len(receiver.rows("1")) > before)  # noqa: B023 - called in this round
            receiver.stop()
            receiver.start()
    finally:
        (worker.root / "stop").touch()
        out, err = process.communicate(timeout=60)
    is_sent, *logged = out.split()
    assert is_sent == "True", err
    for pk, name, count in zip(("1", "2"), ("a", "b"), logged, strict=True):
        assert receiver.rows(pk) == [f"{name} {number}" for number in range(int(count))]
    assert list((worker.root / "spool").iterdir()) == []


def test_a_killed_workers_lines_are_sent_by_the_next(receiver: Receiver, worker: Worker) -> None:
    """SIGKILL with the server away: what was logged before is in the spool, with its token, and arrives later."""
    token, spool = receiver.token(7), str(worker.root / "spool")
    receiver.stop()
    process = worker.start(
        HANDLER
        + """
with joblog_send.job(sys.argv[2]):
    for number in range(300):
        log.info("line %d", number)
    print("logged", flush=True)
    sys.stdin.read()
""",
        receiver.url,
        token,
        spool,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n", process.stderr and process.stderr.read()
    process.kill()
    process.communicate()
    assert [path.stat().st_mode & 0o777 for path in Path(spool).iterdir()] == [0o600] * 2
    receiver.start()
    worker.run(HANDLER + "assert handler.flush(20)", receiver.url, "", spool)
    assert receiver.rows("7") == [f"line {number}" for number in range(300)]
    assert list(Path(spool).iterdir()) == []


def test_lines_wait_for_a_new_token_when_theirs_has_expired(receiver: Receiver, worker: Worker) -> None:
    """An expired token lets nothing in; the lines are kept and go with the next one, other jobs' are not held up."""
    out = worker.run(
        HANDLER
        + """
with joblog_send.job(sys.argv[2]):
    log.info("too late")
with joblog_send.job(sys.argv[5]):
    log.info("of another job")
while handler.stats()["sent"] < 1:
    time.sleep(0.01)  # the sender tells nobody what it has sent
assert not handler.flush(0.5)
print(handler.stats())
handler.use(sys.argv[4])
assert handler.flush(20)
""",
        receiver.url,
        receiver.token(7, expires=0.001),
        str(worker.root / "spool"),
        receiver.token(7),
        receiver.token(8),
    )
    assert "'waiting': 1" in out
    assert "expired" in out, "the worker is told why on stderr"
    assert receiver.rows("7") == ["too late"]
    assert receiver.rows("8") == ["of another job"]
    assert receiver.counters()["expired"] >= 1


@pytest.mark.parametrize("off", [3600, -3600])
def test_a_clock_that_is_off_by_an_hour_loses_nothing(receiver: Receiver, worker: Worker, off: int) -> None:
    """Lines are put at the time they were logged by the server's clock, and say how far theirs was ahead.

    The clock of a process of its own cannot be set, hence the functions that ask it are replaced there.
    """
    before = time.time()
    worker.run(
        f"real, real_ns = time.time, time.time_ns\ntime.time = lambda: real() + {off}\n"
        f"time.time_ns = lambda: real_ns() + {off} * 10**9\n"
        + HANDLER
        + """
with joblog_send.job(sys.argv[2]):
    log.info("when")
assert handler.flush(20)
""",
        receiver.url,
        receiver.token(7),
    )
    ((created, fields),) = receiver.rows("7", "created, fields")
    assert before - 1 <= created / 1e6 <= time.time() + 1
    assert abs(json.loads(fields)["clock_ahead"] - off) < 5


def test_a_hundred_forged_and_cross_job_requests_let_nothing_in(receiver: Receiver) -> None:
    """No token, no signature, changed payloads, keys of others, revoked ones, other jobs' names and line numbers."""
    token = receiver.token(7)
    payload, stamp, signature = token.split(":")
    assert receiver.send(receiver.token(8), line(1, "of job 8"))[0] == 200
    (origin,) = receiver.project.rows("origin")
    revoked, other = receiver.token(7), signing.dumps({"job": "7"}, salt="x")
    receiver.project.run(f"from joblog_router.contrib.remote.tokens import *; revoke_token({revoked!r})")
    foreign = receiver.token(8).split(":")
    later = signing.b62_encode(signing.b62_decode(stamp) + 1)
    forged: list[str | None] = [
        *(None, "", "x", token[:-1], token[1:], token + "x", f"{payload}:{stamp}:", f"{payload}::{signature}"),
        *(other, f"{foreign[0]}:{stamp}:{signature}", f"{payload}:{later}:{signature}", "." + token),
        *("\x00".join("ab"), "é" * 10, "a" * 9_000, ":::", revoked, receiver.token(7, expires=0.001)),
    ]
    answers = [
        receiver.send(_as_header(forged[number % len(forged)]), line(100 + number, "forged")) for number in range(60)
    ]
    assert {status for status, _ in answers} == {401}
    crossing: list[dict[str, Any]] = [{"job_id": "8"}, {"job_id": 8}, {"job_id": None}, {"job_id": ["7"]}]
    for number in range(20):
        assert receiver.send(token, line(1, "crossing"), **crossing[number % 4])[0] == 403
    for number in range(20):
        status, answer = receiver.send(token, line(1, "crossing", **crossing[number % 4]))
        assert (status, answer["stored"], answer["refused"]) == (200, 0, 1)
    # The numbers of a line of job 8 neither hide it nor tell whether it is there, and what it is named is not believed.
    assert receiver.send(token, {**line(1, "mine"), "namespace": "other"})[1] == {
        "stored": 1,
        "known": 0,
        "refused": 0,
        "taken": 1,
    }
    assert receiver.send(token, {**line(2, "a guess"), "origin": origin})[1]["refused"] == 1
    assert receiver.rows("8") == ["of job 8"]
    assert receiver.rows("7", "message, namespace") == [("mine", "")]
    counts = receiver.counters()
    assert counts["forged"] + counts["expired"] + counts["revoked"] == 60
    assert counts["cross_job"] == 40
    assert counts["expired"] == counts["revoked"] == 3


STRANGER = """
import os, stat
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + 3600
time.time_ns = lambda: real_ns() + 3600 * 10**9
"""


@pytest.mark.other_user
def test_another_user_elsewhere_with_everything_going_wrong(receiver: Receiver, stranger: Worker) -> None:
    """Of another Unix user, in another folder, an hour ahead; the server and the worker are killed, the token ends."""
    spool = str(stranger.root / "spool")
    code = (
        STRANGER
        + HANDLER
        + """
print(os.geteuid(), flush=True)
assert os.geteuid() != 0
with joblog_send.job(sys.argv[2]):
    for number in range(600):
        log.info("line %d", number)
        if number == 200:
            print("under way", flush=True)
            sys.stdin.readline()
            handler.use(sys.argv[4])  # one that has ended
    print(oct(stat.S_IMODE(os.stat(sys.argv[3]).st_mode)), flush=True)
    sys.stdin.readline()
"""
    )
    process = stranger.start(code, receiver.url, receiver.token(7), spool, receiver.token(7, expires=0.001))
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == f"{pwd.getpwnam('nobody').pw_uid}\n", process.stderr and process.stderr.read()
    assert process.stdout.readline() == "under way\n"
    until(lambda: len(receiver.rows("7")) >= 100, 60)
    receiver.stop()
    process.stdin.write("go on\n")
    process.stdin.flush()
    assert process.stdout.readline() == "0o700\n"
    process.kill()
    process.communicate()
    receiver.start()
    # The project's own files are not the stranger's, and what waits is of a token that has expired meanwhile.
    stranger.run(
        STRANGER
        + HANDLER
        + """
try:
    open(sys.argv[4])
except PermissionError:
    pass
else:
    raise AssertionError("could read the project's database")
assert not handler.flush(1), "an expired token lets nothing in"
handler.use(sys.argv[2])
assert handler.flush(20), handler.stats()
""",
        receiver.url,
        receiver.token(7),
        spool,
        str(receiver.project.root / "joblog.sqlite3"),
    )
    assert receiver.rows("7") == [f"line {number}" for number in range(600)]
    assert receiver.counters()["expired"] >= 1
    assert list(Path(spool).iterdir()) == []
    for created, fields in receiver.rows("7", "created, fields"):
        assert abs(created / 1e6 - time.time()) < 120
        assert abs(json.loads(fields)["clock_ahead"] - 3600) < 5


def _as_header(token: str | None) -> str | None:
    return None if token is None else token.encode("latin-1", "replace").decode("latin-1").replace("\x00", " ")


def test_a_batch_that_comes_again_is_stored_once_and_counted(receiver: Receiver) -> None:
    """A replayed request gets the same 200 and adds nothing, also after a restart and with another token of the job."""
    token = receiver.token(7)
    lines = [line(number, f"line {number}") for number in range(1, 6)]
    assert receiver.send(token, *lines) == (200, {"stored": 5, "known": 0, "refused": 0, "taken": 5})
    assert receiver.send(token, *lines) == (200, {"stored": 0, "known": 5, "refused": 0, "taken": 5})
    receiver.stop()
    receiver.start()
    answer = {"stored": 1, "known": 5, "refused": 0, "taken": 6}
    assert receiver.send(receiver.token(7), *lines, line(6, "new")) == (200, answer)
    assert receiver.rows("7") == [*(f"line {number}" for number in range(1, 6)), "new"]
    assert receiver.counters()["known"] == 5


def test_limits_of_size_rate_and_form(receiver: Receiver) -> None:
    """Too much is refused by status, a line that is none costs itself, what a line may not say is taken out of it."""
    receiver.stop()
    receiver.settings(
        'JOBLOG_ROUTER = {"NATS": False, "CELERY": False, '
        '"REMOTE": {"max_bytes": 20000, "max_lines": 10, "lines_per_minute": 60}}'
    )
    receiver.start()
    token = receiver.token(7)
    assert receiver.post(b"x" * 20_001, token)[0] == 413
    assert receiver.send(token, *[line(number) for number in range(11)])[0] == 413
    for body in (b"", b"{", b"[]", b"[" * 5_000, b'{"sent": 1}', b'{"entries": []}', b'{"sent": NaN, "entries": []}'):
        assert receiver.post(body, token)[0] == 400, body
    wrong: list[Any] = [
        *(None, [], "x", 1, {}, line(0), line(-1), line(2**62), line(1.5), line(True)),
    ]
    assert receiver.send(token, *wrong)[1] == {"stored": 0, "known": 0, "refused": 10, "taken": 10}
    more = [
        line(1, message=7),
        line(1, level="INFO"),
        line(1, created=1e300),
        line(1, origin="a:b"),
        line(1, origin="o" * 61),
        line(1, n=-1),
        line(5, "kept", fields={"fold": "f", "folded": 9, "job_log": "all", "x": 1}, logger="w", line="z", path=3),
        line(6, "old", created=5, audience="staff"),
    ]
    assert receiver.send(token, *more)[1] == {"stored": 2, "known": 0, "refused": 6, "taken": len(more)}
    assert [json.loads(fields) for fields in receiver.rows("7", "fields, 1") and receiver.rows("7", "fields")] == [
        {"x": 1},
        {},
    ]
    assert receiver.rows("7", "audience, created > 1600000000000000") == [("all", 1), ("staff", 1)]
    statuses = [receiver.send(token, *[line(20 + number) for number in range(10)])[0] for _ in range(6)]
    assert statuses[0] == 200
    assert 429 in statuses
    assert receiver.send(receiver.token(8), line())[0] == 200, "another job is not held up"
    counts = receiver.counters()
    assert counts["too_large"] == 2
    assert counts["malformed"] == 7
    assert counts["refused_lines"] == 16
    assert counts["too_fast"] >= 1


def test_tokens_of_the_command_and_their_revocation(receiver: Receiver) -> None:
    """`joblog token` prints a token that holds; `--revoke` refuses those so far, not those that come."""
    token = receiver.project.manage("joblog", "token", "7", "--expires", "2h").stdout.strip()
    assert receiver.send(token, line(1, "first"))[0] == 200
    assert "refused" in receiver.project.manage("joblog", "token", "7", "--revoke").stdout
    assert receiver.send(token, line(2, "second")) == (401, {"error": "revoked"})
    staff = json.loads(receiver.project.manage("joblog", "token", "7", "--staff", "--json").stdout)
    assert receiver.send(staff["token"], line(3, "third", audience="all"))[0] == 200
    assert receiver.rows("7", "message, audience") == [("first", "all"), ("third", "staff")]
    receiver.project.manage("joblog", "token", "7", "--expires", "soon", status=2)


def test_a_job_revoked_at_once_has_no_token_that_holds(receiver: Receiver) -> None:
    """Every token that was issued before is refused, however shortly before; every later one holds."""
    done = receiver.project.run("""
from joblog_router.contrib.remote.tokens import *
from joblog_router.contrib.remote.tokens import check_revoked

def holds(token):
    try:
        check_revoked(read_token(token))
    except BadTokenError:
        return False
    return True

found = []
for number in range(60):
    before = issue_token(number)
    revoke_job(number)
    found.append((holds(before), holds(issue_token(number))))
assert set(found) == {(False, True)}, found
""")
    assert done.returncode == 0, done.stderr


def test_a_job_that_is_not_there_gets_its_lines_when_it_is(receiver: Receiver, worker: Worker) -> None:
    """With JOB_MODEL a job whose row is not committed, or is gone, takes nothing; lines wait at the worker."""
    receiver.stop()
    receiver.settings('JOBLOG_ROUTER = {"NATS": False, "CELERY": False, "JOB_MODEL": "shop.Job"}')
    receiver.start()
    process = worker.start(
        HANDLER
        + """
with joblog_send.job(sys.argv[2]):
    log.info("early")
assert not handler.flush(0.5)
print("waits", flush=True)
assert handler.flush(30)
""",
        receiver.url,
        receiver.token(1),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    assert receiver.rows("1") == []
    receiver.project.run("from shop.models import Job; assert Job.objects.create(name='x').pk == 1")
    _, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    assert receiver.rows("1") == ["early"]
    assert receiver.send(receiver.token("x"), line()) == (409, {"error": "no_job"})


OWN_TABLE = """
INSTALLED_APPS = ["own", *INSTALLED_APPS]
JOBLOG_ROUTER = {"NATS": False, "CELERY": False, "REMOTE": {"sink": "model", "options": {
    "model": "own.Line", "fields": {"job": "job_id", "message": "text", "context": "context", "at": "created"}}}}
"""

OWN_MODEL = """
from django.db import models
class Line(models.Model):
    job = models.ForeignKey("shop.Job", models.CASCADE)
    message = models.TextField()
    context = models.JSONField()
    at = models.DateTimeField()
"""


def test_in_a_table_of_the_projects_own_the_same_holds(receiver: Receiver, worker: Worker) -> None:
    """Lines of a job without a row stay with the worker, not in the server's memory; a second copy is not stored."""
    receiver.stop()
    (receiver.project.root / "own").mkdir()
    (receiver.project.root / "own" / "__init__.py").touch()
    (receiver.project.root / "own" / "models.py").write_text(OWN_MODEL)
    receiver.settings(OWN_TABLE)
    receiver.project.manage("migrate", "--run-syncdb", "--verbosity=0")
    receiver.start()
    early = line(1, "early")
    assert receiver.send(receiver.token(1), early) == (409, {"error": "no_job"})
    receiver.stop()  # killed: whatever it had kept would be lost
    receiver.start()
    receiver.project.run("from shop.models import Job; assert Job.objects.create(name='x').pk == 1")
    both = early, line(2, "second")
    assert receiver.send(receiver.token(1), *both) == (200, {"stored": 2, "known": 0, "refused": 0, "taken": 2})
    assert receiver.send(receiver.token(1), *both) == (200, {"stored": 0, "known": 2, "refused": 0, "taken": 2})
    found = receiver.project.run("from own.models import Line; print(list(Line.objects.values_list('job', 'message')))")
    assert found.stdout.strip() == "[(1, 'early'), (1, 'second')]"
    assert receiver.send(receiver.token("x"), line())[0] == 409


def test_without_its_table_nothing_is_let_in(receiver: Receiver) -> None:
    """A server that cannot tell whether a token was revoked answers 503: the worker is to come again."""
    with contextlib.closing(sqlite3.connect(receiver.project.root / "joblog.sqlite3")) as connection:
        connection.execute("ALTER TABLE joblog_router_revokedtoken RENAME TO away")
        assert receiver.send(receiver.token(7), line()) == (503, {"error": "unavailable"})
        connection.execute("ALTER TABLE away RENAME TO joblog_router_revokedtoken")
    assert receiver.send(receiver.token(7), line())[0] == 200


def test_what_does_not_fit_is_counted_in_the_jobs_log(receiver: Receiver, worker: Worker) -> None:
    """A full buffer drops lines; once the server takes lines again, the job's log says how many."""
    worker.run(
        HANDLER.replace("spool=", "capacity=10, spool=")
        + """
with joblog_send.job_context("7"):
    for number in range(25):
        log.info("line %d", number)
assert handler.stats() == {"sent": 0, "dropped": 15, "refused": 0, "waiting": 10}, handler.stats()
handler.use(sys.argv[2])
assert handler.flush(20)
assert handler.stats()["sent"] == 11
""",
        receiver.url,
        receiver.token(7),
    )
    rows = receiver.rows("7")
    assert rows[:10] == [f"line {number}" for number in range(10)]
    assert "15 lines were dropped" in rows[10]


def test_a_spool_that_was_full_takes_lines_again_and_tells_what_was_dropped(receiver: Receiver, worker: Worker) -> None:
    """Also where it is smaller than one of its files: what was sent makes room, and no count is lost meanwhile."""
    receiver.stop()
    process = worker.start(
        HANDLER.replace("spool=", "batch=5, max_bytes=4_000, spool=")
        + """
with joblog_send.job(sys.argv[2]):
    for number in range(100):
        log.info("line %d", number)
    dropped = handler.stats()["dropped"]
    print(dropped, flush=True)
    sys.stdin.readline()
    assert handler.flush(20)
    log.info("there is room again")
    assert handler.flush(20)
assert handler.stats()["dropped"] == dropped, handler.stats()
""",
        receiver.url,
        receiver.token(7),
        str(worker.root / "spool"),
    )
    assert process.stdout is not None
    dropped = int(process.stdout.readline())
    assert 50 < dropped < 99
    receiver.start()
    _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err
    rows = receiver.rows("7")
    kept = 100 - dropped
    assert rows[:kept] == [f"line {number}" for number in range(kept)]
    assert f"{dropped} lines were dropped" in rows[kept]
    assert rows[kept + 1 :] == ["there is room again"]


FULL = """
import os, resource
def full(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def sizes():
    return [entry.stat().st_size for entry in os.scandir(sys.argv[3]) if entry.name.endswith(".joblog")]
def opened():
    # In the spool only: beside this thread another one opens connections.
    paths = (os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd"))
    return sum(path.startswith(sys.argv[3]) for path in paths)
"""


def test_a_full_disk_raises_nothing(receiver: Receiver, worker: Worker) -> None:
    """Neither a token that cannot be kept nor a file that cannot be begun; no file and no descriptor stays behind."""
    out = worker.run(
        HANDLER
        + FULL
        + """
first, second = sys.argv[2], sys.argv[4]
with joblog_send.job(first):
    log.info("one")
[size] = sizes()
full(size + 10)
with joblog_send.job(second):
    log.info("does not fit")
assert sizes() == [size], "nothing by half"
descriptors = opened()
assert descriptors
full(0)
with joblog_send.job_context("8"):
    for number in range(50):
        log.info("no file can be begun")
assert opened() == descriptors
assert len(sizes()) == 1
assert handler.stats()["dropped"] == 51, handler.stats()
full(resource.RLIM_INFINITY)
assert handler.flush(20)
print(handler.stats())
""",
        receiver.url,
        receiver.token(7),
        str(worker.root / "spool"),
        receiver.token(7, expires=3_000),
    )
    assert receiver.rows("7")[0] == "one"
    assert "51 lines" not in out
    assert "a token could not be kept" in out
    assert "Traceback" not in out


def test_a_thousand_jobs_need_no_thousand_open_files(receiver: Receiver, worker: Worker) -> None:
    """Whether they are sent, wait for a server that is away, or were left by a killed process; all lines arrive."""
    code = """
import os, resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
def begin(jobs):
    for number in jobs:
        with joblog_send.job_context(str(number)):
            log.info("line of %d", number)
        open(os.devnull).close()
    return len(os.listdir("/proc/self/fd"))
"""
    receiver.stop()
    tokens = [receiver.token(number) for number in range(340)]
    (worker.root / "tokens.py").write_text(f"tokens = {tokens}")
    spool = str(worker.root / "spool")
    function = "from tokens import tokens\n" + HANDLER.replace("spool=", "token=lambda id: tokens[int(id)], spool=")
    out = worker.run(function + code + "print(begin(range(150)), flush=True)\nos._exit(0)", receiver.url, "", spool)
    assert int(out.split()[0]) < 60
    receiver.start()
    worker.run(
        function
        + code
        + """
assert begin(range(150, 300)) < 60
assert handler.flush(60)
for number in range(300, 340):
    begin([number])
    assert handler.flush(20)
assert handler.stats() == {"sent": 340, "dropped": 0, "refused": 0, "waiting": 0}, handler.stats()
assert len(handler._lanes) <= 40
assert len(os.listdir(sys.argv[3])) <= 40
assert len(os.listdir("/proc/self/fd")) < 60
begin([0, 339])  # of jobs that were done with
assert handler.flush(20)
""",
        *(receiver.url, "", spool),
    )
    rows = receiver.project.rows("job_id, message")
    expected = [(str(number), f"line of {number}") for number in (*range(340), 0, 339)]
    assert sorted(rows) == sorted(expected)
    assert list(Path(spool).iterdir()) == []


def test_a_line_for_a_lane_that_is_just_given_up_has_a_file_of_its_own(tmp_path: Path) -> None:
    """A thread still has the old lane in its hand while others write to the new one of the same job."""
    tmp_path.chmod(0o700)
    handler = RemoteJobLogHandler("http://127.0.0.1:9/", spool=tmp_path)
    lanes = [handler._new_lane(("", "7", False)) for _ in range(2)]
    assert [lane.put(b"{}\n") for lane in lanes] == [True, True]
    assert len(list(tmp_path.glob("*.joblog"))) == 2
    for lane in lanes:
        lane.abandon()
    handler.close()


def test_a_thread_that_could_not_be_started_is_started_with_the_next_line(receiver: Receiver, worker: Worker) -> None:
    """Too many threads for a moment: nobody has to flush for what waits."""
    worker.run(
        HANDLER
        + """
import threading
with joblog_send.job_context("7"):
    threading.stack_size(2**46)
    log.info("no thread can be started")
    assert threading.active_count() == 1
    threading.stack_size(0)
    log.info("the next line")
handler.use(sys.argv[2])
until = time.monotonic() + 20
while handler.stats()["sent"] < 2:
    assert time.monotonic() < until, handler.stats()
    time.sleep(0.02)  # the sender tells nobody what it has sent
""",
        receiver.url,
        receiver.token(7),
    )
    assert receiver.rows("7") == ["no thread can be started", "the next line"]


def test_one_thread_sends_however_many_begin_at_once(receiver: Receiver, worker: Worker) -> None:
    """Threads that open a scope at one moment, and change at every step, start one sender; drops are counted."""
    receiver.stop()
    worker.run(
        """
import threading
def change(frame, event, argument):
    if frame.f_code.co_filename != joblog_send.__file__ or frame.f_code.co_name not in ("_put", "put", "_wake"):
        return None
    frame.f_trace_opcodes = True
    if event == "opcode":
        time.sleep(0)  # lets another thread run between two steps of this one
    return change
def work():
    begin.wait()
    with joblog_send.job(sys.argv[2]):
        for number in range(5):
            handler.handle(record)
record = logging.makeLogRecord({"name": "x", "msg": "x", "levelno": 20})
for _ in range(10):
    handler = joblog_send.RemoteJobLogHandler(sys.argv[1], capacity=5)
    begin = threading.Barrier(4)
    threading.settrace(change)
    threads = [threading.Thread(target=work) for _ in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    threading.settrace(None)
    senders = [thread for thread in threading.enumerate() if thread.name == "joblog-remote"]
    assert len(senders) == 1, senders
    stats = handler.stats()
    assert stats["dropped"] + stats["waiting"] == 20, stats
    lane = handler._lanes["", "7", False]
    assert lane.dropped.value() == stats["dropped"], (lane.dropped.value(), stats)
    handler._lanes.clear()
    handler.close()
    senders[0].join()
""",
        receiver.url,
        receiver.token(7),
    )


def test_the_end_of_a_process_is_held_up_for_three_seconds_at_most(receiver: Receiver, worker: Worker) -> None:
    """With the server away: what could not be sent stays in the spool, large lines too, and is sent by the next."""
    receiver.stop()
    begin = time.monotonic()
    worker.run(
        HANDLER
        + "with joblog_send.job(sys.argv[2]):\n    [log.info('%d %s', number, 'ü' * 90_000) for number in range(9)]",
        receiver.url,
        receiver.token(7),
        str(worker.root / "spool"),
    )
    assert time.monotonic() - begin < 10, "three seconds, and the start of Python on a busy machine"
    receiver.start()
    out = worker.run(HANDLER + "assert handler.flush(30); print(handler.stats())", receiver.url, "", "spool")
    assert "'sent': 9" in out
    assert [row.split()[0] for row in receiver.rows("7")] == [str(number) for number in range(9)]
    assert "413" not in out


def test_a_fork_has_lines_of_its_own(receiver: Receiver, worker: Worker) -> None:
    """Parent and child send what each logged, once, under origins of their own."""
    worker.run(
        HANDLER
        + """
import os
with joblog_send.job(sys.argv[2]):
    log.info("before")
    child = os.fork()
    if child:
        log.info("parent")
if not child:
    with joblog_send.job(sys.argv[2]):
        log.info("child")
    os._exit(not handler.flush(20))
assert os.waitpid(child, 0)[1] == 0
assert handler.flush(20)
""",
        receiver.url,
        receiver.token(7),
        str(worker.root / "spool"),
    )
    assert sorted(receiver.rows("7")) == ["before", "child", "parent"]
    assert len(set(receiver.rows("7", "origin"))) == 2


@pytest.mark.parametrize("is_spooled", [False, True])
def test_jobs_of_two_tenants_with_one_id_stay_apart(receiver: Receiver, worker: Worker, is_spooled: bool) -> None:
    """Beside each other, one after the other, nested, and recovered; a line that names no tenant is sent to none."""
    tokens = [receiver.token(7, namespace="a"), receiver.token(7, namespace="b")]
    spool = [str(worker.root / "spool")] if is_spooled else [""]
    rest = [receiver.url, tokens[0], *spool, tokens[1]]
    worker.run(
        HANDLER.replace("sys.argv[3] if len(sys.argv) > 3 else None", "sys.argv[3] or None")
        + """
import threading
a, b = sys.argv[2], sys.argv[4]
def work(token, name):
    with joblog_send.job(token):
        for number in range(20):
            log.info("%s %d", name, number)
            time.sleep(0.01)  # so that the two jobs log in turn
threads = [threading.Thread(target=work, args=pair) for pair in ((a, "a"), (b, "b"))]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
with joblog_send.job(a):
    log.info("a again")
    with joblog_send.job(b):
        log.info("b inside")
        with joblog_send.job_context("7", step=1):
            log.info("b inside, plain")
    log.info("a after")
assert handler.flush(20)
handler.use(a)
handler.use(b)
with joblog_send.job_context("7"):
    log.info("whose?")
assert not handler.flush(0.5)
assert handler.stats()["waiting"] == 1
""",
        *rest,
    )
    rows = receiver.project.rows("namespace, message", "job_id = '7'")
    assert sorted(message for namespace, message in rows if namespace == "a") == sorted(
        [*(f"a {number}" for number in range(20)), "a again", "a after"]
    )
    assert sorted(message for namespace, message in rows if namespace == "b") == sorted(
        [*(f"b {number}" for number in range(20)), "b inside", "b inside, plain"]
    )
    assert len(rows) == 44


def test_lines_of_two_tenants_that_a_killed_worker_left_stay_apart(receiver: Receiver, worker: Worker) -> None:
    """The next process sends each with the token of its own, also when it is given the other one's."""
    tokens = [receiver.token(7, namespace="a"), receiver.token(7, namespace="b")]
    spool = str(worker.root / "spool")
    receiver.stop()
    worker.run(
        HANDLER
        + """
import os
for token, name in (sys.argv[2], "of a"), (sys.argv[4], "of b"):
    with joblog_send.job(token):
        log.info(name)
os._exit(0)
""",
        *(receiver.url, tokens[0], spool, tokens[1]),
    )
    receiver.start()
    worker.run(
        HANDLER + "handler.use(sys.argv[2])\nassert handler.flush(20)",
        *(receiver.url, receiver.token(7, namespace="b"), spool),
    )
    assert sorted(receiver.project.rows("namespace, message")) == [("a", "of a"), ("b", "of b")]


def test_the_copied_files_scopes_keep_jobs_apart(receiver: Receiver, worker: Worker) -> None:
    """As the library's: fields of the same job alone are inherited, a record may address a job, or names another."""
    out = worker.run(
        HANDLER
        + """
with joblog_send.job(sys.argv[2], customer="Miller"):
    with joblog_send.job(sys.argv[4]):
        log.info("of 2")
        log.info("names 3", extra={"job_id": 3})
        log.info("names 2", extra={"job_id": 2})
    with joblog_send.job_context(1, step=2):
        log.info("of 1")
    with joblog_send.job_context(None):
        log.info("of none")
    log.info("for 2", extra={"job_log_id": 2})
    log.info("for none", extra={"job_log_id": None})
log.info("from outside", extra={"job_log_id": "2"})
assert handler.flush(20)
""",
        *(receiver.url, receiver.token(1), str(worker.root / "spool"), receiver.token(2)),
    )
    rows = [(text, json.loads(fields)) for text, fields in receiver.rows("1", "message, fields")]
    assert rows == [("of 1", {"customer": "Miller", "step": 2})]
    rows = [(text, json.loads(fields)) for text, fields in receiver.rows("2", "message, fields")]
    assert rows == [("of 2", {}), ("names 2", {}), ("for 2", {}), ("from outside", {})]
    assert receiver.project.rows("count(*), 1") == [(5, 1)]
    assert "names job '3'" in out


def test_a_token_is_shown_to_its_own_server_alone(receiver: Receiver, worker: Worker) -> None:
    """Handlers for two servers: `handler.job` is for its own; `job` cannot tell, and its lines are counted."""
    token = receiver.token(7)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Listening) as other:
        other.shown = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=other.serve_forever, daemon=True)
        thread.start()
        try:
            out = worker.run(
                HANDLER
                + """
other = joblog_send.RemoteJobLogHandler(sys.argv[4], spool=sys.argv[3])
log.addHandler(other)
with handler.job(sys.argv[2]):
    log.info("one")
    with joblog_send.job_context("7", step=2):
        log.info("two")
        with other.job(sys.argv[5]):
            log.info("for the other server")
with joblog_send.job(sys.argv[2]):
    log.info("of which server?")
assert handler.flush(20)
print(handler.stats(), other.stats())
other.flush(1)
import os
sys.stdout.flush()
os._exit(0)
""",
                *(receiver.url, token, str(worker.root / "spool")),
                *(f"http://127.0.0.1:{other.server_address[1]}/", receiver.token(7, audience="staff")),
            )
            # What is left for one server is not sent to another by the next process.
            worker.run(HANDLER + "handler.flush(0.5)", receiver.url, "", str(worker.root / "spool"))
        finally:
            other.shutdown()
    assert receiver.rows("7") == ["one", "two"]
    shown = b"".join(other.shown)  # type: ignore[attr-defined]
    assert b"for the other server" in shown
    assert b'"one"' not in shown
    assert token.encode() not in shown
    assert "handler.job(token)" in out
    assert "'dropped': 1" in out


class _Listening(socketserver.StreamRequestHandler):
    """Takes what is sent and never says that it is stored."""

    def handle(self) -> None:
        self.request.settimeout(5)
        head = self.rfile.readline()
        while (line := self.rfile.readline()) != b"\r\n":
            head += line
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        self.server.shown.append(head + self.rfile.read(length))  # type: ignore[attr-defined]
        self.wfile.write(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def test_a_line_for_staff_stays_one_with_the_jobs_other_token(receiver: Receiver, worker: Worker) -> None:
    """A worker has a job's token for all and one for staff: each line is for those it was logged for."""
    worker.run(
        HANDLER
        + """
with joblog_send.job(sys.argv[3]):
    log.info("for staff")
with joblog_send.job(sys.argv[2]):
    log.info("for all")
assert handler.flush(20)
""".replace("sys.argv[3]", "sys.argv[4]"),
        *(receiver.url, receiver.token(7), str(worker.root / "spool"), receiver.token(7, audience="staff")),
    )
    assert sorted(receiver.rows("7", "message, audience")) == [("for all", "all"), ("for staff", "staff")]


MARKED = """
with {send}.job({token}, job_log="staff"):
    log.info("scope of a token")
    log.info("taken out", extra={{"job_log": "all"}})
handler.use({token})
with {send}.job_context("7", job_log="staff"):
    log.info("scope")
with {send}.job_context("7", job_log="stafff"):
    log.info("scope misspelled")
with {send}.job_context("7", step=1):
    log.info("extra", extra={{"job_log": "staff"}})
    log.info("extra misspelled", extra={{"job_log": "stafff"}})
    log.info("plain")
assert handler.flush(20)
"""


@pytest.mark.parametrize("is_installed", [False, True], ids=["copied", "installed"])
def test_a_line_that_was_marked_for_staff_arrives_as_that(
    receiver: Receiver, worker: Worker, is_installed: bool
) -> None:
    """By its scope or its own mark; a misspelled one, too. The mark is no field."""
    if is_installed:
        handler = RemoteJobLogHandler(receiver.url)
        log = logging.getLogger("tests.remote")
        log.setLevel("INFO")
        log.addHandler(handler)
        try:
            names = {"handler": handler, "log": log, "send": send, "token": receiver.token(7)}
            exec(MARKED.format(send="send", token="token"), names)
        finally:
            log.removeHandler(handler)
            handler.close()
    else:
        worker.run(HANDLER + MARKED.format(send="joblog_send", token="sys.argv[2]"), receiver.url, receiver.token(7))
    assert receiver.rows("7", "message, audience, fields") == [
        ("scope of a token", "staff", "{}"),
        ("taken out", "all", "{}"),
        ("scope", "staff", "{}"),
        ("scope misspelled", "staff", "{}"),
        ("extra", "staff", '{"step": 1}'),
        ("extra misspelled", "staff", '{"step": 1}'),
        ("plain", "all", '{"step": 1}'),
    ]


def test_whatever_is_not_for_all_for_certain_is_for_staff(receiver: Receiver) -> None:
    """Marks of any kind, of lines, and in fields, where senders of before left those of scopes."""
    token = receiver.token(7)
    marks: list[dict[str, Any]] = [{"audience": mark} for mark in ("staff", "stafff", None, ["all"], {})]
    marks += [{"fields": {"job_log": mark}} for mark in ("staff", "stafff", None, ["all"])]
    marks += [{"audience": "all", "fields": {"job_log": "staff"}}, {"audience": "staff", "fields": {"job_log": "all"}}]
    lines = [line(number, "marked", **more) for number, more in enumerate(marks, 1)]
    lines += [line(90, "plain"), line(91, "plain", audience="all", fields={"job_log": "all"})]
    status, answer = receiver.send(token, *lines)
    assert (status, answer["stored"]) == (200, len(lines))
    found = receiver.rows("7", "message, audience, fields")
    assert found == [("marked", "staff", "{}")] * len(marks) + [("plain", "all", "{}")] * 2


@pytest.mark.parametrize("options", ["{}", "{'database': 'joblog'}"], ids=["by default", "by name"])
def test_the_strictest_handler_of_the_table_counts_for_lines_of_workers(receiver: Receiver, options: str) -> None:
    """Its loggers for staff and its patterns, beside those of the settings; those of a handler elsewhere do not."""
    receiver.stop()
    receiver.settings(
        f"""
here = LOGGING["handlers"]["job"]
here.update(staff=["app.billing"], redact=[r"PAT-[0-9]+"], options={options})
LOGGING["handlers"]["open"] = {{**here, "staff": None, "redact": False}}
LOGGING["handlers"]["other"] = {{**here, "sink": "memory", "options": {{}}, "staff": ["app"], "redact": ["card"]}}
LOGGING["root"]["handlers"] += ["open", "other"]
"""
    )
    receiver.start()
    secret = "password=hunter2secret, PAT-123456, the card"
    status, _ = receiver.send(
        receiver.token(7),
        line(1, secret, logger="app.billing.cards"),
        line(2, secret, logger="app.shop", exception="PAT-123456"),
    )
    assert status == 200
    masked = "password=[redacted], [redacted], the card"
    assert receiver.rows("7", "message, audience, exception") == [(masked, "staff", ""), (masked, "all", "[redacted]")]


def test_a_message_that_cannot_be_made_arrives_in_parts(receiver: Receiver, worker: Worker) -> None:
    """As in the library's own handler."""
    out = worker.run(
        HANDLER
        + """
class Bad:
    def __str__(self): raise RuntimeError("no text")
with joblog_send.job(sys.argv[2]):
    log.info("%d of %s", "x", {"a": 1})
    log.info(Bad())
    log.handle(logging.makeLogRecord({"msg": "%", "args": (1,), "levelno": 20, "pathname": Bad()}))
assert handler.flush(20)
print(handler.stats())
""",
        receiver.url,
        receiver.token(7),
    )
    assert receiver.rows("7", "message, fields") == [
        ("%d of %s ['x', {'a': 1}]", '{"format_error": true}'),
        ("<Bad>", '{"format_error": true}'),
        ("% [1]", '{"format_error": true}'),
    ]
    assert "could not be formatted; its parts are kept" in out
    assert "'sent': 3, 'dropped': 0" in out


def test_beside_the_library_a_token_names_the_tenant(receiver: Receiver) -> None:
    """Scopes of joblog_router inside of a token's, and lines that address another job, are of the token's tenant."""
    handler = RemoteJobLogHandler(receiver.url, token=lambda job_id: receiver.token(job_id, namespace="b"))
    logger = logging.getLogger("tests.remote")
    logger.setLevel("INFO")
    logger.addHandler(handler)
    try:
        for tenant in ("a", "b"):
            with job(receiver.token(7, namespace=tenant)):
                logger.info("of %s", tenant)
                with job_context(7, step="x"):
                    logger.info("inner of %s", tenant)
                    logger.info("addressed in %s", tenant, extra={"job_log_id": 8})
        assert not handler.flush(1), "no token of tenant a's job 8"
        handler.use(receiver.token(8, namespace="a"))
        assert handler.flush(20)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert sorted(receiver.project.rows("namespace, job_id, message")) == [
        *(("a", "7", "inner of a"), ("a", "7", "of a"), ("a", "8", "addressed in a")),
        *(("b", "7", "inner of b"), ("b", "7", "of b"), ("b", "8", "addressed in b")),
    ]


def test_with_the_library_installed_its_rules_decide(receiver: Receiver) -> None:
    """The same handler beside the library: a scope opened by joblog_router counts, a closed one does not."""
    handler = RemoteJobLogHandler(receiver.url, token=receiver.token)
    logger = logging.getLogger("tests.remote")
    logger.setLevel("INFO")
    logger.addHandler(handler)
    try:
        with job_context(7, step="x"):
            logger.info("inside")
            late = contextvars.copy_context()
        late.run(logger.info, "late")
        logger.info("addressed", extra={"job_log_id": 8})
        assert handler.flush(20)
    finally:
        logger.removeHandler(handler)
        handler.close()
    assert receiver.rows("7") == ["inside"]
    assert receiver.rows("8") == ["addressed"]


def test_what_can_be_seen_to_be_wrong_is_said_at_once(tmp_path: Path) -> None:
    """A URL that is none, a token that is none; a spool that others may read is not used, but nothing fails."""
    with pytest.raises(ValueError, match="url must begin"):
        RemoteJobLogHandler("ftp://example.org/")
    with pytest.raises(ValueError, match="no job token"), job("x"):
        pass
    tmp_path.chmod(0o755)
    handler = RemoteJobLogHandler("http://127.0.0.1:9/", spool=tmp_path)
    with job_context(7):
        handler.handle(logging.makeLogRecord({"msg": "kept in memory"}))
    assert handler.stats()["waiting"] == 1
    assert list(tmp_path.iterdir()) == []
    handler._lanes.clear()  # nobody listens there: do not wait for it
    handler.close()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max": 1}, "no setting 'max'"),
        ({"max_lines": 0}, "positive whole number"),
        ({"sink": "jsonl"}, "twice"),
    ],
)
def test_wrong_limits_are_named(given: dict[str, Any], message: str) -> None:
    """REMOTE with an unknown name, a wrong value, or a sink that would double lines."""
    with pytest.raises(ConfigurationError, match=message):
        Limits.of(given)
