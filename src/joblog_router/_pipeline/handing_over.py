"""The one way from the project's settings into the core. Called where Django is set up and where its settings change.

Imports every part of the pipeline that has to be told; the others read `settings.current`. Raises nothing.
"""

from __future__ import annotations

from . import policy, rules, settings, switch
from .namespaces import use_namespace
from .router import router

__all__ = ["hand_over"]


def hand_over(given: settings.Settings) -> None:
    """From now on `given` counts where handlers say nothing; handlers there are go by it at once."""
    settings.current = given
    rules.mask_reports()
    policy.use(policy.SETTINGS, given.attribution)
    use_namespace(given.namespace)
    router.settle_default_spool()
    router.renew_handlers()  # with spool_redact they capture in another way
    switch.use(given.enabled)
