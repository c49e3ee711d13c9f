"""Which entries a sink cannot store: found one by one, so that no line is lost for another's sake.

Called by `writer` on its thread where a batch failed for another reason than that the sink is away. Imports the
delivery whose entries they are.
"""

from __future__ import annotations

from typing import Final

from ..entry import REFUSED_MARK, TALLY_MARKS, Entry
from ..exceptions import EntryRefusedError, SinkUnavailableError
from .completeness import Key, key_of
from .delivery import Delivery
from .tally import TallyRow

# How far to look for an entry that tells whether a job or the sink is at fault, and how many jobs to ask.
_FAR: Final = 5000
_SUSPECTS: Final = 6


def write_one_by_one(delivery: Delivery, error: Exception, most: int) -> Exception | None:
    """The sink failed with `error`: write what waits, set aside what is refused, and give what stopped it, if any.

    An entry that is refused alone is offered without its contents: if that is taken, the contents were at fault and
    the job's log says that a line is missing. If not, an entry of another job tells whether it is the job or the
    sink; where it is the sink, everything waits.
    """
    handled = lines = tries = 0
    suspects: list[tuple[Entry, Exception]] = []
    stopped: Exception | None = None
    entries = delivery.next_entries(_FAR)
    try:
        # Asked now: of the batch that failed the sink may have stored some.
        new = {(entry.origin, entry.seq) for entry in delivery.not_stored(entries)}
    except Exception as failed:
        return failed
    for entry in entries:
        if suspects and any(key_of(entry) == key_of(suspect) for suspect, _ in suspects):
            suspects.append((entry, suspects[0][1]))
            continue
        try:
            is_stored = (entry.origin, entry.seq) not in new or _store_one(delivery, entry)
        except (SinkUnavailableError, OSError) as unavailable:
            stopped = unavailable
            break
        except Exception as refusal:
            suspects.append((entry, refusal))
            tries += 1
            if tries == _SUSPECTS:
                break
            continue
        done, stored, stopped = _judge(delivery, suspects)
        handled += done
        lines += stored
        if stopped is not None:
            break
        handled += 1
        lines += is_stored and not isinstance(entry, TallyRow)
        suspects.clear()
        tries = 0
        if handled >= most:
            break
    if handled:
        delivery.mark_done(handled, lines)
    return error if stopped is None and suspects else stopped


def _judge(delivery: Delivery, suspects: list[tuple[Entry, Exception]]) -> tuple[int, int, Exception | None]:
    """The sink took another job's entry: how many of these are done, how many lines stored, and what stopped it.

    The first of a job is set aside. Is the next one refused as well, then nothing of that job is taken.
    """
    is_taken: dict[Key, bool | None] = {}  # by job; None while only one of it was refused
    stored = 0
    for number, (suspect, reason) in enumerate(suspects):
        job = key_of(suspect)
        why = reason
        if is_taken.get(job, False) is not False:
            try:
                stored += _store_one(delivery, suspect) and not isinstance(suspect, TallyRow)
                is_taken[job] = True
                continue
            except (SinkUnavailableError, OSError) as unavailable:
                return number, stored, unavailable
            except Exception as refusal:
                why = refusal
                is_taken[job] = is_taken[job] or False
        else:
            is_taken.setdefault(job, None)
        delivery.set_aside(suspect, why)
    for suspect, _ in suspects:
        if not is_taken[key_of(suspect)]:
            delivery.do_not_tell(suspect)  # nothing of this job is taken, nor would a word about it be
    return len(suspects), stored, None


def _store_one(delivery: Delivery, entry: Entry) -> bool:
    """Whether the sink has `entry`; if not it is set aside. Raises where it may be the sink's fault."""
    reason: Exception | None = None
    for _ in range(2):  # once more: what failed in passing is no reason to lose a line
        try:
            delivery.sink.write([entry])
            return True
        except (SinkUnavailableError, OSError):
            raise
        except EntryRefusedError as error:
            delivery.set_aside(entry, error)
            return False
        except Exception as error:
            reason = error
    delivery.sink.write([_without_contents(entry)])
    delivery.set_aside(entry, reason)
    return False


def _without_contents(entry: Entry) -> Entry:
    is_line = entry.tally is None
    fields = {REFUSED_MARK: True} if is_line else {name: entry.fields[name] for name in TALLY_MARKS}
    return entry._replace(
        logger="joblog_router",
        message="A line of this job could not be stored: the log's store refused its contents.",
        exception=None,
        fields=fields,
        path="",
        line=0,
    )
