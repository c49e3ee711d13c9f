"""System checks of the pages of job logs: what keeps them from being seen.

Registered by the app's start; called by `manage.py check` and the commands that run the checks, on their thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's name
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, InterfaceError, connections, router
from django.template import TemplateDoesNotExist
from django.template.loader import get_template
from django.urls import get_resolver

from ...exceptions import ConfigurationError
from ...sinks.opening import open_store
from . import conf
from .permissions import VIEW_PERMISSION

__all__: list[str] = []


@register(Tags.urls)
def check_urls(**kwargs: Any) -> list[CheckMessage]:
    """What keeps the page from being seen: `joblog_router.W009` no users, `W010` no template, `W011` no static files.

    `W012`: the URLs are included under another name than links use. `E005`: there is nothing to read.
    """
    namespaces = _our_namespaces()
    if not namespaces:
        return []
    found: list[CheckMessage] = []
    try:
        open_store()
    except ConfigurationError as error:
        found.append(
            Error(
                f"The pages of job logs have nothing to read: {error}.",
                hint='Give a JobLogHandler a sink that can be read ("django", "jsonl"), or name one in '
                f"{conf.SETTING}['STORE'].",
                id="joblog_router.E005",
            )
        )
    if conf.current().PERMISSION is None and not _has_users():
        found.append(
            Warning(
                "The pages of job logs are for staff, but this project has no users: everybody gets 404.",
                hint="Add 'django.contrib.auth' to INSTALLED_APPS and its AuthenticationMiddleware to MIDDLEWARE, or "
                f"set {conf.SETTING}['PERMISSION'] to a function (request, job_id) that gives True or False.",
                id="joblog_router.W009",
            )
        )
    try:
        get_template("joblog_router/page.html")
    except (TemplateDoesNotExist, ImproperlyConfigured):
        found.append(
            Warning(
                "No template engine finds 'joblog_router/page.html': the page of a job's log fails.",
                hint="Have one in TEMPLATES with 'BACKEND': 'django.template.backends.django.DjangoTemplates' and "
                "'APP_DIRS': True.",
                id="joblog_router.W010",
            )
        )
    if not settings.STATIC_URL or not apps.is_installed("django.contrib.staticfiles"):
        found.append(
            Warning(
                "The project serves no static files: the page of a job's log has no style and does not follow the job.",
                hint="Add 'django.contrib.staticfiles' to INSTALLED_APPS and set STATIC_URL = 'static/'.",
                id="joblog_router.W011",
            )
        )
    if "joblog" not in namespaces:
        found.append(
            Warning(
                f"The URLs of job logs are included with the namespace {namespaces[0]!r}: links to 'joblog:page' fail.",
                hint="Include them outside of other namespaces: "
                "path('jobs/', include('joblog_router.contrib.django.urls')).",
                id="joblog_router.W012",
            )
        )
    return found


@register(Tags.database)
def check_permission_exists(databases: Sequence[str] | None = None, **kwargs: Any) -> list[CheckMessage]:
    """`joblog_router.W015`: nobody can be given the permission to see the page. Only in `check --database ALIAS`."""
    if conf.is_migrating() or conf.current().PERMISSION is not None:
        return []
    if not _has_users() or not _our_namespaces():
        return []
    from django.contrib.auth.models import Permission

    alias = router.db_for_read(Permission)
    if alias not in (databases or ()) or alias not in connections.settings:
        return []
    label, _, codename = VIEW_PERMISSION.partition(".")
    try:
        found = Permission.objects.using(alias).filter(content_type__app_label=label, codename=codename).exists()
    except (DatabaseError, InterfaceError):
        found = False  # its table is not there, which the same command mends, or Django's own checks speak about it
    if found:
        return []
    return [
        Warning(
            f"The permission {VIEW_PERMISSION!r} is not in the database {alias!r}: it can be given to nobody, and "
            "only superusers see the pages of job logs.",
            hint=f"Run: {conf.migrate_command(alias)} (besides the one that makes the log's table).",
            id="joblog_router.W015",
        )
    ]


def _has_users() -> bool:
    return apps.is_installed("django.contrib.auth") and any(
        "AuthenticationMiddleware" in middleware for middleware in settings.MIDDLEWARE
    )


def _our_namespaces() -> list[str]:
    """The namespaces under which the project's URLs include ours."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    try:
        return _namespaces_in(get_resolver())
    except Exception:
        return []  # Django's own checks speak about URLs that cannot be loaded


def _namespaces_in(resolver: Any, above: str = "") -> list[str]:
    found: list[str] = []
    for pattern in resolver.url_patterns:
        if not hasattr(pattern, "url_patterns"):
            continue
        own = f"{above}{pattern.namespace}" if pattern.namespace else above
        if pattern.app_name == "joblog" and getattr(pattern.urlconf_name, "__name__", "").endswith("django.urls"):
            found.append(own)
        found += _namespaces_in(pattern, f"{own}:" if pattern.namespace else above)
    return found
