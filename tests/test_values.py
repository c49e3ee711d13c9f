"""Values of fields and of the scope are stored as JSON of their own kind, whatever class they come from."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import fractions
import functools
import json
import logging
import pathlib
import uuid
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from joblog_router import job_context
from joblog_router._pipeline.lasting import describe
from tests.helpers import configure, entries

log = logging.getLogger("app")


class Text(str):
    """A text of a class of its own, as Django's safe strings are."""

    __slots__ = ()

    def __str__(self) -> str:
        raise AssertionError("nobody's code runs in a logging call")


class Color(enum.Enum):
    """A choice."""

    RED = "red"
    DEEP = (("r", 1), ("g", 0))


class Number(enum.IntEnum):
    """A choice that is a number."""

    ONE = 1


class Count(int):
    """A number of a class of its own, as those of numpy are."""


class Broken(dict):  # type: ignore[type-arg]
    """A mapping that cannot be read."""

    def items(self) -> Any:
        """Fails."""
        raise RuntimeError("away")


@dataclasses.dataclass
class Thing:
    """What is nothing of all that."""

    secret: str = "s3cret"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (Text("packed\x00"), "packed␀"),
        (Color.RED, "red"),
        (Color.DEEP, [["r", 1], ["g", 0]]),
        (Number.ONE, 1),
        (Count(7), 7),
        (10**5000, "<huge int>"),
        (fractions.Fraction(1, 4), 0.25),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (True, True),
        (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC), "2026-01-02T03:04:05+00:00"),
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.timedelta(minutes=2), 120.0),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (decimal.Decimal("1.50"), "1.50"),
        (pathlib.PurePosixPath("/srv/a"), "/srv/a"),
        (MappingProxyType({Count(1): {"b"}}), {"1": ["b"]}),
        (Broken(a=1), f"<{__name__}.Broken>"),
        (Thing(), f"<{__name__}.Thing>"),
        (object, "<type>"),
        ([[[[[["too deep"]]]]]], [[[["<list>"]]]]),
        ([Color.RED] * 101, ["red"] * 100 + ["… 1 more"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_stored_as_what_it_is(value: object, stored: object) -> None:
    """By the call, by the scope, and inside of containers; what is stored is JSON."""
    configure()
    with job_context(1, scope=value):
        log.info("x", extra={"call": value, "inside": {"one": value}})
    (entry,) = entries(1)
    assert (entry.fields["scope"], entry.fields["call"]) == (stored, stored)
    json.dumps(dict(entry.fields), allow_nan=False)


# --- what options are made of, as the spool remembers them ----------------------------------------------------


def ask(job: str, where: str = "here") -> str:
    """A function that a project gives as an option."""
    return job + where


class Store:
    """An object that a project gives as an option."""

    def __repr__(self) -> str:
        raise RuntimeError("away")

    def ask(self, job: str) -> str:
        """A method of it."""
        return job


def made(word: str) -> Callable[[], str]:
    """A function that closes over `word`."""
    return lambda: word


def endless(depth: int) -> Any:
    """Lists in lists."""
    return [endless(depth - 1)] if depth else "end"


def waiting() -> Callable[[], Any]:
    """A function that closes over what is not there yet."""

    def inner() -> Any:
        return later

    found = describe(inner)
    later = "there"
    assert found != describe(inner)
    return inner


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ask, made),
        (Store, Thing),
        (functools.partial(ask, where="a"), functools.partial(ask, where="b")),
        (made("a"), made("b")),
        (lambda: "a", lambda: "b"),
        ({"a": 1}, {"a": 2}),
        ({"a", "b"}, {"a", "c"}),
        ([1, 2], (1, 2)),
        (Store().ask, ask),
        (Store(), Thing()),
        (1, 1.0),
    ],
)
def test_options_that_differ_are_of_different_sinks(one: object, other: object) -> None:
    """So that no process stores another sink's lines; and the same options are the same in each process."""
    assert describe(one) != describe(other)
    assert describe(one) == describe(one)
    assert " at 0x" not in describe(one)


def test_options_of_any_depth_have_an_end() -> None:
    """What lies too deep counts by its type; a function may close over what is not there yet."""
    assert describe(endless(50)) == describe(endless(60))
    waiting()


@pytest.fixture(autouse=True)
def _no_output(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing of this is worth a line on stderr."""
    yield
    assert "failed" not in capsys.readouterr().err
