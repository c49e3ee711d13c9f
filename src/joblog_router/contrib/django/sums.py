"""Sums over blocks of a job's rows, kept in a table of their own: figures about a long log read only what is new.

A block is a range of ids below the settled floor (see `ordering`), so that no row comes into it any more, if its writer
is the sink. Rows go by age, the oldest of a block first: where that one is gone the sums hold no longer, and the rows
are looked at instead, as where there are no sums. Rows that come and go by other ways, such as somebody's SQL, change
how many there are: readers count those of some blocks by the index, in turn, and `check` those of all.

`extend` is called by the sink on the writer thread and by readers on theirs; the rest by readers. Queries of their
callers' connection; `extend` writes, never in a transaction of the caller's.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from django.db import connections, transaction
from django.db.models import Count, Exists, ExpressionWrapper, F, IntegerField, Max, Min, OuterRef, QuerySet

from ..._pipeline import reading
from ...entry import Audience
from .models import JobLogEntry, JobLogQuerySet, JobLogSum, forget_sums, has_sums, lock_sums
from .ordering import settled_floor
from .times import MICROSECONDS

__all__ = ["ROWS", "Block", "Gap", "Log", "add_up", "check", "count_by_time", "extend", "known"]

ROWS: Final = 10_000
"""Rows of a block."""

# Parts of a block's time by which its rows are counted, for the chart.
_PARTS: Final = 32
# What one call adds: some tens of milliseconds each.
_MOST_BLOCKS: Final = 200
# Of how many blocks a reader counts the rows: some milliseconds.
_CHECKED: Final = 5
_MOST_LOGS: Final = 1_000

# By log: the block after which this process goes on counting.
_turns: dict[Log, int] = {}
# Blocks whose rows are others, in case that they cannot be deleted.
_wrong: set[tuple[str, int, int, int]] = set()


class Log(NamedTuple):
    """One job's rows: where they are, its namespace and id as they are stored."""

    alias: str
    namespace: str
    job_id: str

    @property
    def rows(self) -> JobLogQuerySet:
        """All of them."""
        return JobLogEntry.objects.using(self.alias).filter(namespace=self.namespace, job_id=self.job_id)

    @property
    def sums(self) -> QuerySet[JobLogSum]:
        """What is kept of sums over them."""
        return JobLogSum.objects.using(self.alias).filter(namespace=self.namespace, job_id=self.job_id)


class Gap(NamedTuple):
    """Ids whose rows have to be looked at: those after `after`, up to `until` where there is an end."""

    after: int
    until: int | None

    def of(self, rows: JobLogQuerySet) -> JobLogQuerySet:
        """The rows in it."""
        found = rows.filter(id__gt=self.after) if self.after else rows
        return found if self.until is None else found.filter(id__lte=self.until)


class Block(NamedTuple):
    """Sums over the rows of one job with ids after `after`, up to `until`; times in microseconds."""

    after: int
    until: int
    oldest: int
    newest: int
    pk: int
    sums: Mapping[str, Any] = {}


def known(log: Log, since: int = 0, *, with_sums: bool = True) -> tuple[list[Block], list[Gap]]:
    """The blocks of a log whose sums hold, and what lies between and after them.

    Rows created before `since` are not wanted: a block that has some of them is a gap.
    """
    blocks: list[Block] = []
    gaps: list[Gap] = []
    place = 0
    for block in _stored(log, with_sums) if has_sums(log.alias) else ():
        if block.after < place:
            continue  # made by two at a time, over other rows
        if (log.alias, block.pk, block.after, block.until) in _wrong:
            continue
        if block.newest >= since > block.oldest:
            continue
        if block.after > place:
            gaps.append(Gap(place, block.after))
        if block.oldest >= since:
            blocks.append(block)
        place = block.until
    return blocks, [*gaps, Gap(place, None)]


def _stored(log: Log, with_sums: bool) -> Iterator[Block]:
    # Its time, too: ids begin anew where somebody empties the table that way.
    oldest = JobLogEntry.objects.using(log.alias).filter(pk=OuterRef("oldest_id"), created=OuterRef("oldest"))
    sums = log.sums.filter(Exists(oldest)).order_by("after")
    names = ("after", "until", "oldest", "newest", "pk", *(("sums",) if with_sums else ()))
    return (Block(*values) for values in sums.values_list(*names))


def add_up(log: Log, counting: reading.Counting, audience: Audience, since: int = 0) -> int | None:
    """Count the rows of a job that `audience` may see; the id of the first error among them, None without one."""
    blocks, gaps = known(log, since)
    if _forget_wrong(log, _in_turn(log, blocks)):
        blocks, gaps = known(log, since)
    wanted = _wanted(log.rows, audience, since)
    errors = []
    for block in blocks:
        for level, is_for_all, origin, count, first, last in block.sums["counts"]:
            if is_for_all or audience == "staff":
                counting.add_many(level, origin, count, first / MICROSECONDS, last / MICROSECONDS)
        _add_tallies(counting, block.sums["tallies"], audience)
        error = block.sums["errors"]["staff" if audience == "staff" else "all"]
        errors += [tuple(error)] if error else []
    for gap in gaps:
        part = gap.of(wanted)
        has_errors = False
        for level, _, origin, count, first, last in _counts(part):
            counting.add_many(level, origin, count, first / MICROSECONDS, last / MICROSECONDS)
            has_errors = has_errors or level >= logging.ERROR
        _add_tallies(counting, _tallies(part), audience)
        if has_errors:
            error = _first_error(part, is_whole=len(gaps) == 1 and not blocks)
            errors += [error] if error else []
    return min(errors)[1] if errors else None


def _add_tallies(counting: reading.Counting, tallies: Iterable[Iterable[Any]], audience: Audience) -> None:
    for level, is_for_all, fold, times, folded, left_out in tallies:
        if is_for_all or audience == "staff":
            for number in range(times):
                counting.add_tally(fold, level, 0 if number else folded, left_out)


def count_by_time(
    log: Log, audience: Audience, *, start: int, width: int, parts: int, since: int = 0
) -> Iterator[tuple[int, int, int]]:
    """Part of the time, level, and how many rows of it there are in that part; a part comes more than once.

    What is beyond one end of the `parts`, as a line that `audience` may not see can be, is in the one there.
    Rows in blocks are spread evenly over the small part of the block's time that they are in.
    """
    blocks, gaps = known(log, since)
    for block in blocks:
        step = block.sums["width"]
        for place, level, is_for_all, count in block.sums["parts"]:
            if is_for_all or audience == "staff":
                first = max(block.oldest, place * step) - start
                last = min(block.newest, (place + 1) * step - 1) - start
                for part, share in _spread(count, first, last, width, parts):
                    yield part, level, share
    part_of = ExpressionWrapper((F("created") - start) / width, output_field=IntegerField())
    for gap in gaps:
        found = (
            gap.of(_wanted(log.rows, audience, since)).order_by().annotate(part=part_of).values_list("part", "level")
        )
        for part, level, count in found.annotate(count=Count("id")):
            yield _within(int(part), parts), level, count


def _spread(count: int, first: int, last: int, width: int, parts: int) -> Iterator[tuple[int, int]]:
    """How many of `count` rows, all between `first` and `last`, fall to each part of `width`; in whole numbers."""
    given = 0
    final = _within(last // width, parts)
    for part in range(_within(first // width, parts), final + 1):
        end = last + 1 if part == final else (part + 1) * width
        share = count * (end - first) // max(1, last + 1 - first) - given
        given += share
        if share:
            yield part, share


def _within(part: int, parts: int) -> int:
    return min(parts - 1, max(0, part))


def _wanted(rows: JobLogQuerySet, audience: Audience, since: int) -> JobLogQuerySet:
    rows = rows.filter(created__gte=since) if since > 0 else rows
    return rows if audience == "staff" else rows.filter(audience="all")


# --- whether they hold ---------------------------------------------------------------------------------------------


def check(log: Log) -> bool:
    """Count the rows of all blocks of a log, and forget the sums of those that have others; whether there were any."""
    return _forget_wrong(log, known(log)[0])


def _in_turn(log: Log, blocks: list[Block]) -> list[Block]:
    if len(blocks) <= _CHECKED:
        return blocks
    last = _turns.get(log)
    if last is None:
        begin = random.randrange(len(blocks))  # noqa: S311 - so that short processes do not all count the same ones
    else:
        begin = next((at for at, block in enumerate(blocks) if block.after > last), 0)
    chosen = (blocks[begin:] + blocks[:begin])[:_CHECKED]
    if len(_turns) >= _MOST_LOGS:
        _turns.clear()
    _turns.update((log, block.after) for block in chosen[-1:])
    return chosen


def _forget_wrong(log: Log, blocks: Iterable[Block]) -> bool:
    found = []
    for block in blocks:
        rows = log.rows.filter(id__gt=block.after, id__lte=block.until).order_by().count()
        if rows != sum(count[3] for count in block.sums["counts"]):
            found.append(block)
    if not found:
        return False
    if len(_wrong) >= _MOST_LOGS:
        _wrong.clear()
    _wrong.update((log.alias, block.pk, block.after, block.until) for block in found)
    if not connections[log.alias].in_atomic_block:
        forget_sums(log.sums.filter(pk__in=[block.pk for block in found]))
    return True


# --- making them -------------------------------------------------------------------------------------------------


def extend(log: Log, most: int = _MOST_BLOCKS) -> bool:
    """Make sums over rows of a log that have none, `ROWS` at a time; whether there were so many.

    Does nothing where the caller has a transaction open. Raises what the database does.
    """
    connection = connections[log.alias]
    if connection.in_atomic_block or not has_sums(log.alias, "INSERT", "DELETE"):
        return False
    floor = settled_floor(connection, JobLogEntry._meta.db_table)
    made = 0
    for gap in known(log, with_sums=False)[1]:
        after = gap.after
        while made < most:
            # Between two blocks nothing comes any more: what is there is a block, however few rows there are.
            until = _end_of_block(log, after, floor if gap.until is None else gap.until) or gap.until
            if until is None or until <= after or not _make(log, after, until):
                break
            after = until
            made += 1
    return made > 0


def _end_of_block(log: Log, after: int, floor: int) -> int | None:
    ids = log.rows.filter(id__gt=after, id__lte=floor).order_by("id").values_list("id", flat=True)
    found: list[int] = list(ids[ROWS - 1 : ROWS])
    return found[0] if found else None


def _make(log: Log, after: int, until: int) -> bool:
    part = Gap(after, until).of(log.rows)
    counts = _counts(part)
    if not counts:
        return False
    oldest, newest = min(count[4] for count in counts), max(count[5] for count in counts)
    width = -(-(newest - oldest + 1) // _PARTS)
    errors = _errors(part) if any(count[0] >= logging.ERROR for count in counts) else []
    made = JobLogSum(
        namespace=log.namespace,
        job_id=log.job_id,
        after=after,
        until=until,
        oldest=oldest,
        newest=newest,
        oldest_id=part.filter(created=oldest).order_by().aggregate(id=Min("id"))["id"],
        sums={
            "counts": counts,
            "tallies": _tallies(part),
            "errors": {
                "all": min((key for *key, audience in errors if audience == "all"), default=None),
                "staff": min((key for *key, _ in errors), default=None),
            },
            "width": width,
            "parts": _parts(part, width),
        },
    )
    with transaction.atomic(using=log.alias):
        # Whoever deletes single rows waits until the sums are there, to delete them, too, or was here before.
        if not lock_sums(connections[log.alias], shared=True) or part.count() != sum(count[3] for count in counts):
            return False
        log.sums.filter(until__gt=after, after__lt=until).delete()  # they hold no longer
        JobLogSum.objects.using(log.alias).bulk_create([made], ignore_conflicts=True)
    return True


def _counts(part: JobLogQuerySet) -> list[Any]:
    groups = part.order_by().values_list("level", "audience", "origin")
    return [
        (level, audience == "all", *more)
        for level, audience, *more in groups.annotate(Count("id"), Min("created"), Max("created"))
    ]


def _tallies(part: JobLogQuerySet) -> list[Any]:
    """Of each run the largest tally, and how many rows are tallies of it."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    rows = part.order_by().filter(fields__has_key="folded", fields__fold__isnull=False)
    names = ("level", "audience", "fields__fold", "fields__folded", "fields__left_out")
    for level, audience, fold, folded, left_out in rows.values_list(*names):
        size = folded if type(folded) is int else 0
        known = found.setdefault((level, audience == "all", str(fold)), [0, 0, None])
        known[0] += 1
        if size > known[1]:
            known[1:] = [size, left_out]
    return [(*key, *sums) for key, sums in found.items()]


def _first_error(part: JobLogQuerySet, *, is_whole: bool) -> tuple[int, int] | None:
    if is_whole:
        errors = part.filter(level__gte=logging.ERROR).order_by("created", "id")
        return errors.values_list("created", "id").first()
    return min(((created, row_id) for created, row_id, _ in _errors(part)), default=None)


def _errors(part: JobLogQuerySet) -> Iterable[tuple[int, int, str]]:
    """Not sorted by the database, which would go through the whole log by the index that is in that order."""
    return list(part.filter(level__gte=logging.ERROR).order_by().values_list("created", "id", "audience"))


def _parts(part: JobLogQuerySet, width: int) -> list[Any]:
    """Part of the time, level, whether for all, and how many rows."""
    place = ExpressionWrapper(F("created") / width, output_field=IntegerField())
    groups = part.order_by().annotate(place=place).values_list("place", "level", "audience")
    found: dict[tuple[int, int, bool], int] = {}
    for at, level, audience, count in groups.annotate(count=Count("id")):
        key = (int(at), level, audience == "all")
        found[key] = found.get(key, 0) + count
    return [(*key, count) for key, count in found.items()]
