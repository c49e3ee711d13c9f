"""All the consumers that a monitor watches, by stream and name, and whose they are.

Fed by `term` and `inventory` on the monitor's event loop with what passes the server. No I/O, no connection; what is
nobody's is forgotten at once, what is gone is handed back to be told about for the last time.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, Final

from ..answers import ACK, TERM, kind_of
from ..bounded import shrink
from ..events import filters_of
from ..naming import Job, NamePatterns
from ..told import reason_of
from .following import Followed

_MAX_FOLLOWED: Final = 10_000
_MAX_STRANGERS: Final = 20_000
# Of a consumer that several jobs share, or of whose stream nothing is known yet.
NOBODY: Final = Job("", "")
_TOKENS: Final = 9


class Watch:
    """Stream and consumer to what is known of it. `since`: from when on nothing was missed (seconds, epoch)."""

    since: float
    is_stale: bool

    def __init__(self, patterns: NamePatterns, shared: Collection[str] = ()) -> None:
        self._patterns = patterns
        self._said_to_be_shared = shared
        self.since = float("inf")
        self.followed: dict[tuple[str, str], Followed] = {}
        # Consumers of nobody's; and streams whose subjects say whose they are, though their names do not.
        self._strangers: set[tuple[str, str]] = set()
        self._by_subjects: dict[str, str] = {}
        self._by_filter: dict[tuple[str, str], str] = {}
        # Streams of several jobs' messages; and all that are there, once they were listed.
        self._shared: set[str] = set()
        self._known: set[str] | None = None
        # Whether something happened to a stream that was not listed yet.
        self.is_stale = False

    def tapped(self, subject: str, reply: str, payload: bytes, at: float | None = None) -> None:
        """A pull or an answer passed the server. Never raises; hot.

        `at`: of something that was recorded before we listened; it may be about an older consumer of that name.
        """
        tokens = subject.split(".")
        try:
            if tokens[1] == "ACK":
                if len(tokens) != _TOKENS:
                    del tokens[2:4]  # the domain, and a token for the account
                followed = self.followed.get((tokens[2], tokens[3])) or self.meet(tokens[2], tokens[3])
                if followed is None or (at is not None and at < followed.born):
                    return
                if not payload or payload == b"+ACK":  # as mostly
                    followed.answer(ACK, int(tokens[5]), int(tokens[4]))
                    return
                kind = kind_of(payload)
                reason = reason_of(bytes(payload[5:])) if kind == TERM else ""
                followed.answer(kind, int(tokens[5]), int(tokens[4]), reason)
            else:
                followed = self.meet(tokens[-2], tokens[-1])
                if followed is None or (at is not None and at < followed.born):
                    return
                if reply:
                    followed.seen(_who(reply), _batch(payload), reply)
                else:
                    followed.pull()
        except (IndexError, ValueError):
            return  # whoever publishes to such a subject by hand

    def acknowledged(self, run: list[tuple[bytes, ...]]) -> None:
        """Many plain acknowledgements: stream and consumer, attempt and sequence of each. Never raises."""
        name = run[0][0]
        seqs = [int(groups[2]) for groups in run if groups[1] == b"1" and groups[0] == name]
        if len(seqs) == len(run):  # as mostly
            followed = self._named(name)
            if followed is not None:
                followed.acknowledged(seqs)
            return
        firsts: dict[bytes, list[int]] = {}
        for name, attempt, seq, *_ in run:
            if attempt == b"1":
                if name in firsts:
                    firsts[name].append(int(seq))
                else:
                    firsts[name] = [int(seq)]
                continue
            followed = self._named(name)
            if followed is not None:
                followed.answer(ACK, int(seq), int(attempt))
        for name, seqs in firsts.items():
            followed = self._named(name)
            if followed is not None:
                followed.acknowledged(seqs)

    def _named(self, name: bytes) -> Followed | None:
        stream, _, consumer = name.decode(errors="replace").partition(".")
        return self.meet(stream, consumer)

    def job_of(self, stream: str, consumer: str = "") -> Job | None:
        """Whose a stream or consumer is: by name, else by the stream's subjects, else by the consumer's filter.

        None if nobody's, or several's.
        """
        named = self._patterns.jobs_in(stream) | self._patterns.jobs_in(consumer)
        if len(named) > 1:
            return None
        if named:
            return Job.named(next(iter(named)))
        job_id = self._by_subjects.get(stream) or self._by_filter.get((stream, consumer))
        return None if job_id is None else Job.named(job_id)

    def learn(self, streams: dict[str, list[str]]) -> list[str]:
        """The streams that are there, with their subjects; those with something to watch."""
        self._known, self.is_stale = set(streams), False
        return [stream for stream, subjects in streams.items() if self._learn(stream, subjects)]

    def _learn(self, stream: str, subjects: list[str]) -> bool:
        patterns = self._patterns
        if not patterns.jobs_in(stream) and stream not in self._by_subjects and stream not in self._shared:
            job_id = self._job_of_all(subjects)
            if job_id is not None:
                self._by_subjects[stream] = job_id
            elif stream in self._said_to_be_shared or any(
                patterns.open_to_several(subject) or patterns.jobs_in(subject) for subject in subjects
            ):
                self._shared.add(stream)
            for followed in self.of_stream(stream):
                followed.job = self.job_of(stream, followed.consumer) or NOBODY
                if not followed.job and stream not in self._shared:
                    del self.followed[stream, followed.consumer]
            self._no_strangers(stream)
        return stream in self._shared or self.job_of(stream) is not None

    def is_shared(self, followed: Followed) -> bool:
        """Whether several jobs share it; else, without a job, it is not known yet whose it is."""
        return not followed.job and followed.stream in self._shared

    def describe(self, followed: Followed, config: dict[str, Any]) -> None:
        """The configuration of a shared stream's consumer: it may take one job's messages only."""
        if not self.is_shared(followed):
            return
        job_id = self._job_of_all(filters_of(config))
        if job_id is not None:
            self._by_filter[followed.stream, followed.consumer] = job_id
            followed.job = self.job_of(followed.stream, followed.consumer) or NOBODY

    def meet(self, stream: str, consumer: str) -> Followed | None:
        """A consumer by name; None if it is nobody's."""
        key = (stream, consumer)
        followed = self.followed.get(key)
        if followed is not None or key in self._strangers:
            return followed
        job = self.job_of(stream, consumer)
        if job is None and not self._patterns.jobs_in(stream):
            is_new = self._known is not None and stream not in self._known
            self.is_stale = self.is_stale or is_new
            job = NOBODY if is_new or stream in self._shared else None
        if job is None:
            if len(self._strangers) >= _MAX_STRANGERS:
                self._strangers.clear()
            self._strangers.add(key)
            return None
        followed = self.followed[key] = Followed(job, stream, consumer)
        shrink(self.followed, _MAX_FOLLOWED)
        return followed

    def _job_of_all(self, subjects: list[str]) -> str | None:
        """The job that each of these subjects names, and no other."""
        patterns = self._patterns
        if any(patterns.open_to_several(subject) for subject in subjects):
            return None
        named = {job for subject in subjects for job in patterns.jobs_in(subject)}
        return named.pop() if len(named) == 1 and all(map(patterns.jobs_in, subjects)) else None

    def _no_strangers(self, stream: str) -> None:
        self._strangers = {key for key in self._strangers if key[0] != stream}

    def consumers(self) -> list[tuple[str, str]]:
        """One consumer of each stream."""
        return list({stream: (stream, consumer) for stream, consumer in self.followed}.values())

    def of_stream(self, stream: str) -> list[Followed]:
        """The consumers of a stream."""
        return [followed for (name, _), followed in list(self.followed.items()) if name == stream]

    def forget(self, stream: str, consumer: str = "") -> list[Followed]:
        """A consumer is gone, or a stream with all of them: what was known."""
        if consumer:
            self._by_filter.pop((stream, consumer), None)
            found = self.followed.pop((stream, consumer), None)
            return [found] if found is not None else []
        gone = self.of_stream(stream)
        for followed in gone:
            self.followed.pop((stream, followed.consumer), None)
            self._by_filter.pop((stream, followed.consumer), None)
        self._by_subjects.pop(stream, None)
        self._shared.discard(stream)
        if self._known is not None:
            self._known.discard(stream)
        self._no_strangers(stream)
        return gone


def _batch(payload: bytes) -> int:
    text = bytes(payload).strip()
    if not text:
        return 1
    if text.isdigit():
        return int(text[:9])
    asked: Any = json.loads(text)
    batch = asked.get("batch") if isinstance(asked, dict) else None
    return batch if type(batch) is int and batch > 0 else 1


def _who(inbox: str) -> str:
    """The part of an inbox that is the same for all requests of one subscription, without control characters."""
    tokens = inbox.split(".")
    name = tokens[-2] if len(tokens) > 2 else tokens[-1]
    return name[:64] if name.isprintable() else "?"
