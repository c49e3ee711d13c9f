"""The parser that takes runs of acknowledgements out, against nats-py's own: the same messages, however they arrive."""

from __future__ import annotations

import random
from typing import Any

import pytest
from nats.protocol.parser import Parser

from joblog_router.contrib.nats.monitoring.observer import Observer

ACK = b"MSG $JS.ACK.job_7.c.1.%d.%d.1795563659977243640.5 5 4\r\n+ACK\r\n"
HOSTILE = b"x\r\nMSG $JS.ACK.job_victim.c.1.9.9.1.0 5 4\r\n+ACK\r\n\r\nMSG "


def wire(seed: int) -> bytes:
    """Messages of every kind, some of which hold what looks like others."""
    choose = random.Random(seed)
    found = []
    for number in range(1, 120):
        kind = choose.randrange(12)
        if kind < 7:
            found.append(ACK % (number, number))
        elif kind == 7:
            found.append(b"MSG $JS.ACK.job_7.c.2.%d.%d.1.0 5 _INBOX.x 0\r\n\r\n" % (number, number))
        elif kind == 8:
            found.append(b"MSG $JS.ACK.job_7.c.1.%d.%d.1.0 5 4\r\n-NAK\r\n" % (number, number))
        elif kind == 9:
            found.append(b"MSG other 6 %d\r\n%s\r\n" % (len(HOSTILE), HOSTILE))
        elif kind == 10:
            found.append(b"MSG $JS.ACK.job_7.c.1.%d.%d.1.0 6 4\r\n+ACK\r\n" % (number, number))
        else:
            head = b"NATS/1.0\r\na: b\r\n\r\n"
            found.append(b"HMSG $JS.ACK.x 5 %d %d\r\n%s+ACK\r\n" % (len(head), len(head) + 4, head))
    return b"".join(found)


class Heard:
    """Stands for a client: keeps what a parser hands over. nats-py's own needs no more of one."""

    def __init__(self) -> None:
        self.messages: list[tuple[int, str, str]] = []

    async def _process_msg(self, sid: int, subject: Any, reply: Any, data: Any, headers: Any) -> None:
        self.messages.append((sid, bytes(subject).decode(), bytes(data).decode()))


def observed(takes: bool) -> tuple[Observer, list[tuple[int, str, str]]]:
    """An observer with a tap on subscription 5, and what it hears; `takes`: whether the bulk is taken."""
    observer, found = Observer(), []

    def tap(sid: int, subject: str, payload: bytes) -> None:
        found.append((sid, subject, bytes(payload).decode()))

    def bulk(run: list[tuple[bytes, ...]]) -> bool:
        if takes:
            found.extend(
                (5, f"{name.decode()}.{attempt.decode()}.{seq.decode()}", "bulk") for name, attempt, seq, *_ in run
            )
        return takes

    observer._taps[5] = lambda subject, reply, payload, headers: tap(5, subject, payload)
    observer._taps[6] = lambda subject, reply, payload, headers: tap(6, subject, payload)
    observer._bulks[b"5"] = bulk
    return observer, found


def plain(message: tuple[int, str, str]) -> tuple[int, str, str]:
    """A message as the bulk has it, where it is a plain acknowledgement."""
    sid, subject, payload = message
    tokens = subject.split(".")
    if sid == 5 and len(tokens) == 9 and payload in {"", "+ACK"}:
        return sid, ".".join(tokens[2:6]), "bulk"
    return message


@pytest.mark.parametrize("takes", [True, False])
@pytest.mark.parametrize("seed", range(2))
async def test_the_same_messages_in_the_same_order(seed: int, takes: bool) -> None:
    """Cut at any place, with payloads that look like messages: nothing is lost, invented, or out of order."""
    data = wire(seed)
    expected = Heard()
    await Parser(expected).parse(data)
    wanted = [plain(message) for message in expected.messages]
    assert len(wanted) == 119
    choose = random.Random(seed)
    for size in (1, 7, 60, 333, 5_000, len(data)):
        observer, found = observed(takes)
        place = 0
        while place < len(data):
            step = max(1, choose.randrange(size * 2)) if size > 1 else 1
            await observer._ps.parse(data[place : place + step])
            place += step
        # What a run holds back for its turn may not overtake: the order is that of the wire.
        assert [plain(message) for message in found] == wanted
