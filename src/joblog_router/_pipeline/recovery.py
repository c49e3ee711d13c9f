"""What dead processes left in the spool directories in use here, on its way into this process's sinks.

`step` runs on the writer thread, each round; `look` also where a handler opens a spool; `run` and `left_behind` are for
commands and block the calling thread. How a segment is read is `spool_recovery`'s; this decides which, and when.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from . import project
from .channel import Channel, Wake
from .report import report, report_once
from .spool_recovery import DeadSegment, Found, RecoveryChannel, find, release, unusual
from .status_file import remove_of

# Seconds between two looks for segments whose process is gone.
RECOVER_EVERY = 30.0


class Recovery:
    """Of the one router, whose `channels` it reads and to which it adds those of recovered segments."""

    def __init__(self, channels: dict[str, Channel], wake: Wake, wake_writer: Callable[[], None]) -> None:
        self._channels = channels
        self._wake = wake
        self._wake_writer = wake_writer
        # Segments that are locked, and the channels to whose sinks their lines go.
        self._found: deque[tuple[Found, Channel]] = deque()
        # When to look again, on the monotonic clock; None before the first time.
        self._look_at: float | None = None
        self.lines = 0

    def look(self, directory: Path, channel: Channel) -> bool:
        """Lock what dead processes left for `channel` in `directory`, for the writer; whether there was something."""
        count = 0
        # One by one: what is locked is kept, or two who look at once would each think the other has it.
        for found in find(directory, channel.is_for):
            self._found.append((found, channel))
            count += 1
        if count:
            self._wake_writer()
        return bool(count)

    def step(self) -> None:
        """Take over what dead processes left for sinks that are open here. On the writer thread."""
        if project.is_awaited():
            return  # what is masked and who may read it is not known yet
        now = time.monotonic()
        if self._look_at is None or now >= self._look_at:
            self._look_at = now + RECOVER_EVERY
            for directory, channel in self._spooled():
                self.look(directory, channel)
        while self._found:
            found, channel = self._found[0]
            try:
                recovery = RecoveryChannel(DeadSegment(found), channel, self._wake)
            except (OSError, ValueError) as error:
                report_once(("recovery", found.name), f"spool segment {found.name!r} could not be read: {error!r}")
                release(found)
            else:
                self._channels[recovery.key] = recovery
            self._found.popleft()  # not before: `run` must see it in one of the two places

    def run(self, timeout: float) -> bool:
        """Ship what dead processes left for the sinks that are open here; whether nothing is left of it.

        What another process recovers just now is that one's affair.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = [self.look(directory, channel) for directory, channel in self._spooled()]
            if not any(found) and not self._found and not self._running():
                return True
            time.sleep(0.02)
        return False

    def settle_project(self) -> None:
        """The Django app has read its settings: recovery may begin."""
        project.settle()
        if self._found:
            self._wake_writer()

    def end(self, channel: RecoveryChannel) -> None:
        """All of a segment's lines are stored: it goes."""
        del self._channels[channel.key]
        lines = channel.stored + channel.folder.folded
        self.lines += lines
        channel.finish()
        if isinstance(channel.spool, DeadSegment):
            remove_of(channel.spool.found.directory, channel.spool.found.name)
        if lines:
            report(f"{lines} job log lines of a process that ended before storing them were recovered")

    def directories(self) -> set[Path]:
        """The directories of all spools that are in use here."""
        return {directory for directory, _ in self._spooled()}

    def left_behind(self) -> list[str]:
        """Paths of what no living process has a hold of in these directories and that is not recovered."""
        recovering = [channel.spool for channel in self._running()]
        left = [str(one.found.directory / one.found.name) for one in recovering if isinstance(one, DeadSegment)]
        for directory in sorted(self.directories()):
            for found in find(directory, None):
                left.append(str(found.directory / found.name))
                release(found)
            left += [str(path) for path in unusual(directory)]
        return left

    def start_anew(self) -> None:
        """In the child of a fork: what the parent has locked is its own affair."""
        self.lines = 0
        self._look_at = None
        while self._found:
            release(self._found.popleft()[0])
        for channel in self._running():
            if channel.spool is not None:
                channel.spool.let_go()
                del self._channels[channel.key]

    def _spooled(self) -> Iterator[tuple[Path, Channel]]:
        for channel in list(self._channels.values()):
            if channel.spool_directory is not None and not channel.is_recovery:
                yield channel.spool_directory, channel

    def _running(self) -> list[Channel]:
        return [channel for channel in list(self._channels.values()) if channel.is_recovery]
