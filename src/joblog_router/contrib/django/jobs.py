"""The setting JOB_MODEL: a job's log goes when the job goes, and begins when the job began.

Signals run on the thread that deletes a job, after its transaction has been committed; the look at a job's row on the
threads of readers, in Django's connection there.
"""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Sequence
from typing import Any, Final

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.core.signals import setting_changed
from django.db import DatabaseError, InterfaceError, connections, router, transaction
from django.db.models import DateTimeField, Model
from django.db.models.signals import post_delete

from ..._pipeline import reading
from ..._pipeline.report import report_once
from ..._pipeline.router import router as process_router
from ...context import current_namespace
from ...exceptions import ConfigurationError, SinkUnavailableError
from ...sinks.base import PlacedSink
from ...sinks.jsonl import JsonLinesSink
from ...sinks.opening import open_store, readable_sinks
from ...sinks.store import Selection, Store
from . import conf
from .times import seconds_of

__all__ = ["prune_orphans"]

# Fields that tell since when a row exists, by the names they mostly have.
_NAMES: Final = ("created_at", "created", "date_created", "created_on", "created_date")
_RECEIVER: Final = "joblog_router.jobs"
# How long the lines that this process still holds may take, so that they do not come after the deletion.
_FLUSH_TIMEOUT: Final = 1.0
# How many of the jobs whose logs could not be deleted are told by name.
_NAMED: Final = 5

_model: type[Model] | None = None
_field = ""


def apply() -> None:
    """Follow JOB_MODEL as it is now. Raises ConfigurationError where there is no such model or field."""
    global _model, _field
    for sender in _senders(_model):
        post_delete.disconnect(sender=sender, dispatch_uid=_RECEIVER)
    settings = conf.current()
    _model, _field = None, ""
    reading.shown_since = _always
    if not settings.JOB_MODEL:
        return
    model = _named(settings.JOB_MODEL)
    field = _created_field(model, settings.JOB_CREATED)
    for sender in _senders(model):
        post_delete.connect(_on_delete, sender=sender, dispatch_uid=_RECEIVER)
    _model, _field = model, field
    if field:
        reading.shown_since = _since


def job_model() -> type[Model] | None:
    """What JOB_MODEL names; None without it."""
    return _model


def _named(name: str) -> type[Model]:
    try:
        return apps.get_model(name)
    except (LookupError, ValueError) as error:
        raise ConfigurationError(
            f"{conf.SETTING}['JOB_MODEL'] must be like 'app.Model', not {name!r}: {error}"
        ) from error


def _created_field(model: type[Model], given: str | bool | None) -> str:
    place = f"{conf.SETTING}['JOB_CREATED']"
    if given is False:
        return ""
    if isinstance(given, str):
        try:
            field = model._meta.get_field(given)
        except FieldDoesNotExist as error:
            raise ConfigurationError(f"{place}: {model._meta.label} has no field {given!r}") from error
        if not isinstance(field, DateTimeField):
            raise ConfigurationError(f"{place}: {given!r} of {model._meta.label} is no DateTimeField")
        return given
    times = {field.name: field for field in model._meta.concrete_fields if isinstance(field, DateTimeField)}
    named = [name for name in _NAMES if name in times]
    added = [name for name, field in times.items() if field.auto_now_add]
    return next(iter(named + added), "")


def _senders(model: type[Model] | None) -> Sequence[type[Model]]:
    """A model and its proxies, which send signals of their own."""
    if model is None:
        return ()
    concrete = model._meta.concrete_model
    return [one for one in apps.get_models() if one._meta.concrete_model is concrete]


# --- since when a log is shown -------------------------------------------------------------------------------


def _always(job_id: str, namespace: str) -> float:
    return 0.0


def _since(job_id: str, namespace: str) -> float:
    """When the row of a job was made; 0 where there is none, or where it is in another namespace's tables."""
    model = _model
    if model is None or namespace != current_namespace():
        return 0.0
    rows = model._base_manager.using(router.db_for_read(model))
    try:
        found: Any = rows.filter(pk=job_id).values_list(_field, flat=True)[:1]
        created = next(iter(found), None)
    except (ValueError, TypeError, OverflowError, ValidationError):
        return 0.0  # no id of this model
    except (DatabaseError, InterfaceError) as error:
        raise SinkUnavailableError(
            f"the row of job {job_id!r} in {model._meta.label} cannot be read: {error}",
            f"without {conf.SETTING}['JOB_MODEL'] it is not asked for",
        ) from error
    return seconds_of(created) if isinstance(created, dt.datetime) else 0.0


# --- deletion ------------------------------------------------------------------------------------------------


class _Deleted:
    """The jobs that one transaction deleted; called when it has been committed."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, str]] = []

    def __call__(self) -> None:
        process_router.flush_unless_stuck(_FLUSH_TIMEOUT)
        try:
            stores = _stores()
        except Exception as error:
            self._report(self.jobs, error)
            return
        for store in stores:
            for at, (namespace, job_id) in enumerate(self.jobs):
                try:
                    store.delete(job_id, namespace)
                except Exception as error:
                    self._report(self.jobs[at:], error, None if store is stores[0] else store)
                    break

    @staticmethod
    def _report(jobs: list[tuple[str, str]], error: Exception, store: Store | None = None) -> None:
        named = ", ".join(repr(job_id) for _, job_id in jobs[:_NAMED]) + (", ..." if len(jobs) > _NAMED else "")
        more = f", and so on for the {len(jobs) - _NAMED} others" if len(jobs) > _NAMED else ""
        commands = "; ".join(_commands(jobs[:_NAMED], store))
        report_once(
            ("delete", jobs[0], str(error)),
            f"the logs of {len(jobs)} deleted jobs ({named}) were not deleted: {error}. Run: {commands}{more}",
        )


def _commands(jobs: list[tuple[str, str]], store: Store | None) -> list[str]:
    """What deletes these logs, to be pasted into a shell: one for each namespace; without `store`, of the readers'."""
    by_namespace: dict[str, list[str]] = {}
    for namespace, job_id in jobs:
        by_namespace.setdefault(namespace, []).append(job_id)
    named = _named_store(store)
    place = f" --store {shlex.quote(named)}" if named else ""
    # A function of the settings says another one where the command runs.
    is_said = bool(conf.current().NAMESPACE)
    return [
        f"manage.py joblog delete {shlex.join(ids)}"
        + (f" --namespace {shlex.quote(namespace)}" if namespace or is_said else "")
        + place
        for namespace, ids in by_namespace.items()
    ]


def _named_store(store: Store | None) -> str:
    """As a command is told of it; "" for the readers', and for one that no command can name."""
    from .windows import table_of

    if isinstance(store, JsonLinesSink):
        return f"jsonl:{store.place}"
    table = None if store is None else table_of(store)
    return "" if table is None else f"django:{table.alias}"


def _on_delete(instance: Model, using: str, **kwargs: Any) -> None:
    job = (current_namespace(), str(instance.pk))
    connection = connections[using]
    # One for all jobs of a transaction: the last one registered there, if a savepoint was not begun or left since.
    waiting = connection.run_on_commit[-1] if connection.in_atomic_block and connection.run_on_commit else None
    if waiting is not None and isinstance(waiting[1], _Deleted) and waiting[0] == set(connection.savepoint_ids):
        waiting[1].jobs.append(job)
        return
    deleted = _Deleted()
    deleted.jobs.append(job)
    transaction.on_commit(deleted, using=using)


def _stores() -> list[Store]:
    """The store of readers, and whatever else of this process's handlers can be read."""
    found: list[Store] = [open_store()]
    places = {_place(found[0])}
    for store in readable_sinks():
        if _place(store) not in places:
            places.add(_place(store))
            found.append(store)
    return found


def _place(store: Store) -> object:
    place = store.place if isinstance(store, PlacedSink) else ""
    return (type(store), place or id(store))


def _follow(*, setting: str, **kwargs: Any) -> None:
    if setting == conf.SETTING and apps.ready:
        try:
            apply()
        except ConfigurationError:
            pass  # whoever reads the settings next is told


setting_changed.connect(_follow, dispatch_uid="joblog_router.jobs")


# --- orphans -------------------------------------------------------------------------------------------------


def prune_orphans(quiet_since: float, dry_run: bool = False) -> int:
    """Delete the table's lines of jobs whose row in JOB_MODEL is gone, in the namespace in force; how many lines.

    Only logs without a line since `quiet_since` (epoch seconds): the row of a new job may not be committed yet. An id
    that JOB_MODEL cannot have is left alone. For a beat or cron, too; blocks, in short transactions. Raises
    ConfigurationError without JOB_MODEL, SinkUnavailableError.
    """
    from .store import DjangoStore

    model = _model
    if model is None:
        raise ConfigurationError(f"{conf.SETTING}['JOB_MODEL'] says which jobs exist; without it no log is an orphan")
    store = DjangoStore()
    namespace = current_namespace()
    count = 0
    for job_id in store.jobs(namespace):
        if _exists(model, job_id):
            continue
        newest = store.newest(job_id, Selection(audience="staff"), 1, namespace).entries
        if newest and newest[-1].created < quiet_since:
            count += store.count(job_id, namespace) if dry_run else store.delete(job_id, namespace)
    return count


def _exists(model: type[Model], job_id: str) -> bool:
    try:
        return model._base_manager.using(router.db_for_read(model)).filter(pk=job_id).exists()
    except (ValueError, TypeError, OverflowError, ValidationError):
        return True
    except (DatabaseError, InterfaceError) as error:
        raise SinkUnavailableError(
            f"the row of job {job_id!r} in {model._meta.label} cannot be read: {error}", "try again later"
        ) from error
