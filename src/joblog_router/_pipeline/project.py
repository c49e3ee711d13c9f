"""Whether what a Django project's settings say about job logs is known yet.

`django.setup()` configures logging first; what is masked, for whom lines are and whether they are folded the app reads
a moment later. Until then nothing of a dead process is stored. Nothing here imports Django. Asked by recovery on the
writer thread, told by the Django app.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

_APP: Final = "joblog_router.contrib.django"
_is_known = False


def settle() -> None:
    """The app has read its settings."""
    global _is_known
    _is_known = True


def is_awaited() -> bool:
    """Whether the app is going to read settings in this process and has not yet. Never raises; on the writer thread."""
    if _is_known:
        return False
    try:
        module: Any = sys.modules.get(os.environ.get("DJANGO_SETTINGS_MODULE", ""))
        django: Any = sys.modules.get("django.conf")
        if django is not None and django.settings.configured:
            module = django.settings
        elif getattr(getattr(module, "__spec__", None), "_initializing", False):
            return True  # logging is configured by the settings module itself, which is not at its end
        apps = getattr(module, "INSTALLED_APPS", ())
        return any(name == _APP or name.startswith(_APP + ".") for name in apps)
    except Exception:
        return False
