"""Run a program with its output line by line in the job's log.

Blocks the calling thread, like `subprocess.run`; in coroutines use `asyncio.to_thread(run_logged, ...)`, which takes
the job along.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from collections.abc import Sequence
from typing import IO, Any

from ._pipeline.text import MAX_MESSAGE
from .context import carry

__all__ = ["run_logged"]

# How long to wait for output after the program has ended: something it left behind may keep the pipe open.
_AFTERWARDS = 2.0


def run_logged(
    arguments: str | Sequence[Any],
    *,
    logger: logging.Logger | str = "joblog_router.process",
    level: int = logging.INFO,
    error_level: int = logging.WARNING,
    timeout: float | None = None,
    check: bool = False,
    **options: Any,
) -> subprocess.CompletedProcess[None]:
    """`subprocess.run` whose output goes, as it comes, to `logger`: a record for each line, blank ones left out.

    Standard output has `level`, standard error `error_level`, and the field `program`. `options` are Popen's but for
    `stdout` and `stderr`. Raises what `subprocess.run` raises: TimeoutExpired once the program was killed, with `check`
    CalledProcessError, OSError where it cannot be started. Text is decoded as UTF-8, lines are cut into 100,000 bytes.
    """
    for name in ("stdout", "stderr", "text", "encoding", "errors", "universal_newlines", "capture_output", "bufsize"):
        if name in options:
            raise TypeError(f"run_logged has no option {name!r}: the output goes to the logger, line by line")
    out = logging.getLogger(logger) if isinstance(logger, str) else logger
    shown = arguments if isinstance(arguments, str) else str(arguments[0])
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, **options) as process:  # noqa: S603 - the caller's
        assert process.stdout is not None  # noqa: S101 - for the type checker
        assert process.stderr is not None  # noqa: S101
        readers = [
            threading.Thread(target=carry(_read), args=(stream, out, at, shown), name="joblog-output", daemon=True)
            for stream, at in ((process.stdout, level), (process.stderr, error_level))
        ]
        for reader in readers:
            reader.start()
        try:
            process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        finally:
            for reader in readers:
                reader.join(_AFTERWARDS)
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments)
    return subprocess.CompletedProcess(arguments, process.returncode)


def _read(stream: IO[bytes], logger: logging.Logger, level: int, program: str) -> None:
    extra = {"program": program}
    try:
        while line := stream.readline(MAX_MESSAGE):
            text = line.decode("utf-8", "replace").rstrip()
            if text:
                logger.log(level, "%s", text, extra=extra)
    except ValueError:
        pass  # closed: the caller does not wait for what the program left behind
