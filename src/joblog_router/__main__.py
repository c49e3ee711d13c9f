"""`python -m joblog_router` is the command `joblog`."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main(prog="python -m joblog_router"))
