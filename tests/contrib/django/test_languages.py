"""The page in another language: German, whose catalogue comes along."""

from __future__ import annotations

import ast
import gettext
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.auth.models import User
from django.test import Client, override_settings
from django.urls import reverse
from django.utils import translation

import joblog_router.contrib.django
from joblog_router.contrib.django.texts import _forms, texts_as_json

APP = Path(joblog_router.contrib.django.__file__).parent
CATALOGUE = APP / "locale" / "de" / "LC_MESSAGES" / "django"
# The same word in both languages.
SAME = {"live", "Text", "Logger", "logger", "Traceback", "traceback", "Level", "Token", "token", "log", "Log"}


def _compiled() -> gettext.GNUTranslations:
    with CATALOGUE.with_suffix(".mo").open("rb") as file:
        return gettext.GNUTranslations(file)


def _texts_in_code() -> Iterator[str]:
    """Whatever stands in a call of gettext in a module of the app, or in a translate tag of a template."""
    for path in APP.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("_", "ngettext"):
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield argument.value
    for path in APP.rglob("*.html"):
        yield from re.findall(r"""{% translate ["'](.+?)["'] %}""", path.read_text())


def test_every_text_is_in_the_catalogue() -> None:
    """All that goes through gettext in code and templates, and no text is left as it was."""
    catalogue = _compiled()._catalog  # type: ignore[attr-defined]
    known = {key[0] if isinstance(key, tuple) else key for key in catalogue}
    plurals = {text for text in _texts_in_code() if text.endswith(" lines") and text not in known}
    assert {text for text in _texts_in_code() if text not in known} == plurals
    assert len(plurals) == 3
    assert len(known) > 120


def test_the_compiled_catalogue_is_that_of_the_source() -> None:
    """Who changes the one compiles it."""
    compiled = _compiled()
    pairs = re.findall(r'^msgid "(.+)"\nmsgstr "(.*)"$', CATALOGUE.with_suffix(".po").read_text(), re.MULTILINE)
    assert len(pairs) > 100
    assert {name for name, text in pairs if compiled.gettext(name) != text} == set()
    assert all(text for _, text in pairs)


def test_the_script_speaks_the_readers_language() -> None:
    """Each of its texts, and those with numbers in the form of the number."""
    with translation.override("en"):
        english = json.loads(texts_as_json())
    with translation.override("de"):
        german = json.loads(texts_as_json())
    assert english.keys() == german.keys()
    assert {text for name, text in english.items() if text == german[name]} <= SAME
    new = german["new"]
    said = [new["forms"][int(new["of"][n])].replace("%(n)s", str(n)) for n in (0, 1, 37)]
    assert said == ["0 neue Zeilen", "1 neue Zeile", "37 neue Zeilen"]


@pytest.mark.parametrize("language", ["pl", "ar"])
def test_all_forms_of_a_number_are_sent(language: str) -> None:
    """With the words of Django's own catalogues, in languages that have three or six of them."""

    def text(n: int) -> str:
        return translation.ngettext("%(num)d hour", "%(num)d hours", n) % {"num": 0}

    with translation.override(language):
        found = _forms(text)
        assert len(found["forms"]) >= 3
        for n in (0, 1, 2, 5, 11, 22, 99, 101, 112, 199, 1000, 1002, 1011, 1_000_022, 12345):
            said = found["forms"][int(found["of"][n if n < 200 else 100 + n % 100])]
            assert said == text(n), n


@pytest.mark.django_db(databases=["default", "joblog"])
def test_the_page_in_german(log: Callable[..., object]) -> None:
    """As the browser asks for it, by Django's middleware."""
    log("7")
    reader = Client(HTTP_ACCEPT_LANGUAGE="de")
    reader.force_login(User.objects.create_superuser("staff"))
    middleware = [*settings.MIDDLEWARE, "django.middleware.locale.LocaleMiddleware"]
    # The middleware activates the language of the thread, and nothing takes that back.
    with override_settings(MIDDLEWARE=middleware), translation.override("en"):
        page = reader.get(reverse("joblog:page", args=["7"])).content.decode()
    assert '<html lang="de"' in page
    assert "Log von Job 7" in page
    assert "1 Zeile" in page
    assert "Noch einmal nachsehen" in page
