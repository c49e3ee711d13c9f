"""Job logs in Django's admin: read-only, without a count or a sort over the table; and a link for the project's jobs.

The list without a job looks at the newest rows only, whatever else it is filtered by: no index serves that. Called by
Django's admin, on the thread of a request.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final
from urllib.parse import urlencode

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db.models import Max, Q, QuerySet, Value
from django.db.models.functions import Concat
from django.http import HttpRequest
from django.urls import NoReverseMatch, reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.text import Truncator
from django.utils.translation import gettext_lazy as _

from ..._pipeline.text import clean
from ...context import current_namespace
from . import conf
from .keys import stored_key
from .levels import STANDARD
from .models import JobLogEntry
from .rendering import day_and_time, visible
from .times import MICROSECONDS

__all__ = ["JobLogAdminMixin", "JobLogEntryAdmin"]

if TYPE_CHECKING:
    _AdminBase = admin.ModelAdmin[JobLogEntry]
    _PaginatorBase = Paginator[Any]
else:  # they take no parameters at run time
    _AdminBase = admin.ModelAdmin
    _PaginatorBase = Paginator

_NEWEST: Final = 100_000
_PER_PAGE: Final = 100
_LAST_PAGE: Final = 100
_FIELDS: Final = (
    "time",
    "level_shown",
    "job",
    "logger_shown",
    "message_whole",
    "exception_whole",
    "fields_shown",
    "path_shown",
    "line",
    "audience",
    "origin_shown",
    "seq",
    "n",
)


class _TextFilter(admin.SimpleListFilter):
    """A filter with a field to type into: the values in use are never looked for."""

    template = "joblog_router/admin/text_filter.html"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("", "")]

    def choices(self, changelist: Any) -> Any:
        others = [
            (name, value)
            for name, values in changelist.get_filters_params().items()
            if name != self.parameter_name
            for value in (values if isinstance(values, list) else [values])
        ]
        yield {"name": self.parameter_name, "value": self.value() or "", "others": others}


class _JobFilter(_TextFilter):
    title = _("job")
    parameter_name = "job"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        if not value:
            return queryset
        return queryset.filter(namespace=stored_key(current_namespace()), job_id=stored_key(clean(value)))


class _LoggerFilter(_TextFilter):
    title = _("logger")
    parameter_name = "logger"

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = clean(self.value() or "")
        return queryset.filter(Q(logger=value) | Q(logger__startswith=value + ".")) if value else queryset


class _LevelFilter(admin.SimpleListFilter):
    title = _("level")
    parameter_name = "level"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(str(level), _("%s and above") % logging.getLevelName(level)) for level in STANDARD]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        value = self.value()
        return queryset.filter(level__gte=int(value)) if value and value.isdecimal() and len(value) < 4 else queryset


class _UncountedPaginator(_PaginatorBase):
    """Looks one row beyond the page instead of counting all: `count` is what is known so far."""

    def __init__(self, object_list: Any, per_page: int, *args: Any, wanted: int = 1, **kwargs: Any) -> None:
        super().__init__(object_list, per_page, *args, **kwargs)
        self._wanted = min(max(wanted, 1), _LAST_PAGE)

    @cached_property
    def count(self) -> int:
        start = (self._wanted - 1) * self.per_page
        found = len(self.object_list[start : start + self.per_page + 1].values_list("pk"))  # type: ignore[attr-defined]
        return start + found


class _NewestFirst(ChangeList):
    """The list in the order of an index: one job's by time, everything else by id."""

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        found: QuerySet[Any] = super().get_queryset(request, *args, **kwargs)
        if request.GET.get(_JobFilter.parameter_name):
            return found.order_by("-created", "-id")
        newest = self.root_queryset.model._default_manager.using(conf.database_alias()).aggregate(last=Max("id"))
        return found.filter(id__gt=(newest["last"] or 0) - _NEWEST).order_by("-id")

    @property
    def newer_url(self) -> str | None:
        """The page before this one."""
        return self.get_query_string({"p": self.page_num - 1}) if self.page_num > 1 else None

    @property
    def older_url(self) -> str | None:
        """The page behind this one."""
        more = self.result_count > self.page_num * self.list_per_page and self.page_num < _LAST_PAGE
        return self.get_query_string({"p": self.page_num + 1}) if more else None


@admin.register(JobLogEntry)
class JobLogEntryAdmin(_AdminBase):
    """Lines of job logs, to look at."""

    list_display: Any = ("time", "level_shown", "job", "logger_shown", "message_shown")
    list_display_links: Any = ("time",)
    list_filter: ClassVar[Any] = (_JobFilter, _LevelFilter, _LoggerFilter)
    list_per_page = _PER_PAGE
    list_max_show_all = 0
    show_full_result_count = False
    ordering: ClassVar[Any] = ("-id",)
    actions: Any = None
    sortable_by: ClassVar[Any] = ()
    change_list_template: ClassVar[Any] = "joblog_router/admin/change_list.html"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody: lines are logged."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: JobLogEntry | None = None) -> bool:
        """Nobody: lines are never changed."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: JobLogEntry | None = None) -> bool:
        """Nobody here: a log is pruned or deleted as a whole."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[JobLogEntry]:
        """The rows of the database that holds the job logs, those of the namespace in force."""
        rows = super().get_queryset(request).using(conf.database_alias())
        # As an expression: SQLite would take an index that begins with the namespace, and sort all rows of it by id.
        own = stored_key(current_namespace())
        return rows.alias(own_namespace=Concat("namespace", Value(""))).filter(own_namespace=own)

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """By the filters alone: any other goes through the whole table, or is more than the database takes."""
        return lookup in [getattr(each, "parameter_name", each) for each in self.list_filter]

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """A list that never sorts or counts the table."""
        return _NewestFirst

    def get_paginator(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Paginator[Any]:
        """A paginator that looks one row ahead."""
        page = request.GET.get("p", "1")
        return _UncountedPaginator(*args, wanted=int(page) if page.isdecimal() and len(page) < 6 else 1, **kwargs)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """Say what the list shows."""
        title = _("Job log lines")
        if not request.GET.get(_JobFilter.parameter_name):
            title = _("The newest job log lines; name a job to see all of its own")
        return super().changelist_view(request, {"title": title, **(extra_context or {})})

    @admin.display(description=_("time"))
    def time(self, entry: JobLogEntry) -> str:
        """When, in the active time zone."""
        return day_and_time(entry.created / MICROSECONDS)

    @admin.display(description=_("level"))
    def level_shown(self, entry: JobLogEntry) -> str:
        """The level's name."""
        return visible(entry.level_name)

    @admin.display(description=_("job"))
    def job(self, entry: JobLogEntry) -> str:
        """The job, with a link to its log."""
        return _link_to_log(entry.job_id, visible(Truncator(entry.job_id).chars(60)))

    @admin.display(description=_("logger"))
    def logger_shown(self, entry: JobLogEntry) -> str:
        """The logger."""
        return visible(Truncator(entry.logger).chars(100))

    @admin.display(description=_("message"))
    def message_shown(self, entry: JobLogEntry) -> str:
        """The beginning of the message."""
        return visible(entry.message[:300] + ("…" if len(entry.message) > 300 else ""))

    def get_fields(self, request: HttpRequest, obj: JobLogEntry | None = None) -> list[Any]:
        """All that is known of a line."""
        return list(_FIELDS)

    def get_readonly_fields(self, request: HttpRequest, obj: JobLogEntry | None = None) -> list[str]:
        """All of them."""
        return self.get_fields(request, obj)

    @admin.display(description=_("fields"))
    def fields_shown(self, entry: JobLogEntry) -> str:
        """The fields, as JSON."""
        return visible(json.dumps(entry.fields, ensure_ascii=False, indent=2))

    @admin.display(description=_("path"))
    def path_shown(self, entry: JobLogEntry) -> str:
        """The file that logged."""
        return visible(entry.path)

    @admin.display(description=_("origin"))
    def origin_shown(self, entry: JobLogEntry) -> str:
        """The process that logged."""
        return visible(entry.origin)

    @admin.display(description=_("message"))
    def message_whole(self, entry: JobLogEntry) -> str:
        """The message."""
        return visible(entry.message)

    @admin.display(description=_("exception"))
    def exception_whole(self, entry: JobLogEntry) -> str:
        """The traceback."""
        return visible(entry.exception)


class JobLogAdminMixin:
    """For the `ModelAdmin` of the project's own jobs: a column and a field with a link to the job's log.

    `class JobAdmin(JobLogAdminMixin, admin.ModelAdmin)`. The job's id is its primary key; override `job_log_id`
    where it is something else. The link leads to the page where the project includes our URLs, else to the lines
    in the admin.
    """

    def job_log_id(self, job: Any) -> object:
        """The id that `job_context` is given for this job."""
        return job.pk

    @admin.display(description=_("log"))
    def job_log(self, job: Any) -> str:
        """A link to the job's log."""
        job_id = self.job_log_id(job)
        return "-" if job_id in (None, "") else _link_to_log(clean(str(job_id)), _("Log"))

    def get_list_display(self, request: HttpRequest) -> Sequence[str | Callable[..., Any]]:
        """The columns, and ours."""
        return _with(super().get_list_display(request), "job_log")  # type: ignore[misc]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str | Callable[..., Any]]:
        """The fields, and ours."""
        return _with(super().get_readonly_fields(request, obj), "job_log")  # type: ignore[misc]


def _with(names: Sequence[Any], name: str) -> Sequence[Any]:
    return names if name in names else [*names, name]


def _link_to_log(job_id: str, text: object) -> str:
    try:
        url = reverse("joblog:page", kwargs={"job_id": job_id})
    except NoReverseMatch:
        try:
            url = f"{reverse('admin:joblog_router_joblogentry_changelist')}?{urlencode({'job': job_id})}"
        except NoReverseMatch:
            return str(text)
    return format_html('<a href="{}">{}</a>', url, text)
