"""A batch of any size is stored whole, in order, and a row that is there already costs no other.

Many rows stand in one statement: batches that do not divide by the sizes of statements, and databases that take few
parameters, are the cases to break.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

import pytest

from joblog_router import Entry
from joblog_router.contrib.django.models import JobLogEntry
from joblog_router.contrib.django.sink import DjangoSink

Make = Callable[..., Entry]

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "joblog"])


@pytest.mark.parametrize("count", [1, 3, 4, 19, 123, 499, 500, 501])
def test_batches_of_all_sizes_are_stored(sink: DjangoSink, make_entry: Make, count: int) -> None:
    """Every line once and in order, with copies among them."""
    batch = [make_entry(message=f"line {number}", fields={"number": number}) for number in range(count)]
    sink.write(batch[: count // 2])
    sink.write(batch)
    rows = JobLogEntry.objects.order_by("seq").values_list("message", "fields")
    assert list(rows) == [(f"line {number}", {"number": number}) for number in range(count)]


@pytest.mark.sqlite
@pytest.mark.parametrize("sink", ["sqlite"], indirect=True)
def test_a_sqlite_that_takes_few_parameters_gets_smaller_statements(sink: DjangoSink, make_entry: Make) -> None:
    """As many builds of SQLite are made: 999 parameters in a statement."""
    sink.write([make_entry()])
    connection = sink._connection
    assert connection is not None
    assert connection._wrapper is not None
    connection._wrapper.connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)
    sink.write([make_entry() for _ in range(250)])
    assert JobLogEntry.objects.count() == 251
