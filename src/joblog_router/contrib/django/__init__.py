"""The Django app: job logs in a table. Settings modules may import `db` from here, which imports no more."""

from __future__ import annotations

from importlib.util import find_spec

from ...exceptions import MissingExtraError

if find_spec("django") is None:
    raise MissingExtraError("Django", "django")
