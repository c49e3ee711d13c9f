"""Whose jobs they are (a tenant's schema, ...): part of every key beside the id.

Set at configuration; asked by `lifetime` with each scope that is opened, and by readers. Never raises.
"""

from __future__ import annotations

from collections.abc import Callable

from .report import report_once
from .text import clean

# Tells the namespace of a scope that is opened here; None where there is but the one, "".
namespace_of: Callable[[], str] | None = None
# The function that NAMESPACE is, if it is one: None where it has no answer.
_asked: Callable[[], str | None] | None = None


def use_namespace(namespace: str | Callable[[], object]) -> None:
    """Have scopes that are opened from now on belong to `namespace`: text, or what gives it each time.

    A callable is called on the thread or task that opens a scope, with each scope. If it fails, or gives None, the
    namespace is "", and it is reported once.
    """
    global namespace_of, _asked
    _asked = None
    if isinstance(namespace, str):
        fixed = clean(namespace)
        namespace_of = (lambda: fixed) if fixed else None
        return
    called = namespace

    def namespace_asked() -> str | None:
        try:
            value = called()
            return None if value is None else clean(str(value))
        except Exception as error:
            report_once(("namespace", repr(called)), f"NAMESPACE: {called!r} failed, jobs are kept without: {error!r}")
            return None

    _asked = namespace_asked
    namespace_of = lambda: namespace_asked() or ""  # noqa: E731 - one name for both kinds


def current_namespace() -> str:
    """The namespace that a scope opened here would have; readers use it, too. Never raises."""
    return "" if namespace_of is None else namespace_of()


def in_force(namespace: str | None) -> str:
    """`namespace`, or where none is given the current one: what readers are asked for."""
    return current_namespace() if namespace is None else namespace


def known_namespace() -> str | None:
    """The same for what nobody opens a scope for; None where NAMESPACE is a function without an answer here."""
    return current_namespace() if _asked is None else _asked()


def namespace_varies() -> bool:
    """Whether one process may have jobs of several namespaces."""
    return _asked is not None
