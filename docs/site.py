"""What MkDocs is told beyond mkdocs.yml: the pages that are files elsewhere, and links that lead out of docs/.

README, CHANGELOG and ARCHITECTURE are written to be read where they stand; here they become pages of the site. The
page of examples is made from the programs themselves.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "LICENSE": "license.md",
}

EXAMPLES = (
    ("A plain script", "examples/script/job.py", "python examples/script/job.py LOGS"),
    ("FastAPI", "examples/fastapi/app.py", "uvicorn app:app --app-dir examples/fastapi"),
    ("asyncio and NATS", "examples/nats/worker.py", "python examples/nats/worker.py nats://127.0.0.1:4222 LOGS"),
)


def page_of(target: str) -> str:
    """The site's page for a link that was written for the repository; it starts at the root of it."""
    path, mark, anchor = target.partition("#")
    if path in PAGES:
        return PAGES[path] + mark + anchor
    if path.startswith("docs/"):
        return path.removeprefix("docs/") + mark + anchor
    if path == "examples" or path.startswith(("examples/", "benchmarks")):
        return "examples.md"
    return target


def relinked(text: str) -> str:
    """`text` of a file at the root of the repository, with links as the site has them."""
    return re.sub(r"\]\((?!https?:|#)([^)\s]+)\)", lambda found: f"]({page_of(found[1])})", text)


def examples_page() -> str:
    """The page of examples, with the programs as they stand."""
    parts = [
        "# Examples that run",
        "The tests start each of them as it stands. The largest, Django with NATS and with Celery workers elsewhere,",
        "is the demo: `sh dev.sh demo`, `sh dev.sh demo --serve` and `sh dev.sh rest-demo`.",
    ]
    for title, path, command in EXAMPLES:
        parts += [f"\n## {title}\n", f"```\n{command}\n```\n", f"```python\n{(ROOT / path).read_text()}```"]
    return "\n".join(parts)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are no files in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=relinked((ROOT / source).read_text())))
    files.append(File.generated(config, "examples.md", content=examples_page()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links out of docs/ to the site's pages, and indent what stands in lists as Python-Markdown wants it."""
    markdown = re.sub(r"\]\(\.\./([^)\s]+)\)", lambda found: f"]({page_of(found[1])})", markdown)
    if page.file.src_uri == "architecture.md":
        return markdown  # its picture is indented by as much
    return re.sub(r"^(?: {3}(?=\S)| {2}(?=\|))", "    ", markdown, flags=re.MULTILINE)
