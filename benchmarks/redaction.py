"""What redaction costs a line that is stored, on the writer thread, as a ratio to a bare logging call.

    python benchmarks/redaction.py            # half a minute: the figures of docs/security.md
    python benchmarks/redaction.py --smoke    # seconds, for CI: fails where a limit is missed by far

The bare call is that of hot_path.py. None of this is paid by the thread that logs, and nothing for folded lines.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable

import harness
from hot_path import caller, make_logger

from joblog_router import Entry, register_secret
from joblog_router._pipeline.redaction import Redactor, make_redactor

WORDS = "Published task for image 17 to 'stream', sequence 18"
PAIRS = "GET /api/v2/jobs/77/?with=logs took: 35 ms, status=200"
HASH = "commit 9944b09199c62bcf9418ad846dd0e4bbdfc6ee4b of job_77 is deployed"
SECRET = "login jo password=open-sesame-9 failed"
TRACEBACK = "\n".join(f'  File "/srv/app/module_{n}.py", line {n}, in call\n    value = run(x, {n})' for n in range(20))

INNOCENT = "innocent line: words and numbers"
LIMITS = {INNOCENT: 0.35}


def masking(redactor: Redactor, text: str) -> Callable[[int], None]:
    """A function that searches a text n times."""

    def call(n: int) -> None:
        mask = redactor.text
        for _ in range(n):
            mask(text)

    return call


def entries(redactor: Redactor) -> Callable[[int], None]:
    """The same for a whole entry with two fields."""
    entry = Entry("7", 0.0, logging.INFO, "app", WORDS, None, {"stage": "process", "k": 5}, "", 1, "here", 1, 1)

    def call(n: int) -> None:
        mask = redactor.entry
        for _ in range(n):
            mask(entry)

    return call


def main() -> int:
    """Run, print, and tell by the exit status whether a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few seconds instead of half a minute")
    parser.add_argument("--rounds", type=int, default=0)
    arguments = parser.parse_args()
    rounds = arguments.rounds or (100 if arguments.smoke else 800)
    harness.pin_to_one_cpu()
    standard = Redactor()
    own = make_redactor([r"\bPAT-\d{6}\b", r"[\w.+-]+@[\w-]+\.\w+"], "redact")
    assert own is not None
    bare = caller(make_logger("bare"))
    results = harness.run(
        bare,
        [
            harness.Variant(INNOCENT, masking(standard, WORDS)),
            harness.Variant("innocent entry with two fields", entries(standard)),
            harness.Variant("innocent line with = and :", masking(standard, PAIRS)),
            harness.Variant("innocent line with a hash", masking(standard, HASH)),
            harness.Variant("innocent traceback, 20 frames", masking(standard, TRACEBACK)),
            harness.Variant("line with a password", masking(standard, SECRET)),
            harness.Variant("two own patterns, innocent line", masking(own, WORDS)),
        ],
        rounds,
    )
    for count in (5, 1000):
        for number in range(count):
            register_secret(f"registered-{number:04}-{number * 7919:x}")
        name = f"{count} registered secrets, innocent line"
        results += harness.run(bare, [harness.Variant(name, masking(standard, WORDS))], rounds)[1:]
    print(f"Python {sys.version.split()[0]}, {rounds} rounds, bare logging call = 1")
    harness.print_table(results, LIMITS)
    if not harness.is_conclusive(results):
        print("inconclusive: the control is off by more than 2 %, the machine was too busy")
        return 0
    slack = 1.5 if arguments.smoke else 1.0
    over = [result.name for result in results if result.low > slack * LIMITS.get(result.name, float("inf"))]
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
