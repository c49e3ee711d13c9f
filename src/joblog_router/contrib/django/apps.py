"""The app's start: read the settings, register the checks, turn integrations on. No database, thread or socket.

Called once by `django.setup()`, on the thread that calls it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from django.apps import AppConfig
from django.db.models.signals import post_migrate
from django.utils.translation import gettext_lazy as _

from ..._pipeline.dotted import load
from ..._pipeline.report import report_once
from ..._pipeline.router import router
from ...exceptions import ConfigurationError, MissingExtraError
from . import conf
from .secrets import register_project_secrets

__all__ = ["JobLogConfig"]


@dataclass(frozen=True)
class _Contrib:
    """An integration that the app turns on: the setting that decides, and what is needed for it."""

    setting: str
    modules: tuple[str, ...]
    package: str
    extra: str
    lost: str

    @property
    def instrument(self) -> str:
        return f"joblog_router.contrib.{self.extra}.instrument"


_CONTRIBS: Final = (
    _Contrib("NATS", ("nats",), "nats-py", "nats", "job logs go without its events"),
    _Contrib("CELERY", ("celery",), "celery", "celery", "tasks are not put into their jobs"),
    # Part of Django since 6.0, a package before.
    _Contrib("TASKS", ("django.tasks", "django_tasks"), "django-tasks", "tasks", "tasks are not put into their jobs"),
)


class JobLogConfig(AppConfig):
    """`"joblog_router.contrib.django"` in INSTALLED_APPS; its label is `joblog_router`."""

    name = "joblog_router.contrib.django"
    label = "joblog_router"
    verbose_name: Any = _("Job logs")
    default_auto_field: str = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Raise ConfigurationError for a wrong JOBLOG_ROUTER, MissingExtraError for a package it asks for."""
        from . import checks_doctor, checks_functions, checks_logging, checks_pages, checks_spool, checks_tables, jobs  # noqa: F401 - registers

        conf.apply()
        register_project_secrets()
        _begin_recovery(self)  # after the secrets: they are masked in what dead processes left, too
        jobs.apply()
        for contrib in _CONTRIBS:
            _instrument(contrib, getattr(conf.current(), contrib.setting))
        if conf.current().THREADS:
            load("joblog_router.contrib.threads.instrument_threads")()


def _begin_recovery(app: AppConfig) -> None:
    """Have what dead processes left stored. In `migrate` only once the table is there: it would be called missing."""
    if conf.is_migrating():
        post_migrate.connect(_on_migrated, sender=app, dispatch_uid="joblog_router.recovery")
    else:
        router.recovery.settle_project()


def _on_migrated(using: str, **kwargs: Any) -> None:
    if using == conf.database_alias():
        router.recovery.settle_project()


def _instrument(contrib: _Contrib, choice: conf.Choice) -> None:
    """Turn `contrib` on: as asked for, or unasked where its package is installed."""
    if choice is False:
        return
    if not any(_is_there(module) for module in contrib.modules):
        if choice is None:
            return
        raise MissingExtraError(contrib.package, contrib.extra)
    options = {} if choice is None or choice is True else dict(choice)
    try:
        load(contrib.instrument)(**options)
    except ConfigurationError as error:
        raise ConfigurationError(f"{conf.SETTING}[{contrib.setting!r}]: {error}") from error
    except Exception as error:
        if choice is not None:
            raise
        # Nobody asked for it: the project must start without it.
        report_once(
            (contrib.setting,),
            f"{contrib.package} is installed but could not be instrumented ({error!r}): {contrib.lost}. "
            f"{conf.SETTING} = {{{contrib.setting!r}: False}} turns this off",
        )


def _is_there(module: str) -> bool:
    spec = find_spec(module)
    return spec is not None and spec.origin is not None  # a folder of that name is a namespace package, without one
