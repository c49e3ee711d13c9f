"""The table of job logs. Written by the sink on the writer thread, read by everybody else."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any, ClassVar, Final

from django.db import DatabaseError, connections, models, router, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.translation import gettext_lazy as _

from ..._pipeline.namespaces import in_force
from ..._pipeline.report import report_once
from ..._pipeline.text import clean, printable
from ...entry import EARLIEST, LATEST
from ...exceptions import JobLogError
from .keys import MAX_KEY, stored_key
from .times import EPOCH, MICROSECONDS

__all__ = ["JobLogEntry", "JobLogQuerySet", "JobLogSum", "RevokedToken", "forget_sums", "has_sums", "lock_sums"]

_EARLIEST, _LATEST = int(EARLIEST) * MICROSECONDS, int(LATEST) * MICROSECONDS
_SUMS_LOCK: Final = 1_583_216_097  # CRC-32 of "joblog_router.sums"


def has_sums(alias: str, *rights: str) -> bool:
    """Whether there is a table of sums that can be read, and this user has the `rights` on it. Asks the database.

    Migrations may be behind the code, and a right on a new table is one that nobody has given yet: said once.
    """
    connection, table = connections[alias], JobLogSum._meta.db_table
    lacking = ""
    if connection.vendor != "postgresql":
        lacking = "" if table in connection.introspection.table_names() else "table"
    else:
        # Asked, not tried: in a transaction of the caller's nothing could be done any more.
        wanted = ("SELECT", *rights)
        asked = ", ".join(["pg_catalog.has_table_privilege(place.oid, %s)"] * len(wanted))
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT {asked} FROM (SELECT pg_catalog.to_regclass(%s)::oid AS oid) AS place",  # noqa: S608 - of ours
                [*wanted, connection.ops.quote_name(table)],
            )
            found = cursor.fetchone()
        if None in found:
            lacking = "table"
        elif False in found:
            lacking = "right"
    if lacking:
        report_once(
            ("no sums", alias),
            f"no sums over long logs are kept in database {alias!r}, their figures take longer: "
            + (f"there is no table {table}: migrate" if lacking == "table" else _grant(connection, table)),
        )
    return not lacking


def _grant(connection: BaseDatabaseWrapper, table: str) -> str:
    user = connection.settings_dict.get("USER") or "this user"
    return f"GRANT SELECT, INSERT, DELETE ON {table} TO {user}, and USAGE on its sequence"


def forget_sums(sums: models.QuerySet[JobLogSum]) -> None:
    """Delete sums, where there is a table of them and this user may. That it could not be done is said once.

    What they are of may be gone already: then it is no failure of the deletion, and readers find out (see `sums`).
    """
    try:
        if has_sums(sums.db, "DELETE"):
            sums.delete()
    except DatabaseError as error:
        if connections[sums.db].in_atomic_block:
            raise
        report_once(("sums", sums.db), f"sums over long logs could not be deleted in database {sums.db!r}: {error}")


def _forget_now_and_later(alias: str, namespace: str, job_id: str) -> None:
    """Delete a job's sums: also those that a transaction of the caller's does not see, as it began before them."""
    sums = JobLogSum.objects.using(alias).filter(namespace=namespace, job_id=job_id)
    sums.delete()
    transaction.on_commit(lambda: forget_sums(sums.all()), using=alias)


def lock_sums(connection: BaseDatabaseWrapper, *, shared: bool = False) -> bool:
    """Keep those who delete single rows and those who make sums apart until the end of the transaction.

    Makers share the lock and do not wait for it: whether it was had. On other databases one writes at a time.
    """
    if connection.vendor != "postgresql":
        return True
    function = "pg_try_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT pg_catalog.{function}(%s)", [_SUMS_LOCK])
        return cursor.fetchone()[0] is not False


class JobLogQuerySet(models.QuerySet["JobLogEntry"]):
    """Entries of job logs. Append-only: they are added and deleted, never changed."""

    def for_job(self, job_id: object, *, namespace: str | None = None) -> JobLogQuerySet:
        """The log of one job, oldest line first (by time, then as its process wrote it).

        `namespace` None takes the one in force here, as the setting NAMESPACE says. All lines, whatever JOB_MODEL says.
        """
        space = in_force(namespace)
        return self.filter(namespace=stored_key(space), job_id=stored_key(clean(str(job_id)))).order_by(
            "created", "origin", "seq"
        )

    def update(self, **kwargs: Any) -> int:
        """Raise JobLogError: entries are never changed."""
        raise JobLogError("JobLogEntry is append-only: rows are added and deleted, never updated")

    def delete(self) -> tuple[int, dict[str, int]]:
        """Delete the rows, and the sums over their jobs' logs, which do not hold any more."""
        with transaction.atomic(using=self.db):
            if has_sums(self.db, "DELETE"):
                lock_sums(connections[self.db])
                keys = list(self.order_by().values_list("namespace", "job_id").distinct())
                for namespace, job_id in keys:
                    _forget_now_and_later(self.db, namespace, job_id)
            return super().delete()

    delete.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def delete_oldest(self) -> int:
        """Delete the rows, which are the oldest of their jobs: how many. That their sums do not hold is then seen."""
        return super().delete()[0]

    delete_oldest.alters_data = True  # type: ignore[attr-defined]
    delete_oldest.queryset_only = True  # type: ignore[attr-defined]


class JobLogEntry(models.Model):
    """One line of one job's log; the fields are those of `joblog_router.Entry`.

    No foreign key to the job: its row may be uncommitted, locked or gone when the line is written.
    `(origin, seq)` identifies a line for ever, so that writing it again leaves one row. `created` is
    microseconds since the epoch, UTC, whatever USE_TZ and TIME_ZONE say; `exception` is "" if there was none.
    """

    AUDIENCES: Final = [("all", _("everybody who may see the job")), ("staff", _("staff only"))]

    namespace: models.CharField[Any, str] = models.CharField(_("namespace"), max_length=MAX_KEY, default="", blank=True)
    job_id: models.CharField[Any, str] = models.CharField(_("job"), max_length=MAX_KEY)
    created: models.BigIntegerField[Any, int] = models.BigIntegerField(
        _("created"), help_text=_("Microseconds since 1970-01-01 00:00 UTC.")
    )
    level: models.SmallIntegerField[Any, int] = models.SmallIntegerField(_("level"))
    logger: models.TextField[Any, str] = models.TextField(_("logger"))
    message: models.TextField[Any, str] = models.TextField(_("message"), blank=True)
    exception: models.TextField[Any, str] = models.TextField(_("exception"), default="", blank=True)
    fields: models.JSONField[Any, Any] = models.JSONField(_("fields"), default=dict, blank=True)
    path: models.TextField[Any, str] = models.TextField(_("path"), default="", blank=True)
    line: models.IntegerField[Any, int] = models.IntegerField(_("line"), default=0)
    audience: models.CharField[Any, str] = models.CharField(
        _("audience"), max_length=20, choices=AUDIENCES, default="all"
    )
    origin: models.CharField[Any, str] = models.CharField(
        _("origin"), max_length=100, help_text=_("The process that logged the line.")
    )
    seq: models.BigIntegerField[Any, int] = models.BigIntegerField(_("number in the origin"))
    n: models.BigIntegerField[Any, int] = models.BigIntegerField(_("number in the scope"), default=0)

    objects: ClassVar[models.Manager[JobLogEntry]] = JobLogQuerySet.as_manager()

    class Meta:
        verbose_name: ClassVar[Any] = _("job log entry")
        verbose_name_plural: ClassVar[Any] = _("job log entries")
        default_permissions: ClassVar[tuple[str, ...]] = ("view", "delete")
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["namespace", "job_id", "created", "id"], name="joblog_entry_job_created"),
            models.Index(fields=["namespace", "job_id", "id"], name="joblog_entry_job_id"),
        ]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["origin", "seq"], name="joblog_entry_origin_seq"),
        ]

    def __str__(self) -> str:
        # Shown in titles, shells and terminals, where log text must not command anything.
        return printable(f"{self.created_at:%Y-%m-%d %H:%M:%S} {self.level_name} {self.message}")

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Add the row. Raises JobLogError for a row that is there already: entries are never changed."""
        if not self._state.adding:
            raise JobLogError("JobLogEntry is append-only: rows are added and deleted, never updated")
        super().save(*args, **kwargs)

    def delete(self, using: str | None = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        """Delete the row, and the sums over its job's log, which do not hold any more."""
        alias = using or router.db_for_write(type(self), instance=self)
        with transaction.atomic(using=alias):
            if has_sums(alias, "DELETE"):
                lock_sums(connections[alias])
                _forget_now_and_later(alias, self.namespace, self.job_id)
            return super().delete(alias, keep_parents)

    @property
    def created_at(self) -> dt.datetime:
        """When the line was logged, as an aware datetime in UTC."""
        return EPOCH + dt.timedelta(microseconds=min(max(self.created, _EARLIEST), _LATEST))

    @property
    def level_name(self) -> str:
        """The level's name as this process knows it, for example `WARNING`."""
        return logging.getLevelName(self.level)


class RevokedToken(models.Model):
    """A job token that is refused though it has not expired, or with an empty `token_id` all of a job's so far."""

    namespace: models.CharField[Any, str] = models.CharField(_("namespace"), max_length=MAX_KEY, default="", blank=True)
    job_id: models.CharField[Any, str] = models.CharField(_("job"), max_length=MAX_KEY)
    token_id: models.CharField[Any, str] = models.CharField(_("token"), max_length=40, default="", blank=True)
    revoked: models.BigIntegerField[Any, int] = models.BigIntegerField(
        _("revoked"), help_text=_("Microseconds since 1970-01-01 00:00 UTC.")
    )

    class Meta:
        verbose_name: ClassVar[Any] = _("revoked job token")
        verbose_name_plural: ClassVar[Any] = _("revoked job tokens")
        default_permissions: ClassVar[tuple[str, ...]] = ("view", "add", "delete")
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["namespace", "job_id"], name="joblog_revoked_job")
        ]

    def __str__(self) -> str:
        return f"{self.job_id} {self.token_id or '*'}"


class JobLogSum(models.Model):
    """Sums over the rows of one job with ids after `after`, up to `until`: see `sums`.

    `oldest` and `newest` are times in microseconds, `oldest_id` the row at the first of them.
    """

    namespace: models.CharField[Any, str] = models.CharField(_("namespace"), max_length=MAX_KEY, default="", blank=True)
    job_id: models.CharField[Any, str] = models.CharField(_("job"), max_length=MAX_KEY)
    after: models.BigIntegerField[Any, int] = models.BigIntegerField(_("after"))
    until: models.BigIntegerField[Any, int] = models.BigIntegerField(_("until"))
    oldest: models.BigIntegerField[Any, int] = models.BigIntegerField(_("oldest"))
    newest: models.BigIntegerField[Any, int] = models.BigIntegerField(_("newest"))
    oldest_id: models.BigIntegerField[Any, int] = models.BigIntegerField(_("oldest row"))
    sums: models.JSONField[Any, Any] = models.JSONField(_("sums"), default=dict, blank=True)

    class Meta:
        verbose_name: ClassVar[Any] = _("sums of a job log")
        verbose_name_plural: ClassVar[Any] = _("sums of job logs")
        default_permissions: ClassVar[tuple[str, ...]] = ()
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["namespace", "job_id", "after"], name="joblog_sum_block"),
        ]

    def __str__(self) -> str:
        return f"{self.job_id} {self.after}-{self.until}"
