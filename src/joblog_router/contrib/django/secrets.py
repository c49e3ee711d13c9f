"""The project's own secrets, told to redaction when the app starts. Called once, by that start; reads settings only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Final

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from ..._pipeline.secrets import register_secret

__all__ = ["register_project_secrets"]

_SHORTEST: Final = 8


def register_project_secrets() -> None:
    """Register SECRET_KEY and its fallbacks, the passwords of DATABASES, MAILERS and EMAIL_HOST_PASSWORD.

    Not a password that anybody would guess (fewer than 8 characters, lower-case letters only, or the name of its user
    or database): masking it would mask ordinary words, and show which they are.
    """
    for value, names in _secrets():
        is_guessable = len(value) < _SHORTEST or (value.isalpha() and value.islower()) or value in names
        if not is_guessable:
            register_secret(value)


def _secrets() -> Iterator[tuple[str, set[Any]]]:
    """Each secret with the names it must not be."""
    found: list[tuple[Any, set[Any]]] = []
    try:
        found.append((settings.SECRET_KEY, set()))
    except ImproperlyConfigured:
        pass  # a project without one says so itself, where it needs it
    found += [(key, set()) for key in getattr(settings, "SECRET_KEY_FALLBACKS", ())]
    for database in settings.DATABASES.values():
        names = {str(database.get(name)) for name in ("USER", "NAME", "HOST")}
        found.append((database.get("PASSWORD"), names))
    for mailer in (getattr(settings, "MAILERS", None) or {}).values():
        options = mailer.get("OPTIONS") or {}
        found.append((options.get("password"), {options.get("username")}))
    with warnings.catch_warnings():
        # From Django 6.1 on whoever reads these is warned, though the project may have none of them.
        warnings.simplefilter("ignore")
        found.append((getattr(settings, "EMAIL_HOST_PASSWORD", None), {getattr(settings, "EMAIL_HOST_USER", None)}))
    for value, names in found:
        if isinstance(value, str | bytes) and value:
            yield value.decode("utf-8", "replace") if isinstance(value, bytes) else value, names
