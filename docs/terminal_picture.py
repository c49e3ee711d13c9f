"""Draw `docs/terminal.svg`, the picture in the README, from a real run of the demo.

    python docs/terminal_picture.py        # needs the demo's packages, see `sh dev.sh demo`

Keeps the log of job 1 and the proof; leaves out the log of job 2, which looks the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
COLUMNS = 128


def main() -> None:
    """Run the demo and write the picture."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "survey" / "demo.py"), "--color", "always"],
        env={**os.environ, "COLUMNS": str(COLUMNS)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    # Now and then a worker asks while the stream is being deleted: a traceback through this machine's folders.
    assert str(ROOT) not in run.stdout, "draw it again"
    lines = run.stdout.splitlines()
    second_log = next(number for number, line in enumerate(lines) if "the log of job 2" in line)
    samples = next(number for number, line in enumerate(lines) if "the same on the console" in line)
    proof = next(number for number, line in enumerate(lines) if "the proof, from" in line)
    assert second_log < samples < proof
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=COLUMNS, record=True, force_terminal=True, color_system="truecolor", file=nowhere)
        console.print(Text.from_ansi("$ sh dev.sh demo"))
        for line in lines[: second_log - 1] + lines[proof - 1 :]:
            console.print(Text.from_ansi(line), soft_wrap=True)
        console.save_svg(str(ROOT / "docs" / "terminal.svg"), title="sh dev.sh demo")


if __name__ == "__main__":
    main()
