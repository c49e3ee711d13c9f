"""Runs the Python blocks of a document in a Django project, each by itself:

python document_blocks.py PARTS-OF-BLOCKS-TO-LEAVE-OUT DOCUMENT ...

Prints what fails as JSON. What a block presumes, `job`, `run_job()` and the like, stands in `presumed()`; settings are
put through the system checks, `LOGGING` is configured, URLs are included.
"""

from __future__ import annotations

import ast
import functools
import json
import logging
import logging.config
import re
import sys
import textwrap
import traceback
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SETTINGS = re.compile(r"`(JOBLOG_ROUTER = \{.*?\})`", re.DOTALL)


def blocks(path: Path) -> dict[int, str]:
    """The Python blocks of a document by their line."""
    text = path.read_text()
    return {text[: found.start()].count("\n") + 1: textwrap.dedent(found[1]) for found in BLOCK.finditer(text)}


def presumed() -> dict[str, Any]:
    """The names that the documents' blocks take as given."""
    from django.contrib import admin
    from django.urls import include, path
    from shop.models import Job

    import joblog_router

    def nothing(*arguments: Any, **more: Any) -> None:
        logging.getLogger("shop.work").info("done")

    job, _ = Job.objects.get_or_create(pk=7, defaults={"name": "seven"})
    job.run = nothing
    given: dict[str, Any] = {name: getattr(joblog_router, name) for name in joblog_router.__all__}
    return {
        **given,
        "__name__": "document",
        "INSTALLED_APPS": ["shop"],
        "MIDDLEWARE": [],
        "DATABASES": {"default": {}},
        "BASE_DIR": Path.cwd(),
        "Job": Job,
        "admin": admin,
        "executor": ThreadPoolExecutor(1),
        "include": include,
        "item": 1,
        "items": [1, 2],
        "job": job,
        "logger": logging.getLogger("shop.work"),
        "path": path,
        "print": nothing,
        "queue_images": nothing,
        "run_job": functools.partial(_run_job, nothing),
        "run_pipeline": nothing,
        "work": nothing,
    }


def _run_job(nothing: Any, job: Any) -> None:
    from joblog_router import job_context

    with job_context(job.pk):
        logging.getLogger("app").info("started")
        logging.getLogger("app").info("done")


def run(source: str, label: str, names: dict[str, Any]) -> None:
    """Run a block and look at what it set. Raises whatever is wrong."""
    if _is_fragment(source):
        names["LOGGING"] = {"version": 1, "disable_existing_loggers": False, **eval(f"{{{source}}}", names)}
    else:
        exec(compile(source, label, "exec"), names)
    settings = {name: names[name] for name in ("JOBLOG_ROUTER", "MIDDLEWARE") if name in names}
    if "urlpatterns" in names:
        urls = types.ModuleType("document_urls")
        vars(urls)["urlpatterns"] = names["urlpatterns"]
        settings["ROOT_URLCONF"] = urls
    _check(settings)
    if "LOGGING" in names:
        logging.config.dictConfig(names["LOGGING"])


def _check(settings: dict[str, Any]) -> None:
    """The settings, as Django's checks and those of this library see them."""
    from django.apps import apps
    from django.core import checks
    from django.test import override_settings

    settings = {**settings, "MIDDLEWARE": [name for name in settings.get("MIDDLEWARE", []) if name is not ...]}
    with override_settings(**settings):
        found = checks.run_checks(app_configs=[apps.get_app_config("joblog_router")])
        # Paths of the reader's own code cannot be loaded here.
        ours = [each for each in found if str(each.id).startswith("joblog_router.") and each.is_serious()]
        wrong = [each for each in ours if "app." not in str(each.msg)]
        if wrong:
            raise AssertionError(f"the system checks say: {wrong}")
        if "ROOT_URLCONF" in settings:
            from django.urls import get_resolver

            found = get_resolver().check()
            assert not found, found
            assert list(get_resolver().reverse_dict) or get_resolver().namespace_dict


def _is_fragment(source: str) -> bool:
    """Whether it is items of a dictionary, as of LOGGING."""
    try:
        ast.parse(source)
    except SyntaxError:
        return True
    return False


def failures_of(path: Path, left_out: list[str]) -> dict[str, str]:
    """What fails of a document's blocks, and of the settings that stand in its sentences."""
    sources = {
        f"block at line {line}": source
        for line, source in blocks(path).items()
        if not any(part in source for part in left_out)
    }
    sources.update({source: source for source in SETTINGS.findall(path.read_text()) if "..." not in source})
    failures = {}
    for label, source in sources.items():
        try:
            run(source, f"{path.name}, {label}", presumed())
        except Exception:
            failures[label] = traceback.format_exc(limit=-3)
    return failures


def main(left_out: str, *documents: str) -> None:
    """Run what stands in `documents`, but for blocks that have a part of `left_out` (JSON) in them."""
    import django

    django.setup()
    json.dump({name: failures_of(Path(name), json.loads(left_out)) for name in documents}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
