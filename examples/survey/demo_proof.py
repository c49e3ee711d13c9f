"""The demo's proof: compare job logs with what went to the console and with the survey's own data."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from jobs.models import Job

# Which job a line's text is about: by the job's number, or by a picture, whose name begins with its site.
NAMES_JOB = re.compile(r"\bjob[ _.-](\d+)\b")
NAMES_PICTURE = re.compile(r"\b([A-Z0-9]+)-\d{4,}\.jpg\b")

# Counters of lines that are in no job's log, or not yet.
LOSSES = ("waiting", "dropped", "quarantined", "late", "conflicts")


class Line(Protocol):
    """A line of a job's log, as the database has it."""

    @property
    def message(self) -> str: ...
    @property
    def exception(self) -> str: ...
    @property
    def fields(self) -> Mapping[str, Any]: ...


@dataclasses.dataclass
class Proof:
    """Each row: what, a value for each job, and whether it is as it must be."""

    rows: list[tuple[str, list[str], bool]]
    stats: dict[str, Any]
    stats_hold: bool
    by_workers: int
    misplaced: int
    missing: int

    @property
    def holds(self) -> bool:
        return self.stats_hold and all(is_right for _, _, is_right in self.rows)


@dataclasses.dataclass
class Findings:
    """What one job's log says, and what is the case."""

    status: str
    lines: int
    written: int
    lost: int
    surplus: int
    own: int
    foreign: int
    nobody: int
    said: list[int]
    true: list[int]


def prove(
    jobs: list[Job], logs: Mapping[int, Sequence[Line]], console_lines: list[str], counters: dict[str, Any]
) -> Proof:
    """Compare the logs in the database with what went to the console (by text alone) and with the survey's own data."""
    owner_of_site = {job.site: job.pk for job in jobs}
    written: dict[int, Counter[str]] = {job.pk: Counter() for job in jobs}
    for line in console_lines:
        record = json.loads(line)
        text = f"{record['message']} {record.get('exc_info', '')}"
        for job_id in owners(text, owner_of_site):
            written[job_id][line_of(record["message"], record.get("exc_info", ""))] += 1
    found = [findings(job, logs[job.pk], written[job.pk], owner_of_site) for job in jobs]
    # The counters are this process's; what the workers told is counted in theirs.
    by_workers = sum(bool(entry.fields.get("worker")) for entries in logs.values() for entry in entries)
    stored = sum(map(len, logs.values())) - by_workers
    wanted = {"captured": stored, "stored": stored, **dict.fromkeys(LOSSES, 0)}
    rows = [
        row("status", found, lambda it: it.status, lambda it: it.status == "SUCCESS"),
        row("lines in the job's log (database)", found, lambda it: it.lines, lambda it: it.lines > 0),
        row("lines about it on the console, by their text", found, lambda it: it.written),
        row("  missing from its log", found, lambda it: it.lost, lambda it: not it.lost),
        row("  in its log beyond these", found, lambda it: it.surplus, lambda it: not it.surplus),
        row("lines in its log that name it or its pictures", found, lambda it: it.own, lambda it: it.own == it.lines),
        row("  another job or its pictures", found, lambda it: it.foreign, lambda it: not it.foreign),
        row("  no job", found, lambda it: it.nobody, lambda it: not it.nobody),
    ]
    for number, what in enumerate(["pictures queued", "results saved or skipped", "blurry pictures", "skipped"]):
        rows.append(
            row(
                f"{what}: log says / is",
                found,
                lambda it, number=number: f"{it.said[number]} / {it.true[number]}",
                lambda it, number=number: it.said[number] == it.true[number],
            )
        )
    return Proof(
        rows,
        counters,
        all(counters[name] == value for name, value in wanted.items()),
        by_workers,
        misplaced=sum(it.foreign for it in found),
        missing=sum(it.lost for it in found),
    )


def row(what: str, found: list[Findings], value: Any, is_right: Any = lambda _: True) -> tuple[str, list[str], bool]:
    return what, [str(value(it)) for it in found], all(is_right(it) for it in found)


def line_of(message: str, exception: str) -> str:
    """What is compared: of a traceback its last line, since its layout is the formatter's."""
    return f"{message} <- {exception.rstrip().splitlines()[-1]}" if exception else message


def owners(text: str, owner_of_site: dict[str, int]) -> set[int]:
    """The jobs that a text names."""
    named = {int(number) for number in NAMES_JOB.findall(text)}
    return named | {owner_of_site[site] for site in NAMES_PICTURE.findall(text)}


def findings(job: Job, entries: Sequence[Line], written: Counter[str], owner_of_site: dict[str, int]) -> Findings:
    from images.models import SourceImage

    texts = Counter(line_of(entry.message, entry.exception) for entry in entries)
    named = [
        owners(f"{entry.message} {entry.exception} {json.dumps(entry.fields)}", owner_of_site) for entry in entries
    ]
    skipped = total(texts, r"is (skipped)(?:: the model cannot take it| <- .*CorruptPictureError)")
    pictures = SourceImage.objects.filter(site=job.site)
    job.refresh_from_db()
    return Findings(
        status=job.status,
        lines=len(entries),
        written=written.total(),
        lost=(written - texts).total(),
        surplus=(texts - written).total(),
        own=sum(it == {job.pk} for it in named),
        foreign=sum(bool(it - {job.pk}) for it in named),
        nobody=sum(not it for it in named),
        said=[
            total(texts, r"queued batch \d+/\d+ \((\d+) pictures\)"),
            total(texts, r"saved (\d+) results") + skipped,
            total(texts, r"is (blurry)"),
            skipped,
        ],
        true=[
            job.images_total,
            job.images_done + job.images_failed,
            # What was skipped has no sharpness in the database.
            pictures.filter(sharpness__lt=0.15).count(),
            pictures.filter(sharpness=None).count(),
        ],
    )


def total(texts: Counter[str], pattern: str) -> int:
    """The sum of the numbers that `pattern` finds; a word counts as one."""
    numbers = ((re.search(pattern, text), count) for text, count in texts.items())
    return sum(count * (int(it[1]) if it[1].isdigit() else 1) for it, count in numbers if it is not None)
