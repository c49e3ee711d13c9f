"""Times as databases have them, in seconds since the epoch and back. Pure functions, called on any thread."""

from __future__ import annotations

import datetime as dt
from typing import Final

from django.conf import settings
from django.utils import timezone

__all__ = ["EPOCH", "MICROSECONDS", "datetime_of", "seconds_of"]

MICROSECONDS: Final = 1_000_000
"""Of a second: our tables have times as whole numbers of them since the epoch."""

EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def seconds_of(value: dt.datetime) -> float:
    """A date and time of the project's as seconds; one without a zone is in that of TIME_ZONE."""
    if timezone.is_naive(value):
        value = timezone.make_aware(value, timezone.get_default_timezone())
    return (value - EPOCH).total_seconds()


def datetime_of(seconds: float) -> dt.datetime:
    """Seconds as a DateTimeField takes them: without a zone where USE_TZ is off."""
    aware = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return aware if settings.USE_TZ else timezone.make_naive(aware, timezone.get_default_timezone())
