from __future__ import annotations

from typing import Any

import pytest

from joblog_router import ConfigurationError
from joblog_router._pipeline.subjects import takes
from joblog_router.contrib.nats.naming import (
    Named,
    NamePatterns,
    job_in_header,
    stream_of_reply,
    stream_of_subject,
)
from tests.contrib.nats.conftest import Connect

UUID = "550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize(
    ("name", "jobs"),
    [
        ("job_1", {"1"}),
        ("job_11", {"11"}),
        ("job_12_dlq", set()),
        ("myjob_1", set()),
        ("my.job_1", {"1"}),
        ("job_1.x", {"1"}),
        ("job_", set()),
        ("job_*", set()),
        ("job.1.tasks", {"1"}),
        ("job.1", set()),
        ("work.job.1.tasks", {"1"}),
        ("nojob.1.tasks", set()),
        ("job.1-2.tasks", set()),
        ("job-1-consumer", {"1"}),
        ("job-1", set()),
        ("x-job-1-consumer", set()),
        ("job-abc9-x-y", {"abc9"}),
        (f"job_{UUID}", {UUID}),
        (f"job_{UUID.upper()}", {UUID.upper()}),
        (f"job-{UUID}-consumer", {UUID}),
        (f"job-{UUID}", set()),
        (f"job.{UUID}.x", {UUID}),
        ("job_1.job.2.x", {"1", "2"}),
        ("", set()),
        ("JOB_1", set()),
        ("job_1\n", set()),
        ("job_ä", set()),
    ],
)
def test_default_patterns_take_whole_segments(name: str, jobs: set[str]) -> None:
    """A name carries a job's id where a pattern fits whole segments of it, and nowhere else."""
    assert NamePatterns().jobs_in(name) == jobs


def test_patterns_of_ones_own() -> None:
    """Characters of regular expressions mean themselves, and other text may stand on both sides."""
    patterns = NamePatterns(["a+{job_id}_b", "q.{job_id}"])
    assert patterns.jobs_in("a+7_b") == {"7"}
    assert patterns.jobs_in("aa7_b") == set()
    assert patterns.jobs_in("a+7_bc") == set()
    assert patterns.jobs_in("q.7") == patterns.jobs_in("q.7.x") == patterns.jobs_in("p.q.7") == {"7"}
    assert NamePatterns([]).jobs_in("job_1") == set()


@pytest.mark.parametrize(
    "patterns",
    ["job_{job_id}", None, {"job_{job_id}"}, ["job_"], [7], [b"job_{job_id}"], ["{job_id}"], ["{job_id}_{job_id}"]],
)
def test_wrong_patterns_are_refused(patterns: Any) -> None:
    """What is no list of texts with one place for the id each is a configuration error that names the fault."""
    with pytest.raises(ConfigurationError, match="NATS"):
        NamePatterns(patterns)


@pytest.mark.parametrize(
    ("subject", "is_open"),
    [("job.*.x", True), ("job.>", True), ("x.>", False), ("x.*.y", False), ("job.1.>", False), ("*.x", False)],
)
def test_a_wildcard_in_the_place_of_an_id_is_seen(subject: str, is_open: bool) -> None:
    """A stream over such a subject takes the messages of many jobs."""
    assert NamePatterns().open_to_several(subject) is is_open


def test_ack_replies_name_stream_and_consumer() -> None:
    """Both forms of the reply subject, and nothing else."""
    assert stream_of_reply("$JS.ACK.s.c.1.2.3.4.5") == ("s", "c")
    assert stream_of_reply("$JS.ACK.hub.ACCOUNT.s.c.1.2.3.4.5.token") == ("s", "c")
    assert stream_of_reply("$JS.ACK.s.c") is None
    assert stream_of_reply("_INBOX.x") is None
    assert stream_of_reply("") is None


def test_the_servers_own_subjects_name_stream_and_consumer() -> None:
    """Advisories, metrics, pulls and acks are about a stream; other subjects are not."""
    assert stream_of_subject("$JS.EVENT.ADVISORY.STREAM.CREATED.s") == ("s", "")
    assert stream_of_subject("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.s.c") == ("s", "c")
    assert stream_of_subject("$JS.EVENT.METRIC.CONSUMER.ACK.s.c") == ("s", "c")
    assert stream_of_subject("$JS.API.CONSUMER.MSG.NEXT.s.c") == ("s", "c")
    assert stream_of_subject("$JS.hub.API.CONSUMER.MSG.NEXT.s.c") == ("s", "c")
    assert stream_of_subject("$JS.ACK.s.c.1.2.3.4.5") == ("s", "c")
    assert stream_of_subject("$JS.EVENT.ADVISORY.API") is None
    assert stream_of_subject("job_1") is None


@pytest.mark.parametrize(
    ("headers", "job"),
    [
        (None, None),
        ({}, None),
        ({"Joblog-Job-Id": "7"}, "7"),
        ({"Joblog-Job-Id": " 7 "}, "7"),
        ({"Joblog-Job-Id": ""}, None),
        ({"Joblog-Job-Id": "7\x1b[2J"}, None),
        ({"Joblog-Job-Id": "x" * 201}, None),
        ({"Joblog-Job-Id": 7}, None),
        ({"Other": "7"}, None),
    ],
)
def test_a_header_names_a_job_by_plain_short_text(headers: Any, job: str | None) -> None:
    """Anything else in the header counts as absent."""
    assert job_in_header(headers, "Joblog-Job-Id") == (job and Named(job, None))


def test_a_header_of_its_own_names_the_namespace() -> None:
    """Beside that of the job, never without; what is no plain short text counts as absent."""
    name, beside = "Joblog-Job-Id", "Joblog-Job-Id-Namespace"
    assert job_in_header({name: "7", beside: "a"}, name) == Named("7", "a")
    assert job_in_header({name: "7", beside: "\x1b"}, name) == Named("7", None)
    assert job_in_header({beside: "a"}, name) is None


async def test_a_pattern_takes_what_the_server_delivers_for_it(connect: Connect, own: str) -> None:
    """Wildcards at every place, against subjects of one token to three."""
    patterns = [f"{own}{rest}" for rest in ("", ".a", ".*", ".>", ".*.b", ".a.*", ".*.*", ".*.>", ".a.>", ".a.b")]
    subjects = [f"{own}{rest}" for rest in ("", ".a", ".b", ".a.b", ".b.b", ".a.a", ".a.b.c")]
    client = await connect()
    subscriptions = {pattern: await client.subscribe(pattern) for pattern in patterns}
    last = await client.subscribe(f"end{own}")
    for subject in [*subjects, f"end{own}"]:
        await client.publish(subject, b"")
    await last.next_msg(10)  # the server delivers in order
    for pattern, subscription in subscriptions.items():
        expected = {subject for subject in subjects if takes(pattern, subject)}
        delivered = {(await subscription.next_msg(5)).subject for _ in expected}
        assert delivered == expected, pattern
        assert not subscription.pending_msgs, pattern
