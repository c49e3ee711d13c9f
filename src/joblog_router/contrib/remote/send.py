"""For workers elsewhere: a logging handler that sends a job's lines to the server that keeps its log.

One file that needs the standard library only: install joblog-router, or copy this file beside your worker.

    logging.getLogger().addHandler(RemoteJobLogHandler("https://example.org/joblog/receive/", spool="/var/tmp/joblog"))
    with job(task["token"]):          # the job token that the server handed out with the task
        work(task)                    # whatever is logged here goes into that job's log

The thread that logs formats the line and appends it to memory, or with `spool` to a file (no fsync: it outlives the
process, not the machine). One thread of the handler's own sends batches, again until the server has stored them;
a line that arrives twice is stored once. While the server cannot be reached, or the token has expired, lines wait;
what does not fit is dropped and counted, and the count is a line of the job's log. Nothing here raises or blocks.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import queue
import secrets
import socket
import sys
import threading
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

try:
    import fcntl
except ImportError:  # Windows: no spool there
    fcntl = None  # type: ignore[assignment]

try:
    # Where the library is installed its rules say whose line it is, and its scopes are the scopes.
    from joblog_router import job_context
    from joblog_router._pipeline.resolve import resolve as _scope_of
except ImportError:  # this file was copied

    class _Scope:
        """A job that is open in a context. Closed it counts no more, whoever inherited it."""

        def __init__(self, job_id: str, fields: Mapping[str, Any]) -> None:
            self.job_id = job_id
            self.fields = fields
            self.closed = False

    _current: ContextVar[_Scope | None] = ContextVar("joblog_remote", default=None)

    @contextlib.contextmanager  # type: ignore[no-redef]
    def job_context(job_id: object, /, **fields: Any) -> Iterator[_Scope]:
        """Whatever is logged inside, in this thread or task and the tasks it starts, is about this job."""
        outer = _current.get()
        scope = _Scope(str(job_id), {**(outer.fields if outer else {}), **fields})
        _current.set(scope)
        try:
            yield scope
        finally:
            scope.closed = True
            _current.set(outer)

    def _scope_of(record: logging.LogRecord) -> Any:  # type: ignore[misc]
        scope = _current.get()
        return None if scope is None or scope.closed or getattr(record, "job_log", None) is False else scope


__all__ = ["RemoteJobLogHandler", "job", "job_context"]

_BARE = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    *("message", "asctime", "taskName", "job_id", "job_log", "job_log_id", "_joblog"),
}
_MAX_TEXT = 100_000
_SEGMENT = 1_000_000
_READ = 256_000
_LONGEST_ANSWER = 65_536
_LARGEST = 500_000
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
_TOKEN_PAUSE = 5.0
_EXIT_TIMEOUT = 3.0

_handlers: weakref.WeakSet[RemoteJobLogHandler] = weakref.WeakSet()


@contextlib.contextmanager
def job(token: str, **fields: Any) -> Iterator[Any]:
    """The scope of the job that `token` is for: its lines are sent with it. `fields` as of `job_context`.

    Raises ValueError for text that is no job token.
    """
    job_id = job_of(token)
    for handler in list(_handlers):
        handler.use(token)
    with job_context(job_id, **fields) as scope:
        yield scope


def job_of(token: str) -> str:
    """The id of the job a token is for. Anybody can read it; whether the token holds the server alone can tell."""
    try:
        payload = token.partition(":")[0]
        job_id = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["job"]
    except Exception:
        raise ValueError(
            "this is no job token: get one by `joblog token JOB`, or issue_token() on the server"
        ) from None
    return str(job_id)


class RemoteJobLogHandler(logging.Handler):
    """Sends the lines of jobs to `url`, where `joblog_router.contrib.remote.receive` takes them.

    - `token`: a token, or a function that gives the token for a job's id (or None); it is asked on the sending
      thread when a job has none or its token is refused. Tokens also come by `job(token)` and `use(token)`.
    - `spool`: a directory of this user's own (made 0700) where lines are kept until they are stored; what a killed
      process left there is sent by the next one. Tokens are kept with them. Without it lines wait in memory.
    - `capacity`: lines of one job that may wait in memory; `max_bytes`: bytes of one job in the spool.
    - `batch`: lines in a request. `timeout`: seconds for a request.

    Raises ValueError for what can be seen to be wrong at once. Afterwards nothing here raises into the application.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | Callable[[str], str | None] | None = None,
        spool: str | os.PathLike[str] | None = None,
        level: int | str = logging.NOTSET,
        capacity: int = 10_000,
        max_bytes: int = 50_000_000,
        batch: int = 500,
        timeout: float = 10.0,
    ) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"RemoteJobLogHandler: url must begin with https:// (or http://), not {url!r}")
        if min(capacity, max_bytes, batch) < 1:
            raise ValueError("RemoteJobLogHandler: capacity, max_bytes and batch are positive numbers")
        self._url = url
        self._ask = token if callable(token) else None
        self._capacity = capacity
        self._max_bytes = max_bytes
        self._batch = batch
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirect)
        super().__init__(level)
        self._spool = _usable(spool) if spool is not None else None
        self._begin()
        if isinstance(token, str):
            self.use(token)
        if self._spool is not None:
            self._recover(self._spool)
        _handlers.add(self)
        if hasattr(os, "register_at_fork"):
            _register_at_fork(weakref.ref(self))
        # Before logging's own exit function, which may have gone when a thread still waits.
        atexit.register(_close, weakref.ref(self))

    def _begin(self) -> None:
        self._origin = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._seq = itertools.count(1).__next__
        self._counts = dict.fromkeys(("sent", "refused"), 0)
        self._dropped = _Tally()
        self._lanes: dict[str, _Lane] = {}
        self._left: list[_Lane] = []
        self._signals: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        self._awake = False
        self._is_closed = False
        self._thread: threading.Thread | None = None
        # Taking the one item is the right to start the thread: atomic without a lock.
        self._may_start = iter((True,))
        # One round at a time: the thread's, or that of a caller of `flush` where there is no thread.
        self._round_lock = threading.Lock()

    # --- on the thread that logs --------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line of a record that is about a job."""
        try:
            scope = _scope_of(record)
            if scope is None or not scope.job_id:
                return
            self._put(self._lane(scope.job_id), self._line(record, scope.fields))
        except Exception as error:
            _say(("emit", type(error)), f"a line was not kept: {error!r}")

    def _line(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> dict[str, Any]:
        exception = None
        if record.exc_info and record.exc_info[0] is not None:
            exception = "".join(traceback.format_exception(*record.exc_info))[-_MAX_TEXT:]
        extra = {key: value for key, value in record.__dict__.items() if key not in _BARE}
        line: dict[str, Any] = {
            "origin": self._origin,
            "seq": self._seq(),
            "created": record.created,
            "level": record.levelno,
            "logger": record.name,
            "message": record.getMessage()[:_MAX_TEXT],
            "path": record.pathname,
            "line": record.lineno,
        }
        if exception:
            line["exception"] = exception
        if fields or extra:
            line["fields"] = _plain({**fields, **extra}, 0)
        if getattr(record, "job_log", None) == "staff":
            line["audience"] = "staff"
        return line

    def _put(self, lane: _Lane, line: dict[str, Any]) -> None:
        if not lane.put(_encoded(line)):
            lane.dropped.add()
            self._dropped.add()
        self._wake()

    def _lane(self, job_id: str) -> _Lane:
        lane = self._lanes.get(job_id)
        if lane is None:
            lane = self._lanes.setdefault(job_id, self._new_lane(job_id))
        return lane

    def _new_lane(self, job_id: str) -> _Lane:
        if self._spool is None:
            return _MemoryLane(job_id, self._capacity)
        return _FileLane(job_id, self._spool, self._origin, self._max_bytes)

    def _wake(self) -> None:
        if self._awake:
            return
        self._awake = True
        self._signals.put(None)
        if self._thread is None and not self._is_closed and next(self._may_start, False):
            thread = threading.Thread(target=self._run, name="joblog-remote", daemon=True)
            try:
                thread.start()
                self._thread = thread
            except RuntimeError:
                # There are too many threads, and the next line tries again; or the interpreter ends, and close() sends.
                self._may_start = iter((True,))
                self._awake = False

    # --- for the application --------------------------------------------------------------------------------------

    def use(self, token: str) -> str:
        """Send the lines of the job that `token` is for with it, those that wait too. Gives the job's id."""
        job_id = job_of(token)
        for lane in (self._lane(job_id), *[lane for lane in self._left if lane.job_id == job_id]):
            lane.use(token)
        self._wake()
        return job_id

    def stats(self) -> dict[str, int]:
        """Lines that were `sent` (stored by the server), `dropped`, `refused` by it, and how many are `waiting`."""
        return {
            "sent": self._counts["sent"],
            "dropped": self._dropped.value(),
            "refused": self._counts["refused"],
            "waiting": sum(lane.waiting() for lane in self._all()),
        }

    def flush(self, timeout: float = _EXIT_TIMEOUT) -> bool:  # type: ignore[override]
        """Wait until all lines are stored by the server; False if that did not happen in `timeout` seconds."""
        if not any(lane.waiting() for lane in self._all()):
            return True
        if self._is_closed or self._thread is threading.current_thread():
            return False
        if self._thread is None or not self._thread.is_alive():
            until = time.monotonic() + timeout
            if self._round_lock.acquire(timeout=timeout):
                try:
                    self._round(until)
                finally:
                    self._round_lock.release()
            return not any(lane.waiting() for lane in self._all())
        done = threading.Event()
        self._signals.put(done)
        return done.wait(timeout)

    def close(self) -> None:
        """Send what waits, for three seconds at most. What is left stays in the spool."""
        if not self._is_closed:
            self.flush()
            self._is_closed = True
            if self._thread is not None and self._thread is not threading.current_thread():
                self._signals.put(None)
                self._thread.join(self._timeout + 1)
            for lane in self._all():
                lane.close()
            _handlers.discard(self)
        super().close()

    # --- on the sending thread ------------------------------------------------------------------------------------

    def _all(self) -> list[_Lane]:
        return [*self._left, *list(self._lanes.values())]

    def _run(self) -> None:
        waiting: list[threading.Event] = []
        while not self._is_closed:
            try:
                self._wait(waiting)
                if self._is_closed:
                    return
                self._awake = False
                with self._round_lock:
                    self._round(0.0, hurry=bool(waiting))
                if not any(lane.waiting() for lane in self._all()):
                    for done in waiting:
                        done.set()
                    waiting.clear()
                if len(waiting) > 100:
                    del waiting[:-100]
            except Exception as error:
                _say(("thread", repr(error)), f"the sending thread met {error!r} and goes on")
                time.sleep(1)

    def _wait(self, waiting: list[threading.Event]) -> None:
        """Until there is something to do: a line, somebody who waits, or a lane whose pause is over."""
        pauses = [lane.retry_at - time.monotonic() for lane in self._all() if lane.waiting()]
        timeout = max(0.05 if waiting else 0.2, min(pauses)) if pauses else None
        if waiting and timeout is not None:
            timeout = min(timeout, 0.2)
        with contextlib.suppress(queue.Empty):
            while True:
                signal = self._signals.get(timeout=timeout)
                if signal is not None:
                    waiting.append(signal)
                elif timeout is None:
                    time.sleep(0.05)  # lines come in bursts
                timeout = 0.0

    def _round(self, until: float, hurry: bool = False) -> None:
        """Send what may be sent now; with `until` (a time) try for that long."""
        while True:
            for lane in self._all():
                if hurry and not lane.is_refused:
                    lane.retry_at = min(lane.retry_at, time.monotonic() + 0.1)
                while lane.waiting() and lane.retry_at <= time.monotonic() and not self._is_closed:
                    if not self._send_some(lane):
                        break
                if not lane.waiting() and lane in self._left:
                    lane.close()
                    self._left.remove(lane)
            if time.monotonic() >= until or not any(lane.waiting() for lane in self._all()):
                return
            time.sleep(0.1)

    def _send_some(self, lane: _Lane) -> bool:
        """Send up to a batch of a lane; whether to go on with it at once."""
        if lane.token is None or lane.is_refused:
            self._renew(lane)
            if lane.token is None or lane.is_refused:
                lane.retry_at = time.monotonic() + _TOKEN_PAUSE
                return False
        lines = lane.peek(min(self._batch, lane.at_most))
        if not lines:
            return False
        sizes = itertools.accumulate(map(len, lines))
        lines = lines[: max(1, sum(size <= _LARGEST for size in sizes))]
        status, answer, retry_after = self._post(lane.token, lines)
        if status == 200:
            self._counts["sent"] += int(answer.get("stored", 0)) + int(answer.get("known", 0))
            self._counts["refused"] += int(answer.get("refused", 0))
            lane.done(len(lines))
            lane.failures = 0
            lane.at_most = self._batch
            count = lane.dropped.value() - lane.told
            if count and lane.put(_encoded(self._notice(count))):  # else there is no room for it yet
                lane.told += count
            return True
        if status in (400, 413):
            if len(lines) > 1:
                lane.at_most = len(lines) // 2
                return True
            lane.done(1)
            self._counts["refused"] += 1
            _say((status, lane.job_id), f"the server refused a line of job {lane.job_id!r} ({status}): it is dropped")
            return True
        reason = str(answer.get("error") or status)
        if status == 401:
            lane.is_refused = True
            _say(
                ("token", lane.job_id, reason),
                f"the token for job {lane.job_id!r} is {reason}: its lines wait for another. Hand one to use()",
            )
            return True  # to ask for a new one at once
        pause = min(_FIRST_PAUSE * 2.0**lane.failures, _LAST_PAUSE)
        lane.failures = min(lane.failures + 1, 10)
        lane.retry_at = time.monotonic() + max(pause, min(retry_after, 60.0))
        _say(("send", reason), f"{self._url} does not take lines ({reason}): they wait and are sent again")
        return False

    def _renew(self, lane: _Lane) -> None:
        if self._ask is None:
            return
        try:
            token = self._ask(lane.job_id)
            if token and token != lane.token and job_of(token) == lane.job_id:
                lane.use(token)
        except Exception as error:
            _say(("ask", repr(error)), f"no token for job {lane.job_id!r} could be had: {error!r}")

    def _post(self, token: str | None, lines: list[bytes]) -> tuple[int, dict[str, Any], float]:
        """The status (0 where there was no answer), what the server said, and for how long it wants no more."""
        body = b'{"version":1,"sent":%r,"entries":[%s]}' % (
            time.time(),
            b",".join(line.rstrip(b"\n") for line in lines),
        )
        request = urllib.request.Request(  # noqa: S310 - the scheme was looked at
            self._url,
            data=body,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            method="POST",
        )
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return response.status, _answer(response), 0.0
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _answer(error), _seconds(error.headers.get("Retry-After"))
        except Exception as error:
            return 0, {"error": repr(error)}, 0.0

    def _notice(self, count: int) -> dict[str, Any]:
        return {
            "origin": self._origin,
            "seq": self._seq(),
            "created": time.time(),
            "level": logging.WARNING,
            "logger": "joblog_router.remote",
            "message": f"{count} lines were dropped on the worker: they could not be sent and there was no more room",
            "fields": {"dropped": count},
        }

    def _recover(self, directory: str) -> None:
        """Take over what processes left that are no more."""
        for name in sorted(os.listdir(directory)):
            if name.endswith(".joblog"):
                with contextlib.suppress(OSError, ValueError):
                    lane = _FileLane.left_behind(os.path.join(directory, name))
                    if lane is not None:
                        self._left.append(lane)
        if self._left:
            self._wake()


# --- what waits -----------------------------------------------------------------------------------------------------


class _Tally:
    """A count that any thread adds to without a lock: reading takes a number of the same row, and says which."""

    def __init__(self) -> None:
        self.add = itertools.count().__next__
        self._reads = 0
        self._lock = threading.RLock()

    def value(self) -> int:
        """How often `add` was called."""
        with self._lock:
            number = self.add() - self._reads
            self._reads += 1
            return number


class _Lane:
    """The lines of one job that wait, and the token to send them with."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.token: str | None = None
        self.is_refused = False
        self.retry_at = 0.0
        self.failures = 0
        self.at_most = 1_000_000
        self.dropped = _Tally()
        self.told = 0

    def use(self, token: str) -> None:
        self.token = token
        self.is_refused = False
        self.retry_at = 0.0

    def put(self, line: bytes) -> bool:
        raise NotImplementedError

    def waiting(self) -> int:
        raise NotImplementedError

    def peek(self, count: int) -> list[bytes]:
        raise NotImplementedError

    def done(self, count: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of files."""

    def abandon(self) -> None:
        """In the child of a fork: what is open belongs to the parent."""


class _MemoryLane(_Lane):
    def __init__(self, job_id: str, capacity: int) -> None:
        super().__init__(job_id)
        self._capacity = capacity
        self._lines: deque[bytes] = deque()

    def put(self, line: bytes) -> bool:
        if len(self._lines) >= self._capacity:
            return False
        self._lines.append(line)
        return True

    def waiting(self) -> int:
        return len(self._lines)

    def peek(self, count: int) -> list[bytes]:
        return list(itertools.islice(self._lines.copy(), count))

    def done(self, count: int) -> None:
        for _ in range(count):
            self._lines.popleft()


class _Segment:
    """A file of lines after a first line that names the job. Locked while its process lives."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd
        self.written = 0
        self.lines = 0
        self.offset = 0

    def append(self, line: bytes) -> None:
        """Write a whole line or nothing. Raises OSError."""
        if os.write(self.fd, line) != len(line):
            os.ftruncate(self.fd, self.written)
            raise OSError(errno.ENOSPC, "no space left")
        self.written += len(line)

    def unlink(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self.fd)


class _FileLane(_Lane):
    """Lines in files of about a megabyte: appended to the last, read from the first, which goes once it is stored."""

    def __init__(self, job_id: str, directory: str, origin: str, max_bytes: int) -> None:
        super().__init__(job_id)
        self._base = os.path.join(directory, f"{origin}.{hashlib.sha256(job_id.encode()).hexdigest()[:16]}")
        self._max_bytes = max_bytes
        self._count = itertools.count(1).__next__
        self._segments: deque[_Segment] = deque()
        # Held by logging threads for an append, by the sending thread to begin or drop a file. Reentrant: a line may
        # be logged out of a line (a signal handler, __del__).
        self._lock = threading.RLock()
        self._lengths: list[int] = []

    @classmethod
    def left_behind(cls, path: str) -> _FileLane | None:
        """The lane of a file whose process is gone; None where it lives, or the file is not this user's."""
        fd = os.open(path, os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0))
        try:
            if os.fstat(fd).st_uid != os.getuid():
                raise ValueError("not ours")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment = _Segment(path, fd)
            job_id, token, lines, end = None, None, 0, 0
            with open(fd, "rb", closefd=False) as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # the process was killed while it wrote
                    end += len(line)
                    if line.startswith(b'{"joblog"'):
                        head = json.loads(line)
                        job_id, token = head["joblog"], head["token"] or token
                    else:
                        lines += 1
            if job_id is None or not lines:
                segment.unlink()
                return None
            os.ftruncate(fd, end)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        lane = cls(job_id, os.path.dirname(path), "left", 0)
        lane.token = token
        segment.written, segment.lines = end, lines
        lane._segments.append(segment)
        return lane

    def use(self, token: str) -> None:
        with self._lock:
            is_new = token != self.token
            super().use(token)
            if is_new and self._segments:
                try:
                    self._segments[-1].append(self._head())
                except OSError as error:
                    # This process sends with it; the next one would have to be given it.
                    _say(("token", error.errno), f"a token could not be kept in the spool {self._base}*: {error}")

    def put(self, line: bytes) -> bool:
        with self._lock:
            if sum(segment.written for segment in self._segments) + len(line) > self._max_bytes:
                return False
            try:
                if not self._segments or self._segments[-1].written > _SEGMENT:
                    self._segments.append(self._new_segment())
                segment = self._segments[-1]
                segment.append(line)
            except OSError as error:
                _say(("spool", error.errno), f"the spool {self._base}* cannot be written: {error}. Lines are dropped")
                return False
            segment.lines += 1
            return True

    def _new_segment(self) -> _Segment:
        path = f"{self._base}.{self._count()}.joblog"
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
        segment = _Segment(path, os.open(path, flags, 0o600))
        try:
            fcntl.flock(segment.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment.append(self._head())
        except OSError:
            segment.unlink()
            raise
        return segment

    def _head(self) -> bytes:
        return json.dumps({"joblog": self.job_id, "token": self.token}).encode("ascii") + b"\n"

    def waiting(self) -> int:
        return sum(segment.lines for segment in list(self._segments))

    def peek(self, count: int) -> list[bytes]:
        self._lengths = []
        if not self._segments:
            return []
        segment = self._segments[0]
        left = segment.written - segment.offset
        size = _READ
        while True:
            found = self._lines_in(os.pread(segment.fd, min(size, left), segment.offset), count)
            if found or size >= left:
                return found
            size *= 2  # a long line

    def _lines_in(self, data: bytes, count: int) -> list[bytes]:
        """The whole lines in `data`, and in `_lengths` how far each of them reaches on."""
        found: list[bytes] = []
        skipped = 0
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n") or len(found) >= count:
                break
            if line.startswith(b'{"joblog"'):
                skipped += len(line)
                continue
            found.append(line)
            self._lengths.append(skipped + len(line))
            skipped = 0
        return found

    def done(self, count: int) -> None:
        with self._lock:
            segment = self._segments[0]
            segment.offset += sum(self._lengths[:count])
            segment.lines -= count
            self._lengths = self._lengths[count:]
            if not segment.lines and (len(self._segments) > 1 or segment.written > min(_SEGMENT, self._max_bytes // 2)):
                self._segments.popleft().unlink()

    def close(self) -> None:
        with self._lock:
            while self._segments:
                segment = self._segments.popleft()
                if segment.lines:
                    segment.close()
                else:
                    segment.unlink()

    def abandon(self) -> None:
        for segment in self._segments:
            segment.close()


# --- small things ---------------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token goes to the address it was configured for and to no other."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _encoded(line: Mapping[str, Any]) -> bytes:
    # In ASCII: a lone surrogate is a legal escape there, and the server makes it text.
    return json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n"


def _answer(response: Any) -> dict[str, Any]:
    try:
        answer = json.loads(response.read(_LONGEST_ANSWER))
    except (ValueError, OSError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdecimal() else 0.0


def _plain(value: Any, depth: int) -> Any:
    """`value` as JSON takes it. Of other objects the type alone: their repr may query a database or show a secret."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if isinstance(value, float):
        return value if abs(value) < float("inf") else str(value)
    if depth < 4 and isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in list(value.items())[:100]}
    if depth < 4 and isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value[:100]]
    return f"<{type(value).__qualname__}>"


def _host() -> str:
    return "".join(c for c in socket.gethostname()[:30] if c.isascii() and (c.isalnum() or c in "._-")) or "host"


def _usable(directory: str | os.PathLike[str]) -> str | None:
    """The spool's directory, made if need be; None, said once, where it must not be used."""
    path = os.path.abspath(os.fspath(directory))
    try:
        if fcntl is None:
            raise OSError("this system has no file locks")
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
        if found.st_uid != os.getuid() or found.st_mode & 0o077 or os.path.islink(path):
            raise OSError("it must be this user's own directory with mode 0700")
    except OSError as error:
        _say(("spool", path), f"the spool {path} is not used ({error}): lines wait in memory and end with the process")
        return None
    return path


def _register_at_fork(reference: weakref.ref[RemoteJobLogHandler]) -> None:
    def in_child() -> None:
        handler = reference()
        if handler is not None:
            lanes = handler._all()
            handler._begin()
            for lane in lanes:
                lane.abandon()
                if lane.token is not None:
                    with contextlib.suppress(Exception):
                        handler._lane(lane.job_id).use(lane.token)

    os.register_at_fork(after_in_child=in_child)


def _close(reference: weakref.ref[RemoteJobLogHandler]) -> None:
    handler = reference()
    if handler is not None:
        handler.close()


_said: set[Any] = set()


def _say(cause: Any, text: str) -> None:
    """One line on stderr for each cause. Never through logging."""
    if cause in _said or len(_said) > 1_000:
        return
    _said.add(cause)
    with contextlib.suppress(Exception):
        stream = sys.__stderr__
        if stream is not None:
            stream.write(f"joblog remote: {text.splitlines()[0][:500]!a}\n")
