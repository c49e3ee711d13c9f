"""The app's start: read the settings, register the checks, instrument nats-py. No database, thread or socket.

Called once by `django.setup()`, on the thread that calls it.
"""

from __future__ import annotations

from importlib.util import find_spec

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

from ..._pipeline.dotted import load
from ..._pipeline.report import report_once
from ...exceptions import ConfigurationError, MissingExtraError
from . import conf

__all__ = ["JobLogConfig"]

_INSTRUMENT = "joblog_router.contrib.nats.instrument"


class JobLogConfig(AppConfig):
    """`"joblog_router.contrib.django"` in INSTALLED_APPS; its label is `joblog_router`."""

    name = "joblog_router.contrib.django"
    label = "joblog_router"
    verbose_name = _("Job logs")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Raise ConfigurationError for a wrong JOBLOG_ROUTER, MissingExtraError for a package it asks for."""
        from . import checks  # noqa: F401 - importing it registers the checks

        conf.apply()
        _instrument_nats(conf.current().NATS)


def _instrument_nats(choice: conf.Nats) -> None:
    """Let nats-py's lifecycle into job logs: as asked for, or unasked where it is installed."""
    if choice is False:
        return
    spec = find_spec("nats")
    if spec is None or spec.origin is None:  # a folder named nats is a namespace package, without an origin
        if choice is None:
            return
        raise MissingExtraError("nats-py", "nats")
    options = {} if choice is None or choice is True else dict(choice)
    try:
        load(_INSTRUMENT)(**options)
    except ConfigurationError as error:
        raise ConfigurationError(f"JOBLOG_ROUTER['NATS']: {error}") from error
    except Exception as error:
        if choice is not None:
            raise
        # Nobody asked for it: the project must start without it.
        report_once(
            ("nats",),
            f"nats-py is installed but could not be instrumented ({error!r}): job logs go without its "
            "events. JOBLOG_ROUTER = {'NATS': False} turns this off",
        )
