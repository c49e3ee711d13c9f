"""A sink that is a store through another object: wherever its lines are at the moment.

Called by readers on their own threads. Imports the protocol of stores alone.
"""

from __future__ import annotations

from ...entry import Audience
from ...sinks.store import ALL, Page, Selection, Store, Summary

__all__ = ["StoreByDelegation"]


class StoreByDelegation:
    """The methods of Store, handed on to `delegate()`."""

    def delegate(self) -> Store:
        """The store that is read right now."""
        raise NotImplementedError

    def newest(self, job_id: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None) -> Page:
        """See Store."""
        return self.delegate().newest(job_id, selection, limit, namespace)

    def after(
        self, job_id: str, cursor: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        return self.delegate().after(job_id, cursor, selection, limit, namespace)

    def before(
        self, job_id: str, earlier: str, selection: Selection = ALL, limit: int = 1000, namespace: str | None = None
    ) -> Page:
        """See Store."""
        return self.delegate().before(job_id, earlier, selection, limit, namespace)

    def summary(self, job_id: str, audience: Audience = "all", namespace: str | None = None) -> Summary:
        """See Store."""
        return self.delegate().summary(job_id, audience, namespace)

    def delete(self, job_id: str, namespace: str | None = None) -> int:
        """See Store."""
        return self.delegate().delete(job_id, namespace)

    def prune(
        self, older_than: float, keep: int | None = None, dry_run: bool = False, namespace: str | None = None
    ) -> int:
        """See Store."""
        return self.delegate().prune(older_than, keep, dry_run, namespace)
