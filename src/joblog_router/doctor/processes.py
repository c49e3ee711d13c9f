"""The processes that a job's lines come from: which of them are gone, as far as that can be seen from this machine.

Reads the files that processes keep beside their spool and asks the system for a process's number; locks and stores
nothing. Run by `probing` on the loop of who asks, the store in a thread. Imports the router for its recovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .._pipeline.origins import of_process, pid_here, worker_of
from .._pipeline.router import router
from .._pipeline.spool_folder import IS_SUPPORTED
from .._pipeline.status_file import ended, has_left, is_running, running
from .._pipeline.text import clean, clip
from ..exceptions import SinkUnavailableError
from ..sinks.store import Selection, Store
from .builtin import OWN_LOGGER
from .probing import ProbeResult, in_thread

__all__ = ["ProcessesProbe"]

_LINES: Final = 50
_MAX_PROCESSES: Final = 100
_WIDTH: Final = 100


class ProcessesProbe:
    """What is known of the processes that logged for the job, and which of them logged last."""

    name = "processes"

    def __init__(self, store: Store, namespace: str | None = None) -> None:
        self._store = store
        self._namespace = namespace

    async def probe(self, job_id: str) -> ProbeResult:
        """Facts: `last`, who logged last, and `others`: each with `origin, pid, program, state, spool`.

        `state` is "running", "gone" or "unknown" (another machine, a number that may be another process's by now);
        `spool` is "waits" where what it did not store lies in a folder that is in use here, "recovered" where that was
        or is being stored, "" where nothing is known of it.
        """
        try:
            return ProbeResult(self.name, await in_thread(self._look, job_id))
        except SinkUnavailableError as error:
            return ProbeResult(self.name, {}, f"the log cannot be read: {error}")

    def _look(self, job_id: str) -> dict[str, Any]:
        newest = self._store.newest(job_id, Selection(audience="staff"), _LINES, self._namespace).entries
        last = next((entry.origin for entry in reversed(newest) if entry.logger != OWN_LOGGER), None)
        origins = self._store.summary(job_id, "staff", self._namespace).origins
        directories = sorted(router.recovery.directories())
        said, died = (
            {str(one.get("origin")): one for directory in directories for one in source(directory)}
            for source in (running, ended)
        )
        processes = {
            name: _process(name, said.get(name), died.get(name), directories)
            for name in dict.fromkeys(map(_process_of, origins[:_MAX_PROCESSES]))
        }
        if last is not None:
            name = _process_of(last)
            processes.setdefault(name, _process(name, said.get(name), died.get(name), directories))
        who = processes.pop(_process_of(last), None) if last is not None else None
        return {"last": who, "others": list(processes.values())}


def _process_of(origin: str) -> str:
    """The process's own origin; a worker's elsewhere as it is."""
    return origin if worker_of(origin) is not None else of_process(origin)


def _process(
    origin: str, said: Mapping[str, Any] | None, died: Mapping[str, Any] | None, directories: list[Path]
) -> dict[str, Any]:
    pid = pid_here(origin) if worker_of(origin) is None and IS_SUPPORTED else None
    spool = ""
    if died is not None or origin in set(map(_process_of, router.recovery.origins())):
        spool = "recovered"
    elif any(has_left(directory, origin) for directory in directories):
        spool = "waits"
    state = "unknown"
    if origin == router.origin:
        state = "running"
    elif pid is not None:
        if spool == "recovered" or not is_running(pid):
            state = "gone"
        elif said is not None:
            state = "running"
    return {
        "origin": origin,
        "pid": pid,
        "program": clean(clip(str((said or died or {}).get("program") or ""), _WIDTH)),
        "state": state,
        "spool": spool,
    }
