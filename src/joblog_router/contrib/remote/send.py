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
import math
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


class _Grant:
    """What a token says of itself, and to which server (the address, None: not known yet) it may be shown."""

    __slots__ = ("audience", "job_id", "namespace", "token", "url")

    def __init__(self, token: str, url: str | None = None) -> None:
        try:
            payload = token.partition(":")[0]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            self.job_id, self.namespace = str(claims["job"]), str(claims.get("ns", ""))
            self.audience = str(claims.get("aud", "all"))
        except Exception:
            raise ValueError(
                "this is no job token: get one by `joblog token JOB`, or issue_token() on the server"
            ) from None
        self.token = token
        self.url = url


try:
    # Where the library is installed its rules say whose line it is, and its scopes are the scopes.
    from joblog_router import job_context
    from joblog_router._pipeline import namespaces as _namespaces
    from joblog_router._pipeline.lifetime import job_context_in
    from joblog_router._pipeline.resolve import resolve as _scope_of
    from joblog_router._pipeline.scopes import current_job as _scope_here

    class _GrantedScope(job_context_in):
        """The scope of a token's job, in the namespace that the token names."""

        def __init__(self, grant: _Grant, fields: Mapping[str, Any]) -> None:
            job_context.__init__(self, grant.job_id, **fields)
            self.namespace = grant.namespace
            self.grant = grant

    def _open(grant: _Grant, fields: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
        return _GrantedScope(grant, fields)

    def _knows_namespaces() -> bool:
        """Whether the scopes of this process say whose they are."""
        return _namespaces.namespace_of is not None

except ImportError:  # this file was copied
    # A scope counts in the process that opened it: the child of a fork has its parent's in all its contexts. By a count
    # of forks, and by the process's number for those that run no hooks.
    _forks = 0

    def _forked() -> None:
        global _forks
        _forks += 1

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forked)

    class _Scope:
        """A job that is open in a context. Closed it counts no more, whoever inherited it."""

        def __init__(self, job_id: str, fields: Mapping[str, Any], grant: _Grant | None = None) -> None:
            self.job_id = job_id
            self.namespace = grant.namespace if grant else ""
            self.fields = fields
            self.grant = grant
            self.parent: _Scope | None = None
            self._is_left = False
            self._process = os.getpid(), _forks

        @property
        def closed(self) -> bool:
            return self._is_left or self._process != (os.getpid(), _forks)

        def leave(self) -> None:
            self._is_left = True
            if self.parent is not None and self.parent.closed:
                # Closed in another order than opened, they must not keep each other alive.
                self.parent = _open_one(self.parent)

        def continues(self, outer: _Scope) -> bool:
            """Whether it is about the same job of the same server."""
            if (self.namespace, self.job_id) != (outer.namespace, outer.job_id):
                return False
            around = _grant_around(outer)
            return self.grant is None or around is None or self.grant.url == around.url

    _current: ContextVar[_Scope | None] = ContextVar("joblog_remote", default=None)

    def _open_one(scope: _Scope | None) -> _Scope | None:
        """`scope`, or the first around it that is open."""
        while scope is not None and scope.closed:
            scope = scope.parent
        return scope

    @contextlib.contextmanager
    def _entered(scope: _Scope) -> Iterator[_Scope]:
        before = _current.get()
        outer: Any = _scope_here()
        scope.parent = outer
        if outer is not None:
            if scope.grant is None:
                scope.namespace = outer.namespace
            if scope.continues(outer):
                scope.fields = {**outer.fields, **scope.fields}
        _current.set(scope)
        try:
            yield scope
        finally:
            scope.leave()
            # Else it is left in another order or context than it was entered in: whoever still has it finds it closed.
            if _current.get() is scope:
                _current.set(before)

    def job_context(job_id: object, /, **fields: Any) -> Any:  # type: ignore[no-redef]
        """Whatever is logged inside, in this thread or task and the tasks it starts, is about this job."""
        return _entered(_Scope("" if job_id is None else str(job_id), fields))

    def _open(grant: _Grant, fields: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
        return _entered(_Scope(grant.job_id, fields, grant))

    def _scope_of(record: logging.LogRecord) -> Any:  # type: ignore[misc]
        """The open scope, unless the record addresses a job or names another than that."""
        if getattr(record, "job_log", None) is False:
            return None
        scope = _scope_here()
        if hasattr(record, "job_log_id"):
            named = "" if record.job_log_id is None else str(record.job_log_id)
            return scope if scope is not None and scope.job_id == named else _Scope(named, {})
        if record.name == "asyncio":
            return None  # the event loop speaks of any job, in whatever context the garbage collector runs in
        given = getattr(record, "job_id", None)
        if scope is None or given is None or str(given) in ("", scope.job_id):
            return scope
        _say(
            ("conflict", record.pathname, record.lineno),
            f"a record ({record.pathname}:{record.lineno}) names job {str(given)!r} in extra['job_id'] inside the "
            f"scope of job {scope.job_id!r}: it goes to no job's log. To address a job use extra={{'job_log_id': ...}}",
        )
        return None

    def _scope_here() -> Any:  # type: ignore[misc]
        """The scope that is open here. A closed one gives way to an open one around it, if that is the same job's."""
        scope = _current.get()
        if scope is None or not scope.closed:
            return scope
        outer = _open_one(scope)
        return outer if outer is not None and scope.continues(outer) else None

    def _knows_namespaces() -> bool:
        return False


__all__ = ["RemoteJobLogHandler", "job", "job_context"]

_BARE = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {
    *("message", "asctime", "taskName", "job_id", "job_log", "job_log_id", "_joblog"),
}
_MAX_TEXT = 100_000
# Somewhat more than the 100,000 characters that the server keeps: it searches them for secrets before it cuts.
_MAX_MESSAGE = 104_000
_MAX_STACK = 10_000
_MAX_NUMBER = 10**300
_MAX_DEPTH = 4
_MAX_ITEMS = 100
_SEGMENT = 1_000_000
_READ = 256_000
_LONGEST_ANSWER = 65_536
_LARGEST = 500_000
_BATCHES = 20
_FIRST_PAUSE, _LAST_PAUSE = 0.5, 30.0
_TOKEN_PAUSE = 5.0
_EXIT_TIMEOUT = 3.0

_MOST_KNOWN = 10_000
# Files of the spool that stay open, and lanes that are kept although nothing waits in them.
_OPEN = 32
_IDLE = 32

# How often a live sender looks for what dead ones left.
_LOOK = 30.0

_handlers: weakref.WeakSet[RemoteJobLogHandler] = weakref.WeakSet()


class _Exit:
    """The end of this process: whether it has come, and how many seconds it may still wait, all in all."""

    is_past = False
    is_hooked = False
    left = _EXIT_TIMEOUT


def _at_exit() -> None:
    """Send what waits, for three seconds at most. What is left stays in the spool, or is given up and said."""
    until = time.monotonic() + _Exit.left
    handlers = _alive()
    for handler in handlers:
        handler.flush()  # all at once
    for handler in handlers:
        handler._finish(until)
    _Exit.left = max(0.0, until - time.monotonic())
    _Exit.is_past = True


def _after_fork() -> None:
    _Exit.is_past, _Exit.left = False, _EXIT_TIMEOUT
    for handler in _alive():
        handler._begin_in_child()
    _end_with_multiprocessing()


def _end_with_multiprocessing() -> None:
    """Have its children, which end without exit functions, do the same."""
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and not _Exit.is_hooked:
        _Exit.is_hooked = True
        # It forgets finalizers at the start of a child, and then calls what is registered for this.
        util.register_after_fork(_handlers, lambda _: util.Finalize(None, _at_exit, exitpriority=0))
        if sys.modules["multiprocessing.process"].current_process().name != "MainProcess":
            util.Finalize(None, _at_exit, exitpriority=0)  # a child that is past its start already


# Not with the first handler: what an application registers later may log, and is called before.
atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def job(token: str, **fields: Any) -> contextlib.AbstractContextManager[Any]:
    """The scope of the job that `token` is for: its lines are sent with it. `fields` as of `job_context`.

    A token does not say which server it is of: where handlers send to several, open the job by `handler.job(token)`.
    Raises ValueError for text that is no job token.
    """
    return _begun(_Grant(token, _only_server()), fields)


def _begun(grant: _Grant, fields: Mapping[str, Any]) -> contextlib.AbstractContextManager[Any]:
    for handler in _alive():
        if handler._url == grant.url:
            handler._take(grant)
    return _open(grant, fields)


def _alive() -> list[RemoteJobLogHandler]:
    while True:
        with contextlib.suppress(RuntimeError):  # one was made at this moment
            return list(_handlers)


def _only_server() -> str | None:
    """The address that all handlers send to, those that are not closed if there are any; None if there are several."""
    handlers = _alive()
    urls = {handler._url for handler in handlers if not handler._is_closed} or {handler._url for handler in handlers}
    return urls.pop() if len(urls) == 1 else None


def _grant_around(scope: Any) -> _Grant | None:
    """The token of the innermost job that was opened by one, from this scope outwards."""
    while scope is not None and scope.job_id:
        grant: _Grant | None = getattr(scope, "grant", None)
        if grant is not None:
            return grant
        scope = scope.parent
    return None


class RemoteJobLogHandler(logging.Handler):
    """Sends the lines of jobs to `url`, where `joblog_router.contrib.remote.receive` takes them.

    - `token`: a token, or a function that gives the token for a job's id (or None); it is asked on the sending
      thread when a job has none or its token is refused. Tokens also come by `job(token)` and `use(token)`.
    - `spool`: a directory of this user's own (made 0700) where lines are kept until they are stored; what a killed
      process left there is sent by the next one. Tokens are kept with them. Without it lines wait in memory.
    - `capacity`: lines of one job that may wait in memory, `capacity_bytes`: bytes of all jobs there; `max_bytes`:
      bytes of one job in the spool.
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
        capacity_bytes: int = 64 * 1024 * 1024,
        max_bytes: int = 50_000_000,
        batch: int = 500,
        timeout: float = 10.0,
    ) -> None:
        if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
            raise ValueError(f"RemoteJobLogHandler: url must begin with https:// (or http://), not {url!r}")
        if min(capacity, capacity_bytes, max_bytes, batch) < 1:
            raise ValueError("RemoteJobLogHandler: capacity, capacity_bytes, max_bytes and batch are positive numbers")
        self._url = url
        self._ask = token if callable(token) else None
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._max_bytes = max_bytes
        self._batch = batch
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirect)
        # By job id: the last tokens, and whether `use` was given them; for lanes that are made later.
        self._known: dict[str, dict[tuple[str, str], tuple[_Grant, bool]]] = {}
        super().__init__(level)
        self._directory = _usable(spool) if spool is not None else None
        self._is_closed = False
        self._begin()
        if isinstance(token, str):
            self.use(token)
        self._recover()
        _handlers.add(self)
        _end_with_multiprocessing()

    def _begin(self) -> None:
        self._origin = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._seq = itertools.count(1).__next__
        self._counts = dict.fromkeys(("sent", "refused"), 0)
        self._dropped = _Tally()
        self._room = _Room(self._capacity_bytes)
        self._lanes: dict[_Key, _Lane] = {}
        self._left: dict[_Lane, None] = {}
        self._spool = None if self._directory is None else _Spool(self._directory, self._origin, self._dropped)
        self._signals: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        self._awake = False
        self._thread: threading.Thread | None = None
        # Taking the one item is the right to start the thread: atomic without a lock.
        self._may_start = iter((True,))
        # One round at a time: the thread's, or that of a caller of `flush` where there is no thread.
        self._round_lock = threading.Lock()
        self._until = math.inf
        self._look_at = 0.0

    def _begin_in_child(self) -> None:
        lanes, spool = self._all(), self._spool
        self._begin()
        if spool is not None:
            spool.abandon()
        for lane in lanes:
            lane.abandon()

    # --- on the thread that logs --------------------------------------------------------------------------------

    def handle(self, record: logging.LogRecord) -> bool:
        """As every handler does, but without its lock: no thread waits for another's line."""
        passed: bool | logging.LogRecord = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line of a record that is about a job."""
        lane: _Lane | None = None
        try:
            scope = _scope_of(record)
            if scope is None or not scope.job_id:
                return
            grant = _grant_around(scope)
            if grant is None and hasattr(record, "job_log_id"):
                grant = _grant_around(_scope_here())
            if grant is not None and grant.url != self._url and not self._is_ours(grant):
                return
            namespace = scope.namespace
            if grant is not None and not namespace and not _knows_namespaces():
                namespace = grant.namespace
            own = grant if grant and (grant.namespace, grant.job_id) == (namespace, scope.job_id) else None
            lane = self._lane((namespace, scope.job_id, grant is None))
            try:
                line = self._line(record, scope.fields)
            except Exception:
                text = "<this line's message could not be formatted>"
                line = self._plain_line(time.time(), record.levelno, record.name, text)
                line["fields"] = {"format_error": True}
            if (own is not None and own.audience == "staff") or _is_for_staff(record, scope.fields):
                line["audience"] = "staff"  # whichever token of the job it will be sent with
            if own is not None and own.token not in lane.seen:
                lane.offer(own)
            self._put(lane, line)
        except Exception as error:
            self._dropped.add()
            if lane is not None:
                lane.dropped.add()
            _say(("emit", type(error)), f"a line was not kept: {error!r}")

    def _is_ours(self, grant: _Grant) -> bool:
        """Whether a token that was not said to be of this server is. A line that is no server's is counted."""
        if grant.url is None:
            grant.url = _only_server()
            if grant.url is None:
                self._dropped.add()
                _say(
                    ("server", grant.job_id),
                    f"job {grant.job_id!r} was opened by job(token), and there are handlers for several servers: "
                    "its lines are dropped. Open it by handler.job(token)",
                )
        return grant.url == self._url

    def _line(self, record: logging.LogRecord, fields: Mapping[str, Any]) -> dict[str, Any]:
        path, number = _plain(record.pathname, 0), _plain(record.lineno, 0)
        fields = {**fields, **{key: value for key, value in record.__dict__.items() if key not in _BARE}}
        fields.pop("job_log", None)
        try:
            message = _cut(record.getMessage(), _MAX_MESSAGE)
        except Exception:
            message = _cut(f"{_plain(record.msg, 0)} {_plain(record.args, 0) or ''}".rstrip(), _MAX_MESSAGE)
            fields["format_error"] = True
            _say(
                ("format", path, number),
                f"the message of {record.name} at {path}:{number} could not be formatted; its parts are kept",
            )
        line = self._plain_line(record.created, record.levelno, record.name, message)
        line["path"], line["line"] = path, number
        exception = _exception_of(record)
        if exception:
            line["exception"] = exception
        if fields:
            line["fields"] = _plain(fields, 0)
        return line

    def _plain_line(self, created: float, level: int, logger: str, message: str) -> dict[str, Any]:
        return {
            "origin": self._origin,
            "seq": self._seq(),
            "created": created,
            "level": level,
            "logger": logger,
            "message": message,
        }

    def _put(self, lane: _Lane, line: dict[str, Any]) -> None:
        if not lane.put(_encoded(line)):
            lane.dropped.add()
            self._dropped.add()
        if lane.is_retired:
            self._left[lane] = None  # the sending thread gave it up meanwhile
        self._wake()
        if _Exit.is_past and threading.current_thread() is threading.main_thread():
            _at_exit()  # an exit function that was registered before this file's: there may be no thread any more

    def _lane(self, key: _Key) -> _Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._new_lane(key)
            is_only = _only_server() is not None
            for grant, is_given in list(self._known.get(lane.job_id, {}).values()):
                if lane.fits(grant, is_given, is_only):
                    lane.use(grant)
            lane = self._lanes.setdefault(key, lane)
        return lane

    def _new_lane(self, key: _Key) -> _Lane:
        if self._spool is None:
            return _Lane(key, self._capacity, self._room)
        return _FileLane(key, self._spool, self._url, self._max_bytes)

    def _wake(self) -> None:
        if self._awake:
            return
        self._awake = True
        self._signals.put(None)
        if self._thread is None and next(self._may_start, False):
            self._thread = threading.Thread(target=self._run, name="joblog-remote", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                # There are too many threads, and the next line tries again; or the interpreter ends: see _at_exit.
                self._let_start()

    def _let_start(self) -> None:
        self._thread = None
        self._may_start = iter((True,))
        self._awake = False

    # --- for the application --------------------------------------------------------------------------------------

    def job(self, token: str, **fields: Any) -> contextlib.AbstractContextManager[Any]:
        """As the function `job`, for a token of this handler's server: no other handler sees it, or these lines."""
        return _begun(_Grant(token, self._url), fields)

    def use(self, token: str) -> str:
        """Send the lines of the job that `token` is for with it, those that wait too. Gives the job's id.

        Also those of a plain `job_context(id)`, which names no namespace, unless there were tokens for that id in
        two namespaces: then nobody can tell whose they are, and they stay.
        """
        grant = _Grant(token, self._url)
        for handler in (self, *self._closed_ones()):
            handler._take(grant, is_given=True)
        return grant.job_id

    def _take(self, grant: _Grant, is_given: bool = False) -> None:
        known = self._known.pop(grant.job_id, {})
        _, was_given = known.get((grant.namespace, grant.audience), (None, False))
        known[grant.namespace, grant.audience] = grant, is_given or was_given
        self._known[grant.job_id] = known
        with contextlib.suppress(RuntimeError):  # another thread does the same
            while len(self._known) > _MOST_KNOWN:
                self._known.pop(next(iter(self._known)), None)
        is_only = _only_server() is not None
        for lane in self._all():
            if lane.fits(grant, is_given, is_only):
                lane.use(grant)
        if self._waits():
            self._wake()

    def stats(self) -> dict[str, int]:
        """Lines that were `sent` (stored by the server), `dropped`, `refused` by it, and how many are `waiting`."""
        return {
            "sent": self._counts["sent"],
            "dropped": self._dropped.value(),
            "refused": self._counts["refused"],
            "waiting": sum(lane.waiting() for lane in self._all()),
        }

    def flush(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until all lines are stored by the server; False if that did not happen in `timeout` seconds.

        Lines of closed handlers for this server count, too. Without `timeout`, as logging calls it, it waits for
        nothing: the sending thread is told to try at once.
        """
        if timeout is None:
            if self._waits():
                self._hurry(threading.Event())
            return not self._waits()
        until = time.monotonic() + timeout
        handlers = [self, *self._closed_ones()]
        for handler in handlers:
            handler.flush()  # all at once
        return all(handler._is_done(until) for handler in handlers)

    def _closed_ones(self) -> list[RemoteJobLogHandler]:
        """Others that were closed and send to the same server: nobody else has a hold of them any more."""
        return [one for one in _alive() if one is not self and one._is_closed and one._url == self._url]

    def _hurry(self, done: threading.Event) -> None:
        self._signals.put(done)
        self._wake()  # if the thread has just ended

    def _is_done(self, until: float) -> bool:
        """Wait for that until a time."""
        self._recover()
        if not self._waits():
            return True
        if self._thread is threading.current_thread():
            return False
        done = threading.Event()
        while (left := until - time.monotonic()) > 0 and self._waits():
            if self._thread is not None and self._thread.is_alive():
                self._hurry(done)
                if done.wait(min(left, 0.5)):  # it may end, and none may be started any more
                    return True
            elif self._round_lock.acquire(timeout=left):
                try:
                    self._until = until
                    self._round(until)
                finally:
                    self._until = math.inf
                    self._round_lock.release()
        return not self._waits()

    def close(self) -> None:
        """Leave what waits to the sending thread, which ends after that. What is logged even now is sent, too."""
        if not self._is_closed:
            self._is_closed = True
            if self._thread is None and not self._waits():
                self._let_go()
            else:
                self._awake = False
                self._wake()
        super().close()

    def _finish(self, until: float) -> None:
        """The last thing that happens, unless an exit function logs after this."""
        if not self._is_done(until):
            waiting = self.stats()["waiting"]
            kept = "are lost" if self._spool is None else "stay in the spool, for the next process"
            _say(
                ("exit", id(self), _Exit.is_past),
                f"the process ends with {waiting} lines that {self._url} could not be sent; they {kept}",
            )
        self._let_go()

    def _let_go(self) -> None:
        """Remove files without lines that wait. There are new ones if need be."""
        for lane in self._all():
            lane.drop_empty()
        if self._spool is not None:
            self._spool.let_go()

    # --- on the sending thread ------------------------------------------------------------------------------------

    def _all(self) -> list[_Lane]:
        return [*list(self._left), *list(self._lanes.values())]

    def _waits(self) -> bool:
        return any(lane.waiting() for lane in self._all())

    def _run(self) -> None:
        waiting: list[threading.Event] = []
        while True:
            try:
                self._wait(waiting)
                self._awake = False
                with self._round_lock:
                    self._look()
                    self._round(0.0, hurry=bool(waiting))
                if not self._waits():
                    for done in waiting:
                        done.set()
                    waiting.clear()
                if len(waiting) > 100:
                    del waiting[:-100]
                if self._is_closed and not self._waits() and self._signals.empty():
                    self._let_go()
                    self._let_start()
                    if self._waits() or not self._signals.empty():  # one came in between
                        self._wake()
                    return
            except Exception as error:
                _say(("thread", repr(error)), f"the sending thread met {error!r} and goes on")
                time.sleep(1)

    def _wait(self, waiting: list[threading.Event]) -> None:
        """Until there is something to do: a line, somebody who waits, or a lane whose pause is over."""
        pauses = [lane.retry_at - time.monotonic() for lane in self._all() if lane.waiting()]
        timeout = max(0.05 if waiting else 0.2, min(pauses)) if pauses else None
        if waiting and timeout is not None:
            timeout = min(timeout, 0.2)
        is_idle = timeout is None
        if is_idle and self._spool is not None:
            timeout = _LOOK
        with contextlib.suppress(queue.Empty):
            while True:
                signal = self._signals.get(timeout=timeout)
                if signal is not None:
                    waiting.append(signal)
                elif is_idle:
                    time.sleep(0.05)  # lines come in bursts
                is_idle, timeout = False, 0.0

    def _round(self, until: float, hurry: bool = False) -> None:
        """Send what may be sent now; with `until` (a time) try for that long."""
        while True:
            for lane in self._all():
                if hurry and not lane.is_stuck():
                    lane.retry_at = min(lane.retry_at, time.monotonic() + 0.1)
                self._serve(lane)
            self._tidy()
            if time.monotonic() >= until or not self._waits():
                return
            time.sleep(0.1)

    def _serve(self, lane: _Lane) -> None:
        """Send what may be sent of a lane, but not for ever: a job that logs all the time is not the only one."""
        for _ in range(_BATCHES):
            if not lane.waiting() or not lane.retry_at <= time.monotonic() < self._until:
                return
            try:
                if not self._send_some(lane):
                    return
            except Exception as error:
                self._pause(lane)
                _say(("lane", lane.job_id, repr(error)), f"lines of job {lane.job_id!r} wait after {error!r}")

    @staticmethod
    def _pause(lane: _Lane, at_least: float = 0.0) -> None:
        """Leave a lane alone for a while, the longer the more often nothing came of it."""
        pause = min(_FIRST_PAUSE * 2.0**lane.failures, _LAST_PAUSE)
        lane.failures = min(lane.failures + 1, 10)
        lane.retry_at = time.monotonic() + max(pause, at_least)

    def _tidy(self) -> None:
        """Let go of lanes that were sent but for a few, and of files that nobody writes: jobs come and go for weeks."""
        for lane in list(self._left):
            if not lane.waiting():
                self._left.pop(lane, None)
                self._retire(lane)
        idle = [item for item in list(self._lanes.items()) if not item[1].waiting() and item[1].is_told()]
        for key, lane in idle[: max(0, len(idle) - _IDLE)]:
            lane.is_retired = True
            self._lanes.pop(key, None)
            self._retire(lane)
        for lane in self._all():
            lane.rest()
            if lane.token() is not None and not lane.waiting():
                self._tell(lane)  # of a job all of whose lines were dropped

    def _retire(self, lane: _Lane) -> None:
        lane.drop_empty()
        # A thread that logs may have had the lane in its hand: it looks after its line was put, this after the mark.
        if lane.waiting():
            self._left[lane] = None

    def _send_some(self, lane: _Lane) -> bool:
        """Send up to a batch of a lane; whether to go on with it at once."""
        token = lane.token()
        if token is None:
            self._renew(lane)
            token = lane.token()
            if token is None:
                lane.retry_at = time.monotonic() + _TOKEN_PAUSE
                return False
        lines = lane.peek(min(self._batch, lane.at_most))
        if not lines:
            self._tell(lane)
            return False
        sizes = itertools.accumulate(map(len, lines))
        lines = lines[: max(1, sum(size <= _LARGEST for size in sizes))]
        status, answer, retry_after = self._post(token, lines)
        if status == 200:
            self._counts["sent"] += answer["stored"] + answer["known"]
            self._counts["refused"] += answer["refused"]
            lane.done(len(lines))
            lane.failures = 0
            lane.at_most = self._batch
            self._tell(lane)
            return True
        reason = str(answer.get("error") or status)
        if status in (400, 413) and len(lines) > 1:
            lane.at_most = len(lines) // 2
            return True
        if status in (400, 413):
            lane.done(1)
            self._counts["refused"] += 1
            _say((status, lane.job_id), f"the server refused a line of job {lane.job_id!r} ({status}): it is dropped")
            return True
        if status == 401:
            lane.refuse(token)
            _say(
                ("token", lane.job_id, reason),
                f"the token for job {lane.job_id!r} is {reason}: its lines wait for another. Hand one to use()",
            )
            return True  # to ask for a new one at once
        self._pause(lane, min(retry_after, 60.0))
        _say(("send", self._url, reason), f"{self._url} does not take lines ({reason}): they wait and are sent again")
        return False

    def _renew(self, lane: _Lane) -> None:
        if self._ask is None:
            return
        try:
            token = self._ask(lane.job_id)
            grant = _Grant(token, self._url) if token else None
            if grant is not None and not lane.was_refused(grant) and lane.fits(grant, True, True):
                lane.use(grant)
        except Exception as error:
            _say(("ask", repr(error)), f"no token for job {lane.job_id!r} could be had: {error!r}")

    def _post(self, token: str, lines: list[bytes]) -> tuple[int, dict[str, Any], float]:
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
            timeout = max(0.05, min(self._timeout, self._until - time.monotonic()))
            with self._opener.open(request, timeout=timeout) as response:
                answer = _answer(response)
                if response.status == 200 and _is_receipt(answer, len(lines)):
                    return 200, answer, 0.0
                return 0, {"error": _described(response)}, 0.0
        except urllib.error.HTTPError as error:
            with error:
                answer = _answer(error)
                # 413 may be anybody's: what is too large for a proxy never gets through. The others are the receiver's.
                if error.code in (400, 401) and not answer.get("error"):
                    return 0, {"error": _described(error)}, 0.0
                return error.code, answer, _seconds(error.headers.get("Retry-After"))
        except Exception as error:
            return 0, {"error": repr(error)}, 0.0

    def _tell(self, lane: _Lane) -> None:
        """A line in the job's log of how many were dropped, if any were of which it does not tell yet."""
        count = lane.dropped.value() - lane.told
        if count:
            text = f"{count} lines were dropped on the worker: they found no room there, or could not be made text"
            line = self._plain_line(time.time(), logging.WARNING, "joblog_router.remote", text)
            if lane.put(_encoded({**line, "fields": {"dropped": count}})):  # else there is no room for it yet
                lane.told += count

    def _look(self) -> None:
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _LOOK
            self._recover()

    def _recover(self) -> None:
        """Take over what processes left that are no more."""
        if self._spool is None or self._is_closed:
            return
        try:
            for lane in self._spool.left_behind(self._url):
                lane.is_retired = True
                self._left[lane] = None
                self._wake()
        except OSError as error:
            _say(("recover", error.errno), f"the spool {self._spool.directory} cannot be looked through: {error}")


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


class _Room:
    """How many bytes of lines may wait. Nobody waits for another: what two take at once is summed up by one of them."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._taken: deque[int] = deque()
        self._lock = threading.Lock()

    def has(self, size: int) -> bool:
        """Whether there is room for so much."""
        return size <= self._left

    def take(self, size: int) -> None:
        """Take so much, or give it back."""
        self._taken.append(size)
        if self._lock.acquire(blocking=False):
            try:
                while self._taken:
                    self._left -= self._taken.popleft()
            finally:
                self._lock.release()


# Namespace and id of a job, and whether its lines are plain ones: logged outside of any token's scope.
_Key = tuple[str, str, bool]


class _Lane:
    """The lines of one job that wait, here in memory, and the tokens to send them with."""

    def __init__(self, key: _Key, capacity: int = 0, room: _Room | None = None) -> None:
        self.namespace, self.job_id, self.is_plain = key
        # By audience. Lines for staff say so themselves, so that the token for all is the one for all of them.
        self._tokens: dict[str, str] = {}
        self._refused: deque[str] = deque(maxlen=20)
        self.seen: deque[str] = deque(maxlen=20)
        self._bound: str | None = None
        self.is_ambiguous = False
        self.is_retired = False
        self.retry_at = 0.0
        self.failures = 0
        self.at_most = 1_000_000
        self.dropped = _Tally()
        self.told = 0
        self._capacity = capacity
        self._room = room or _Room(0)
        self._lines: deque[bytes] = deque()

    def fits(self, grant: _Grant, is_given: bool, is_only: bool) -> bool:
        """Whether a token is for these lines.

        `is_given`: to this handler by name, not by a scope of its own. `is_only`: there is but one server.
        """
        if grant.job_id != self.job_id or (self.is_plain and not (is_given or is_only)):
            return False
        if grant.namespace == self.namespace:
            return True
        # Plain lines name no namespace where the worker knows of none.
        return self.is_plain and is_given and not self.namespace and not _knows_namespaces()

    def is_stuck(self) -> bool:
        """Whether the server has refused what there was to send with."""
        return bool(self._refused) and self.token() is None

    def offer(self, grant: _Grant) -> None:
        """Take the token of a scope that was open before there was this handler; a later one is not replaced."""
        self.seen.append(grant.token)
        if grant.audience not in self._tokens:
            self.use(grant)

    def was_refused(self, grant: _Grant) -> bool:
        return grant.token in self._refused

    def use(self, grant: _Grant) -> None:
        if self._bound not in (None, grant.namespace):
            self._tokens.clear()
            if not self.is_ambiguous:
                self.is_ambiguous = True
                _say(
                    ("namespaces", self.job_id),
                    f"there are tokens for job {self.job_id!r} in two namespaces: lines of a plain job_context() are "
                    "not sent, as nobody can tell whose they are. Open the job by job(token)",
                )
        self._bound = grant.namespace
        if self.is_ambiguous:
            return
        with contextlib.suppress(ValueError):
            self._refused.remove(grant.token)
        self._tokens[grant.audience] = grant.token
        self.seen.append(grant.token)
        self.retry_at = 0.0

    def token(self) -> str | None:
        """The token to send with, if there is one that was not refused: that for all rather than that for staff."""
        tokens = self._tokens
        return tokens.get("all") or next(iter(list(tokens.values())), None)

    def tokens(self) -> list[str]:
        return list(self._tokens.values())

    def refuse(self, token: str) -> None:
        """The server takes this token no more."""
        self._refused.append(token)
        for audience, held in list(self._tokens.items()):
            if held == token:
                del self._tokens[audience]

    def put(self, line: bytes) -> bool:
        """Keep a line; False where there is no room."""
        if len(self._lines) >= self._capacity or not self._room.has(len(line)):
            return False
        self._lines.append(line)
        self._room.take(len(line))
        return True

    def waiting(self) -> int:
        return len(self._lines)

    def peek(self, count: int) -> list[bytes]:
        """The first lines, at most so many."""
        return list(itertools.islice(self._lines.copy(), count))

    def done(self, count: int) -> None:
        """The first of those that were shown last are stored, or given up."""
        for _ in range(count):
            self._room.take(-len(self._lines.popleft()))

    def is_told(self) -> bool:
        """Whether the job's log has the count of what was dropped."""
        return self.dropped.value() == self.told

    def rest(self) -> None:
        """Close files that were not written since the last time."""

    def drop_empty(self) -> None:
        """Remove a file without lines that wait."""

    def abandon(self) -> None:
        """In the child of a fork: what is open belongs to the parent."""


class _Spool:
    """What a process has in the spool's directory: a file that is locked while it lives, and not too many open ones."""

    def __init__(self, directory: str, origin: str, dropped: _Tally) -> None:
        self.directory = directory
        self.origin = origin
        self.dropped = dropped
        # Taking an item is the right to keep a file open: atomic without a lock.
        self.slots = deque(range(_OPEN))
        # Of files: a lane that was given up and the one after it have one name.
        self.number = itertools.count(1).__next__
        self._path = os.path.join(directory, f"{origin}.lock")
        self._fd: int | None = None
        self._lock = threading.RLock()

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Be seen to live, before there is a file, which is made inside. Raises OSError."""
        with self._lock:
            if self._fd is None:
                # Locked before it has its name: whoever sees it unlocked may take it for a dead one's.
                unnamed = f"{self._path}.new"
                fd = self._locked(unnamed)
                try:
                    os.rename(unnamed, self._path)
                except OSError:
                    os.close(fd)
                    raise
                self._fd = fd
            yield

    def take(self) -> None:
        """Be the one who looks after the files of a process that is gone. Raises OSError: it lives, or another does."""
        self._fd = self._locked(self._path)

    @staticmethod
    def _locked(path: str) -> int:
        fd = _opened(path, os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            raise
        return fd

    def let_go(self) -> None:
        """Be seen no more, where there are no files."""
        with self._lock, contextlib.suppress(OSError):
            if self._fd is not None and not any(name.startswith(f"{self.origin}.") for name in self._names()):
                os.unlink(self._path)
                self.abandon()

    def abandon(self) -> None:
        """Close the file: of a child of a fork it is the parent's, which keeps it locked."""
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)

    def left_behind(self, url: str) -> Iterator[_FileLane]:
        """The lanes of files whose process is gone, which are this one's from now on."""
        files: dict[str, list[str]] = {}
        for name in sorted(self._names()):
            files.setdefault(name.rsplit(".", 3)[0], []).append(name)
        for origin, names in files.items():
            gone = _Spool(self.directory, origin, self.dropped)
            try:
                gone.take()
            except OSError:
                continue  # it lives
            for name in names:
                with contextlib.suppress(Exception):
                    lane = _FileLane.left_behind(name, self, url)
                    if lane is not None:
                        yield lane
            gone.let_go()
            gone.abandon()
        with contextlib.suppress(OSError):
            for name in os.listdir(self.directory):
                if name.endswith(".lock") and name != os.path.basename(self._path):
                    # Of a process that was killed when it had no lines.
                    gone = _Spool(self.directory, name.removesuffix(".lock"), self.dropped)
                    with contextlib.suppress(OSError):
                        gone.take()
                        gone.let_go()
                        gone.abandon()

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self.directory) if name.endswith(".joblog")]


def _opened(path: str, flags: int = 0) -> int:
    flags |= os.O_RDWR | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags, 0o600)


class _Segment:
    """A file of lines after a first line that names the job. Open while there are few that are written to."""

    def __init__(self, path: str, spool: _Spool) -> None:
        self.path = path
        self.written = 0
        self.lines = 0
        self.offset = 0
        self.is_used = False
        self._spool = spool
        self._fd: int | None = None

    def append(self, line: bytes, flags: int = 0) -> None:
        """Write a whole line or nothing. Raises OSError."""
        self.is_used = True
        fd = self._fd if self._fd is not None else _opened(self.path, flags)
        try:
            if os.write(fd, line) != len(line):
                os.ftruncate(fd, self.written)
                raise OSError(errno.ENOSPC, "no space left")
            self.written += len(line)
        finally:
            if self._fd is None:
                try:
                    self._spool.slots.pop()
                    self._fd = fd
                except IndexError:
                    os.close(fd)

    def read(self, size: int) -> bytes:
        """What stands behind what is done. Raises OSError."""
        fd = self._fd
        if fd is not None:
            return os.pread(fd, size, self.offset)
        fd = _opened(self.path)
        try:
            return os.pread(fd, size, self.offset)
        finally:
            os.close(fd)

    def unlink(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        self.close()

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            with contextlib.suppress(OSError):
                os.close(fd)
            self._spool.slots.append(0)


class _FileLane(_Lane):
    """Lines in files of about a megabyte: appended to the last, read from the first, which goes once it is stored."""

    def __init__(self, key: _Key, spool: _Spool, url: str, max_bytes: int) -> None:
        super().__init__(key)
        name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
        self._spool = spool
        self._base = os.path.join(spool.directory, f"{spool.origin}.{name}")
        self._url = url
        self._max_bytes = max_bytes
        self._segments: deque[_Segment] = deque()
        # Held by logging threads for an append, by the sending thread to begin or drop a file. Reentrant: a line may
        # be logged out of a line (a signal handler, __del__).
        self._lock = threading.RLock()
        # Of the lines that were looked at last, and where they are.
        self._lengths: list[int] = []
        self._peeked: _Segment | None = None

    @classmethod
    def left_behind(cls, name: str, spool: _Spool, url: str) -> _FileLane | None:
        """The lane of a dead process's file; None where there are no lines, or they are for another server."""
        path = os.path.join(spool.directory, name)
        with spool.hold():
            return cls._taken_over(path, spool, url)

    @classmethod
    def _taken_over(cls, path: str, spool: _Spool, url: str) -> _FileLane | None:
        fd = _opened(path)
        try:
            if os.fstat(fd).st_uid != os.getuid():
                return None
            heads: list[dict[str, Any]] = []
            lines, end = 0, 0
            with open(fd, "rb", closefd=False) as file:
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # the process was killed while it wrote
                    end += len(line)
                    if line.startswith(b'{"joblog"'):
                        heads.append(json.loads(line))
                    else:
                        lines += 1
            if heads and heads[0]["url"] != url:
                return None
            if not heads or not lines:
                os.unlink(path)
                return None
            key = (heads[0]["namespace"], heads[0]["joblog"], heads[0]["plain"])
            lane = cls(key, spool, url, 0)
            for token in [token for head in heads for token in head["tokens"]]:
                super(_FileLane, lane).use(_Grant(token, url))
            # Under this process's name, which is locked. If two should try, one finds the file gone.
            segment = _Segment(f"{lane._base}.{spool.number()}.joblog", spool)
            os.rename(path, segment.path)
            os.ftruncate(fd, end)
        finally:
            os.close(fd)
        segment.written, segment.lines = end, lines
        lane._segments.append(segment)
        return lane

    def use(self, grant: _Grant) -> None:
        with self._lock:
            before = self.tokens()
            super().use(grant)
            if self.tokens() != before and self._segments:
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
                segment = self._last_segment()
                try:
                    segment.append(line)
                except FileNotFoundError:
                    self._lose(segment)
                    segment = self._last_segment()
                    segment.append(line)
            except OSError as error:
                _say(("spool", error.errno), f"the spool {self._base}* cannot be written: {error}. Lines are dropped")
                return False
            segment.lines += 1
            return True

    def _last_segment(self) -> _Segment:
        if not self._segments or self._segments[-1].written > _SEGMENT:
            self._segments.append(self._new_segment())
        return self._segments[-1]

    def _lose(self, segment: _Segment) -> None:
        """Give up a file that somebody removed or cut."""
        with self._lock:
            self._segments.remove(segment)
            segment.unlink()
        for _ in range(segment.lines):
            self.dropped.add()
            self._spool.dropped.add()
        _say(
            ("gone", segment.path),
            f"the spool file {segment.path} was removed or cut: {segment.lines} lines of job {self.job_id!r} are lost",
        )

    def _new_segment(self) -> _Segment:
        segment = _Segment(f"{self._base}.{self._spool.number()}.joblog", self._spool)
        with self._spool.hold():
            try:
                segment.append(self._head(), os.O_CREAT | os.O_EXCL)
            except OSError:
                segment.unlink()
                raise
        return segment

    def _head(self) -> bytes:
        head = {
            "joblog": self.job_id,
            "namespace": self.namespace,
            "plain": self.is_plain,
            "url": self._url,
            "tokens": self.tokens(),
        }
        return json.dumps(head).encode("ascii") + b"\n"

    def waiting(self) -> int:
        return sum(segment.lines for segment in list(self._segments))

    def peek(self, count: int) -> list[bytes]:
        while self._segments:
            segment = self._segments[0]
            if segment.lines:
                found = self._first_lines(segment, count)
                if not found:
                    with self._lock:  # once more: a line may just have been written, or found the file gone
                        found = self._first_lines(segment, count)
                        if not found and segment in self._segments:
                            self._lose(segment)
                if found:
                    return found
            elif len(self._segments) > 1:
                self.drop_empty()
            else:
                break
        return []

    def _first_lines(self, segment: _Segment, count: int) -> list[bytes]:
        self._peeked = segment
        left = segment.written - segment.offset
        size = _READ
        while True:
            self._lengths = []
            try:
                found = self._lines_in(segment.read(min(size, left)), count)
            except FileNotFoundError:
                return []
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
            segment = self._peeked
            if segment is None or segment not in self._segments:
                return  # it was given up meanwhile, and its lines are counted as dropped
            segment.offset += sum(self._lengths[:count])
            segment.lines -= count
            self._lengths = self._lengths[count:]
            if not segment.lines and (len(self._segments) > 1 or segment.written > min(_SEGMENT, self._max_bytes // 2)):
                self._segments.remove(segment)
                segment.unlink()

    def rest(self) -> None:
        with self._lock:
            for segment in self._segments:
                if not segment.is_used:
                    segment.close()
                segment.is_used = False

    def drop_empty(self) -> None:
        with self._lock:
            while self._segments and not self._segments[0].lines:
                self._segments.popleft().unlink()

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
    except Exception:  # no JSON, too deep, broken off
        return {}
    return answer if isinstance(answer, dict) else {}


def _is_receipt(answer: Mapping[str, Any], count: int) -> bool:
    """Whether it is the receiver that has dealt with so many lines; a page of a proxy says 200, too."""
    counts = [answer.get(name) for name in ("stored", "known", "refused")]
    # An older server does not say how many it has taken.
    return all(type(number) is int and number >= 0 for number in counts) and answer.get("taken", count) == count


def _described(response: Any) -> str:
    """Who answered that is not the receiver."""
    kind = response.headers.get("Content-Type")
    return f"answered {response.status} {kind}, as the receiver never does: is something in front of it?"


def _seconds(text: str | None) -> float:
    return float(text) if text and text.isascii() and text.isdecimal() else 0.0


def _plain(value: Any, depth: int) -> Any:
    """`value` as JSON takes it. Of other objects the type alone: their repr may query a database or show a secret."""
    # By type, never by isinstance: that asks a proxy for its class, which may load what it stands for.
    kind = type(value)
    try:
        if value is None or kind is bool:
            return value
        if issubclass(kind, str):
            return str.__str__(value)[:_MAX_TEXT]
        if issubclass(kind, int):
            number = int.__int__(value)
            return number if abs(number) < _MAX_NUMBER else "<huge int>"
        if issubclass(kind, float):
            size = float.__float__(value)
            return size if abs(size) < float("inf") else str(size)
        if depth < _MAX_DEPTH and issubclass(kind, Mapping):
            items = itertools.islice(value.items(), _MAX_ITEMS)
            return {str(_plain(key, _MAX_DEPTH)): _plain(item, depth + 1) for key, item in items}
        if depth < _MAX_DEPTH and issubclass(kind, (list, tuple)):
            return [_plain(item, depth + 1) for item in itertools.islice(value, _MAX_ITEMS)]
    except Exception:
        return f"<{kind.__qualname__}>"  # what a class makes of being a list or a mapping
    return f"<{kind.__qualname__}>"


def _cut(text: str, most: int) -> str:
    """The beginning of a text, with the note by which the server knows that it was cut."""
    text = str.__str__(text)
    return text if len(text) <= most else f"{text[:most]}… [{len(text) - most} more characters]"


def _exception_of(record: logging.LogRecord) -> str:
    """The traceback and the stack of a record; of one that is too long the end, where it says what went wrong."""
    info, text = record.exc_info, ""
    if isinstance(info, tuple) and len(info) == 3 and isinstance(info[1], BaseException):
        try:
            text = "".join(traceback.format_exception(*info))
        except Exception:
            text = f"{type(info[1]).__name__} (its traceback could not be read)\n"
    elif record.exc_text:
        text = f"{record.exc_text}\n"
    if record.stack_info:
        text += _cut(str(record.stack_info), _MAX_STACK)
    gone = len(text) - _MAX_MESSAGE
    return text if gone <= 0 else f"… [{gone} more characters]\n{text[gone:]}"


def _is_for_staff(record: logging.LogRecord, fields: Mapping[str, Any]) -> bool:
    """What the call says, or else its scope. A misspelled mark, too: rather too few readers."""
    said = getattr(record, "job_log", None)
    return bool((said if isinstance(said, str) else fields.get("job_log", "all")) != "all")


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
