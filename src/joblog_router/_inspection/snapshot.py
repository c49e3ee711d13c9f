"""What a running process can say about itself, as plain data: for a status file beside its spool.

Called by the router on the writer thread, by name, and by the doctor's probes on theirs. Imports the router and
`audit`.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import asdict
from typing import Any

from .._pipeline.leaks import leak_report
from .._pipeline.router import router
from .audit import audit_logging, open_handlers

_STARTED = time.time()


def snapshot() -> dict[str, Any]:
    """Counters, the logging audit, leaks and who is speaking: dictionaries, lists, text and numbers only.

    `started` and `time` are epoch seconds; `started` is when this library was first imported. Takes the router's lock
    for a moment; for the writer thread or a command, never for a logging thread.
    """
    return {
        "version": 1,
        "pid": os.getpid(),
        "origin": router.origin,
        "program": os.path.basename(sys.argv[0]) if sys.argv else "",  # noqa: PTH119 - text, maybe no path at all
        "python": sys.version.split()[0],
        "started": _STARTED,
        "time": time.time(),
        "stats": router.stats(),
        "audit": [asdict(finding) for finding in audit_logging(made=open_handlers())],
        "leaks": leak_report().as_dict(),
    }
