"""The doctor's look at Redis: what is wrong before anybody asks. What it finds there: tests/faults/test_state.py."""

from __future__ import annotations

import sys

import pytest

from joblog_router import ConfigurationError, MissingExtraError
from joblog_router.contrib.redis import RedisProbe
from joblog_router.doctor.configuration import Configuration, probes_of
from joblog_router.sinks import MemorySink

OPTIONS = {"url": "redis://127.0.0.1:1", "keys": {"left": "job:{job_id}"}}


def test_without_redis_py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the probe is made, with the setting that asks for it: not as an ImportError when a job is looked at."""
    monkeypatch.setitem(sys.modules, "redis", None)
    line = r"redis is not installed. Run: pip install 'joblog-router\[redis\]'"
    with pytest.raises(MissingExtraError, match=line):
        RedisProbe("redis://127.0.0.1:1", {"left": "job:{job_id}"})
    with pytest.raises(ConfigurationError, match=r"DOCTOR.*REDIS.*" + line):
        probes_of(Configuration(REDIS=OPTIONS), MemorySink())
