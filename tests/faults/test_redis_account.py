"""What the doctor may not ask Redis is not known, and no fault of the job's; what is in a key is shown by its size."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from celery import Celery

from joblog_router.contrib.celery.diagnosis import CeleryProbe
from joblog_router.contrib.redis import RedisProbe
from joblog_router.exceptions import ConfigurationError
from tests.contrib.celery.valkey import ValkeyServer

KEYS = {name: f"{name}:{{job_id}}" for name in ("text", "number", "set", "list", "hash", "none")}


@pytest.fixture
def client(own_valkey: ValkeyServer) -> Any:
    """The project's own, with something of each kind for job 7."""
    with redis.Redis(port=own_valkey.port) as client:
        client.set("text:7", "packing " * 40)
        client.set("number:7", "12")
        client.sadd("set:7", "a", "b")
        client.rpush("list:7", "a", "b", "c")
        client.hset("hash:7", "a", "b")
        yield client


async def test_values_are_shown_by_their_size_and_texts_are_cut(client: Any, own_valkey: ValkeyServer) -> None:
    """Whether the client decodes by itself or not."""
    for options in ({}, {"decode_responses": True}):
        probe = RedisProbe(f"redis://127.0.0.1:{own_valkey.port}/0", KEYS, **options)
        facts = (await probe.probe("7")).facts
        values = dict(facts["values"])
        text = values.pop("text")
        assert values == {"number": 12, "set": 2, "list": 3, "hash": 1, "none": None}
        assert text.startswith("packing packing")
        assert len(text) < 150
        assert (facts["lost"], facts["refuses_writes"]) == (False, "")


async def test_an_account_that_may_not_ask_how_redis_is_sees_the_keys(client: Any, own_valkey: ValkeyServer) -> None:
    """Neither how long it is up nor whether it takes writes is known then; Celery's probe says as much."""
    client.execute_command("ACL", "SETUSER", "doctor", "on", ">word", "~*", "&*", "+@all", "-info", "-config")
    url = f"redis://doctor:word@127.0.0.1:{own_valkey.port}/0"
    result = await RedisProbe(url, KEYS, expected=["number"]).probe("7")
    assert not result.error
    assert result.facts["values"]["number"] == 12
    assert (result.facts["uptime"], result.facts["refuses_writes"]) == (None, "")
    with Celery(broker=f"redis://127.0.0.1:{own_valkey.port}/0", set_as_current=False) as sender:
        sender.send_task("save")
    app = Celery(broker=url, set_as_current=False)
    app.conf.broker_connection_retry = False
    result = await CeleryProbe(app, queues=["celery"], timeout=0.1).probe("7")
    app.close()
    assert not result.error
    assert result.facts["depth"] == {"celery": 1}


async def test_a_snapshot_that_failed_stops_writes_where_redis_is_set_to(client: Any, own_valkey: ValkeyServer) -> None:
    """A folder stands where the file is to go; an account that may not read the setting knows nothing of it."""
    (own_valkey.directory / "dump.rdb").mkdir()
    client.bgsave()
    async with asyncio.timeout(20):
        while client.info("persistence")["rdb_last_bgsave_status"] != "err":
            await asyncio.sleep(0.02)  # the server tells nobody
    url = f"redis://127.0.0.1:{own_valkey.port}/0"
    facts = (await RedisProbe(url, KEYS).probe("7")).facts
    assert facts["refuses_writes"] == "its last snapshot to disk failed (stop-writes-on-bgsave-error)"
    client.execute_command("ACL", "SETUSER", "doctor", "on", ">word", "~*", "&*", "+@all", "-config")
    facts = (await RedisProbe(url.replace("//", "//doctor:word@"), KEYS).probe("7")).facts
    assert facts["refuses_writes"] == ""
    client.config_set("stop-writes-on-bgsave-error", "no")
    assert (await RedisProbe(url, KEYS).probe("7")).facts["refuses_writes"] == ""


async def test_a_broker_that_freezes_is_away(own_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes connections and answers nothing: said within a few seconds."""
    from joblog_router.contrib.celery import diagnosis

    monkeypatch.setattr(diagnosis, "_BROKER_TIMEOUT", 0.3)
    app = Celery(broker=f"redis://127.0.0.1:{own_valkey.port}/0", set_as_current=False)
    app.conf.broker_connection_retry = False
    own_valkey.pause()
    result = await CeleryProbe(app, queues=["celery"]).probe("7")
    own_valkey.kill()  # what waits for it ends
    app.close()
    assert result.facts == {"unreachable": True, "is_late": True}
    assert result.error == "the broker gives no answer within 0.3 s"


@pytest.mark.parametrize(
    ("keys", "expected", "words"),
    [
        ({}, (), "must be patterns that hold {job_id}"),
        ({"left": "left"}, (), "must be patterns that hold {job_id}"),
        ({"left": "left:{job_id}"}, ("right",), "names no key: right"),
    ],
)
def test_keys_that_name_no_job_are_refused(keys: dict[str, str], expected: tuple[str, ...], words: str) -> None:
    """Where the probe is made, with the setting's name."""
    with pytest.raises(ConfigurationError) as caught:
        RedisProbe("redis://127.0.0.1:1", keys, expected)
    assert words in str(caught.value)
    assert "DOCTOR['REDIS']" in str(caught.value)
