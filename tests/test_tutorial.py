"""The tutorial, typed in from an empty folder, and the library taken out again as the page about that says."""

from __future__ import annotations

import http.cookiejar
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.helpers import SRC
from tests.servers import dying_with_parent

DOCS = Path(__file__).parents[1] / "docs"
_PART = re.compile(r"^(?P<indent> *)```(?P<language>\w+)\n(?P<text>.*?)^ *```", re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who does what a page says, in a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "bin").mkdir()
        # Wherever this interpreter is, the page calls it python.
        (root / "bin" / "python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        (root / "bin" / "python").chmod(0o755)
        self.folder = root / "project"
        self.folder.mkdir()
        self.said = ""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTEST", "DJANGO", "JOBLOG_STORE"))
        }
        self.environment = {
            **inherited,
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(SRC),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": str(root),
        }

    def sh(self, command: str) -> str:
        """Run a line; it must succeed. Gives what it said on both streams."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        self.said = done.stdout
        return done.stdout + done.stderr

    def follow(self, page: str) -> list[str]:
        """Do what a page says up to the server; gives the lines that are left of its block of commands."""
        for part in _PART.finditer(page):
            before = page[: part.start()].rstrip().rpartition("\n\n")[2]
            if part["language"] == "python":
                self._write(before, part["text"])
            elif part["language"] == "text":
                for line in part["text"].splitlines():
                    assert line.strip() in self.said, f"{line}\n{self.said}"
            else:
                lines = part["text"].splitlines()
                for at, line in enumerate(lines):
                    if "runserver" in line:
                        return lines[at:]
                    self.sh(line)
        return []

    def _write(self, before: str, text: str) -> None:
        name = re.findall(r"`([\w/]+\.py)`", before)[-1]
        path = self.folder / name
        if before.startswith("At the end of"):
            text = path.read_text() + "\n" + text
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def _log_in(base: str) -> urllib.request.OpenerDirector:
    jar = http.cookiejar.CookieJar()
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(jar))
    end = time.monotonic() + 30
    while True:
        try:
            opener.open(f"{base}/admin/login/", timeout=10)
            break
        except urllib.error.URLError:
            assert time.monotonic() < end
            time.sleep(0.05)  # the server starts
    token = next(cookie.value for cookie in jar if cookie.name == "csrftoken")
    form = {"username": "me", "password": "tutorial", "csrfmiddlewaretoken": token, "next": "/admin/"}
    opener.open(f"{base}/admin/login/", urllib.parse.urlencode(form).encode(), timeout=10)
    return opener


@pytest.mark.timeout(120)
def test_the_tutorial_typed_in_and_everything_taken_out_again(tmp_path: Path) -> None:
    """Each file is written, each command run, what is shown is compared, and the page is asked for as its reader."""
    reader = Reader(tmp_path)
    left = reader.follow((DOCS / "tutorial.md").read_text())
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert left == ["python manage.py runserver 127.0.0.1:8000"]
    with subprocess.Popen(
        dying_with_parent([sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"]),
        cwd=reader.folder,
        env=reader.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            opener = _log_in(f"http://127.0.0.1:{port}")
            page = opener.open(f"http://127.0.0.1:{port}/jobs/1/", timeout=10).read().decode()
            assert "notes.txt is no image, left out" in page
            assert "c.png" not in page
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/jobs/1/", timeout=10)
        finally:
            server.send_signal(signal.SIGTERM)
    _take_out(reader)


def _take_out(reader: Reader) -> None:
    """What docs/uninstall.md says, in its order."""
    page = (DOCS / "uninstall.md").read_text()
    export, recover, zero, forget = (
        "python manage.py joblog export 7 > 7.jsonl",
        "python manage.py joblog recover",
        "python manage.py migrate joblog_router zero",
        "python manage.py remove_stale_contenttypes --include-stale-apps --noinput",
    )
    for command in (export, recover, zero, forget):
        assert command in page
    reader.sh(export.replace("7", "1"))
    assert "notes.txt" in (reader.folder / "1.jsonl").read_text()
    (spool,) = re.findall(r"^spool: (.+)$", reader.sh(recover), re.MULTILINE)
    assert [str(path) for path in reader.root.glob("joblog-router-*")] == [spool]
    reader.sh(zero)
    (reader.folder / "joblog.sqlite3").unlink()
    settings = reader.folder / "tutorial" / "settings.py"
    settings.write_text(settings.read_text().partition("from joblog_router")[0])
    urls = reader.folder / "tutorial" / "urls.py"
    urls.write_text(re.sub(r".*joblog_router.*\n", "", urls.read_text()))
    reader.sh(forget)
    reader.sh("python manage.py check")
    left = (
        "from django.contrib.auth.models import Permission as P; print(P.objects.filter(codename__contains='joblog'))"
    )
    assert "<QuerySet []>" in reader.sh(f'python manage.py shell -c "{left}"')
    shutil.rmtree(spool)
    assert list(reader.root.glob("joblog-router-*")) == [], "only what it named is of this project"
