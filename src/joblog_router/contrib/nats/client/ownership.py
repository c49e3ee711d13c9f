"""Which stream belongs to which job, learned when a job creates it: for streams whose names name nobody.

Called on the event loop for every stream that is created, used or deleted, and for every JetStream message. A
shared stream may well be created by whichever job comes first, so what is learned here is weak: names beat
it, and the first use by another job ends it for ever.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from ..bounded import shrink
from ..naming import Job, NamePatterns

_MAX_STREAMS: Final = 10_000
_MAX_IDS: Final = 1_000


class StreamKey(NamedTuple):
    """One stream of one account, as far as a client can tell accounts apart."""

    server: str
    stream: str


class Owners:
    """Stream to job, bounded: the stream that was used longest ago is forgotten first."""

    __slots__ = ("_namespaces", "_shared", "jobs")

    def __init__(self) -> None:
        # Read by `publishing` for every message; one and the same dictionary for ever.
        self.jobs: dict[StreamKey, Job] = {}
        self._shared: dict[StreamKey, None] = {}
        # In which namespace a job of that id worked with the stream; None: in several.
        self._namespaces: dict[StreamKey, dict[str, str | None]] = {}

    def __bool__(self) -> bool:
        return bool(self.jobs)

    def __len__(self) -> int:
        return len(self.jobs)

    def of(self, key: StreamKey) -> Job | None:
        """The job that owns the stream, as far as known."""
        return self.jobs.get(key)

    def learn(self, key: StreamKey, job: Job) -> None:
        """`job` has just created the stream."""
        if key in self._shared:
            return
        if self.jobs.get(key, job) != job:
            self._share(key)
            return
        self.jobs[key] = job
        shrink(self.jobs, _MAX_STREAMS)

    def used(self, key: StreamKey, job: Job) -> None:
        """`job` works with the stream. If another job created it, it is nobody's from now on."""
        owner = self.jobs.get(key)
        if owner is None:
            return
        if owner != job:
            self._share(key)
        elif len(self.jobs) > _MAX_STREAMS // 2:
            self.jobs[key] = self.jobs.pop(key, owner)

    def met(self, key: StreamKey, job: Job) -> None:
        """A scope of `job` works with the stream: whose it is, should its name give that id and nothing else."""
        known = self._namespaces.get(key)
        if known is None:
            known = self._namespaces[key] = {}
            shrink(self._namespaces, _MAX_STREAMS)
        if known.setdefault(job.job_id, job.namespace) != job.namespace:
            known[job.job_id] = None
        shrink(known, _MAX_IDS)

    def jobs_of_name(self, key: StreamKey, job_id: str) -> Job | None:
        """The job of that id which worked with the stream; one without an id where several did; None if none did."""
        known = self._namespaces.get(key)
        if known is None or job_id not in known:
            return None
        namespace = known[job_id]
        return Job("", "") if namespace is None else Job(namespace, job_id)

    def forget(self, key: StreamKey) -> None:
        """The stream was deleted. That it was shared is remembered: the next of that name will be, too."""
        self.jobs.pop(key, None)
        self._namespaces.pop(key, None)

    def _share(self, key: StreamKey) -> None:
        self.jobs.pop(key, None)
        self._shared[key] = None
        shrink(self._shared, _MAX_STREAMS)


def is_ownable(config: dict[str, Any], job: str, patterns: NamePatterns) -> bool:
    """Whether a stream with this configuration, created by `job`, may be counted as that job's.

    Not one that keeps what the server says about other streams (`$JS.EVENT…`, and no key-value bucket), that
    is fed by other streams, whose name names a job, or whose subjects name another job or leave the place of
    a job's id open.
    """
    subjects: Iterable[str] = config.get("subjects") or ()
    if config.get("mirror") or config.get("sources"):
        return False
    if patterns.jobs_in(config.get("name") or ""):
        return False  # its name says whose it is
    return not any(
        subject.startswith("$") or patterns.jobs_in(subject) - {job} or patterns.open_to_several(subject)
        for subject in subjects
    )


def server_of(client: Any) -> str:
    """What tells one server, cluster and user from another, so that equal stream names are not confused."""
    info = getattr(client, "_server_info", None) or {}
    # Not `connected_url`: it is None while a message that came before a disconnect is still worked on.
    url = getattr(getattr(client, "_current_server", None), "uri", None)
    place = info.get("cluster") or (url.netloc.rpartition("@")[2] if url is not None else "")
    user = client.options.get("user") or (url.username if url is not None else "")
    return f"{place} {user}"


def is_monitor(client: Any) -> bool:
    """Whether a client is that of a monitor, in whose doings there is nothing to tell."""
    return getattr(client, "is_joblog_monitor", False) is True
