"""For commands that run outside manage.py: make a project's settings and apps ready.

Called by the command line, on the main thread, before any app is loaded: this module imports none.
"""

from __future__ import annotations

import os
import sys

import django
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from ...exceptions import ConfigurationError

__all__ = ["set_up"]


def set_up() -> None:
    """Do what manage.py does, unless it did. Raises ConfigurationError where the settings cannot be used."""
    if apps.ready:
        return
    if os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109 - as sys.path has it
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
    name = os.environ.get("DJANGO_SETTINGS_MODULE")
    try:
        django.setup()
    except (ImportError, ImproperlyConfigured) as error:
        raise ConfigurationError(
            f"the project of DJANGO_SETTINGS_MODULE={name} cannot be set up ({error}): run this in its folder, "
            "run manage.py joblog, or name a store with --store"
        ) from error
